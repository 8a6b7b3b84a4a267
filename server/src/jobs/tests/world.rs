//! Any interleaving of what processes do with a few jobs.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What processes do with a few jobs; a lease is named by when it was given.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(usize),
    Take(usize),
    Start(prop::sample::Index),
    Release(prop::sample::Index),
    Finish(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let lease = any::<prop::sample::Index>;
    prop_oneof![
        (0..4usize).prop_map(Step::Begin),
        (1..3usize).prop_map(Step::Take),
        lease().prop_map(Step::Start),
        lease().prop_map(Step::Release),
        lease().prop_map(Step::Finish),
    ]
}

/// Plays steps on a table whose leases all end at once, so that any may be taken at any time, and holds it against what it
/// should know: the current lease of each job that is open, and its end for ever.
async fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let address = Address::Sqlite(":memory:".into());
    let table = JobTable::open(&config(address, Duration::ZERO))
        .await
        .unwrap();
    let mut given: Vec<Lease> = Vec::new();
    let mut open: HashMap<String, String> = HashMap::new();
    let mut ended: HashMap<String, End> = HashMap::new();
    for (place, step) in steps.into_iter().enumerate() {
        let chosen = match step {
            Step::Start(at) | Step::Release(at) | Step::Finish(at) => {
                if given.is_empty() {
                    continue;
                }
                Some(at.get(&given).clone())
            }
            _ => None,
        };
        let holds = |lease: &Lease| open.get(&*lease.id) == Some(&lease.token);
        match (step, chosen) {
            (Step::Begin(id), _) => {
                let id = id.to_string();
                let known = open.contains_key(&id) || ended.contains_key(&id);
                match table.begin(new(&id, b"body"), BOUNDS).await.unwrap() {
                    Begun::New(lease) => {
                        prop_assert!(!known);
                        open.insert(id, lease.token.clone());
                        given.push(lease);
                    }
                    begun => prop_assert!(known && begun == Begun::Known),
                }
            }
            (Step::Take(limit), _) => {
                let taken = table.take(RECIPE, limit).await.unwrap();
                prop_assert_eq!(taken.len(), limit.min(open.len()));
                for lease in taken {
                    let was = open.insert(lease.id.to_string(), lease.token.clone());
                    prop_assert!(was.is_some_and(|was| was != lease.token));
                    given.push(lease);
                }
            }
            (Step::Start(_), Some(lease)) => {
                let started = table.start(&lease).await.unwrap();
                prop_assert_eq!(started.is_some(), holds(&lease));
            }
            (Step::Release(_), Some(lease)) => {
                let released = table.release(&lease, Duration::ZERO).await.unwrap();
                prop_assert_eq!(released, holds(&lease));
                if released {
                    open.insert(lease.id.to_string(), String::new());
                }
            }
            (Step::Finish(_), Some(lease)) => {
                let end = End {
                    status: 200,
                    error: None,
                    answer: Some(place.to_string().into()),
                };
                if table.finish(&lease, &end).await.unwrap() {
                    // Its holder may say it again.
                    let again = ended.contains_key(&*lease.id);
                    prop_assert!(again || holds(&lease));
                    open.remove(&*lease.id);
                    ended.insert(lease.id.to_string(), end);
                } else {
                    prop_assert!(!holds(&lease));
                }
            }
            _ => {}
        }
        for id in ["0", "1", "2", "3"] {
            let expected = match (open.contains_key(id), ended.get(id)) {
                (true, None) => Some(None),
                (false, Some(end)) => Some(Some(end.clone())),
                (false, None) => None,
                (true, Some(_)) => panic!("{id} is open and has ended"),
            };
            prop_assert_eq!(find(&table, id).await, expected);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_processes_do_a_job_is_open_or_has_the_end_that_its_holder_gave(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(steps))?;
    }
}
