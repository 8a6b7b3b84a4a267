//! `galley pull`: a recipe's weights from the Hugging Face hub into the cache that the hub's own libraries share.
//!
//! What a pull promises: the revision is resolved to a commit and recorded; every file is verified against the hash that
//! the hub announces, in full; a file becomes visible only once it is verified, so that a truncated, altered or
//! misdirected download never takes the place of a good one; a broken download is resumed. Reading the cache is
//! [`galley_core::hub`]'s.

mod answers;
mod blob;
mod download;
mod error;
mod http;
mod hub;
mod layout;
mod names;
mod retry;

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use galley_core::WeightSource;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::stdout::until_reader_goes;

pub use error::PullError;
pub use hub::{Hub, Snapshot};
pub use retry::Retry;

/// Download a recipe's weights from the Hugging Face hub.
///
/// The files go into the hub's usual cache (HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub), where the
/// Python libraries find them too. What is there already is checked and not downloaded again; a broken download is
/// resumed. HF_ENDPOINT names another hub than huggingface.co, HF_TOKEN gives access to private and gated repositories.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  galley pull efficientnet_b2\n  galley pull distilbert_sst2 --revision refs/pr/12"
)]
pub struct PullArgs {
    /// The recipe; `galley recipes` lists them
    pub recipe: String,

    /// Branch, tag or commit to pull. Only `main` is what `--weights hub` serves afterwards; serve any other by
    /// `--weights DIR` with the folder that is printed
    #[arg(long, env = "GALLEY_REVISION", default_value = "main")]
    pub revision: String,
}

/// Runs the command: progress on stderr, and at the end the commit and the folder on stdout.
///
/// # Errors
/// There is no such recipe, it has no weights on the hub, or the pull failed.
pub fn run(args: &PullArgs) -> anyhow::Result<()> {
    let entry = galley_catalog::find(&args.recipe)?;
    let Some(weights) = entry.hub else {
        // Says what the recipe has instead.
        entry.source(&WeightSource::Hub)?;
        anyhow::bail!("{} has no hub weights", entry.name);
    };
    let progress = progress_bar();
    let pulled = Hub::from_env()?.pull(&weights, &args.revision, &progress);
    progress.finish_and_clear();
    let Snapshot { commit, path } =
        pulled.with_context(|| format!("cannot pull the weights of {}", entry.name))?;
    let text = format!(
        "repository  {} ({})\ncommit      {commit}\nsnapshot    {}\n",
        weights.repo,
        args.revision,
        path.display()
    );
    until_reader_goes(io::stdout().write_all(text.as_bytes()).map_err(Into::into))
}

/// On stderr; indicatif hides it by itself where that is no terminal.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
    )
    .expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
        .with_style(style.progress_chars("=> "))
}
