//! A broker, a table and workers, each step of which is one event. The broker and the table do what NATS and a database
//! do; workers do what their ledger says.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A delivery: of which message at the broker, and the how many-eth.
pub(super) type Delivery = (usize, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The broker delivers a message that waits.
    Deliver { worker: usize, message: usize },
    /// A worker has its row written, reads what came of it and acknowledges.
    Commit { worker: usize, message: usize },
    /// The row is written, but its worker does not get to know.
    CommitUnseen { worker: usize, message: usize },
    /// A worker tried in vain.
    GiveBack { worker: usize, message: usize },
    /// The oldest acknowledgement on its way arrives.
    AckArrives,
    /// It does not.
    AckIsLost,
    /// The broker has waited for long enough: the message may be delivered again, whoever still works on it.
    Expire { message: usize },
    /// A worker dies, and another starts in its place.
    Die { worker: usize },
}

impl Event {
    pub(super) fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::Deliver { .. } | Self::Commit { .. } | Self::AckArrives
        )
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Queued {
    deliveries: usize,
    /// Delivered, and neither acknowledged nor given back nor expired.
    is_out: bool,
    is_acknowledged: bool,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    start: Instant,
    /// By message, its id: two messages may have one.
    ids: Vec<&'static str>,
    broker: Vec<Queued>,
    workers: Vec<Ledger<Delivery>>,
    acks: Vec<Delivery>,
    table: BTreeSet<&'static str>,
    /// How often the table said of an id that its row is new.
    pub(super) new: BTreeMap<&'static str, usize>,
}

impl World {
    pub(super) fn new(workers: usize, ids: &[&'static str]) -> Self {
        Self {
            start: Instant::now(),
            ids: ids.to_vec(),
            broker: vec![Queued::default(); ids.len()],
            workers: vec![Ledger::default(); workers],
            acks: Vec::new(),
            table: BTreeSet::new(),
            new: BTreeMap::new(),
        }
    }

    /// Everything that could happen, now or later.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::AckArrives, Event::AckIsLost];
        for message in 0..self.ids.len() {
            events.push(Event::Expire { message });
            for worker in 0..self.workers.len() {
                events.extend([
                    Event::Deliver { worker, message },
                    Event::Commit { worker, message },
                    Event::CommitUnseen { worker, message },
                    Event::GiveBack { worker, message },
                ]);
            }
        }
        let workers = 0..self.workers.len();
        events.extend(workers.map(|worker| Event::Die { worker }));
        events
    }

    /// Lets it happen; false where it cannot.
    pub(super) fn step(&mut self, event: Event) -> bool {
        match event {
            Event::Deliver { worker, message } => {
                let queued = &mut self.broker[message];
                if queued.is_out || queued.is_acknowledged {
                    return false;
                }
                queued.is_out = true;
                queued.deliveries += 1;
                let delivery = (message, queued.deliveries);
                self.workers[worker].take(self.ids[message], "x", delivery, self.start);
            }
            Event::Commit { worker, message } => {
                let id = self.ids[message];
                if !self.workers[worker].begin(id) {
                    return false;
                }
                let written = match self.table.insert(id) {
                    true => Written::New,
                    false => Written::Duplicate,
                };
                if written == Written::New {
                    *self.new.entry(id).or_default() += 1;
                }
                let ended = self.workers[worker].commit(id, Status::Ok, written);
                let outcomes: Vec<_> = ended.iter().map(|(_, outcome)| *outcome).collect();
                assert_eq!(
                    outcomes.contains(&Outcome::Written),
                    written == Written::New
                );
                self.acks
                    .extend(ended.into_iter().map(|(delivery, _)| delivery));
            }
            Event::CommitUnseen { worker, message } => {
                let id = self.ids[message];
                if !self.workers[worker].begin(id) {
                    return false;
                }
                self.table.insert(id);
            }
            Event::GiveBack { worker, message } => {
                let back = self.workers[worker].give_back(self.ids[message]);
                if back.is_empty() {
                    return false;
                }
                for (message, delivery) in back {
                    let queued = &mut self.broker[message];
                    // Of an earlier delivery it says nothing.
                    if queued.deliveries == delivery {
                        queued.is_out = false;
                    }
                }
            }
            Event::AckArrives if self.acks.is_empty() => return false,
            // Of an earlier delivery it counts all the same.
            Event::AckArrives => self.broker[self.acks.remove(0).0].is_acknowledged = true,
            Event::AckIsLost if self.acks.is_empty() => return false,
            Event::AckIsLost => drop(self.acks.remove(0)),
            Event::Expire { message } => {
                let queued = &mut self.broker[message];
                if !queued.is_out || queued.is_acknowledged {
                    return false;
                }
                queued.is_out = false;
            }
            Event::Die { worker } => self.workers[worker] = Ledger::default(),
        }
        true
    }

    /// What is to hold at any time.
    pub(super) fn check(&self) {
        for (queued, id) in self.broker.iter().zip(&self.ids) {
            assert!(
                !queued.is_acknowledged || self.table.contains(id),
                "{id} is acknowledged and has no row: {self:?}"
            );
        }
        assert!(
            self.new.values().all(|&times| times == 1),
            "a row was new twice: {self:?}"
        );
    }

    /// From here on nothing goes wrong any more: then every message ends with its row.
    pub(super) fn finish(mut self) {
        while !self.broker.iter().all(|queued| queued.is_acknowledged) {
            let mut moved = false;
            for message in 0..self.ids.len() {
                moved |= self.step(Event::Deliver { worker: 0, message });
                for worker in 0..self.workers.len() {
                    moved |= self.step(Event::Commit { worker, message });
                }
                while self.step(Event::AckArrives) {
                    moved = true;
                }
            }
            if !moved {
                // Those whose acknowledgement was lost, or whose worker died.
                for message in 0..self.ids.len() {
                    moved |= self.step(Event::Expire { message });
                }
            }
            assert!(moved, "nothing can happen any more: {self:?}");
            self.check();
        }
    }

    /// The same for two worlds from which the same can follow.
    pub(super) fn fingerprint(&self) -> String {
        let Self {
            broker,
            workers,
            acks,
            table,
            new,
            ..
        } = self;
        format!("{broker:?}{workers:?}{acks:?}{table:?}{new:?}")
    }
}
