//! Requests from admission to answer.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_split_over_batches_and_put_together_again() {
    for inline_bytes in [0, 100, usize::MAX] {
        let recipe = Doubler::new(inline_bytes);
        let (_engine, served) = start(&recipe, fixed(4)).await;
        assert_eq!(
            served.infer(numbers(20..41), soon()).await,
            Ok(doubled(20..41))
        );
        let batches = recipe.batches.lock().unwrap();
        assert_eq!(batches.iter().sum::<usize>(), 21);
        assert!(batches.iter().all(|&size| size <= 4), "{batches:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_device_is_busy_the_next_batch_fills_out_of_many_requests() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(64)).await;
    recipe.gate.close();
    let request = |n: i32| {
        let served = Arc::clone(&served);
        tokio::spawn(async move { served.infer(numbers(n..n + 1), soon()).await })
    };
    let mut requests = vec![request(20)];
    recipe.gate.until_busy().await;
    requests.extend((21..60).map(request));
    until_waiting(&served, 39).await;
    recipe.gate.open();
    for (n, request) in (20..).zip(requests) {
        assert_eq!(request.await.unwrap(), Ok(doubled(n..n + 1)));
    }
    assert_eq!(*recipe.batches.lock().unwrap(), [1, 39]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_inputs_fail_alone() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(8)).await;
    let mut inputs = numbers(0..5);
    inputs[2] = Input::text("two");
    let answers = served.infer(inputs, soon()).await.unwrap();
    assert_eq!(
        answers[2],
        Err(InputError::WrongKind {
            expected: "a number",
            got: "a text"
        })
    );
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 4);
}

/// A sum beyond the dtype's largest number would be answered as whatever class comes first.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_whose_logits_are_not_finite_has_no_answer_and_its_batch_mates_have() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(8)).await;
    let mut inputs = numbers(0..3);
    inputs[1] = Input::Json(json!(1e39));
    let answers = served.infer(inputs, soon()).await.unwrap();
    assert_eq!(answers[1], Err(InputError::NotFinite { dtype: "f64" }));
    assert!(answers[0].is_ok() && answers[2].is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_prepare_or_forward_costs_its_own_requests_only() {
    for inline_bytes in [0, usize::MAX] {
        let recipe = Doubler::new(inline_bytes);
        let (_engine, served) = start(&recipe, fixed(8)).await;
        let panicked = served.infer(vec![Input::text("panic")], soon()).await;
        assert!(
            matches!(panicked, Err(InferError::Failed(_))),
            "{panicked:?}"
        );
        let panicked = served.infer(numbers(13..14), soon()).await;
        assert!(
            matches!(panicked, Err(InferError::Failed(_))),
            "{panicked:?}"
        );
        assert_eq!(served.infer(numbers(0..3), soon()).await, Ok(doubled(0..3)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_bound_requests_are_refused_and_room_comes_back() {
    let recipe = Doubler::new(usize::MAX);
    let config = EngineConfig {
        max_queue_size: 4,
        ..fixed(8)
    };
    let (_engine, served) = start(&recipe, config).await;
    let refused = served.infer(numbers(0..5), soon()).await;
    assert_eq!(
        refused,
        Err(InferError::TooManyItems { items: 5, limit: 4 })
    );
    recipe.gate.close();
    let running = tokio::spawn({
        let served = Arc::clone(&served);
        async move { served.infer(numbers(0..1), soon()).await }
    });
    recipe.gate.until_busy().await;
    let waiting = tokio::spawn({
        let served = Arc::clone(&served);
        async move { served.infer(numbers(0..3), soon()).await }
    });
    until_waiting(&served, 3).await;
    let full = served.infer(numbers(0..2), soon()).await;
    assert!(
        matches!(full, Err(InferError::QueueFull { .. })),
        "{full:?}"
    );
    recipe.gate.open();
    assert!(running.await.unwrap().is_ok() && waiting.await.unwrap().is_ok());
    assert_eq!(served.infer(numbers(0..4), soon()).await, Ok(doubled(0..4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_cancelled_requests_leave_the_queue_and_never_run() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(8)).await;
    recipe.gate.close();
    let running = tokio::spawn({
        let served = Arc::clone(&served);
        async move { served.infer(numbers(0..1), soon()).await }
    });
    recipe.gate.until_busy().await;
    let late = served
        .infer(numbers(0..3), Instant::now() + Duration::from_millis(20))
        .await;
    assert_eq!(late, Err(InferError::Deadline));
    until_waiting(&served, 0).await;
    let cancelled = tokio::spawn({
        let served = Arc::clone(&served);
        async move { served.infer(numbers(0..3), soon()).await }
    });
    until_waiting(&served, 3).await;
    cancelled.abort();
    until_waiting(&served, 0).await;
    recipe.gate.open();
    assert!(running.await.unwrap().is_ok());
    assert_eq!(*recipe.batches.lock().unwrap(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_refuses_new_requests_and_answers_the_accepted_ones() {
    let recipe = Doubler::new(usize::MAX);
    let (engine, served) = start(&recipe, fixed(2)).await;
    recipe.gate.close();
    let accepted = tokio::spawn({
        let served = Arc::clone(&served);
        async move { served.infer(numbers(0..7), soon()).await }
    });
    until_waiting(&served, 5).await;
    engine.drain();
    let refused = served.infer(numbers(0..1), soon()).await;
    assert!(
        matches!(refused, Err(InferError::Unavailable(_))),
        "{refused:?}"
    );
    recipe.gate.open();
    assert_eq!(accepted.await.unwrap(), Ok(doubled(0..7)));
    engine.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_requests_items_and_batches() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(2)).await;
    assert_eq!(served.statistics(), Statistics::default());
    served.infer(numbers(20..25), soon()).await.unwrap();
    recipe.fails.store(1, Ordering::Relaxed);
    served.infer(numbers(0..1), soon()).await.unwrap_err();
    // Nothing of it can be read, so that nothing runs.
    let refused = vec![Input::text("no number")];
    assert!(served.infer(refused, soon()).await.unwrap()[0].is_err());
    let too_many = numbers(0..served.max_queue_size() as i32 + 1);
    served.infer(too_many, soon()).await.unwrap_err();

    let statistics = served.statistics();
    assert_eq!((statistics.items, statistics.batches), (5, 3));
    assert!(statistics.last_inference.is_some());
    assert_eq!((statistics.success.count, statistics.fail.count), (1, 3));
    let stages = [
        statistics.prepare,
        statistics.queue,
        statistics.forward,
        statistics.finish,
    ];
    assert!(stages.iter().all(|stage| stage.count == 1), "{stages:?}");
    let sum: Duration = stages.iter().map(|stage| stage.time).sum();
    assert_eq!(sum, statistics.success.time);
    let by_size: Vec<_> = statistics
        .by_batch_size
        .iter()
        .map(|(size, times)| (*size, times.prepare.count, times.forward.count))
        .collect();
    assert_eq!(by_size, [(1, 1, 1), (2, 2, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_given_up_has_failed_in_the_statistics() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(1)).await;
    recipe.gate.close();
    let given_up = tokio::time::timeout(
        Duration::from_millis(20),
        served.infer(numbers(0..1), soon()),
    );
    assert!(given_up.await.is_err());
    recipe.gate.open();
    let statistics = served.statistics();
    assert_eq!((statistics.success.count, statistics.fail.count), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_nobody_waits_for_any_more_are_not_prepared_to_the_end() {
    let recipe = Doubler::new(0);
    let (_engine, served) = start(&recipe, fixed(4)).await;
    // As many as there are threads, and more.
    let endless = vec![Input::text("endless"); 2 * rayon::current_num_threads()];
    let deadline = Instant::now() + Duration::from_millis(20);
    let late = served.infer(endless, deadline).await;
    assert_eq!(late, Err(InferError::Deadline));
    assert_eq!(served.infer(numbers(0..3), soon()).await, Ok(doubled(0..3)));
    until_waiting(&served, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_to_end_measures_no_more() {
    let recipe = Doubler::new(usize::MAX);
    recipe.gate.close();
    let device = Device {
        name: "cpu".into(),
        recipes: vec![Arc::clone(&recipe) as AnyRecipe],
        batches_in_flight: NonZeroUsize::MIN,
        beside: false,
    };
    let config = EngineConfig {
        warmup_budget: Duration::from_secs(3600),
        ..EngineConfig::default()
    };
    let engine = Engine::start(vec![device], &config, &Registry::new().unwrap()).unwrap();
    recipe.gate.until_busy().await;
    engine.drain();
    recipe.gate.open();
    engine.shut_down().await;
    // The first pass, and at most one batch size's first measurement.
    assert!(recipe.batches.lock().unwrap().len() <= 4);
}
