//! Who may be connected (`--max-connections`), and who has to go where all seats are taken.
//!
//! Whoever finds no seat stands outside: probes are answered there, anything else waits for a seat. For each who waits one
//! connection is closed: the one that has waited for its client for longest, or the next that has been answered. So neither
//! idle clients nor those that stop halfway, nor those that ask without end, shut others out. The places outside are few; a
//! newcomer takes that of whoever has stood there longest.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::turn::Turn;
use crate::metrics::Registry;

/// Places outside.
const OUTSIDE: usize = 64;
/// How long a client may take before its connection is one that others' may replace.
const GRACE: Duration = Duration::from_secs(1);
/// Between two looks for a connection that can be closed.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two lines of the log about the same.
const SILENCE: Duration = Duration::from_secs(60);

/// The seats of one port.
pub(super) struct Seats {
    registry: Arc<Registry>,
    inside: Arc<Semaphore>,
    all: Arc<Semaphore>,
    taken: Mutex<HashMap<u64, Arc<Seat>>>,
    next: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: usize,
    /// Connections that are about to close for those who wait.
    promised: usize,
    /// Those that found no seat since the log said so.
    unlogged: u64,
    logged: Option<Instant>,
}

/// A connection's seat, or its place outside.
pub(super) struct Seat {
    pub(super) turn: Arc<Turn>,
    /// Cancelled when it has to go, for others.
    pub(super) leave: CancellationToken,
    inside: Mutex<Option<OwnedSemaphorePermit>>,
    is_outside: AtomicBool,
}

/// A seat for as long as its connection lives.
pub(super) struct Seated {
    pub(super) seat: Arc<Seat>,
    seats: Arc<Seats>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.number);
        self.seats.registry.connections().decrement(1);
    }
}

impl Seat {
    pub(super) fn is_outside(&self) -> bool {
        self.is_outside.load(Ordering::Relaxed)
    }

    fn sit(&self, permit: OwnedSemaphorePermit) {
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        self.is_outside.store(false, Ordering::Relaxed);
    }
}

impl Seats {
    pub(super) fn new(max: usize, registry: Arc<Registry>) -> Arc<Self> {
        let max = max.min(Semaphore::MAX_PERMITS - OUTSIDE);
        Arc::new(Self {
            registry,
            inside: Arc::new(Semaphore::new(max)),
            all: Arc::new(Semaphore::new(max + OUTSIDE)),
            taken: Mutex::default(),
            next: AtomicU64::new(0),
            queue: Mutex::default(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for a connection that has come, or a place outside.
    pub(super) async fn enter(self: &Arc<Self>) -> Seated {
        let place = loop {
            if let Ok(place) = Arc::clone(&self.all).try_acquire_owned() {
                break place;
            }
            self.turn_out(Duration::ZERO, Seat::is_outside);
            tokio::select! {
                // The semaphore is never closed.
                Ok(place) = Arc::clone(&self.all).acquire_owned() => break place,
                () = sleep(PAUSE) => {}
            }
        };
        let seat = Arc::new(Seat {
            turn: Arc::new(Turn::new()),
            leave: CancellationToken::new(),
            inside: Mutex::default(),
            is_outside: AtomicBool::new(true),
        });
        match Arc::clone(&self.inside).try_acquire_owned() {
            Ok(permit) => seat.sit(permit),
            Err(_) => self.note_full(),
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.taken().insert(number, Arc::clone(&seat));
        self.registry.connections().increment(1);
        Seated {
            seat,
            seats: Arc::clone(self),
            number,
            _place: place,
        }
    }

    /// Waits for a seat; `false` where there is none in time, or others have waited for a shorter time and more of them.
    pub(super) async fn wait(&self, seat: &Seat, patience: Duration) -> bool {
        self.queue().waiting += 1;
        seat.turn.awaits_seat();
        let sat = tokio::select! {
            sat = self.sit(seat) => sat,
            () = seat.leave.cancelled() => false,
            () = sleep(patience) => false,
        };
        seat.turn.has_seat();
        let mut queue = self.queue();
        queue.waiting -= 1;
        queue.promised = queue.promised.saturating_sub(1);
        sat
    }

    async fn sit(&self, seat: &Seat) -> bool {
        let mut freed = std::pin::pin!(Arc::clone(&self.inside).acquire_owned());
        let mut pause = Duration::ZERO;
        loop {
            if let Ok(freed) = timeout(pause, &mut freed).await {
                // The semaphore is never closed.
                return freed.is_ok_and(|permit| {
                    seat.sit(permit);
                    true
                });
            }
            pause = match self.turn_out(GRACE, |seat| !seat.is_outside()) {
                // One is enough, though it may take its time.
                true => Duration::MAX,
                false => PAUSE,
            };
        }
    }

    /// Whether a connection that has been answered is to close for one that waits.
    pub(super) fn wants_back(&self) -> bool {
        let mut queue = self.queue();
        let wants = queue.promised < queue.waiting;
        queue.promised += usize::from(wants);
        wants
    }

    /// Has the connection go that has waited for longest, if that is as long, among some of them; `false` if there is none.
    fn turn_out(&self, waits: Duration, among: impl Fn(&Seat) -> bool) -> bool {
        let now = Instant::now();
        let taken = self.taken();
        let longest = taken
            .values()
            .filter(|seat| among(seat) && !seat.leave.is_cancelled())
            .filter_map(|seat| Some((seat.turn.waits_since()?, seat)))
            .min_by_key(|(since, _)| *since);
        let longest = longest.filter(|(since, _)| now.duration_since(*since) >= waits);
        if let Some((_, seat)) = longest {
            seat.leave.cancel();
        }
        longest.is_some()
    }

    fn note_full(&self) {
        self.registry.connections_over_limit().increment(1);
        let mut queue = self.queue();
        queue.unlogged += 1;
        if queue.logged.is_none_or(|at| at.elapsed() >= SILENCE) {
            tracing::warn!(
                connections = queue.unlogged,
                "as many connections are open as may be (--max-connections); others wait, or take the place of idle ones"
            );
            queue.logged = Some(Instant::now());
            queue.unlogged = 0;
        }
    }
}
