//! How a feed is run: every rule that has a number, as a setting.

use std::path::PathBuf;
use std::time::Duration;

/// How to run a feed.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedOptions {
    /// Where the last good document is kept, and beside it (`.changes`) what came after; served until the feed gives
    /// something newer.
    pub cache: Option<PathBuf>,
    /// What the router is called in acknowledgements. Default: random.
    pub router_id: String,
    /// The largest share of all domains that one update may take away without `allow_shrink`.
    pub shrink_share: f64,
    /// After how long a document that takes away more is believed all the same, if the source keeps to it; never, by
    /// default. A document without any app is never believed.
    pub shrink_persists: Option<Duration>,
    /// How often the whole document is asked for, whatever the changes were; a fifth more or less, at random.
    pub relist_every: Duration,
    /// After how long without a word a source with a heartbeat is called silent, and asked for the whole document.
    pub silent_after: Duration,
    /// The longest time that an update is held back, at random, so that a fleet does not take up a bad one in the same
    /// second. Zero by default.
    pub apply_jitter: Duration,
    /// After how long in one step the runner is called stuck.
    pub watchdog: Duration,
    /// Whether to ask for the whole document when every dyno of an app refuses connections and nothing new has come
    /// for `silent_after`.
    pub feedback_relist: bool,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            cache: None,
            router_id: format!("{:016x}", fastrand::u64(..)),
            shrink_share: 0.25,
            shrink_persists: None,
            relist_every: Duration::from_mins(10),
            silent_after: Duration::from_secs(30),
            apply_jitter: Duration::ZERO,
            watchdog: Duration::from_secs(30),
            feedback_relist: true,
        }
    }
}
