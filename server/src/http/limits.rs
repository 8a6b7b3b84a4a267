//! Bodies, read with a bound on each of them and on all of them together.

use std::time::Duration;

use axum::{
    body::Body,
    http::{header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::timeout;

use super::{budget::Share, error::ApiError};

/// How long a refused body is read on, so that a client that writes before it reads gets to see the refusal.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The most bytes that are reserved for a body on the word of its header.
const MAX_RESERVED: u64 = 1 << 20;

/// Reads a body of at most `limit` bytes into one piece. A declared length over the limit is refused before a byte is
/// read; a body without one is refused as soon as it is over. One of which nothing comes for a while is given up, and while
/// it arrives it keeps its share only as long as it makes progress.
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
    share.arrives();
    let mut gives_way = std::pin::pin!(share.gives_way());
    let patience = share.patience();
    let mut whole = Bytes::new();
    let mut pieces = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = timeout(patience, body.frame()) => frame.map_err(|_| ApiError::SlowBody(format!(
                "nothing of the body came for {} (--body-timeout)", humantime::format_duration(patience)
            )))?,
            slow = &mut gives_way => return Err(slow),
        };
        let Some(frame) = frame else {
            break;
        };
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
    share.arrived()?;
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
    let _ = timeout(DISCARD_TIME, rest).await;
}

/// Reads on what nobody wants. A client that asks before it sends has not sent, and need not.
pub(super) async fn give_up(parts: &Parts, body: Body) {
    if !parts.headers.contains_key(header::EXPECT) {
        discard(body).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::{StreamExt, stream};

    use super::*;
    use crate::http::budget::Budget;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn budget(max: u64) -> Arc<Budget> {
        Budget::new(max, PATIENCE)
    }

    fn chunked(pieces: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(
            pieces.iter().map(|piece| Ok::<_, std::io::Error>(*piece)),
        ))
    }

    async fn read(mut body: Body, limit: u64, budget: &Arc<Budget>) -> Result<Bytes, ApiError> {
        read_body(&mut body, limit, &mut budget.share()).await
    }

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit_and_not_beyond() {
        let budget = budget(1000);
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
        assert_eq!(budget.used(), 0);
    }

    /// A body of which this much comes, and no more.
    fn unfinished(bytes: usize) -> Body {
        let begun = stream::iter([Ok::<_, std::io::Error>(vec![b'x'; bytes])]);
        Body::from_stream(begun.chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_body_that_stands_still_is_given_up() {
        let budget = budget(1000);
        let error = read(unfinished(100), 1000, &budget).await.unwrap_err();
        assert_eq!(
            error,
            ApiError::SlowBody("nothing of the body came for 100ms (--body-timeout)".into())
        );
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn unfinished_bodies_give_way_to_others() {
        // Nothing but that ends them.
        let budget = Budget::new(3000, Duration::from_secs(3600));
        let stuck = (0..3).map(|_| {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move { read(unfinished(1000), 2000, &budget).await })
        });
        let stuck: Vec<_> = stuck.collect();
        while budget.used() < 3000 {
            tokio::task::yield_now().await;
        }
        // Until they have stood still for long enough.
        while read(Body::from("small"), 1000, &budget).await.is_err() {
            tokio::time::sleep(PATIENCE).await;
        }
        let (first, _, others) = futures::future::select_all(stuck).await;
        assert!(matches!(first.unwrap(), Err(ApiError::SlowBody(_))));
        assert_eq!(budget.used(), 2000, "one was enough");
        for other in others {
            other.abort();
        }
    }

    #[tokio::test]
    async fn all_bodies_share_a_budget() {
        let budget = budget(6);
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
