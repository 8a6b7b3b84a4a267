//! Answers on their way out: their bytes count in `--max-buffered` until they are written, and it can be seen whether a client
//! takes them.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

use super::budget::{Budget, Share};

/// Bytes are handed over in slices of this size, so that it can be seen how they go.
const SLICE: usize = 16 << 10;

/// What of an answer has been handed over and is not written.
#[derive(Debug)]
pub(super) struct Unsent(Mutex<(usize, Instant)>);

impl Unsent {
    fn lock(&self) -> MutexGuard<'_, (usize, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something, and nothing of it has been written for so long.
    pub(super) fn stands_still(&self, time: Duration) -> bool {
        let (slices, since) = *self.lock();
        slices > 0 && since.elapsed() >= time
    }
}

/// An answer's body. `G` is dropped when all of it has been handed over, or it is given up.
pub(super) struct Outgoing<G> {
    body: Body,
    budget: Arc<Budget>,
    unsent: Arc<Unsent>,
    /// What has been taken from the body and not been handed over, with its share.
    rest: Option<(Bytes, Arc<Share>)>,
    _guard: G,
}

impl<G> Outgoing<G> {
    pub(super) fn new(body: Body, budget: Arc<Budget>, guard: G) -> Self {
        Self {
            body,
            budget,
            unsent: Arc::new(Unsent(Mutex::new((0, Instant::now())))),
            rest: None,
            _guard: guard,
        }
    }

    pub(super) fn unsent(&self) -> &Arc<Unsent> {
        &self.unsent
    }

    fn slice(&mut self) -> Option<Bytes> {
        let (bytes, share) = self.rest.as_mut()?;
        let slice = Slice {
            bytes: bytes.split_to(bytes.len().min(SLICE)),
            unsent: Arc::clone(&self.unsent),
            _share: Arc::clone(share),
        };
        if bytes.is_empty() {
            self.rest = None;
        }
        let mut unsent = self.unsent.lock();
        if unsent.0 == 0 {
            unsent.1 = Instant::now();
        }
        unsent.0 += 1;
        drop(unsent);
        Some(Bytes::from_owner(slice))
    }
}

impl<G: Unpin> hyper::body::Body for Outgoing<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(slice) = self.slice() {
            return Poll::Ready(Some(Ok(Frame::data(slice))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) if !data.is_empty() => {
                let mut share = self.budget.share();
                share.hold(data.len());
                self.rest = Some((data, Arc::new(share)));
                self.slice().map(|slice| Ok(Frame::data(slice)))
            }
            Some(Ok(Ok(data))) => Some(Ok(Frame::data(data))),
            Some(Ok(Err(frame))) => Some(Ok(frame)),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self
            .rest
            .as_ref()
            .map_or(0, |(bytes, _)| bytes.len() as u64);
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(body.lower() + rest);
        hint
    }
}

/// Bytes that have been handed over; dropped when they are written.
struct Slice {
    bytes: Bytes,
    unsent: Arc<Unsent>,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let mut unsent = self.unsent.lock();
        unsent.0 -= 1;
        unsent.1 = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::body::Body as _;

    use super::*;

    #[tokio::test]
    async fn an_answer_counts_until_its_last_slice_is_written() {
        let budget = Budget::new(1 << 20, Duration::from_secs(30));
        let bytes: Vec<u8> = (0..SLICE * 2 + 10).map(|n| n as u8).collect();
        let mut body = Outgoing::new(Body::from(bytes.clone()), Arc::clone(&budget), ());
        let unsent = Arc::clone(body.unsent());
        let (at_once, never) = (Duration::ZERO, Duration::MAX);
        assert_eq!(body.size_hint().exact(), Some(bytes.len() as u64));
        let mut slices = Vec::new();
        while let Some(frame) = body.frame().await {
            slices.push(frame.unwrap().into_data().unwrap());
            let left = bytes.len() - slices.concat().len();
            assert_eq!(body.size_hint().exact(), Some(left as u64));
            assert_eq!(body.is_end_stream(), left == 0);
        }
        assert_eq!((slices.len(), slices.concat()), (3, bytes.clone()));
        drop(body);
        assert_eq!(budget.used(), bytes.len() as u64);
        assert!(unsent.stands_still(at_once) && !unsent.stands_still(never));
        let since = unsent.lock().1;
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(slices.remove(0));
        assert!(unsent.lock().1 > since, "that is progress");
        assert!(unsent.stands_still(at_once));
        drop(slices);
        assert!(!unsent.stands_still(at_once), "all is written");
        assert_eq!(budget.used(), 0);
    }
}
