//! The engine on a card whose memory somebody else has taken.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor, cuda_backend::cudarc::driver::result::mem_get_info};
use galley::{
    engine::{self, Engine, EngineConfig, Served},
    metrics::Registry,
};
use galley_core::{Input, LoadOptions, Output};

use crate::{CARD, device};

const MIB: usize = 1 << 20;
/// Takes memory until about so many bytes are left.
fn leave(device: &Device, bytes: usize) -> Vec<Tensor> {
    const PIECE: usize = 8 * MIB;
    let mut taken = Vec::new();
    let mut most = 512;
    loop {
        device.synchronize().unwrap();
        let (free, _) = mem_get_info().unwrap();
        let pieces = (free.saturating_sub(bytes) / PIECE).min(most);
        if pieces == 0 {
            return taken;
        }
        match Tensor::zeros(pieces * PIECE, DType::U8, device) {
            Ok(piece) => taken.push(piece),
            // What is free need not be so in one piece.
            Err(_) => most = pieces / 2,
        }
    }
}

async fn start(
    device: &Device,
    recipe: &str,
    max_batch_size: Option<usize>,
    max_queue_delay: Duration,
) -> (Arc<Engine>, Arc<Served>, Arc<Registry>) {
    let options = LoadOptions {
        device: device.clone(),
        dtype: DType::F16,
        ..LoadOptions::default()
    };
    let devices = vec![engine::Device {
        name: options.device_name(),
        recipes: vec![galley_catalog::load(recipe, &options).unwrap()],
        batches_in_flight: NonZeroUsize::new(2).unwrap(),
        beside: false,
    }];
    let config = EngineConfig {
        max_batch_size,
        max_queue_delay,
        ..EngineConfig::default()
    };
    let registry = Arc::new(Registry::new().unwrap());
    let engine = Engine::start(devices, &config, &registry).unwrap();
    engine.ready().await.unwrap();
    let served = Arc::clone(engine.recipe(recipe).unwrap());
    (engine, served, registry)
}

async fn answers(served: &Arc<Served>, inputs: Vec<Input>) -> Vec<Output> {
    let soon = Instant::now() + Duration::from_secs(100);
    let answers = served.infer(inputs, soon).await.unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

/// The labels and beginnings of a text's entities; scores differ in their last digits by batch.
fn entities(output: &Output) -> Vec<(Option<&str>, usize)> {
    match output {
        Output::Entities(entities) => entities
            .iter()
            .map(|entity| (entity.entity_group.as_deref(), entity.start))
            .collect(),
        other => panic!("expected entities, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_fit_is_stepped_down_from_at_start_up() {
    let Some(device) = device() else { return };
    let _card = CARD.lock().await;
    let taken = leave(&device, 600 * MIB);
    for asked in [Some(1024), None] {
        let (engine, served, _) = start(&device, "efficientnet_lite0", asked, Duration::ZERO).await;
        let size = served.max_batch_size();
        assert!((1..1024).contains(&size), "{size}");
        let images = vec![served.example(); 3 * size];
        let answers = answers(&served, images).await;
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        engine.shut_down().await;
    }
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_goes_while_serving_makes_batches_smaller_and_loses_nothing() {
    let Some(device) = device() else { return };
    let _card = CARD.lock().await;
    // Batches are full, however fast their items come in.
    let patient = Duration::from_secs(2);
    let (engine, served, registry) = start(&device, "transformers_ner", Some(256), patient).await;
    let text = "My name is Sarah Johnson and I live at 42 Maple Street, Portland. ".repeat(7);
    let alone = answers(&served, vec![Input::text(text.as_str())]).await;
    let taken = leave(&device, 0);
    // Longer than what the warm-up knew, so that a full batch of them needs memory which is not there.
    let many = answers(&served, vec![Input::text(text.as_str()); 1024]).await;
    drop(taken);
    let metrics = registry.render();
    let retries = (metrics.lines())
        .find_map(|line| {
            line.strip_prefix("galley_oom_retries_total{recipe=\"transformers_ner\"} ")
        })
        .expect("retries are counted");
    assert_ne!(retries, "0", "no batch was too large");
    assert!(served.max_batch_size() < 256);
    assert!(!entities(&alone[0]).is_empty());
    assert!(
        many.iter()
            .all(|answer| entities(answer) == entities(&alone[0]))
    );
    engine.shut_down().await;
}
