//! A running feed, as whoever started it holds it.

use std::sync::Arc;

use router_model::snapshot::Rejection;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::status::{Board, FeedStatus};

/// A running feed.
pub struct FeedHandle {
    board: Arc<Board>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl FeedHandle {
    pub(super) fn new(board: Arc<Board>, stop: CancellationToken, tasks: TaskTracker) -> Self {
        Self { board, stop, tasks }
    }

    /// How the feed stands.
    pub fn status(&self) -> FeedStatus {
        self.board.status()
    }

    /// Certificates of the document in force that cannot be used (`certificates[3]`), and why.
    pub fn rejected_certificates(&self) -> Vec<Rejection> {
        self.board.lock().rejected_certificates.clone()
    }

    /// Has the certificate files that the document names looked at now. They are looked at every ten seconds anyway.
    pub fn look_at_files(&self) {
        self.board.look.notify_one();
    }

    /// Waits until this revision or a newer one is in force. Whoever drains the dynos that it has taken away can be sure
    /// then that no new request goes to them.
    pub async fn wait_for(&self, revision: u64) {
        let mut in_force = self.board.revision.subscribe();
        let newer = in_force.wait_for(|in_force| in_force.is_some_and(|other| other >= revision));
        // The other end is the board itself.
        drop(newer.await);
    }

    /// Waits until the feed has answered for the first time, be it with an error.
    pub async fn answered(&self) {
        let mut answered = self.board.answered.subscribe();
        drop(answered.wait_for(|answered| *answered).await);
    }

    /// Has the feed asked for the whole document.
    pub fn relist(&self) {
        self.board.ask.notify_one();
    }

    /// Believes the source once, if it is this revision that [`FeedStatus::withheld`] shows: the document is asked for
    /// again, and put in force whatever it takes away. Says whether it was this revision.
    pub fn confirm(&self, revision: u64) -> bool {
        let mut recorded = self.board.lock();
        let withheld = recorded.status.withheld.as_ref();
        let confirmed = withheld.is_some_and(|withheld| withheld.revision == revision);
        if confirmed {
            recorded.confirmed = Some(revision);
            self.board.ask.notify_one();
        }
        confirmed
    }

    /// Stops to read the feed; the routes stay as they are.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl std::fmt::Debug for FeedHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedHandle")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
