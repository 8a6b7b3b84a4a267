//! The engine with recipes made to misbehave.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use candle_core::Error;
use galley_core::{
    ForwardError, Input, InputError, InputKind, Output, RawTensors, Recipe, RecipeInfo,
};
use serde_json::{Value, json};

use super::*;

/// Doubles numbers. A text fails in `prepare`; the words "panic", "poison" and "oom" stand for what they say.
struct Doubler {
    info: RecipeInfo,
    /// The sizes of the batches run, in order.
    batches: Mutex<Vec<usize>>,
    /// While closed, `forward` waits.
    gate: Arc<Gate>,
    /// More items than this run out of memory.
    memory: AtomicUsize,
    fails: AtomicUsize,
}

#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    /// How many batches wait at the gate.
    waiting: AtomicUsize,
}

impl Gate {
    fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until a batch waits at the closed gate.
    async fn until_busy(&self) {
        self.until_held(1).await;
    }

    /// Waits until so many batches wait at the closed gate.
    async fn until_held(&self, batches: usize) {
        while self.waiting.load(Ordering::SeqCst) < batches {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Doubler {
    fn new(inline_bytes: usize) -> Arc<Self> {
        let info = RecipeInfo {
            name: "doubler",
            input_kind: InputKind::Json,
            weights: "none".into(),
            dtype: "f64",
            device: "cpu".into(),
            cost_unit: "items",
            inline_bytes,
            max_batch_size: None,
        };
        Arc::new(Self {
            info,
            batches: Mutex::default(),
            gate: Arc::default(),
            memory: AtomicUsize::new(usize::MAX),
            fails: AtomicUsize::new(0),
        })
    }
}

impl Recipe for Doubler {
    type Prepared = f64;
    type Raw = f64;

    fn info(&self) -> &RecipeInfo {
        &self.info
    }

    fn example(&self) -> Input {
        Input::Json(json!(1))
    }

    fn prepare(&self, input: Input) -> Result<f64, InputError> {
        match input {
            Input::Json(Value::Number(number)) => Ok(number.as_f64().unwrap()),
            Input::Json(Value::String(text)) if text == "panic" => panic!("asked to"),
            other => Err(InputError::WrongKind {
                expected: "a number",
                got: other.describe(),
            }),
        }
    }

    fn forward(&self, batch: &[&f64]) -> Result<Vec<f64>, ForwardError> {
        self.gate.pass();
        self.batches.lock().unwrap().push(batch.len());
        if batch.len() > self.memory.load(Ordering::Relaxed) {
            return Err(ForwardError::OutOfMemory);
        }
        if self.fails.load(Ordering::Relaxed) > 0 {
            self.fails.fetch_sub(1, Ordering::Relaxed);
            return Err(ForwardError::Failed(Error::Msg(
                "/secret/path.rs:1 broke".into(),
            )));
        }
        if batch.iter().any(|&&number| number == 13.0) {
            panic!("unlucky");
        }
        Ok(batch.iter().map(|&&number| number * 2.0).collect())
    }

    fn finish(&self, _: f64, raw: f64) -> Output {
        Output::Json(json!(raw))
    }

    fn sample(&self, _: Option<usize>, seed: u64) -> f64 {
        seed as f64 / 16.0
    }

    fn forward_tensors(&self, _: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        Err(ForwardError::BadTensors("none".into()))
    }
}

async fn start(recipe: &Arc<Doubler>, config: EngineConfig) -> (Arc<Engine>, Arc<Served>) {
    let device = Device {
        name: "cpu".into(),
        recipes: vec![Arc::clone(recipe) as AnyRecipe],
        batches_in_flight: NonZeroUsize::MIN,
    };
    let engine = Engine::start(vec![device], &config, &Registry::new().unwrap()).unwrap();
    engine.ready().await.unwrap();
    recipe.batches.lock().unwrap().clear();
    let served = Arc::clone(engine.recipe("doubler").unwrap());
    (engine, served)
}

fn fixed(max_batch_size: usize) -> EngineConfig {
    EngineConfig {
        max_batch_size: Some(max_batch_size),
        ..EngineConfig::default()
    }
}

fn numbers(range: std::ops::Range<i32>) -> Vec<Input> {
    range.map(|number| Input::Json(json!(number))).collect()
}

/// A deadline that only a hang would miss, however busy the machine is.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(300)
}

fn doubled(range: std::ops::Range<i32>) -> Answers {
    range
        .map(|number| Ok(Output::Json(json!(f64::from(number) * 2.0))))
        .collect()
}

/// Waits until `count` items wait in the queue.
async fn until_waiting(served: &Served, count: usize) {
    while served.max_queue_size() - served.admission.free() != count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

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
async fn memory_that_runs_out_while_serving_is_never_seen_by_a_caller() {
    let recipe = Doubler::new(usize::MAX);
    let (_engine, served) = start(&recipe, fixed(32)).await;
    recipe.memory.store(5, Ordering::Relaxed);
    assert_eq!(
        served.infer(numbers(20..52), soon()).await,
        Ok(doubled(20..52))
    );
    assert_eq!(
        served.policy().max_batch_size,
        4,
        "smaller batches from now on"
    );
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
async fn several_devices_pull_from_one_queue() {
    let recipes = [Doubler::new(usize::MAX), Doubler::new(usize::MAX)];
    let devices = recipes.iter().map(|recipe| Device {
        name: "cpu".into(),
        recipes: vec![Arc::clone(recipe) as AnyRecipe],
        batches_in_flight: NonZeroUsize::MIN,
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
