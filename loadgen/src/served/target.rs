//! Where a recipe is served: found out by asking the server, not by assuming.

use reqwest::{Client, Url};

use crate::{
    error::{Error, Result},
    report::record::ServerInfo,
};

/// A recipe on a server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where requests go.
    pub(crate) infer: Url,
    /// Where the server describes it.
    pub(crate) meta: Url,
    /// What the server says of the recipe.
    pub(crate) info: ServerInfo,
}

/// Looks for the recipe under `/recipes/NAME`, then at the root.
///
/// # Errors
/// The server cannot be reached, or serves something else.
pub(crate) async fn find(client: &Client, url: &str, recipe: &str) -> Result<Target> {
    let bad = |reason: String| Error::Target {
        url: url.into(),
        reason,
    };
    let base = url.trim_end_matches('/');
    let mut seen = Vec::new();
    for path in [format!("{base}/recipes/{recipe}"), base.to_owned()] {
        let parse = |url: String| Url::parse(&url).map_err(|error| bad(error.to_string()));
        let infer = parse(format!("{path}/infer"))?;
        let meta = parse(format!("{path}/meta"))?;
        let answer = client
            .get(meta.clone())
            .send()
            .await
            .map_err(|error| bad(format!("no answer ({})", cause(&error))))?;
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<ServerInfo>(&body) {
            Ok(info) if status.is_success() && info.name.as_deref() == Some(recipe) => {
                return Ok(Target { infer, meta, info });
            }
            Ok(ServerInfo {
                name: Some(name), ..
            }) => seen.push(format!("{path}/meta names {name}")),
            _ => seen.push(format!("{path}/meta answers {status}")),
        }
    }
    Err(bad(format!(
        "expected a server of {recipe}, but {}",
        seen.join(", ")
    )))
}

/// The innermost reason of an error, where the useful word usually is.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
