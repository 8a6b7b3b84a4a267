//! The server on a CUDA device. A test says that it is skipped where there is none; the program that these are compiled to
//! needs nothing of the checkout, so that it can be carried to a machine that has one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

use candle_core::Device;
use galley_core::DeviceName;
use tokio::sync::Mutex;

mod memory;
mod pictures;
mod raw;
#[path = "../cli/raw_tensors.rs"]
mod raw_tensors;

/// Memory is the card's, so that tests that take it cannot run beside others.
static CARD: Mutex<()> = Mutex::const_new(());

/// The first device, or nothing where there is none, and says so.
fn device() -> Option<Device> {
    // What the engine logs is shown with a test that fails.
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO);
    let _ = log.with_test_writer().try_init();
    match DeviceName::Cuda(0).open() {
        Ok(device) => Some(device),
        Err(error) => {
            // Past the test harness, which shows what a passing test prints to nobody.
            let _ = writeln!(std::io::stderr(), "skipped: no CUDA device ({error})");
            None
        }
    }
}
