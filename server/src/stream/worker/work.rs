//! One message, from its delivery to its row: fetch, answer, or why there is no answer.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::FutureExt;
use galley_core::{Input, Output};
use tokio::sync::mpsc;

use super::{
    Worker,
    writer::{Alone, Done},
};
use crate::{
    engine::InferError,
    metrics::Stage,
    stream::{
        fetch::{FetchError, Held},
        guard::shown,
        message::{Message, Payload},
        row::{Row, Standing, Status, Written},
    },
};

/// How long an answer may take: only an engine that hangs takes as long.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long an engine without room is left alone, at the most.
const PAUSE: Duration = Duration::from_secs(1);

/// How work on a message ends.
enum Worked {
    /// With a row.
    Row(Box<Row>),
    /// In vain; it is to be tried again, if not too often.
    Failed(Box<Row>, String),
    /// Its row was there before.
    Known,
    /// It was given back before it began, or nothing can be done any more.
    Left,
}

impl Worker {
    /// Works on a message until it has a row, or is given back.
    pub(super) async fn handle(
        self: Arc<Self>,
        message: Message,
        done: mpsc::Sender<Done>,
        delivered: Instant,
    ) {
        let id = &message.body.id;
        // A bug that ends one message's work must not leave it in hand for ever.
        let mut turn = None;
        let work = AssertUnwindSafe(self.work(&message, &mut turn)).catch_unwind();
        let panicked = |_| Worked::Failed(start(&message), "working on it failed".into());
        let row = match work.await.unwrap_or_else(panicked) {
            Worked::Row(row) => row,
            Worked::Failed(row, reason) if message.deliveries >= self.config.attempts => gave_up(
                *row,
                format!("tried {} times: {reason}", message.deliveries),
            ),
            Worked::Failed(_, reason) => {
                let delay = self.delay(message.deliveries);
                tracing::debug!(id, reason, ?delay, "trying again later");
                return self.return_one(id, Some(delay)).await;
            }
            Worked::Known => return self.settle(id, Status::Ok, Written::Duplicate).await,
            Worked::Left => return,
        };
        let done_row = Done {
            row: *row,
            delivered,
            answered: Instant::now(),
            turn,
        };
        // Without a writer nothing can be done any more, and whoever ends the worker knows.
        let _ = done.send(done_row).await;
    }

    fn delay(&self, deliveries: u32) -> Duration {
        let delays = &self.config.retry_delays;
        let place = deliveries.saturating_sub(1) as usize;
        delays
            .get(place)
            .or(delays.last())
            .copied()
            .unwrap_or_default()
    }

    /// A suspect's `turn` alone is its caller's to end: until its row is committed another's death would count against it.
    async fn work(&self, message: &Message, turn: &mut Option<Alone>) -> Worked {
        let id = &message.body.id;
        if message.deliveries > 1 {
            // Its row may be there, and only its acknowledgement lost.
            let ask = || self.table().look_up(vec![id.clone()]);
            match self.ask(ask).await.as_deref() {
                Some([Standing::Done]) => return Worked::Known,
                Some(_) => {}
                None => return Worked::Left,
            }
        }
        let mut row = start(message);
        let (input, held) = match &message.body.payload {
            Payload::Malformed(reason) => {
                return match self.begin(id) {
                    true => refused(row, reason.clone()),
                    false => Worked::Left,
                };
            }
            Payload::Inline(value) => {
                if !self.begin(id) {
                    return Worked::Left;
                }
                let input = Input::Json(value.clone());
                row.bytes = Some(input.size() as u64);
                self.tally().read(input.size() as u64);
                (input, Held::none())
            }
            Payload::Uri(uri) => {
                // It is never closed.
                let _turn = self.fetches.acquire().await;
                if !self.begin(id) {
                    return Worked::Left;
                }
                match self.fetch(uri, &mut row).await {
                    Ok(fetched) => fetched,
                    Err(FetchError::Refused(reason)) => return refused(row, reason),
                    Err(FetchError::Passing(reason)) => return Worked::Failed(row, reason),
                }
            }
        };
        let shared = match message.suspect {
            false => Some(self.alone.read().await),
            true => {
                *turn = Some(Arc::clone(&self.alone).write_owned().await);
                None
            }
        };
        if message.suspect {
            let ask = || self.table().begin(vec![id.clone()]);
            match self.ask(ask).await.as_deref() {
                Some([times]) if *times > self.config.attempts => {
                    let died = times.saturating_sub(1);
                    let reason = format!("{died} processes died while they had it in hand");
                    return Worked::Row(gave_up(*row, reason));
                }
                Some(_) => {}
                None => return Worked::Left,
            }
        }
        let worked = self.answer(input, row).await;
        drop((shared, held));
        worked
    }

    async fn fetch(&self, uri: &str, row: &mut Row) -> Result<(Input, Held), FetchError> {
        let start = Instant::now();
        let fetched = self.fetcher.fetch(uri).await?;
        let time = start.elapsed();
        let size = fetched.bytes.len() as u64;
        self.tally().metrics().stage(Stage::Fetch, time);
        self.tally().read(size);
        row.etag = fetched.etag;
        row.bytes = Some(size);
        row.fetched_at = Some(SystemTime::now());
        row.fetch_ms = Some(milliseconds(time));
        Ok((Input::File(fetched.bytes), fetched.held))
    }

    async fn answer(&self, input: Input, mut row: Box<Row>) -> Worked {
        let start = Instant::now();
        let answer = match self.infer(input).await {
            Ok(answer) => answer,
            Err(InferError::Unavailable(reason)) => {
                self.fail(reason);
                return Worked::Left;
            }
            Err(error) => return Worked::Failed(row, error.to_string()),
        };
        let time = start.elapsed();
        self.tally().metrics().stage(Stage::Infer, time);
        row.answered_at = Some(SystemTime::now());
        row.infer_ms = Some(milliseconds(time));
        let answer = answer.map(|answer| serde_json::to_string(&answer));
        match answer {
            Err(refusal) => refused(row, refusal),
            Ok(Err(error)) => refused(row, format!("the answer is not JSON: {error}")),
            Ok(Ok(answer)) => {
                row.answer = Some(answer);
                Worked::Row(row)
            }
        }
    }

    /// The answer to an input, or why it has none. Where an engine would refuse a caller for want of room, this waits.
    async fn infer(&self, input: Input) -> Result<Result<Output, String>, InferError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answers = self.served.infer(vec![input.clone()], deadline).await;
            let pause = match answers {
                Err(
                    InferError::QueueFull { retry_after } | InferError::TooLate { retry_after },
                ) if Instant::now() < deadline => retry_after.min(PAUSE),
                Err(error) => return Err(error),
                Ok(answers) => {
                    let answer = answers.into_iter().next();
                    let answer =
                        answer.ok_or_else(|| InferError::Failed("no answer came".into()))?;
                    return Ok(answer.map_err(|refusal| refusal.to_string()));
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// A message's row before anything has been done.
fn start(message: &Message) -> Box<Row> {
    let body = &message.body;
    let uri = body.payload.uri();
    Box::new(Row {
        id: body.id.clone(),
        uri: uri.map(shown),
        etag: uri.is_none().then(|| body.identity()),
        status: Status::Ok,
        answer: None,
        error: None,
        bytes: None,
        deliveries: message.deliveries,
        published_at: message.published_at,
        fetched_at: None,
        answered_at: None,
        fetch_ms: None,
        infer_ms: None,
    })
}

fn refused(row: Box<Row>, reason: String) -> Worked {
    Worked::Row(Box::new(Row {
        status: Status::Refused,
        error: Some(reason),
        ..*row
    }))
}

fn gave_up(row: Row, reason: String) -> Box<Row> {
    tracing::warn!(id = row.id, uri = row.uri, reason, "given up");
    Box::new(Row {
        status: Status::GaveUp,
        error: Some(reason),
        ..row
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
