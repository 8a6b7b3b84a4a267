//! All small worlds: two workers, two messages, up to three faults, in every order.

use std::collections::HashSet;

use super::world::World;

const FAULTS: usize = 3;

#[test]
fn in_every_small_world_the_promise_holds() {
    for ids in [["a", "b"], ["a", "a"]] {
        let mut seen = HashSet::new();
        let mut open = vec![(World::new(2, &ids), 0)];
        while let Some((world, faults)) = open.pop() {
            if !seen.insert((world.fingerprint(), faults)) {
                continue;
            }
            world.clone().finish();
            for event in world.events() {
                let faults = faults + usize::from(event.is_fault());
                let mut next = world.clone();
                if faults <= FAULTS && next.step(event) {
                    next.check();
                    open.push((next, faults));
                }
            }
        }
        println!("{} worlds of {ids:?}", seen.len());
        assert!(seen.len() > 1000, "only {} worlds", seen.len());
    }
}
