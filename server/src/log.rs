//! What is logged, and how its lines get to stderr.
//!
//! A thread of its own writes them, so that nobody who serves waits for stderr. What stderr does not take, as its reader has
//! gone, stands still, or its disk is full, is dropped: a server is worth more than its log.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt,
    fmt::MakeWriter,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::cli::LogFormat;

/// Lines that may wait to be written; past them lines are dropped.
const LINES: usize = 4096;
/// How long the end waits for stderr to take the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// The log of this process.
#[derive(Debug)]
pub struct Log(SyncSender<Message>);

impl Log {
    /// Starts it: from now on what is traced becomes lines.
    ///
    /// # Errors
    /// The filter is none, there is a log already, or no thread can be had.
    pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<Self> {
        let filter =
            EnvFilter::try_new(filter).map_err(|error| anyhow::anyhow!("--log: {error}"))?;
        // Others' crates may log what they are given, byte by byte.
        let discreet = filter_fn(|event| *event.level() <= Level::INFO || is_own(event.target()))
            .with_max_level_hint(LevelFilter::TRACE);
        let (sender, receiver) = sync_channel(LINES);
        let lines = Lines {
            sender: sender.clone(),
            dropped: Arc::default(),
        };
        let dropped = Arc::clone(&lines.dropped);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || write(&receiver, &dropped, io::stderr()))
            .context("cannot start the log's thread")?;
        let layer = fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(lines)
            // It would be told to stderr, which is what has failed.
            .log_internal_errors(false);
        let layer = match format {
            LogFormat::Text => layer.boxed(),
            LogFormat::Json => layer.json().boxed(),
        };
        tracing_subscriber::registry()
            .with(layer.with_filter(filter.and(discreet)))
            .try_init()
            .context("cannot start the log")?;
        Ok(Self(sender))
    }

    /// Waits until what was logged is written, if stderr takes it.
    pub fn finish(&self) {
        let (done, is_done) = sync_channel(1);
        let deadline = Instant::now() + LAST_LINES;
        let mut flush = Message::Flush(done);
        while let Err(TrySendError::Full(again)) = self.0.try_send(flush) {
            if Instant::now() >= deadline {
                return;
            }
            flush = again;
            thread::sleep(PAUSE);
        }
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Whether a target is one of Galley's crates.
fn is_own(target: &str) -> bool {
    target
        .strip_prefix("galley")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with('_'))
}

/// Takes lines, one for each write.
struct Lines {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Message::Line(line.into())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(messages: &Receiver<Message>, dropped: &AtomicU64, mut to: impl Write) {
    for message in messages {
        match message {
            Message::Line(line) if to.write_all(&line).is_ok() => {
                let lines = dropped.swap(0, Ordering::Relaxed);
                if lines > 0 {
                    tracing::warn!(
                        lines,
                        "lines of the log were dropped, as stderr did not take them"
                    );
                }
            }
            Message::Line(_) => {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            // Whoever asked may have waited long enough.
            Message::Flush(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Fails until it is told not to, and keeps what it has taken.
    struct Disk {
        is_full: Arc<std::sync::atomic::AtomicBool>,
        taken: std::sync::mpsc::Sender<Vec<u8>>,
    }

    impl Write for Disk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.taken.send(line.into()).unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_takes_are_dropped_and_counted() {
        let (sender, receiver) = sync_channel(2);
        let dropped = Arc::<AtomicU64>::default();
        let lines = Lines {
            sender: sender.clone(),
            dropped: Arc::clone(&dropped),
        };
        for _ in 0..5 {
            (&lines).write_all(b"stuck\n").unwrap();
        }
        assert_eq!(dropped.load(Ordering::SeqCst), 3, "no thread takes any");

        let is_full = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (taken, kept) = channel();
        let disk = Disk {
            is_full: Arc::clone(&is_full),
            taken,
        };
        let counts = Arc::clone(&dropped);
        let writing = thread::spawn(move || write(&receiver, &counts, disk));
        let log = Log(sender.clone());
        log.finish();
        assert_eq!(dropped.load(Ordering::SeqCst), 5, "the disk took none");
        is_full.store(false, Ordering::SeqCst);
        (&lines).write_all(b"at last\n").unwrap();
        log.finish();
        assert_eq!(kept.try_recv().unwrap(), b"at last\n");
        assert_eq!(dropped.load(Ordering::SeqCst), 0, "told");
        drop((lines, log, sender));
        writing.join().unwrap();
    }

    #[test]
    fn own_targets_are_told_from_others() {
        for own in ["galley", "galley::http::server", "galley_nn::text"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["hyper::proto", "tokenizers", "galleys", "log", ""] {
            assert!(!is_own(other), "{other}");
        }
    }
}
