//! What a worker has in hand, and when a delivery may be acknowledged: pure, so that it can be tested to the end.
//!
//! Deliveries of one id are one piece of work, however many come while it is done. They leave together: acknowledged once
//! the table has said what came of their row, or given back without one. A delivery that comes afterwards is new work, whose
//! row the table will not take twice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    outcome::Outcome,
    row::{Status, Written},
};

#[cfg(test)]
mod tests;

/// The messages in hand by their ids, each with its deliveries, which are a `D`.
#[derive(Clone, Debug)]
pub struct Ledger<D> {
    in_hand: BTreeMap<String, InHand<D>>,
    /// How many deliveries these have.
    count: usize,
}

#[derive(Clone, Debug)]
struct InHand<D> {
    identity: String,
    /// Each with whether it is for the same input as the first.
    deliveries: Vec<(D, bool)>,
    begun: bool,
    renewed: Instant,
}

/// What a delivery is to its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Work to be done.
    New,
    /// Work that is in hand already.
    Joined,
}

impl<D> Default for Ledger<D> {
    fn default() -> Self {
        Self {
            in_hand: BTreeMap::new(),
            count: 0,
        }
    }
}

impl<D: Clone> Ledger<D> {
    /// A message was delivered; `identity` tells its input from others under the same id.
    pub fn take(&mut self, id: &str, identity: &str, delivery: D, now: Instant) -> Taken {
        self.count += 1;
        if let Some(held) = self.in_hand.get_mut(id) {
            let same = held.identity == identity;
            held.deliveries.push((delivery, same));
            return Taken::Joined;
        }
        let held = InHand {
            identity: identity.into(),
            deliveries: vec![(delivery, true)],
            begun: false,
            renewed: now,
        };
        self.in_hand.insert(id.into(), held);
        Taken::New
    }

    /// Work on it begins. It does not if it was given back meanwhile.
    pub fn begin(&mut self, id: &str) -> bool {
        let held = self.in_hand.get_mut(id);
        held.map(|held| held.begun = true).is_some()
    }

    /// The table has committed its row, or has one: its deliveries may be acknowledged now, and never before. Each comes
    /// with how it ended.
    pub fn commit(&mut self, id: &str, status: Status, written: Written) -> Vec<(D, Outcome)> {
        let first = match written {
            Written::New => status.outcome(),
            Written::Duplicate => Outcome::Duplicate,
            Written::Conflict => Outcome::Conflict,
        };
        let mut next = Some(first);
        let deliveries = self.remove(id).into_iter().map(|(delivery, same)| {
            let outcome = match (next.take(), same) {
                (Some(first), _) => first,
                (None, true) => Outcome::Duplicate,
                (None, false) => Outcome::Conflict,
            };
            (delivery, outcome)
        });
        deliveries.collect()
    }

    /// It was tried in vain and has no row: its deliveries are to be given back.
    pub fn give_back(&mut self, id: &str) -> Vec<D> {
        let deliveries = self.remove(id).into_iter();
        deliveries.map(|(delivery, _)| delivery).collect()
    }

    /// All that has not begun leaves, to be given back.
    pub fn give_back_rest(&mut self) -> Vec<D> {
        self.leave(|held| !held.begun)
    }

    /// Everything leaves, begun or not, to be given back.
    pub fn give_back_all(&mut self) -> Vec<D> {
        self.leave(|_| true)
    }

    /// The deliveries that have not been renewed for `interval`, and are to be now.
    pub fn renew(&mut self, interval: Duration, now: Instant) -> Vec<D> {
        let due = self
            .in_hand
            .values_mut()
            .filter(|held| now.saturating_duration_since(held.renewed) >= interval);
        let renew = |held: &mut InHand<D>| {
            held.renewed = now;
            let deliveries = held.deliveries.iter();
            deliveries
                .map(|(delivery, _)| delivery.clone())
                .collect::<Vec<_>>()
        };
        due.flat_map(renew).collect()
    }

    /// How many deliveries are in hand.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.in_hand.is_empty()
    }

    fn remove(&mut self, id: &str) -> Vec<(D, bool)> {
        let held = self.in_hand.remove(id);
        let deliveries = held.map(|held| held.deliveries).unwrap_or_default();
        self.count -= deliveries.len();
        deliveries
    }

    fn leave(&mut self, leaves: impl Fn(&InHand<D>) -> bool) -> Vec<D> {
        let left = self.in_hand.extract_if(.., |_, held| leaves(held));
        let deliveries = left.flat_map(|(_, held)| held.deliveries);
        let deliveries: Vec<D> = deliveries.map(|(delivery, _)| delivery).collect();
        self.count -= deliveries.len();
        deliveries
    }
}
