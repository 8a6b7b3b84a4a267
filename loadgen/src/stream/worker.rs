//! The process that works: started, watched by its metrics and its memory, and waited for.

use std::{
    ffi::OsString,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use reqwest::Client;
use tokio::runtime::Runtime;

use super::{runtime, scrape::Scrape};
use crate::{
    error::{Error, Result},
    interrupt,
    process::{Process, Sign},
    report::{peak_rss, resident},
};

/// How often it is looked at: often enough for a short run, and too seldom to cost anything.
const LOOK: Duration = Duration::from_millis(250);
/// The most samples of its memory that are kept.
const SAMPLES: usize = 200;

/// A `galley stream` that runs.
pub(super) struct Worker {
    process: Process,
    started: (Instant, SystemTime),
    runtime: Runtime,
    client: Client,
}

/// What was seen of a worker.
pub(super) struct Watched {
    /// Its metrics when they were last looked at.
    pub(super) scrape: Scrape,
    /// Seconds since its start, and its memory then.
    pub(super) resident: Vec<(f64, u64)>,
    pub(super) peak: Option<u64>,
}

impl Worker {
    /// Starts it and waits until it serves its metrics.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn start(program: &Path, args: &[OsString], timeout: Duration) -> Result<Self> {
        let http = Client::builder().no_proxy().timeout(10 * LOOK).build();
        let started = (Instant::now(), SystemTime::now());
        Ok(Self {
            client: http.map_err(|error| Error::Client(error.to_string()))?,
            runtime: runtime()?,
            started,
            process: Process::start("worker", program, args, (Sign::LoggedAddress, timeout))?,
        })
    }

    /// When it was started.
    pub(super) fn started(&self) -> SystemTime {
        self.started.1
    }

    /// Waits until it is warm.
    ///
    /// # Errors
    /// It fails, or the run was interrupted.
    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        while self.ask("readyz").is_none() {
            interrupt::check()?;
            if self.process.ended()? {
                return Err(Error::Process {
                    what: "worker",
                    reason: "ended before it was ready".into(),
                });
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Looks at it until it has ended, or is done and then told to end.
    ///
    /// # Errors
    /// It fails, `is_done` does, or the run was interrupted.
    pub(super) fn watch(
        mut self,
        is_done: &mut dyn FnMut(&Scrape) -> Result<bool>,
    ) -> Result<Watched> {
        let mut scrape = Scrape::default();
        let (mut memory, mut peak) = (Vec::new(), None);
        while !self.process.ended()? {
            interrupt::check()?;
            let pid = self.process.pid();
            let seconds = self.started.0.elapsed().as_secs_f64();
            memory.extend(resident(pid).map(|bytes| (seconds, bytes)));
            peak = peak_rss(Some(pid)).max(peak);
            // None where it is about to end.
            scrape = self.scrape().unwrap_or(scrape);
            if is_done(&scrape)? {
                self.process.stop();
                continue;
            }
            thread::sleep(LOOK);
        }
        let every = memory.len().div_ceil(SAMPLES).max(1);
        Ok(Watched {
            scrape,
            resident: memory.into_iter().step_by(every).collect(),
            peak,
        })
    }

    fn scrape(&self) -> Option<Scrape> {
        self.ask("metrics").map(|text| Scrape::of(&text))
    }

    /// What it says, if it says that all is well.
    fn ask(&self, path: &str) -> Option<String> {
        let url = format!("http://{}/{path}", self.process.address());
        self.runtime.block_on(async {
            let answer = self.client.get(url).send().await.ok()?;
            answer.error_for_status().ok()?.text().await.ok()
        })
    }
}
