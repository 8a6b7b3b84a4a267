//! `galley stream setup`: a stream and its consumer as the promise needs them.

use std::{io::Write, num::NonZeroUsize, time::Duration};

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    context::GetStreamErrorKind,
    stream::{self, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType},
};
use clap::Args;

use super::{Address, is_name, is_none};

/// How many messages all workers together may have in hand: beyond it the broker delivers to nobody, without a word.
const MAX_ACK_PENDING: i64 = 65_536;
/// How many requests for messages may wait: one for each worker that has nothing to do.
const MAX_WAITING: i64 = 4096;

/// Make a stream of NATS JetStream and its consumer as the promise needs them
///
/// What is there already stays as it is; where it is not as it should be, the differences are named, with exit status 1.
#[derive(Args, Clone, Debug)]
pub struct SetupArgs {
    /// The recipe whose workers share the consumer
    #[arg(required_unless_present = "consumer")]
    pub recipe: Option<String>,
    /// The stream: nats://USER:PASSWORD@HOST:PORT/STREAM, where login and port may be left out
    #[arg(
        long,
        env = "GALLEY_STREAM_FROM",
        value_name = "STREAM",
        hide_env_values = true
    )]
    pub from: Address,
    /// The consumer [default: galley-RECIPE]
    #[arg(long, env = "GALLEY_STREAM_CONSUMER", value_name = "NAME")]
    pub consumer: Option<String>,
    /// What is published to; several separated by commas [default: the stream's name]
    #[arg(
        long,
        env = "GALLEY_STREAM_SUBJECTS",
        value_delimiter = ',',
        value_name = "SUBJECT"
    )]
    pub subjects: Vec<String>,
    /// How many servers keep each message
    #[arg(
        long,
        env = "GALLEY_STREAM_REPLICAS",
        default_value = "1",
        value_name = "N"
    )]
    pub replicas: NonZeroUsize,
    /// After how long a message that its worker says nothing of is delivered to another
    #[arg(
        long, env = "GALLEY_STREAM_ACK_WAIT", default_value = "30s", value_parser = humantime::parse_duration,
        value_name = "TIME"
    )]
    pub ack_wait: Duration,
    /// For how long the broker knows a message's id, and takes no second one
    #[arg(
        long, env = "GALLEY_STREAM_DUPLICATE_WINDOW", default_value = "2m", value_parser = humantime::parse_duration,
        value_name = "TIME"
    )]
    pub duplicate_window: Duration,
}

/// The consumer of a recipe's workers.
pub fn consumer_name(consumer: Option<&str>, recipe: &str) -> anyhow::Result<String> {
    let name = consumer.map_or_else(|| format!("galley-{recipe}"), str::to_owned);
    ensure!(
        is_name(&name),
        "--consumer: expected a name without . * > or space"
    );
    Ok(name)
}

/// Makes what is not there. What is there and is not as it should be is named and stays as it is.
///
/// # Errors
/// The broker cannot be reached, or something is not as it should be.
pub async fn run(args: &SetupArgs) -> anyhow::Result<()> {
    let recipe = args.recipe.as_deref().unwrap_or_default();
    let name = consumer_name(args.consumer.as_deref(), recipe)?;
    ensure!(
        args.ack_wait >= Duration::from_secs(1),
        "--ack-wait: expected a second at least"
    );
    let (_, context) = args.from.connect().await?;
    let wanted = wanted_stream(args);
    let stream = match context.get_stream(&wanted.name).await {
        Ok(stream) => {
            let differences = stream_differences(&stream.cached_info().config, &wanted);
            report("stream", &wanted.name, &differences)?;
            stream
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if is_none(&error) => {
                let made = context.create_stream(&wanted).await;
                let made =
                    made.with_context(|| format!("cannot make the stream {}", wanted.name))?;
                say(&format!("made the stream {}", wanted.name));
                made
            }
            _ => {
                return Err(error)
                    .with_context(|| format!("cannot look at the stream {}", wanted.name));
            }
        },
    };
    let wanted = wanted_consumer(args, &name);
    match consumer(&context, &args.from.stream, &name).await? {
        Some(found) => {
            let config = &found.cached_info().config;
            let mut differences = consumer_differences(config);
            differ(
                &mut differences,
                "ack_wait",
                config.ack_wait,
                wanted.ack_wait,
            );
            report("consumer", &name, &differences)
        }
        None => {
            let made = stream.create_consumer(wanted).await;
            made.with_context(|| format!("cannot make the consumer {name}"))?;
            say(&format!("made the consumer {name}"));
            Ok(())
        }
    }
}

/// A consumer, if there is one.
pub async fn consumer(
    context: &Context,
    stream: &str,
    name: &str,
) -> anyhow::Result<Option<PullConsumer>> {
    let found = context.get_consumer_from_stream(name, stream).await;
    let error = match found {
        Ok(consumer) => return Ok(Some(consumer)),
        Err(error) => error,
    };
    match error.kind() {
        ConsumerErrorKind::JetStream(error) if is_none(&error) => Ok(None),
        _ => Err(error).with_context(|| format!("cannot look at the consumer {name} of {stream}")),
    }
}

fn wanted_stream(args: &SetupArgs) -> stream::Config {
    let name = args.from.stream.clone();
    stream::Config {
        subjects: match args.subjects.is_empty() {
            true => vec![name.clone()],
            false => args.subjects.clone(),
        },
        name,
        storage: StorageType::File,
        retention: RetentionPolicy::WorkQueue,
        // Rather refuse what is published than drop what nobody has answered.
        discard: DiscardPolicy::New,
        num_replicas: args.replicas.get(),
        duplicate_window: args.duplicate_window,
        ..stream::Config::default()
    }
}

fn wanted_consumer(args: &SetupArgs, name: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        ack_wait: args.ack_wait,
        // After the last delivery a message would lie in the stream for ever, and nobody would know.
        max_deliver: -1,
        max_ack_pending: MAX_ACK_PENDING,
        max_waiting: MAX_WAITING,
        ..pull::Config::default()
    }
}

fn stream_differences(found: &stream::Config, wanted: &stream::Config) -> Vec<String> {
    let mut differences = Vec::new();
    differ(
        &mut differences,
        "subjects",
        &found.subjects,
        &wanted.subjects,
    );
    differ(&mut differences, "storage", found.storage, wanted.storage);
    differ(
        &mut differences,
        "retention",
        found.retention,
        wanted.retention,
    );
    differ(&mut differences, "discard", found.discard, wanted.discard);
    differ(
        &mut differences,
        "replicas",
        found.num_replicas,
        wanted.num_replicas,
    );
    differ(
        &mut differences,
        "duplicate_window",
        found.duplicate_window,
        wanted.duplicate_window,
    );
    differ(&mut differences, "max_age", found.max_age, wanted.max_age);
    differences
}

/// In what a consumer is not as the promise needs it, whoever made it.
pub fn consumer_differences(found: &async_nats::jetstream::consumer::Config) -> Vec<String> {
    let mut differences = Vec::new();
    differ(
        &mut differences,
        "ack_policy",
        found.ack_policy,
        AckPolicy::Explicit,
    );
    differ(&mut differences, "max_deliver", found.max_deliver, -1);
    let enough = found.max_ack_pending.max(MAX_ACK_PENDING);
    // None at all is -1.
    if found.max_ack_pending >= 0 {
        differ(
            &mut differences,
            "max_ack_pending",
            found.max_ack_pending,
            enough,
        );
    }
    differences
}

fn differ<T: PartialEq + std::fmt::Debug>(
    differences: &mut Vec<String>,
    name: &str,
    found: T,
    wanted: T,
) {
    if found != wanted {
        differences.push(format!("{name} is {found:?}, and should be {wanted:?}"));
    }
}

fn report(kind: &str, name: &str, differences: &[String]) -> anyhow::Result<()> {
    if !differences.is_empty() {
        bail!(
            "the {kind} {name} is there and stays as it is: {}",
            differences.join("; ")
        );
    }
    say(&format!("the {kind} {name} is there as it should be"));
    Ok(())
}

fn say(line: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::consumer;

    use super::*;

    #[test]
    fn consumers_are_named_after_their_recipe() {
        assert_eq!(consumer_name(None, "echo").unwrap(), "galley-echo");
        assert_eq!(consumer_name(Some("mine"), "echo").unwrap(), "mine");
        assert!(consumer_name(Some("a.b"), "echo").is_err());
    }

    #[test]
    fn what_would_lose_messages_is_named() {
        let good = consumer::Config {
            ack_policy: AckPolicy::Explicit,
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            ..consumer::Config::default()
        };
        assert!(consumer_differences(&good).is_empty());
        let bad = consumer::Config {
            ack_policy: AckPolicy::None,
            max_deliver: 5,
            max_ack_pending: 1000,
            ..good
        };
        assert_eq!(
            consumer_differences(&bad),
            [
                "ack_policy is None, and should be Explicit",
                "max_deliver is 5, and should be -1",
                "max_ack_pending is 1000, and should be 65536"
            ]
        );
    }
}
