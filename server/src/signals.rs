//! Signals that a server listens for, from its first moment on: until there is a handler SIGTERM ends a program at once, or
//! as the first process of a container not at all.

use std::future::pending;

use anyhow::Context;

use crate::access::Access;

/// SIGTERM and Ctrl-C, which end a server, and SIGHUP, which never does.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    /// Installs the handlers; to be called within a runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: Some(listen(SignalKind::hangup())?),
        })
    }

    /// Waits for a signal that is to end the server.
    pub async fn end(&mut self) {
        let came = tokio::select! {
            came = self.terminate.recv() => came,
            came = self.interrupt.recv() => came,
        };
        if came.is_none() {
            pending::<()>().await;
        }
    }

    /// From now on SIGHUP has keys and certificates read again; where there are none nothing comes of it.
    pub(crate) fn reload_on_hangup(&mut self, access: &Access) {
        let Some(mut hangups) = self.hangup.take() else {
            return;
        };
        let access = access.clone();
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                let access = access.clone();
                // Files may lie on a slow disk. It does not panic, and if it did, the next signal would read again.
                let _ = tokio::task::spawn_blocking(move || access.reload()).await;
            }
        });
    }
}

#[cfg(not(unix))]
impl Signals {
    /// There is nothing to install.
    ///
    /// # Errors
    /// None.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {})
    }

    /// Waits for Ctrl-C.
    pub async fn end(&mut self) {
        if tokio::signal::ctrl_c()
            .await
            .context("cannot listen for signals")
            .is_err()
        {
            pending::<()>().await;
        }
    }

    pub(crate) fn reload_on_hangup(&mut self, _: &Access) {}
}
