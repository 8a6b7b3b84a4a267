//! Bodies, read with a bound on each of them and on all of them together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::error::ApiError;

/// How long a refused body is read on, so that a client that writes before it reads gets to see the refusal.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The most bytes that are reserved for a body on the word of its header.
const MAX_RESERVED: u64 = 1 << 20;

/// How many bytes of bodies may be in memory at a time.
#[derive(Debug)]
pub(super) struct BodyBudget {
    used: AtomicU64,
    max: u64,
}

impl BodyBudget {
    pub(super) fn new(max: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            max,
        })
    }

    /// A share of nothing, which grows.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }
}

/// Bytes that a request holds, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<BodyBudget>,
    bytes: u64,
}

impl Share {
    /// Takes room for `bytes` more.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let bytes = bytes as u64;
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        // What was added here goes back with the share, whether or not it fitted.
        match before + bytes <= self.budget.max {
            true => Ok(()),
            false => Err(ApiError::Busy(
                "the server holds as many request bodies as it may (--max-buffered)".into(),
            )),
        }
    }
}

impl Share {
    /// Parts with `bytes` of it; what it lacks, as what arrived has grown since, is taken anew.
    pub(super) fn split(&mut self, bytes: usize) -> Result<Self, ApiError> {
        let mut part = self.budget.share();
        part.bytes = self.bytes.min(bytes as u64);
        self.bytes -= part.bytes;
        part.grow(bytes - part.bytes as usize)?;
        Ok(part)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body of at most `limit` bytes into one piece. A declared length over the limit is refused before a byte is
/// read; a body without one is refused as soon as it is over.
pub(super) async fn read_body(
    body: &mut Body,
    limit: u64,
    share: &mut Share,
) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::TooLarge {
        what: "the body".into(),
        limit: format!("{limit} bytes"),
        option: "--max-body",
    };
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let mut whole = Bytes::new();
    let mut pieces = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| ApiError::malformed("the body broke off or is not valid HTTP"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if (whole.len() + pieces.len() + data.len()) as u64 > limit {
            return Err(too_large());
        }
        share.grow(data.len())?;
        if whole.is_empty() && pieces.is_empty() {
            whole = data;
            continue;
        }
        if pieces.is_empty() {
            // What is announced, as far as a client may be believed before it has sent it.
            pieces.reserve(
                body.size_hint().lower().min(MAX_RESERVED) as usize + whole.len() + data.len(),
            );
        }
        pieces.extend_from_slice(&std::mem::take(&mut whole));
        pieces.extend_from_slice(&data);
    }
    Ok(if pieces.is_empty() {
        whole
    } else {
        pieces.freeze()
    })
}

/// Reads what is left of a refused body and keeps none of it: closing a connection with unread data resets it, and the
/// client would lose the answer.
pub(super) async fn discard(mut body: Body) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // A client that takes longer has to do without the answer.
    let _ = tokio::time::timeout(DISCARD_TIME, rest).await;
}

/// Reads on what nobody wants. A client that asks before it sends has not sent, and need not.
pub(super) async fn give_up(parts: &Parts, body: Body) {
    if !parts.headers.contains_key(header::EXPECT) {
        discard(body).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(pieces: &'static [&'static str]) -> Body {
        Body::from_stream(futures::stream::iter(
            pieces.iter().map(|piece| Ok::<_, std::io::Error>(*piece)),
        ))
    }

    async fn read(mut body: Body, limit: u64, budget: &Arc<BodyBudget>) -> Result<Bytes, ApiError> {
        read_body(&mut body, limit, &mut budget.share()).await
    }

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit_and_not_beyond() {
        let budget = BodyBudget::new(1000);
        assert_eq!(
            read(chunked(&["ab", "", "cd", "e"]), 5, &budget)
                .await
                .unwrap(),
            "abcde"
        );
        assert_eq!(
            read(Body::from("abcde"), 5, &budget).await.unwrap(),
            "abcde"
        );
        assert_eq!(read(Body::empty(), 5, &budget).await.unwrap(), "");
        for body in [chunked(&["abc", "def"]), Body::from("abcdef")] {
            let error = read(body, 5, &budget).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "the body exceeds the limit of 5 bytes (--max-body)"
            );
        }
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_part_of_a_share_is_given_back_by_itself() {
        let budget = BodyBudget::new(10);
        let mut share = budget.share();
        share.grow(6).unwrap();
        let part = share.split(4).unwrap();
        drop(share);
        assert_eq!(budget.used.load(Ordering::Relaxed), 4);
        drop(part);
        let mut share = budget.share();
        share.grow(6).unwrap();
        // It has become larger than what arrived.
        let part = share.split(9).unwrap();
        assert_eq!(budget.used.load(Ordering::Relaxed), 9);
        assert!(share.split(2).is_err());
        drop((share, part));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn all_bodies_share_a_budget() {
        let budget = BodyBudget::new(6);
        let mut share = budget.share();
        read_body(&mut Body::from("abcd"), 100, &mut share)
            .await
            .unwrap();
        assert!(matches!(
            read(Body::from("efg"), 100, &budget).await,
            Err(ApiError::Busy(_))
        ));
        drop(share);
        assert!(read(Body::from("efg"), 100, &budget).await.is_ok());
    }
}
