//! Buckets: S3, Google's and Azure's, with the credentials that their own tools find (environment, instance, workload).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use object_store::{
    ClientConfigKey, Error, ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
};
use url::Url;

use super::{FetchError, Fetched, Fetcher, too_large};

/// How many buckets' clients are kept.
const MAX_KEPT: usize = 64;
/// How often a request is sent again at once; afterwards its message is given back.
const RETRIES: usize = 2;

/// A client for each bucket.
#[derive(Debug)]
pub(super) struct Buckets {
    timeout: Duration,
    kept: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Buckets {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            kept: Mutex::default(),
        }
    }

    fn of(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, FetchError> {
        let bucket = url.host_str().unwrap_or_default();
        let key = format!("{}://{bucket}", url.scheme());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = kept.get(&key) {
            return Ok(Arc::clone(store));
        }
        let store = self.build(url.scheme(), bucket).map_err(|error| {
            FetchError::Refused(format!("{key}: cannot be opened: {}", brief(&error)))
        })?;
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, Arc::clone(&store));
        Ok(store)
    }

    fn build(&self, scheme: &str, bucket: &str) -> Result<Arc<dyn ObjectStore>, Error> {
        // All else of the client, such as whether `http` will do, is the environment's to say (AWS_ALLOW_HTTP).
        let timeout = humantime::format_duration(self.timeout).to_string();
        let key = ClientConfigKey::Timeout;
        let retry = RetryConfig {
            max_retries: RETRIES,
            retry_timeout: self.timeout,
            ..RetryConfig::default()
        };
        Ok(match scheme {
            "s3" => Arc::new(
                AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_config(AmazonS3ConfigKey::Client(key), timeout)
                    .with_retry(retry)
                    .build()?,
            ),
            "gs" => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(bucket)
                    .with_config(GoogleConfigKey::Client(key), timeout)
                    .with_retry(retry)
                    .build()?,
            ),
            _ => Arc::new(
                MicrosoftAzureBuilder::from_env()
                    .with_container_name(bucket)
                    .with_config(AzureConfigKey::Client(key), timeout)
                    .with_retry(retry)
                    .build()?,
            ),
        })
    }
}

impl Fetcher {
    pub(super) async fn bucket(&self, url: &Url) -> Result<Fetched, FetchError> {
        let path = Path::from_url_path(url.path())
            .map_err(|_| FetchError::Refused("expected the name of an object".into()))?;
        let store = self.buckets.of(url)?;
        let found = self.in_time(store.get(&path)).await?;
        let size = found.meta.size;
        let etag = found.meta.e_tag.clone();
        let held = self.reserve(size).await?;
        let max = self.limits.max_body;
        let read = async {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
            let mut stream = found.into_stream().map_err(FetchError::from).boxed();
            while let Some(chunk) = stream.try_next().await? {
                if (bytes.len() + chunk.len()) as u64 > max {
                    return Err(too_large(max));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let bytes = self.in_time::<_, FetchError>(read).await?;
        Ok(Fetched {
            bytes: bytes.into(),
            etag,
            held,
        })
    }
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        let message = brief(&error);
        match error {
            Error::NotFound { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::UnknownConfigurationKey { .. } => Self::Refused(message),
            _ => Self::Passing(message),
        }
    }
}

/// What went wrong, without the store's own words, which have URLs in them, with signatures.
fn brief(error: &Error) -> String {
    let kind = match error {
        Error::NotFound { .. } => "not found",
        Error::InvalidPath { .. } => "expected the name of an object",
        Error::PermissionDenied { .. } => "the store denies permission",
        Error::Unauthenticated { .. } => "the store wants credentials",
        Error::NotSupported { .. } | Error::UnknownConfigurationKey { .. } => {
            "the store is not configured (AWS_..., GOOGLE_..., AZURE_...)"
        }
        _ => {
            let cause = innermost(error);
            return match cause.contains(['?', '<']) || cause.contains("://") {
                true => "the store does not answer as it should".into(),
                false => format!("the store does not answer as it should: {cause}"),
            };
        }
    };
    kind.into()
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
