//! Work that takes long enough to keep a thread of the runtime from other requests.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::error::ApiError;
use crate::engine::InferError;

/// Runs work on the CPU pool.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (sender, receiver) = oneshot::channel();
    rayon::spawn(move || {
        // A panic would end the process, not the request. The caller may have gone; then nobody wants the result.
        if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
            let _ = sender.send(result);
        }
    });
    let lost = |_| Err(InferError::Failed("reading the body failed".into()).into());
    receiver.await.unwrap_or_else(lost)
}
