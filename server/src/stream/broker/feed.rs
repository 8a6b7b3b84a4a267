//! `galley feed`: publishes a list, each line under an id, so that one that is published twice is one message.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write, stdin},
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use async_nats::jetstream::{Context, context::PublishErrorKind, message::PublishMessage};
use clap::Args;
use futures::{TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{sync::mpsc, time::sleep_until};

use super::Address;
use crate::stream::message::digest;

/// How many messages may be on their way to the broker without its word that it has them.
const WINDOW: usize = 1024;
/// How long a broker that does not answer is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a message is offered before the broker is given up: for some minutes.
const ATTEMPTS: usize = 30;

/// `galley feed`.
#[derive(Args, Clone, Debug)]
pub struct FeedArgs {
    /// The list, one message a line; - for stdin
    pub list: PathBuf,
    /// The stream: nats://USER:PASSWORD@HOST:PORT/STREAM, where login and port may be left out
    #[arg(
        long,
        env = "GALLEY_FEED_TO",
        value_name = "STREAM",
        hide_env_values = true
    )]
    pub to: Address,
    /// How many are published in a time, such as 250/s; also per m and h [default: as many as the broker takes]
    #[arg(long, env = "GALLEY_FEED_RATE", value_name = "RATE")]
    pub rate: Option<Rate>,
    /// What they are published to [default: the stream's first subject]
    #[arg(long, env = "GALLEY_FEED_SUBJECT", value_name = "SUBJECT")]
    pub subject: Option<String>,
}

/// The time between two messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(Duration);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected a rate such as 250/s, got {text:?}");
        let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
        let unit = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(expected()),
        };
        let count: f64 = count.parse().map_err(|_| expected())?;
        let is_rate = count.is_finite() && count > 0.0;
        let between = is_rate.then(|| Duration::try_from_secs_f64(unit / count).ok());
        between.flatten().map(Self).ok_or_else(expected)
    }
}

/// Publishes the list and says what came of it.
///
/// # Errors
/// The list cannot be read, or the broker does not take it.
pub async fn run(args: &FeedArgs) -> anyhow::Result<()> {
    let lines: Box<dyn BufRead + Send> = match args.list.to_str() {
        Some("-") => Box::new(BufReader::new(stdin())),
        _ => {
            let file = File::open(&args.list);
            let file = file.with_context(|| format!("cannot read {}", args.list.display()))?;
            Box::new(BufReader::new(file))
        }
    };
    let (_, context) = args.to.connect().await?;
    let subject = subject(args, &context).await?;
    let style = ProgressStyle::with_template("{human_pos} published, {per_sec}, {elapsed}")?;
    let progress = ProgressBar::no_length().with_style(style);
    let start = Instant::now();
    let lines = stream::try_unfold((read(lines), 0u32), |(mut lines, count)| async move {
        if let Some(Rate(between)) = args.rate {
            sleep_until((start + between * count).into()).await;
        }
        let line: Option<anyhow::Result<String>> = lines.recv().await;
        line.transpose()
            .map(|line| line.map(|line| (line, (lines, count.saturating_add(1)))))
    });
    let published = lines
        .map_ok(|line| publish(&context, &subject, line))
        .try_buffer_unordered(WINDOW)
        .inspect_ok(|_| progress.inc(1));
    let counts = published.try_fold((0u64, 0u64), |(all, known), is_known| async move {
        Ok((all + 1, known + u64::from(is_known)))
    });
    let (all, known) = counts.await?;
    progress.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    // Nobody may be reading.
    let _ = writeln!(
        std::io::stdout(),
        "published {all} messages to {subject}, of which the broker knew {known}, in {seconds:.1} s: {:.1} messages/s",
        all as f64 / seconds.max(1e-3)
    );
    Ok(())
}

/// What the stream keeps.
async fn subject(args: &FeedArgs, context: &Context) -> anyhow::Result<String> {
    let name = &args.to.stream;
    let stream = context.get_stream(name).await;
    let stream = stream.with_context(|| {
        format!("cannot look at the stream {name}, which galley stream setup makes")
    })?;
    let subject = args
        .subject
        .clone()
        .or_else(|| stream.cached_info().config.subjects.first().cloned());
    let subject = subject.unwrap_or_else(|| name.clone());
    ensure!(
        !subject.contains(['*', '>']),
        "--subject: the stream {name} keeps {subject}, so expected one of these"
    );
    Ok(subject)
}

/// The lines that are not empty, read by a thread of their own: who types them may take for ever.
fn read(lines: Box<dyn BufRead + Send>) -> mpsc::Receiver<anyhow::Result<String>> {
    let (sender, receiver) = mpsc::channel(WINDOW);
    tokio::task::spawn_blocking(move || {
        for line in lines.lines() {
            let failed = line.is_err();
            let line = line.context("cannot read the list");
            if line.as_ref().is_ok_and(String::is_empty) {
                continue;
            }
            if sender.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Publishes a line until the broker says that it has it, and whether it had it before.
async fn publish(context: &Context, subject: &str, line: String) -> anyhow::Result<bool> {
    let id = id(&line);
    let mut attempt = 1;
    loop {
        let message = PublishMessage::build()
            .message_id(&id)
            .payload(line.clone().into());
        let published = match context.send_publish(subject.to_owned(), message).await {
            Ok(acknowledged) => acknowledged.await,
            Err(error) => Err(error),
        };
        let error = match published {
            // Published again after an answer that was lost, it is known and was not.
            Ok(acknowledged) => return Ok(acknowledged.duplicate && attempt == 1),
            Err(error) => error,
        };
        let is_too_large = error.kind() == PublishErrorKind::MaxPayloadExceeded;
        if is_too_large || attempt == ATTEMPTS {
            return Err(error)
                .with_context(|| format!("the broker does not take the message {id}"));
        }
        tracing::debug!(id, %error, "publishing again");
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// A line's id: that in its object, or the line's digest; what it says is the recipe's to know.
fn id(line: &str) -> String {
    let object = line
        .starts_with('{')
        .then(|| serde_json::from_str(line).ok());
    let object: Option<serde_json::Map<String, serde_json::Value>> = object.flatten();
    let own = object.and_then(|object| Some(object.get("id")?.as_str()?.to_owned()));
    // A header is a line.
    own.filter(|own| !own.is_empty() && !own.contains(['\r', '\n']))
        .unwrap_or_else(|| digest(line.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.0);
        assert_eq!(rate("250/s"), Ok(Duration::from_millis(4)));
        assert_eq!(rate("2"), Ok(Duration::from_millis(500)));
        assert_eq!(rate("30/m"), Ok(Duration::from_secs(2)));
        for wrong in [
            "", "0/s", "-1/s", "x/s", "1/d", "NaN/s", "inf/s", "1e-300/h",
        ] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_has_its_own_id_or_its_digest() {
        assert_eq!(id(r#"{"id": "7", "uri": "a"}"#), "7");
        assert_eq!(id("a.jpg"), digest(b"a.jpg"));
        for digested in [
            r#"{"uri": "a"}"#,
            r#"{"id": 7}"#,
            r#"{"id": ""}"#,
            "{odd",
            r#"{"id": "a\nb"}"#,
        ] {
            assert_eq!(id(digested), digest(digested.as_bytes()));
        }
    }

    #[test]
    fn empty_lines_are_no_messages() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let lines = runtime.block_on(async {
            let mut lines = read(Box::new(&b"a\n\n\r\nb\r\n"[..]));
            let mut all = Vec::new();
            while let Some(line) = lines.recv().await {
                all.push(line.unwrap());
            }
            all
        });
        assert_eq!(lines, ["a", "b"]);
    }
}
