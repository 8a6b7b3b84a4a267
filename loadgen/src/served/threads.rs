//! The threads that clients run on. Each has an event loop and a link to the server of its own: an answer is read by the thread that
//! asked, so that no request is handed from one to another, and threads share nothing that they would wait for.

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use reqwest::Url;
use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
};

use super::link::Link;
use crate::{
    error::{Error, Result},
    scheduled::{Scheduled, this_thread},
};

/// The threads of a load generator. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Threads(Vec<Thread>);

#[derive(Debug)]
struct Thread {
    place: Place,
    /// Its folder in `/proc`.
    folder: Option<PathBuf>,
    /// Dropped, it ends the thread.
    lives: Option<oneshot::Sender<()>>,
    running: Option<thread::JoinHandle<()>>,
}

/// Where a client runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The event loop.
    pub(crate) handle: Handle,
    /// What it reaches the server through, on that event loop alone.
    pub(crate) link: Arc<Link>,
}

impl Threads {
    /// Starts so many, for the server of a URL.
    ///
    /// # Errors
    /// One cannot be started, or the server's name is not known.
    pub(super) fn start(count: usize, url: &Url, timeout: Duration) -> Result<Self> {
        let threads = (0..count).map(|number| Thread::start(number, Link::new(url, timeout)?));
        threads.collect::<Result<_>>().map(Self)
    }

    /// Where the client of a number runs: they take turns.
    pub(crate) fn place(&self, client: usize) -> &Place {
        &self.0[client % self.0.len()].place
    }

    /// How many of them so many clients have.
    pub(super) fn used(&self, clients: usize) -> usize {
        clients.min(self.0.len())
    }

    /// What the system says of those that so many clients have.
    pub(super) fn scheduled(&self, clients: usize) -> Option<Scheduled> {
        let used = self.0.iter().take(self.used(clients));
        used.map(|thread| Scheduled::of_thread(thread.folder.as_deref()?))
            .try_fold(Scheduled::default(), |sum, one| Some(sum.plus(one?)))
    }
}

impl Thread {
    fn start(number: usize, link: Link) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Client(error.to_string());
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let place = Place {
            handle: runtime.handle().clone(),
            link: Arc::new(link),
        };
        let (lives, ended) = oneshot::channel();
        let (say, said) = std::sync::mpsc::channel();
        let run = move || {
            // Who started it waits for this.
            let _ = say.send(this_thread());
            // Its other end is dropped, not used.
            let _ = runtime.block_on(ended);
        };
        let running = thread::Builder::new().name(format!("client-{number}"));
        let running = running.spawn(run).map_err(failed)?;
        Ok(Self {
            place,
            folder: said.recv().ok().flatten(),
            lives: Some(lives),
            running: Some(running),
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.lives = None;
        if let Some(running) = self.running.take() {
            // That a client panicked has been said by then.
            let _ = running.join();
        }
    }
}
