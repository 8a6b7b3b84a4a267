//! The bytes of bodies and answers that may be in memory at a time (`--max-buffered`), and who gives way when they are all
//! taken: bodies that arrive too slowly, those that have done so for longest first.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::error::ApiError;

/// The bytes a second at which a body keeps its room, whoever else wants it.
const PACE: u64 = 64 << 10;
/// How long a body may fall behind.
const GRACE: Duration = Duration::from_secs(1);

/// How many bytes may be in memory at a time.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    max: u64,
    /// How long a body may stand still, whether or not its room is needed (`--body-timeout`).
    patience: Duration,
    arriving: Mutex<Vec<Arc<Arriving>>>,
}

/// A body that has not arrived in whole.
#[derive(Debug)]
struct Arriving {
    progress: Mutex<Progress>,
    gives_way: Notify,
}

#[derive(Debug)]
struct Progress {
    bytes: u64,
    /// Until when what has arrived so far is fast enough.
    enough_until: Instant,
    has_given_way: bool,
}

impl Arriving {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    pub(super) fn new(max: u64, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            max,
            patience,
            arriving: Mutex::default(),
        })
    }

    /// A share of nothing, which grows.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share {
            budget: Arc::clone(self),
            bytes: 0,
            arriving: None,
        }
    }

    /// Takes bytes, whether or not they fit.
    fn add(&self, bytes: u64) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        used <= self.max || self.make_room(Instant::now())
    }

    fn sub(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Has bodies give way until all fits; `false` where it never does.
    fn make_room(&self, now: Instant) -> bool {
        let arriving = self.arriving();
        let mut slow: Vec<_> = arriving
            .iter()
            .map(|body| (body.lock().enough_until, body))
            .filter(|(enough_until, _)| *enough_until < now)
            .collect();
        slow.sort_by_key(|(enough_until, _)| *enough_until);
        let mut slow = slow.into_iter();
        while self.used.load(Ordering::Relaxed) > self.max {
            let Some((_, body)) = slow.next() else {
                return false;
            };
            let mut progress = body.lock();
            if progress.bytes > 0 {
                progress.has_given_way = true;
                self.sub(std::mem::take(&mut progress.bytes));
                body.gives_way.notify_one();
            }
        }
        true
    }

    fn arriving(&self) -> MutexGuard<'_, Vec<Arc<Arriving>>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// Bytes that a request or its answer holds, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    /// What it holds, but for a body that arrives.
    bytes: u64,
    arriving: Option<Arc<Arriving>>,
}

impl Share {
    /// Takes room for `bytes` more.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let bytes = bytes as u64;
        // What was added here goes back with the share, whether or not it fitted.
        match &self.arriving {
            None => self.bytes += bytes,
            Some(arriving) => {
                let mut progress = arriving.lock();
                if progress.has_given_way {
                    return Err(gave_way());
                }
                progress.bytes += bytes;
                let bought = Duration::from_micros(bytes.saturating_mul(1_000_000) / PACE);
                let latest = Instant::now() + GRACE;
                progress.enough_until = (progress.enough_until + bought).min(latest);
            }
        }
        match self.budget.add(bytes) {
            true => Ok(()),
            false => Err(ApiError::Busy(
                "the server holds as many bytes of bodies as it may (--max-buffered)".into(),
            )),
        }
    }

    /// Holds `bytes` more, as they are there already.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.budget.add(bytes as u64);
    }

    /// From now on it is a body's that arrives, and gives way if that is too slow.
    pub(super) fn arrives(&mut self) {
        let arriving = Arc::new(Arriving {
            progress: Mutex::new(Progress {
                bytes: std::mem::take(&mut self.bytes),
                enough_until: Instant::now() + GRACE,
                has_given_way: false,
            }),
            gives_way: Notify::new(),
        });
        self.budget.arriving().push(Arc::clone(&arriving));
        self.arriving = Some(arriving);
    }

    /// It has arrived.
    pub(super) fn arrived(&mut self) -> Result<(), ApiError> {
        let Some(arriving) = self.arriving.take() else {
            return Ok(());
        };
        self.budget
            .arriving()
            .retain(|other| !Arc::ptr_eq(other, &arriving));
        let progress = arriving.lock();
        self.bytes += progress.bytes;
        match progress.has_given_way {
            false => Ok(()),
            true => Err(gave_way()),
        }
    }

    /// How long its body may stand still.
    pub(super) fn patience(&self) -> Duration {
        self.budget.patience
    }

    /// Waits until the body has to give way.
    pub(super) fn gives_way(&self) -> impl Future<Output = ApiError> + use<> {
        let arriving = self.arriving.clone();
        async move {
            match arriving {
                Some(arriving) => arriving.gives_way.notified().await,
                None => std::future::pending().await,
            }
            gave_way()
        }
    }

    /// Parts with `bytes` of it; what it lacks, as what arrived has grown since, is taken anew.
    pub(super) fn split(&mut self, bytes: usize) -> Result<Self, ApiError> {
        let mut part = self.budget.share();
        let wanted = bytes as u64;
        match &self.arriving {
            None => {
                part.bytes = self.bytes.min(wanted);
                self.bytes -= part.bytes;
            }
            Some(arriving) => {
                let mut progress = arriving.lock();
                if progress.has_given_way {
                    return Err(gave_way());
                }
                part.bytes = progress.bytes.min(wanted);
                progress.bytes -= part.bytes;
            }
        }
        part.grow(bytes - part.bytes as usize)?;
        Ok(part)
    }
}

fn gave_way() -> ApiError {
    ApiError::SlowBody(
        "the body came too slowly while others needed the room it took (--max-buffered)".into(),
    )
}

impl Drop for Share {
    fn drop(&mut self) {
        // Whether it gave way does not matter any more.
        let _ = self.arrived();
        self.budget.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max: u64) -> Arc<Budget> {
        Budget::new(max, Duration::from_secs(30))
    }

    #[test]
    fn a_part_of_a_share_is_given_back_by_itself() {
        let budget = budget(10);
        let mut share = budget.share();
        share.grow(6).unwrap();
        let part = share.split(4).unwrap();
        drop(share);
        assert_eq!(budget.used(), 4);
        drop(part);
        let mut share = budget.share();
        share.grow(6).unwrap();
        // It has become larger than what arrived.
        let part = share.split(9).unwrap();
        assert_eq!(budget.used(), 9);
        assert!(share.split(2).is_err());
        drop((share, part));
        assert_eq!(budget.used(), 0);
    }

    fn arriving(budget: &Arc<Budget>, bytes: usize) -> Share {
        let mut share = budget.share();
        share.arrives();
        share.grow(bytes).unwrap();
        share
    }

    #[tokio::test]
    async fn bodies_that_stand_still_give_way_and_no_others() {
        let budget = budget(100 << 10);
        let mut first = arriving(&budget, 40 << 10);
        let mut second = arriving(&budget, 40 << 10);
        let mut here = budget.share();
        assert!(
            matches!(here.grow(30 << 10), Err(ApiError::Busy(_))),
            "both have just come"
        );
        drop(here);
        tokio::time::sleep(GRACE).await;
        second.grow(10 << 10).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut here = budget.share();
        here.grow(30 << 10).unwrap();
        assert_eq!(budget.used(), (50 + 30) << 10);
        assert!(matches!(first.gives_way().await, ApiError::SlowBody(_)));
        assert!(matches!(first.grow(1), Err(ApiError::SlowBody(_))));
        assert!(matches!(first.arrived(), Err(ApiError::SlowBody(_))));
        drop(first);
        assert_eq!(budget.used(), (50 + 30) << 10, "given back once");
        second.arrived().unwrap();
        drop((second, here));
        assert_eq!(budget.used(), 0);
    }

    /// A byte now and then keeps no room, however many came at first.
    #[tokio::test]
    async fn dripping_is_no_progress() {
        let budget = budget((1 << 20) + 100);
        let mut dripping = arriving(&budget, 1 << 20);
        for _ in 0..4 {
            tokio::time::sleep(GRACE / 2).await;
            let _ = dripping.grow(1);
        }
        let mut share = budget.share();
        share.grow(1000).unwrap();
        assert!(matches!(dripping.arrived(), Err(ApiError::SlowBody(_))));
    }

    /// At its pace a body stays, though nothing else fits.
    #[tokio::test]
    async fn a_body_at_its_pace_stays() {
        let budget = budget(4 * PACE);
        let mut coming = arriving(&budget, 1);
        for _ in 0..3 {
            tokio::time::sleep(GRACE / 2).await;
            coming.grow(PACE as usize).unwrap();
        }
        let mut share = budget.share();
        assert!(share.grow(PACE as usize + 1).is_err());
        coming.arrived().unwrap();
    }
}
