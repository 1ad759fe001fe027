//! The only place that spawns: every task has an owner that can wait for it.

use tokio_util::task::TaskTracker;

/// Spawns a task that `owner` waits for.
#[expect(clippy::disallowed_methods, reason = "this is tasks.rs")]
pub(crate) fn spawn(owner: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(owner.track_future(task)));
}

/// Runs work that takes long on a thread where it holds nobody up; `None` if it panicked.
#[expect(clippy::disallowed_methods, reason = "this is tasks.rs")]
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
