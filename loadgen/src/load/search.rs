//! The highest rate that keeps an objective, found by bracketing and then by bisection. Plain data: it is told what became of a
//! rate and says which to try next.
//!
//! A trial may be wrong, because a machine hiccups or luck is good. So each end of the last bracket has to be seen twice, and where
//! two trials of a rate disagree a third decides.

/// The bracket is narrow enough where its ends have this ratio.
const RESOLUTION: f64 = 1.03;
/// From one rate to the next while there is no bracket.
const STRIDE: f64 = 2.0;
/// Below the first rate divided by this it is given up.
const DEEPEST: f64 = 1024.0;
/// However trials contradict each other, there are no more.
const MOST_TRIALS: usize = 40;

/// What became of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    /// The objective was kept.
    Kept,
    /// It was not.
    Broken,
    /// It was not, but the client was late itself, so that this says nothing of the server.
    ClientBound,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// Try this rate.
    Try(f64),
    /// This is the result.
    End(Result),
}

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Result {
    /// The highest rate that was seen to keep the objective, in requests a second; none where no rate did.
    pub(super) rate: Option<f64>,
    /// Whether it is the client that could do no more, so that the server's own rate is higher.
    pub(super) client_bound: bool,
}

/// A search in progress.
#[derive(Clone, Debug)]
pub(super) struct Search {
    start: f64,
    trials: Vec<(f64, Trial)>,
}

impl Search {
    /// A search that begins at a rate, in requests a second, which is above 0.
    pub(super) fn new(start: f64) -> Self {
        let trials = Vec::new();
        Self { start, trials }
    }

    /// Notes what became of a rate, whether or not it was the one to try.
    pub(super) fn note(&mut self, rate: f64, trial: Trial) {
        self.trials.push((rate, trial));
    }

    /// The next rate, or the result.
    pub(super) fn next(&self) -> Next {
        let undecided = self.rates().find(|&rate| self.keeps(rate).is_none());
        let (kept, broken) = self.bracket();
        if self.trials.len() >= MOST_TRIALS {
            return self.end(kept, broken);
        }
        if let Some(rate) = undecided {
            return Next::Try(rate);
        }
        match (kept, broken) {
            (None, None) => Next::Try(self.start),
            (Some(kept), None) => Next::Try(kept * STRIDE),
            (None, Some(broken)) if broken <= self.start / DEEPEST => self.end(kept, None),
            (None, Some(broken)) => Next::Try(broken / STRIDE),
            (Some(kept), Some(broken)) if broken > kept * RESOLUTION => {
                Next::Try((kept * broken).sqrt())
            }
            (Some(kept), Some(broken)) => {
                let seen_once = [kept, broken].into_iter().find(|&rate| self.seen(rate) < 2);
                seen_once.map_or_else(|| self.end(Some(kept), Some(broken)), Next::Try)
            }
        }
    }

    fn end(&self, rate: Option<f64>, broken: Option<f64>) -> Next {
        let by_client =
            |&(at, trial): &(f64, Trial)| Some(at) == broken && trial == Trial::ClientBound;
        Next::End(Result {
            rate,
            client_bound: self.trials.iter().any(by_client),
        })
    }

    /// The highest rate that keeps the objective below the lowest that does not, and that one.
    fn bracket(&self) -> (Option<f64>, Option<f64>) {
        let of = |keeps| {
            self.rates()
                .filter(move |&rate| self.keeps(rate) == Some(keeps))
        };
        let broken = of(false).reduce(f64::min);
        let below = of(true).filter(|&rate| broken.is_none_or(|broken| rate < broken));
        (below.reduce(f64::max), broken)
    }

    fn rates(&self) -> impl Iterator<Item = f64> {
        self.trials.iter().map(|&(rate, _)| rate)
    }

    fn seen(&self, rate: f64) -> usize {
        self.rates().filter(|&other| other == rate).count()
    }

    /// What most trials of a rate say; none where as many say the opposite.
    fn keeps(&self, rate: f64) -> Option<bool> {
        let of_rate = self.trials.iter().filter(|&&(other, _)| other == rate);
        let votes = of_rate.map(|&(_, trial)| if trial == Trial::Kept { 1 } else { -1 });
        match votes.sum::<i32>() {
            0 => None,
            sum => Some(sum > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Searches a server that keeps its objective up to a rate, where the trial of a number is answered wrongly; gives the result
    /// and the number of trials.
    fn search(start: f64, capacity: f64, lie: Option<usize>) -> (Result, usize) {
        let mut search = Search::new(start);
        for number in 0.. {
            match search.next() {
                Next::End(result) => return (result, number),
                Next::Try(rate) => {
                    let kept = (rate <= capacity) != (lie == Some(number));
                    search.note(rate, if kept { Trial::Kept } else { Trial::Broken });
                }
            }
        }
        unreachable!("a search ends")
    }

    proptest! {
        #[test]
        fn the_rate_is_found_within_three_percent(start in 1.0..1e4f64, times in -8.0..8.0f64) {
            let capacity = start * 2f64.powf(times);
            let (found, trials) = search(start, capacity, None);
            let rate = found.rate.unwrap();
            prop_assert!(rate <= capacity && capacity < rate * RESOLUTION * (1.0 + 1e-12), "{rate} of {capacity}");
            prop_assert!(trials <= 18, "{trials}");
        }

        #[test]
        fn one_wrong_trial_does_no_harm(start in 1.0..1e4f64, times in -5.0..5.0f64, lie in 0..12usize) {
            let capacity = start * 2f64.powf(times);
            let (found, trials) = search(start, capacity, Some(lie));
            let rate = found.rate.unwrap();
            prop_assert!(rate <= capacity && capacity < rate * RESOLUTION * (1.0 + 1e-12), "{rate} of {capacity}");
            prop_assert!(trials < MOST_TRIALS, "{trials}");
        }

        #[test]
        fn a_search_ends_whatever_it_is_told(answers in prop::collection::vec(any::<bool>(), MOST_TRIALS)) {
            let mut search = Search::new(100.0);
            for kept in answers {
                match search.next() {
                    Next::Try(rate) => search.note(rate, if kept { Trial::Kept } else { Trial::Broken }),
                    Next::End(_) => return Ok(()),
                }
            }
            prop_assert!(matches!(search.next(), Next::End(_)));
        }
    }

    #[test]
    fn an_objective_that_no_rate_keeps_has_none() {
        let (found, trials) = search(100.0, 0.0, None);
        assert_eq!((found.rate, trials), (None, 11));
    }

    #[test]
    fn where_the_client_is_the_bound_the_result_says_so() {
        let mut search = Search::new(100.0);
        while let Next::Try(rate) = search.next() {
            let trial = if rate <= 300.0 {
                Trial::Kept
            } else {
                Trial::ClientBound
            };
            search.note(rate, trial);
        }
        let Next::End(result) = search.next() else {
            panic!("{search:?}");
        };
        assert!(
            result.client_bound && result.rate > Some(290.0),
            "{result:?}"
        );
    }

    #[test]
    fn what_is_known_already_is_not_tried() {
        let mut search = Search::new(100.0);
        for (rate, trial) in [(400.0, Trial::Kept), (500.0, Trial::Broken)] {
            search.note(rate, trial);
        }
        assert_eq!(search.next(), Next::Try((400.0_f64 * 500.0).sqrt()));
    }
}
