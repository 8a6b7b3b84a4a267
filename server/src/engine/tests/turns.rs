//! Who goes next, what is given up, and how a batch size is found.

use super::*;

/// Two recipes on one device.
async fn start_two(
    [first, second]: [&Arc<Doubler>; 2],
    beside: bool,
) -> (Arc<Engine>, [Arc<Served>; 2]) {
    let device = Device {
        name: "cpu".into(),
        recipes: vec![
            Arc::clone(first) as AnyRecipe,
            Arc::clone(second) as AnyRecipe,
        ],
        batches_in_flight: NonZeroUsize::MIN,
        beside,
    };
    let engine = Engine::start(vec![device], &fixed(4), &Registry::new().unwrap()).unwrap();
    engine.ready().await.unwrap();
    for recipe in [first, second] {
        recipe.batches.lock().unwrap().clear();
    }
    let recipes = [0, 1].map(|place| Arc::clone(&engine.recipes()[place]));
    (engine, recipes)
}

fn ask(
    served: &Arc<Served>,
    numbers: Vec<Input>,
    deadline: Instant,
) -> tokio::task::JoinHandle<Result<Answers, InferError>> {
    let served = Arc::clone(served);
    tokio::spawn(async move { served.infer(numbers, deadline).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_item_goes_before_the_rest_of_a_bulk_request() {
    // Prepared on the spot it goes before all but the batch at the gate and its own mates; otherwise also after those that
    // are prepared already: four times what device and pool have in hand.
    let in_hand = 4 + rayon::current_num_threads();
    for (inline_bytes, latest) in [(usize::MAX, 8), (0, 8 + 5 * in_hand)] {
        let recipe = Doubler::new(inline_bytes);
        let (_engine, served) = start(&recipe, fixed(4)).await;
        recipe.gate.close();
        let bulk = ask(&served, numbers(100..200), soon());
        recipe.gate.until_busy().await;
        let bulk_waiting = served.admission.waiting();
        let lone = ask(&served, numbers(20..21), soon());
        until_waiting(&served, bulk_waiting + 1).await;
        recipe.gate.open();
        assert_eq!(lone.await.unwrap(), Ok(doubled(20..21)));
        assert_eq!(bulk.await.unwrap(), Ok(doubled(100..200)));
        let order = recipe.order.lock().unwrap();
        let place = order.iter().rposition(|&number| number == 20.0).unwrap();
        let bulk = order.iter().position(|&number| number == 100.0).unwrap();
        assert!(place - bulk <= latest, "{place} after {bulk}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_recipes_bulk_request_keeps_nobody_waiting() {
    let (heavy, light) = (Doubler::new(usize::MAX), Doubler::new(usize::MAX));
    let (_engine, [bulk, lone]) = start_two([&heavy, &light], false).await;
    heavy.gate.close();
    let bulk = ask(&bulk, numbers(100..200), soon());
    heavy.gate.until_busy().await;
    let lone = ask(&lone, numbers(20..21), soon());
    heavy.gate.open();
    assert_eq!(lone.await.unwrap(), Ok(doubled(20..21)));
    assert_eq!(bulk.await.unwrap(), Ok(doubled(100..200)));
    assert_eq!(*light.batches.lock().unwrap(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_short_does_not_wait_for_what_is_long() {
    let (heavy, light) = (Doubler::new(usize::MAX), Doubler::new(usize::MAX));
    let (engine, [long, short]) = start_two([&heavy, &light], true).await;
    // As a few batches say.
    for _ in 0..10 {
        long.learnt.ran(0, 4, 4, 100.0);
    }
    heavy.gate.close();
    let waiting = ask(&long, numbers(100..108), soon());
    heavy.gate.until_busy().await;
    for n in 20..30 {
        let answered = short.infer(numbers(n..n + 1), soon()).await;
        assert_eq!(answered, Ok(doubled(n..n + 1)));
    }
    assert_eq!(heavy.batches.lock().unwrap().len(), 0);
    heavy.gate.open();
    assert_eq!(waiting.await.unwrap(), Ok(doubled(100..108)));
    engine.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_answered_in_time_is_refused_at_once() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(4)).await;
    recipe.gate.close();
    let running = ask(&served, numbers(20..21), soon());
    recipe.gate.until_busy().await;
    served.admission.expect(3600.0);
    let refused = served.infer(numbers(0..1), soon()).await;
    assert!(
        matches!(refused, Err(InferError::TooLate { retry_after }) if retry_after > Duration::from_secs(3600)),
        "{refused:?}"
    );
    assert!(served.has_room(soon()).is_err());
    recipe.gate.open();
    assert_eq!(running.await.unwrap(), Ok(doubled(20..21)));
    // With nothing before it, it is tried.
    assert_eq!(served.infer(numbers(0..1), soon()).await, Ok(doubled(0..1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_has_no_time_left_for_is_not_prepared() {
    let recipe = Doubler::new(0);
    let (_engine, served) = start(&recipe, fixed(4)).await;
    recipe.gate.close();
    // More than is prepared ahead of a device, which turns out to be slow.
    let bulk = ask(&served, numbers(100..1000), soon());
    recipe.gate.until_busy().await;
    while !served.held.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // As a few batches say.
    for _ in 0..10 {
        served.learnt.ran(0, 4, 4, 3600.0);
    }
    served.learnt_more();
    served.raw.wake();
    // The device is still busy with the first batch.
    assert_eq!(bulk.await.unwrap(), Err(InferError::Deadline));
    recipe.gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_item_ends_its_request_and_the_rest_never_runs() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(4)).await;
    recipe.fails.store(1, Ordering::Relaxed);
    let failed = served.infer(numbers(0..100), soon()).await;
    assert!(matches!(failed, Err(InferError::Failed(_))), "{failed:?}");
    until_waiting(&served, 0).await;
    // The batch that failed, the probe after it, and perhaps one that was taken before the request heard of it.
    let batches = recipe.batches.lock().unwrap().len();
    assert!(batches <= 3, "{batches} batches");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_pass_that_takes_longer_than_all_measuring_costs_no_batch_size() {
    let recipe = Doubler::new(usize::MAX);
    recipe.first_pass.store(300, Ordering::Relaxed);
    recipe.pass.store(2, Ordering::Relaxed);
    let config = EngineConfig {
        largest_batch_size: 16,
        warmup_budget: Duration::from_millis(100),
        ..EngineConfig::default()
    };
    let (_engine, served) = start(&recipe, config).await;
    // Passes take the same time whatever their size: the largest is the best. If the time at start-up was too short, the
    // search goes on while nothing is asked.
    while served.max_batch_size() < 16 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(served.infer(numbers(0..3), soon()).await, Ok(doubled(0..3)));
}
