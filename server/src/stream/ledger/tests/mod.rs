//! The promise, in every world that is small enough, and in many that are not.

mod exhaustive;
mod interleavings;
mod world;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn deliveries_of_one_id_are_one_piece_of_work_and_leave_together() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    assert_eq!(ledger.take("a", "x", 1, now), Taken::New);
    assert_eq!(ledger.take("a", "x", 2, now), Taken::Joined);
    assert_eq!(ledger.take("a", "y", 3, now), Taken::Joined);
    assert_eq!(ledger.len(), 3);
    assert_eq!(
        ledger.commit("a", Status::Ok, Written::New),
        [
            (1, Outcome::Written),
            (2, Outcome::Duplicate),
            (3, Outcome::Conflict)
        ]
    );
    assert!(ledger.is_empty());
    assert_eq!(ledger.take("a", "x", 4, now), Taken::New);
}

#[test]
fn what_has_begun_is_not_given_back_with_the_rest() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    for (id, delivery) in [("a", 1), ("b", 2), ("b", 3)] {
        ledger.take(id, "x", delivery, now);
    }
    assert!(ledger.begin("a"));
    assert_eq!(ledger.give_back_rest(), [2, 3]);
    assert!(!ledger.begin("b"), "it is not in hand any more");
    assert_eq!(ledger.give_back("a"), [1]);
}

#[test]
fn what_is_in_hand_is_renewed_every_so_often() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    ledger.take("a", "x", 1, now);
    ledger.take("b", "x", 2, now + SECOND);
    assert_eq!(ledger.renew(2 * SECOND, now + SECOND), [0; 0]);
    assert_eq!(ledger.renew(2 * SECOND, now + 2 * SECOND), [1]);
    assert_eq!(ledger.renew(2 * SECOND, now + 3 * SECOND), [2]);
    assert_eq!(ledger.renew(2 * SECOND, now + 4 * SECOND), [1]);
}
