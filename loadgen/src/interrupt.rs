//! Ctrl-C and SIGTERM: the first ends the run in hand in order, so that a server that was started is stopped and the
//! records so far are kept; the second ends the program.
//!
//! goose would install a handler of its own that only its attacks look at. This one is installed first, and so stays.

use std::sync::{
    Once,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes over the signals. Later calls have no effect.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler = || {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            goose::trigger_killswitch("interrupted");
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::debug!(%error, "signals are handled elsewhere");
        }
    });
}

/// Whether the user wants it to end.
pub(crate) fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// [`Error::Interrupted`] if the user wants it to end.
pub(crate) fn check() -> Result<()> {
    if requested() {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}
