//! `http` and `https`, by the client that the benchmark has.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::BytesMut;
use reqwest::{
    Client, Response, StatusCode,
    header::{ETAG, LAST_MODIFIED},
    redirect::Policy,
};
use url::Url;

use super::{FetchError, Fetched, Fetcher, too_large};
use crate::stream::guard::{Refusal, resolver::PublicOnly};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

pub(super) fn client(resolver: PublicOnly, timeout: Duration) -> anyhow::Result<Client> {
    let client = Client::builder()
        .user_agent(concat!("galley/", env!("CARGO_PKG_VERSION")))
        // Where a redirect leads nobody has allowed.
        .redirect(Policy::none())
        // A proxy would look names up itself.
        .no_proxy()
        .referer(false)
        .connect_timeout(timeout.min(CONNECT))
        .dns_resolver(Arc::new(resolver))
        .build()?;
    Ok(client)
}

impl Fetcher {
    pub(super) async fn web(&self, url: Url) -> Result<Fetched, FetchError> {
        let request = self.web.get(url).send();
        let mut response = self.in_time(request).await?;
        of_status(response.status())?;
        let max = self.limits.max_body;
        // What a server says is believed in one direction only: more than that is not read.
        let mut held = self
            .reserve(response.content_length().unwrap_or(max))
            .await?;
        let etag = tag(&response);
        let read = async {
            let mut bytes = BytesMut::new();
            while let Some(chunk) = response.chunk().await? {
                if (bytes.len() + chunk.len()) as u64 > max {
                    return Err(too_large(max));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.freeze())
        };
        let bytes = self.in_time::<_, FetchError>(read).await?;
        held.shrink(bytes.len() as u64);
        Ok(Fetched { bytes, etag, held })
    }
}

fn of_status(status: StatusCode) -> Result<(), FetchError> {
    let passing = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    let message = format!("the server answered {status}");
    match status {
        StatusCode::OK => Ok(()),
        _ if status.is_redirection() => Err(FetchError::Refused(format!(
            "{message}; redirects are not followed"
        ))),
        _ if status.is_server_error() || passing.contains(&status) => {
            Err(FetchError::Passing(message))
        }
        _ => Err(FetchError::Refused(message)),
    }
}

fn tag(response: &Response) -> Option<String> {
    let headers = response.headers();
    let tag = headers.get(ETAG).or_else(|| headers.get(LAST_MODIFIED))?;
    tag.to_str().ok().map(str::to_owned)
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        let mut causes = vec![];
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(refusal) = error.downcast_ref::<Refusal>() {
                return refusal.clone().into();
            }
            causes.push(error.to_string());
            cause = error.source();
        }
        let for_good = error.is_builder();
        // Its own words have the URL in them; the last cause says most.
        let message = match causes.pop() {
            Some(cause) => format!("cannot be fetched: {cause}"),
            None => "cannot be fetched".into(),
        };
        match for_good {
            true => Self::Refused(message),
            false => Self::Passing(message),
        }
    }
}
