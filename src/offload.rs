//! The ways of this crate to leave the caller's task.
#![forbid(unsafe_code)]

use std::future::Future;

use tokio::task::JoinError;

use crate::error::{Error, ErrorKind, Result};

/// Runs work that blocks (files, locks, requests to a shim) on the runtime's threads for that. The work goes on when
/// the future is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// Runs an operation of several steps as a task of its own, so that it is finished or rolled back although its caller
/// loses interest.
pub(crate) async fn detached<T: Send + 'static>(
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    joined(tokio::spawn(operation).await)
}

/// Drops what takes long to drop, at once but where nobody waits for it.
pub(crate) fn drop_later<T: Send + 'static>(value: T) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(value));
    }
}

/// A panic is a bug of ours: it is passed on, not hidden.
fn joined<T>(ended: Result<Result<T>, JoinError>) -> Result<T> {
    match ended {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::new(ErrorKind::Unavailable, "the runtime is shutting down")),
    }
}
