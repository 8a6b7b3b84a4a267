//! What the system's scheduler says of threads: how long they were on a core, and how long they waited for one. Linux alone tells.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Time of one thread or several since they began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// On a core.
    pub(crate) ran: Duration,
    /// Ready to be, while others were.
    pub(crate) waited: Duration,
}

impl Scheduled {
    /// Of a thread, by its folder in `/proc`.
    pub(crate) fn of_thread(folder: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(folder.join("schedstat")).ok()?)
    }

    /// Of all threads that a process has now.
    pub(crate) fn of_process(pid: u32) -> Option<Self> {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        // One that has ended meanwhile has none.
        let each = threads.filter_map(|thread| Self::of_thread(&thread.ok()?.path()));
        each.reduce(Self::plus)
    }

    /// Of two together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            ran: self.ran + other.ran,
            waited: self.waited + other.waited,
        }
    }

    /// What has passed since; nothing where threads have ended and took more with them.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(earlier.ran),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }

    /// Nanoseconds on a core, nanoseconds of waiting, and how often.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map(str::parse);
        let mut next = || Some(Duration::from_nanos(numbers.next()?.ok()?));
        Some(Self {
            ran: next()?,
            waited: next()?,
        })
    }
}

/// The calling thread's folder in `/proc`, by which others find it.
pub(crate) fn this_thread() -> Option<PathBuf> {
    let link = fs::read_link("/proc/thread-self").ok()?;
    Some(Path::new("/proc").join(link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_nanoseconds() {
        let expected = Scheduled {
            ran: Duration::from_nanos(1_222_692),
            waited: Duration::from_nanos(4_331_023),
        };
        assert_eq!(Scheduled::parse("1222692 4331023 3\n"), Some(expected));
        for text in ["", "1", "a b c", "-1 2 3"] {
            assert_eq!(Scheduled::parse(text), None, "{text}");
        }
        let later = expected.plus(expected);
        assert_eq!(later.since(expected), expected);
        assert_eq!(expected.since(later), Scheduled::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_is_one_of_its_process() {
        let folder = this_thread().unwrap();
        // Kernels without these counters have no such file.
        if let Some(thread) = Scheduled::of_thread(&folder) {
            let process = Scheduled::of_process(std::process::id()).unwrap();
            assert!(process.ran >= thread.ran);
        }
    }
}
