//! The flags that say who may ask.

use std::path::PathBuf;

use clap::Args;

/// Who may ask a server, and over what.
#[derive(Args, Clone, Debug)]
pub struct AccessArgs {
    /// A file of API keys, one a line as KEY or NAME KEY, # for comments; every request but probes and the web page's
    /// files then needs one, as Authorization: Bearer KEY or X-API-Key: KEY. SIGHUP reads the file again
    #[arg(
        long,
        env = "GALLEY_API_KEY_FILE",
        value_name = "FILE",
        help_heading = "Access"
    )]
    pub api_key_file: Option<PathBuf>,
    /// With API keys: metrics need none
    #[arg(long, env = "GALLEY_OPEN_METRICS", help_heading = "Access")]
    pub open_metrics: bool,
    /// Serve https with this certificate and its chain, in PEM. SIGHUP reads it again, with its key
    #[arg(
        long,
        env = "GALLEY_TLS_CERT",
        value_name = "FILE",
        help_heading = "Access"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(
        long,
        env = "GALLEY_TLS_KEY",
        value_name = "FILE",
        help_heading = "Access"
    )]
    pub tls_key: Option<PathBuf>,
    /// Origins of other web pages that browsers may let ask this server, separated by commas; without it there are none
    #[arg(
        long,
        env = "GALLEY_CORS_ORIGIN",
        value_delimiter = ',',
        value_name = "URL",
        help_heading = "Access"
    )]
    pub cors_origin: Vec<String>,
}
