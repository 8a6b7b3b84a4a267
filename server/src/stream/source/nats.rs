//! A durable consumer of a JetStream stream, which any number of workers share: the broker gives each message to whoever asks
//! next, and again to another if its worker says nothing for the ack wait.
//!
//! It asks for as many messages as there is room for, one request at a time, into an inbox of its own; the client's own
//! batches cannot be left without messages that were on their way being held back until their ack wait ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    Client, StatusCode, Subject, Subscriber,
    connection::State,
    header::NATS_MESSAGE_ID,
    jetstream::{self, AckKind, Context, consumer::PullConsumer, consumer::pull::BatchConfig},
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use galley_core::InputKind;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout, timeout_at},
};

use super::{Pulled, Source, SourceError};
use crate::stream::{
    broker::{Address, setup},
    message::{Body, Message, Payload, Receipt, digest},
    tally::Tally,
};

/// For how long a request for messages stands.
const EXPIRES: Duration = Duration::from_secs(5);
/// How much later its end is heard of; after that it has been lost with the connection.
const GRACE: Duration = Duration::from_secs(2);
/// How long the broker may take with what it only has to be told.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at how many messages wait.
const LOOK: Duration = Duration::from_secs(5);
/// As often may a message come before it is tried alone: a worker that dies takes its neighbours along once, and once more by
/// bad luck.
const SUSPECT: u32 = 3;

/// A consumer that a stream's workers share.
pub struct Nats {
    client: Client,
    context: Context,
    kind: InputKind,
    ack_wait: Duration,
    /// Where messages are asked for, and where they are to be sent.
    request: String,
    inbox: Subject,
    messages: Subscriber,
    /// How many of the last request's have not come yet, and until when they do.
    asked: usize,
    until: Instant,
    /// Why the broker will give no more, to be told after the messages that came before.
    ended: Option<SourceError>,
    looking: JoinHandle<()>,
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Nats {
    /// Connects to a stream's consumer.
    ///
    /// # Errors
    /// It cannot be reached, is not there, or would lose messages.
    pub async fn open(
        address: &Address,
        consumer: &str,
        kind: InputKind,
        tally: Arc<Tally>,
    ) -> anyhow::Result<Self> {
        let (client, context) = address.connect().await?;
        let stream = &address.stream;
        let Some(found) = setup::consumer(&context, stream, consumer).await? else {
            anyhow::bail!(
                "{address} has no consumer {consumer}; galley stream setup makes it, and the stream"
            );
        };
        let config = &found.cached_info().config;
        let differences = setup::consumer_differences(config);
        anyhow::ensure!(
            differences.is_empty(),
            "the consumer {consumer} of {address} is not as it has to be: {}",
            differences.join("; ")
        );
        let (ack_wait, most) = (config.ack_wait, config.max_ack_pending);
        let inbox = Subject::from(client.new_inbox());
        let messages = client.subscribe(inbox.clone()).await?;
        tracing::info!(source = %address, consumer, ?ack_wait, "pulling messages");
        Ok(Self {
            context,
            kind,
            ack_wait,
            request: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox,
            messages,
            asked: 0,
            until: Instant::now(),
            ended: None,
            looking: tokio::spawn(look(found, most, tally)),
            client,
        })
    }

    async fn next(&mut self, room: usize) -> Result<Pulled, SourceError> {
        loop {
            if let Some(reason) = self.ended.take() {
                return Err(reason);
            }
            if self.asked == 0 {
                self.ask(room).await?;
            }
            let mut pulled = Vec::new();
            match timeout_at(self.until.into(), self.messages.next()).await {
                Ok(Some(message)) => pulled.extend(self.take(message)),
                Ok(None) => {
                    return Err(SourceError::Broken(
                        "the connection to the broker was closed".into(),
                    ));
                }
                // Nothing came and no word that nothing comes: the request is lost.
                Err(_) => self.asked = 0,
            }
            while pulled.len() < room && self.ended.is_none() {
                let Some(Some(message)) = self.messages.next().now_or_never() else {
                    break;
                };
                pulled.extend(self.take(message));
            }
            if !pulled.is_empty() {
                return Ok(Pulled::Messages(pulled));
            }
        }
    }

    async fn ask(&mut self, room: usize) -> Result<(), SourceError> {
        is_connected(&self.client)?;
        let request = BatchConfig {
            batch: room,
            expires: Some(EXPIRES),
            ..BatchConfig::default()
        };
        let request = serde_json::to_vec(&request);
        let request = request.map_err(|error| SourceError::Broken(error.to_string()))?;
        self.asked = room;
        self.until = Instant::now() + EXPIRES + GRACE;
        let (to, inbox) = (self.request.clone(), self.inbox.clone());
        let sent = self.client.publish_with_reply(to, inbox, request.into());
        told(sent).await.inspect_err(|_| self.asked = 0)
    }

    /// A message, if it is none of the broker's own words.
    fn take(&mut self, message: async_nats::Message) -> Option<Message> {
        match message.status.filter(|status| *status != StatusCode::OK) {
            None => {}
            Some(StatusCode::IDLE_HEARTBEAT) => return None,
            Some(status) => {
                self.asked = 0;
                self.ended = meaning(status, message.description.as_deref().unwrap_or_default());
                return None;
            }
        }
        let message = jetstream::Message {
            message,
            context: self.context.clone(),
        };
        // Only the broker knows this inbox; what came without its marks came from nobody.
        let (deliveries, published_at) = {
            let info = message.info().ok()?;
            let deliveries = u32::try_from(info.delivered.max(1)).unwrap_or(u32::MAX);
            (deliveries, info.published.into())
        };
        self.asked = self.asked.saturating_sub(1);
        let receipt = Delivery {
            client: self.client.clone(),
            reply: message.reply.clone()?,
        };
        Some(Message {
            body: Arc::new(body(&message, self.kind)),
            deliveries,
            published_at: Some(published_at),
            suspect: deliveries >= SUSPECT,
            receipt: Arc::new(receipt),
        })
    }
}

impl Source for Nats {
    fn pull(&mut self, room: usize) -> BoxFuture<'_, Result<Pulled, SourceError>> {
        Box::pin(self.next(room))
    }

    /// The broker hears that nobody listens at the inbox any more, and sends no more there; what was on its way is given back.
    fn stop(&mut self) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            is_connected(&self.client)?;
            told(self.messages.drain()).await?;
            let mut late = Vec::new();
            let rest = async {
                while let Some(message) = self.messages.next().await {
                    late.extend(self.take(message));
                }
            };
            // Without an end to it, the last ones come again after the ack wait.
            let _ = timeout(PATIENCE, rest).await;
            for message in late {
                message.receipt.give_back(None).await?;
            }
            Ok(())
        })
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            is_connected(&self.client)?;
            told(self.client.flush()).await
        })
    }

    fn ack_wait(&self) -> Option<Duration> {
        Some(self.ack_wait)
    }
}

/// Why the broker gives no more, by what it says instead of a message; nothing where only a request's time is over.
fn meaning(status: StatusCode, description: &str) -> Option<SourceError> {
    match status {
        StatusCode::TIMEOUT | StatusCode::NOT_FOUND => None,
        StatusCode::REQUEST_TERMINATED if description.eq_ignore_ascii_case("Consumer Deleted") => {
            Some(SourceError::Broken("the consumer was deleted".into()))
        }
        // A server that leaves or has just come, a consumer that moves, more requests than it has room for.
        _ => Some(SourceError::Unavailable(format!("{status} {description}"))),
    }
}

/// What a message says, under the id that it came with.
fn body(message: &async_nats::Message, kind: InputKind) -> Body {
    let headers = message.headers.as_ref();
    let id = headers.and_then(|headers| headers.get(NATS_MESSAGE_ID));
    let id = id
        .map(|id| id.as_str().to_owned())
        .filter(|id| !id.is_empty());
    match std::str::from_utf8(&message.payload) {
        Ok(text) => Body::parse(text, id, kind),
        Err(_) => Body {
            id: id.unwrap_or_else(|| digest(&message.payload)),
            payload: Payload::Malformed("expected UTF-8".into()),
        },
    }
}

/// One delivery, which the broker is told of by its reply subject. Nothing waits for the broker's answer: what is lost is
/// delivered again, and its row is there.
struct Delivery {
    client: Client,
    reply: Subject,
}

impl Delivery {
    fn tell(&self, kind: AckKind) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            // The client would keep it for the next connection, and where it keeps many, wait for that.
            is_connected(&self.client)?;
            told(self.client.publish(self.reply.clone(), kind.into())).await
        })
    }
}

impl Receipt for Delivery {
    fn ack(&self) -> BoxFuture<'_, Result<(), SourceError>> {
        self.tell(AckKind::Ack)
    }

    fn give_back(&self, delay: Option<Duration>) -> BoxFuture<'_, Result<(), SourceError>> {
        self.tell(AckKind::Nak(delay))
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), SourceError>> {
        self.tell(AckKind::Progress)
    }
}

fn is_connected(client: &Client) -> Result<(), SourceError> {
    match client.connection_state() {
        State::Connected => Ok(()),
        state => Err(SourceError::Unavailable(format!("the broker is {state}"))),
    }
}

async fn told<E: std::fmt::Display>(
    tell: impl Future<Output = Result<(), E>>,
) -> Result<(), SourceError> {
    match timeout(PATIENCE, tell).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(SourceError::Unavailable(error.to_string())),
        Err(_) => Err(SourceError::Unavailable(format!(
            "no answer within {PATIENCE:?}"
        ))),
    }
}

/// Shows how many messages wait, and says when the broker gives no more because too many are in hand. Never returns.
async fn look(consumer: PullConsumer, most: i64, tally: Arc<Tally>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_full = false;
    loop {
        looks.tick().await;
        let info = match consumer.get_info().await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot ask how many messages wait");
                continue;
            }
        };
        tally.metrics().waiting.set(info.num_pending as f64);
        let is_full = most > 0 && info.num_ack_pending as i64 >= most;
        if is_full && !was_full {
            tracing::warn!(
                max_ack_pending = most,
                "the workers have as many messages in hand as the consumer allows; no more are delivered until some are acknowledged"
            );
        }
        was_full = is_full;
    }
}

#[cfg(test)]
mod tests;
