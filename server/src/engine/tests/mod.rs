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

mod devices;
mod requests;
mod turns;

/// Doubles numbers. A text fails in `prepare`; the words "panic" and "endless" stand for what they say.
struct Doubler {
    info: RecipeInfo,
    /// The sizes of the batches run, in order.
    batches: Mutex<Vec<usize>>,
    /// The numbers run, in order.
    order: Mutex<Vec<f64>>,
    /// While closed, `forward` waits.
    gate: Arc<Gate>,
    /// More items than this run out of memory.
    memory: AtomicUsize,
    fails: AtomicUsize,
    /// Milliseconds that the first pass takes, and all later ones.
    first_pass: AtomicUsize,
    pass: AtomicUsize,
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
            order: Mutex::default(),
            gate: Arc::default(),
            memory: AtomicUsize::new(usize::MAX),
            fails: AtomicUsize::new(0),
            first_pass: AtomicUsize::new(0),
            pass: AtomicUsize::new(0),
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

    fn prepare_while(&self, input: Input, wanted: &dyn Fn() -> bool) -> Result<f64, InputError> {
        if input != Input::text("endless") {
            return self.prepare(input);
        }
        while wanted() {
            std::thread::yield_now();
        }
        Err(InputError::NotWanted)
    }

    fn forward(&self, batch: &[&f64]) -> Result<Vec<f64>, ForwardError> {
        self.gate.pass();
        let first = self.first_pass.swap(0, Ordering::Relaxed);
        let time = first.max(self.pass.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(time as u64));
        self.batches.lock().unwrap().push(batch.len());
        self.order.lock().unwrap().extend(batch.iter().copied());
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

    fn logits(&self, raw: &f64) -> Vec<Vec<f32>> {
        vec![vec![*raw as f32]]
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
        beside: false,
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

/// Waits until `count` items wait, and all of them in a queue: those that were let in may still be on their way to one.
async fn until_waiting(served: &Served, count: usize) {
    let queued = || served.raw.len(served.queue) + served.ready.len(served.queue);
    while served.admission.waiting() != count || queued() != count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
