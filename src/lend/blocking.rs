//! Work that waits for a disk or takes a while, away from the async workers.

/// Does the work on a thread for such, and gives what it gives. A panic goes on in the caller.
///
/// # Cancellation
/// What was begun is finished. Work that was not begun when the runtime ends never is, and nothing comes back.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
