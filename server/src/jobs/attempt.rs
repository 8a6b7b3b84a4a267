//! What is done with a job that was begun before and has no end.

/// How its next attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Beside others.
    Together,
    /// While no other job runs in this process, so that what it brings about is its own doing.
    Alone,
    /// Not at all.
    GiveUp,
}

impl Attempt {
    /// The next one of a job that has been begun so many times, each time in a process that ended or lost its lease. What ended
    /// them may have been a neighbour: it is tried together once more, and never given up but for what happened to it alone.
    pub(crate) fn next(begun: u32, max: u32) -> Self {
        match begun {
            begun if begun >= max => Self::GiveUp,
            begun if begun >= 2 || begun + 1 == max => Self::Alone,
            _ => Self::Together,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs jobs in processes that some of them kill until nothing is left, and gives for each how often it was begun and
    /// whether it was given up. Fresh ones are begun as they are stored.
    fn run(poisonous: &[bool], max: u32) -> Vec<(u32, bool)> {
        let mut begun = vec![1; poisonous.len()];
        let mut given_up = vec![false; poisonous.len()];
        // One process has all of them at first.
        let mut open: Vec<usize> = (0..poisonous.len()).collect();
        if !poisonous.contains(&true) {
            return begun.into_iter().zip(given_up).collect();
        }
        while !open.is_empty() {
            let next = |job: usize| Attempt::next(begun[job], max);
            if let Some(&job) = open.iter().find(|&&job| next(job) == Attempt::GiveUp) {
                given_up[job] = true;
                open.retain(|&other| other != job);
                continue;
            }
            let together = |&job: &usize| next(job) == Attempt::Together;
            let mut at_once: Vec<usize> = open.iter().copied().filter(together).collect();
            if at_once.is_empty() {
                at_once.extend(open.first());
            }
            at_once.iter().for_each(|&job| begun[job] += 1);
            if !at_once.iter().any(|&job| poisonous[job]) {
                open.retain(|job| !at_once.contains(job));
            }
        }
        begun.into_iter().zip(given_up).collect()
    }

    proptest! {
        #[test]
        fn what_kills_is_given_up_and_its_neighbours_never(
            poisonous in prop::collection::vec(any::<bool>(), 1..20),
            max in 2u32..8,
        ) {
            for (job, (begun, given_up)) in run(&poisonous, max).into_iter().enumerate() {
                prop_assert_eq!(given_up, poisonous[job]);
                prop_assert!(begun <= max);
                prop_assert!(!given_up || begun == max);
            }
        }
    }
}
