//! Devices that run out of memory, fail, or are several.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_runs_out_while_serving_is_never_seen_by_a_caller() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(32)).await;
    recipe.memory.store(5, Ordering::Relaxed);
    assert_eq!(
        served.infer(numbers(20..52), soon()).await,
        Ok(doubled(20..52))
    );
    assert_eq!(served.max_batch_size(), 4, "smaller batches from now on");
    recipe.batches.lock().unwrap().clear();
    assert_eq!(
        served.infer(numbers(20..28), soon()).await,
        Ok(doubled(20..28))
    );
    assert_eq!(*recipe.batches.lock().unwrap(), [4, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_without_its_details_and_readiness_follows_the_device() {
    let recipe = Doubler::new(usize::MAX);
    let (engine, served) = start(&recipe, fixed(8)).await;
    recipe.fails.store(1, Ordering::Relaxed);
    let Err(InferError::Failed(reason)) = served.infer(numbers(0..1), soon()).await else {
        panic!("expected a failure")
    };
    assert!(!reason.contains("secret"), "{reason}");
    assert_eq!(
        served.infer(numbers(0..1), soon()).await,
        Ok(doubled(0..1)),
        "a probe succeeded"
    );

    recipe.fails.store(2, Ordering::Relaxed);
    let _ = served.infer(numbers(0..1), soon()).await;
    let mut state = engine.state();
    state
        .wait_for(|state| matches!(state, State::Failed(_)))
        .await
        .unwrap();
    assert!(served.probe(Duration::ZERO).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_devices_pull_from_one_queue() {
    let recipes = [Doubler::new(usize::MAX), Doubler::new(usize::MAX)];
    let devices = recipes.iter().map(|recipe| Device {
        name: "cpu".into(),
        recipes: vec![Arc::clone(recipe) as AnyRecipe],
        batches_in_flight: NonZeroUsize::MIN,
        beside: false,
    });
    let engine = Engine::start(devices.collect(), &fixed(1), &Registry::new().unwrap()).unwrap();
    engine.ready().await.unwrap();
    let served = engine.recipe("doubler").unwrap();
    for recipe in &recipes {
        recipe.gate.close();
    }
    let (first, second, ()) = tokio::join!(
        served.infer(numbers(20..21), soon()),
        served.infer(numbers(30..31), soon()),
        async {
            for recipe in &recipes {
                recipe.gate.until_busy().await;
            }
            for recipe in &recipes {
                recipe.gate.open();
            }
        }
    );
    assert_eq!((first, second), (Ok(doubled(20..21)), Ok(doubled(30..31))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_as_many_batches_in_flight_as_it_was_told() {
    let recipe = Doubler::new(usize::MAX);
    let device = Device {
        name: "cpu".into(),
        recipes: vec![Arc::clone(&recipe) as AnyRecipe],
        batches_in_flight: NonZeroUsize::new(2).unwrap(),
        beside: false,
    };
    let engine = Engine::start(vec![device], &fixed(1), &Registry::new().unwrap()).unwrap();
    engine.ready().await.unwrap();
    let served = Arc::clone(engine.recipe("doubler").unwrap());
    recipe.gate.close();
    let (first, second, held) = tokio::join!(
        served.infer(numbers(20..21), soon()),
        served.infer(numbers(30..31), soon()),
        async {
            let held = tokio::time::timeout(Duration::from_secs(60), recipe.gate.until_held(2));
            let held = held.await;
            recipe.gate.open();
            held
        }
    );
    held.expect("two batches run at once");
    assert_eq!((first, second), (Ok(doubled(20..21)), Ok(doubled(30..31))));
    engine.shut_down().await;
}
