//! Looking names up, and leaving out the addresses that are not public: what a name leads to is judged at the moment that
//! it is connected to, so a name that leads elsewhere the next time gains nothing.

use std::{io, net::SocketAddr, sync::Arc};

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{Refusal, is_public};

/// How a name is looked up.
pub type LookUp =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Gives public addresses alone.
pub struct PublicOnly(LookUp);

impl std::fmt::Debug for PublicOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicOnly").finish_non_exhaustive()
    }
}

impl PublicOnly {
    /// By the system's resolver.
    pub fn of_system() -> Self {
        Self::new(Arc::new(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name, 0)).await?;
                Ok(found.collect())
            })
        }))
    }

    /// By another one.
    pub fn new(look_up: LookUp) -> Self {
        Self(look_up)
    }
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (self.0)(name.as_str().to_owned());
        Box::pin(async move {
            let found = found.await?;
            let first = found.first().copied();
            let public: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| is_public(address.ip()))
                .collect();
            match (public.is_empty(), first) {
                (true, Some(first)) => Err(Refusal::Address(first.ip()).into()),
                _ => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}
