//! Larger worlds, at random.

use proptest::prelude::*;

use super::world::World;

proptest! {
    #[test]
    fn any_interleaving_keeps_the_promise(
        workers in 1usize..4,
        steps in proptest::collection::vec(any::<prop::sample::Index>(), 0..300),
    ) {
        // Two of them are published twice, with one id each.
        let mut world = World::new(workers, &["a", "b", "c", "d", "a", "b"]);
        let events = world.events();
        for step in steps {
            if world.step(*step.get(&events)) {
                world.check();
            }
        }
        world.finish();
    }
}
