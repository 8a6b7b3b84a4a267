//! Runs over HTTP: clients that goose drives, against a server of their own or one that runs already.
//!
//! The server is met over HTTP alone, as any client would: nothing here links it.

mod answer;
mod attack;
mod link;
mod payload;
mod requests;
mod tally;
mod target;
mod threads;

use std::{ffi::OsString, ops::Range, sync::Arc, time::Duration};

use futures::future::join_all;
use galley_core::{Entry, InputKind};
use reqwest::{Client, redirect};
use tokio::runtime::Runtime;

pub(crate) use self::{
    answer::Failure,
    requests::Requests,
    threads::{Place, Threads},
};
use self::{
    attack::{Attack, Progress},
    payload::Encoder,
    target::Target,
};
use crate::{
    args::{RecipeArgs, TargetArgs},
    corpus::Corpus,
    error::{Error, Result},
    process::{Process, Sign, model_arguments},
    report::{
        cores, peak_rss,
        record::{ClientTime, Served, ServerInfo},
    },
    scheduled::Scheduled,
    setup::WARMUP_EXAMPLES,
    stats::Latency,
};

/// Clients, and the server that they meet.
#[derive(Debug)]
pub(crate) struct LoadGenerator {
    /// Runs goose, and whatever else waits for the clients.
    runtime: Runtime,
    threads: Threads,
    kind: InputKind,
    target: Target,
    /// Dropped, and so stopped, last.
    server: Option<Process>,
}

/// What is sent: a corpus, encoded.
#[derive(Debug)]
pub(crate) struct Payloads {
    encoder: Arc<Encoder>,
    /// Examples that are measured; those behind them warm up.
    examples: usize,
    all: usize,
}

impl Payloads {
    /// The examples that warm up: those behind the measured ones, but few for a short run, so that a slow recipe does not
    /// spend its time on them.
    fn warm_up(&self) -> Range<usize> {
        let spare = self.all - self.examples;
        let few = match self.examples {
            0 => spare,
            examples => (examples / 10).clamp(1, spare),
        };
        self.examples..self.examples + few
    }
}

/// One pass over the examples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) batch: usize,
    pub(crate) concurrency: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) repeat: usize,
}

impl LoadGenerator {
    /// Starts the server if it is to be the benchmark's own, and finds the recipe on it.
    ///
    /// # Errors
    /// The server does not start, cannot be reached, or does not serve the recipe.
    pub(crate) fn new(
        entry: &Entry,
        recipe: &RecipeArgs,
        args: &TargetArgs,
        items_in_flight: usize,
    ) -> Result<Self> {
        let runtime = runtime()?;
        let client = client(args.timeout())?;
        let server = match &args.url {
            Some(_) => None,
            None => Some(start_server(recipe, args, items_in_flight)?),
        };
        let url = match (&args.url, &server) {
            (Some(url), _) => url.as_str(),
            (None, Some(server)) => server.address(),
            (None, None) => return Err(Error::option("--url", "expected the URL of a server")),
        };
        let target = runtime.block_on(target::find(&client, url, entry.name, args))?;
        Ok(Self {
            kind: entry.input_kind,
            runtime,
            threads: Threads::start(args.client_threads(), &target.infer, args.timeout())?,
            target,
            server,
        })
    }

    /// What the server says of the recipe.
    pub(crate) fn info(&self) -> &ServerInfo {
        &self.target.info
    }

    /// Makes a corpus ready to be sent.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub(crate) fn payloads(&self, corpus: &Arc<Corpus>) -> Result<Payloads> {
        Ok(Payloads {
            encoder: Arc::new(Encoder::new(&self.target.form, self.kind, corpus)?),
            examples: corpus.len() - WARMUP_EXAMPLES,
            all: corpus.len(),
        })
    }

    /// The seconds that an example takes in such a pass, roughly.
    ///
    /// # Errors
    /// It was interrupted, or the corpus cannot be read.
    pub(crate) fn calibrate(&self, setting: Setting, payloads: &Payloads) -> Result<f64> {
        self.runtime.block_on(async {
            self.warm_up(setting, payloads).await?;
            let time = self.warm_up(setting, payloads).await?;
            Ok(time.as_secs_f64() / payloads.warm_up().len() as f64)
        })
    }

    /// Opens the connections, warms the server up, then runs the pass; `done` is told every now and then how many
    /// examples have been sent.
    ///
    /// # Errors
    /// It was interrupted, or not one request was answered well.
    pub(crate) fn pass(
        &self,
        setting: Setting,
        payloads: &Payloads,
        done: &dyn Fn(usize),
    ) -> Result<Served> {
        self.runtime.block_on(async {
            self.warm_up(setting, payloads).await?;
            let attack = Arc::new(self.attack(payloads, 0..payloads.examples, setting)?);
            let before = self.scheduled(setting);
            let watch = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    done(attack.taken());
                }
            };
            tokio::select! {
                result = attack::run(&attack, &self.target.infer, &self.threads, setting.concurrency) => result?,
                () = watch => (),
            }
            let after = self.scheduled(setting);
            self.figures(setting, &attack, |time| {
                let ((clients, server), (clients_before, server_before)) = after.zip(before)?;
                Some(ClientTime::of(
                    self.threads.used(setting.concurrency),
                    clients.since(clients_before),
                    server.zip(server_before).map(|(after, before)| after.since(before)),
                    time,
                    cores(),
                ))
            })
        })
    }

    fn attack(
        &self,
        payloads: &Payloads,
        examples: Range<usize>,
        setting: Setting,
    ) -> Result<Attack> {
        Ok(Attack {
            infer: payloads.encoder.uri(&self.target.infer)?,
            encoder: payloads.encoder.clone(),
            first: examples.start,
            examples: examples.len(),
            batch: setting.batch,
            rate: setting.rate,
            progress: Progress::default(),
        })
    }

    /// What the system says of the threads of so many clients, and of the server if it is the benchmark's own.
    fn scheduled(&self, setting: Setting) -> Option<(Scheduled, Option<Scheduled>)> {
        let server = self.server.as_ref().map(Process::pid);
        let clients = self.threads.scheduled(setting.concurrency)?;
        Some((clients, server.and_then(Scheduled::of_process)))
    }

    /// Opens as many connections as there will be clients, sends the examples that are not measured, and says how long
    /// these took.
    async fn warm_up(&self, setting: Setting, payloads: &Payloads) -> Result<Duration> {
        self.connect(setting.concurrency).await?;
        let setting = Setting {
            rate: None,
            ..setting
        };
        let attack = Arc::new(self.attack(payloads, payloads.warm_up(), setting)?);
        let clients = setting.concurrency.min(attack.requests());
        let places = (0..clients).map(|client| self.threads.place(client).clone());
        join_all(places.map(|place| attack.clone().client_at(place))).await;
        attack.result().map(|(_, time)| time)
    }

    /// Opens connections for so many clients, on the threads that these run on.
    async fn connect(&self, clients: usize) -> Result<()> {
        let meta = payload::uri(&self.target.meta)?;
        let asking = (0..clients).map(|client| {
            let Place { handle, link } = self.threads.place(client).clone();
            let meta = meta.clone();
            handle.spawn(async move { link.touch(&meta).await })
        });
        join_all(asking).await;
        Ok(())
    }

    fn figures(
        &self,
        setting: Setting,
        attack: &Attack,
        client: impl FnOnce(Duration) -> Option<ClientTime>,
    ) -> Result<Served> {
        let (tally, time) = attack.result()?;
        if tally.items_ok == 0 {
            let kinds: Vec<_> = tally
                .errors
                .iter()
                .map(|(kind, count)| format!("{count} x {kind}"))
                .collect();
            return Err(Error::Target {
                url: self.target.infer.to_string(),
                reason: format!(
                    "not one of {} requests was answered well: {}",
                    tally.requests,
                    kinds.join(", ")
                ),
            });
        }
        let seconds = time.as_secs_f64().max(1e-9);
        Ok(Served {
            batch: setting.batch,
            concurrency: setting.concurrency,
            rate: setting.rate,
            repeat: setting.repeat,
            examples: attack.examples,
            requests: tally.requests,
            seconds,
            items_per_s: tally.items_ok as f64 / seconds,
            requests_per_s: tally.latencies.len() as f64 / seconds,
            items_ok: tally.items_ok,
            latency_ms: Latency::of(tally.latencies),
            errors: tally.errors,
            server_peak_rss_bytes: self
                .server
                .as_ref()
                .and_then(|server| peak_rss(Some(server.pid()))),
            client: client(time),
        })
    }
}

/// The server's own default of `--max-queue-size`, in items.
const SERVER_QUEUE: usize = 65_536;

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Client(error.to_string()))
}

fn client(timeout: Duration) -> Result<Client> {
    Client::builder()
        .user_agent(link::AGENT)
        .timeout(timeout)
        .tcp_nodelay(true)
        .pool_max_idle_per_host(usize::MAX)
        // What answers must be the server itself.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|error| Error::Client(target::cause(&error)))
}

fn start_server(recipe: &RecipeArgs, args: &TargetArgs, items_in_flight: usize) -> Result<Process> {
    let program = match &args.serve_program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(Error::file("this program"))?,
    };
    Process::start(
        "server",
        &program,
        &serve_arguments(recipe, args, items_in_flight),
        (Sign::Url, args.ready_timeout),
    )
}

/// The command line of a server of this recipe alone. Its queue has room for all that a closed loop keeps in flight, and
/// twice the time that clients wait: what is measured is the serving of requests, and not their refusal.
fn serve_arguments(
    recipe: &RecipeArgs,
    target: &TargetArgs,
    items_in_flight: usize,
) -> Vec<OsString> {
    let more = &target.serve_args;
    let mut args: Vec<OsString> = vec![
        "serve".into(),
        "--recipes".into(),
        recipe.recipe.clone().into(),
        "--host".into(),
        "127.0.0.1".into(),
        "--port".into(),
        "0".into(),
    ];
    args.extend(model_arguments(recipe));
    let own_queue = more.iter().any(|arg| arg.starts_with("--max-queue-size"));
    if items_in_flight > SERVER_QUEUE && !own_queue {
        args.extend([
            "--max-queue-size".into(),
            items_in_flight.to_string().into(),
        ]);
    }
    if !more.iter().any(|arg| arg.starts_with("--timeout")) {
        let patience = humantime::format_duration(target.timeout() * 2).to_string();
        args.extend(["--timeout".into(), patience.replace(' ', "").into()]);
    }
    args.extend(more.iter().map(OsString::from));
    args
}
