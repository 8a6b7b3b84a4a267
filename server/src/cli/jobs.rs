//! `galley serve`'s options on where jobs are kept.

use std::time::Duration;

use anyhow::ensure;
use clap::{Args, value_parser};

use crate::{database::Address, jobs::JobsConfig};

/// Where jobs are kept.
#[derive(Args, Clone, Debug)]
pub struct JobsArgs {
    /// Where requests with async=true are kept until they are answered, and their results: a file for SQLite, which processes of
    /// one machine may share, or postgres://USER:PASSWORD@HOST/DATABASE for any number of replicas. What its process does not
    /// live to answer another one does [default: in memory]
    #[arg(
        long,
        env = "GALLEY_JOBS",
        hide_env_values = true,
        value_name = "TABLE",
        help_heading = "Jobs"
    )]
    pub jobs: Option<String>,
    /// How long after its last sign of life a process's jobs are taken by others
    #[arg(
        long, env = "GALLEY_JOB_LEASE", default_value = "15s", value_parser = humantime::parse_duration, value_name = "TIME",
        help_heading = "Jobs"
    )]
    pub job_lease: Duration,
    /// How many processes may end while a job runs before it is given up; from the third on it runs alone
    #[arg(
        long,
        env = "GALLEY_JOB_ATTEMPTS",
        default_value = "5",
        value_parser = value_parser!(u32).range(2..),
        value_name = "N",
        help_heading = "Jobs"
    )]
    pub job_attempts: u32,
}

impl JobsArgs {
    /// What they come to.
    ///
    /// # Errors
    /// A value makes no sense; the message says which.
    pub(crate) fn config(&self) -> anyhow::Result<Option<JobsConfig>> {
        ensure!(
            self.job_lease >= Duration::from_millis(100),
            "--job-lease: expected at least 100ms"
        );
        let address = |text: &String| Address::parse("--jobs", text);
        let address = self.jobs.as_ref().map(address).transpose()?;
        Ok(address.map(|address| JobsConfig {
            address,
            lease: self.job_lease,
            attempts: self.job_attempts,
        }))
    }
}
