//! Whether the load generator was the bound of what it measured.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::record::Served;
use crate::scheduled::Scheduled;

/// Threads, or cores, that had something to do for more than this part of the time had no time to spare.
const BUSY: f64 = 0.85;

/// What the load generator's threads did with the time of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientTime {
    /// Threads that had clients.
    pub threads: usize,
    /// How long these were on a core, all together.
    pub ran_seconds: f64,
    /// How long they were ready but waited for a core, all together.
    pub waited_seconds: f64,
    /// How long the server's threads were on a core, where this program started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_ran_seconds: Option<f64>,
    /// What follows.
    pub bound: Bound,
}

/// What bounded a pass, as far as the load generator can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Something else than the client, which had time to spare.
    #[default]
    Other,
    /// The client or the server: the client had no time to spare, and the server is not this program's to look at.
    Either,
    /// The cores that client and server take from each other: what one would do without the other cannot be known.
    Cores,
    /// The client, which had no time to spare while cores were free.
    Client,
}

impl ClientTime {
    /// Judges a pass of this time on a machine of so many cores.
    pub(crate) fn of(
        threads: usize,
        clients: Scheduled,
        server: Option<Scheduled>,
        time: Duration,
        cores: usize,
    ) -> Self {
        let mut client = Self {
            threads,
            ran_seconds: clients.ran.as_secs_f64(),
            waited_seconds: clients.waited.as_secs_f64(),
            server_ran_seconds: server.map(|server| server.ran.as_secs_f64()),
            bound: Bound::Other,
        };
        client.bound = client.bound(time.as_secs_f64(), cores);
        client
    }

    fn bound(&self, seconds: f64, cores: usize) -> Bound {
        let threads = self.threads as f64 * seconds;
        if self.ran_seconds + self.waited_seconds <= BUSY * threads {
            return Bound::Other;
        }
        // Who waits for a core while others have it would have had time to spare alone, or would not.
        if self.waited_seconds > (1.0 - BUSY) * threads {
            return Bound::Cores;
        }
        match self.server_ran_seconds {
            None => Bound::Either,
            Some(server) if self.ran_seconds + server > BUSY * cores as f64 * seconds => {
                Bound::Cores
            }
            Some(_) => Bound::Client,
        }
    }
}

impl Bound {
    /// What a table's row says of it, if anything.
    pub(super) fn mark(self) -> Option<&'static str> {
        match self {
            Self::Other => None,
            Self::Either => Some("client busy"),
            Self::Cores => Some("cores-bound"),
            Self::Client => Some("client-bound"),
        }
    }

    /// What the mark means.
    fn explained(self) -> Option<String> {
        let percent = BUSY * 100.0;
        let busy =
            format!("the load generator's threads were busy for more than {percent} % of the time");
        let then = match self {
            Self::Other => return None,
            Self::Either => {
                "How busy the server was is not known, so that the figure may be the client's and not the server's."
                    .to_owned()
            }
            Self::Cores => format!(
                "They waited for a core for long, or took more than {percent} % of all cores together with the server: what the server \
                 would do without a client beside it cannot be known from here."
            ),
            Self::Client => "Cores were free, so that the server may do more than this: --client-threads gives the client more."
                .to_owned(),
        };
        Some(format!("{}: {busy}. {then}", self.mark()?))
    }
}

/// The worst that was found of these passes; nothing of records that do not say.
pub(super) fn bound(passes: &[&Served]) -> Bound {
    let bounds = passes.iter().filter_map(|pass| pass.client.as_ref());
    bounds.map(|client| client.bound).max().unwrap_or_default()
}

/// What the marks of rows mean, each once.
pub(super) fn notes(rows: impl Iterator<Item = Bound>) -> Vec<String> {
    let marks: BTreeSet<Bound> = rows.collect();
    marks
        .into_iter()
        .rev()
        .filter_map(Bound::explained)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four threads on sixteen cores for ten seconds: how long they ran and waited, and how long the server ran.
    fn judged(ran: u64, waited: u64, server: Option<u64>) -> Bound {
        let scheduled = |ran, waited| Scheduled {
            ran: Duration::from_secs(ran),
            waited: Duration::from_secs(waited),
        };
        let server = server.map(|ran| scheduled(ran, 0));
        ClientTime::of(
            4,
            scheduled(ran, waited),
            server,
            Duration::from_secs(10),
            16,
        )
        .bound
    }

    #[test]
    fn a_client_with_time_to_spare_is_no_bound() {
        assert_eq!(judged(34, 0, Some(20)), Bound::Other);
        assert_eq!(judged(30, 4, None), Bound::Other);
        // Though the server takes all that is left.
        assert_eq!(judged(30, 0, Some(130)), Bound::Other);
    }

    #[test]
    fn a_busy_client_is_the_bound_while_cores_are_free() {
        assert_eq!(judged(38, 1, Some(60)), Bound::Client);
        assert_eq!(judged(38, 1, Some(98)), Bound::Client);
        assert_eq!(judged(38, 1, Some(99)), Bound::Cores);
    }

    #[test]
    fn who_waits_for_cores_cannot_tell() {
        assert_eq!(judged(20, 18, Some(60)), Bound::Cores);
        assert_eq!(judged(20, 18, None), Bound::Cores);
    }

    #[test]
    fn of_a_server_elsewhere_it_is_one_or_the_other() {
        assert_eq!(judged(38, 1, None), Bound::Either);
    }

    #[test]
    fn every_mark_is_explained() {
        for bound in [Bound::Either, Bound::Cores, Bound::Client] {
            let explained = bound.explained().unwrap();
            assert!(explained.starts_with(bound.mark().unwrap()), "{explained}");
            assert!(explained.contains("85 %"), "{explained}");
        }
        assert_eq!(
            (Bound::Other.mark(), Bound::Other.explained()),
            (None, None)
        );
    }
}
