//! The rules of a feed that have a number: how far it is believed, and when it is asked again.

use std::time::Duration;

use router_core::feed::FeedOptions;

use super::raw::Section;

/// What the `[feed]` table says of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FeedRules {
    /// The largest share of all domains that may go at once, in thousandths.
    pub(crate) shrink_thousandths: u16,
    /// After how long more is believed, if at all.
    pub(crate) shrink_persists: Option<Duration>,
    /// How often the whole document is asked for.
    pub(crate) relist_every: Duration,
    /// After how long without a word a source is called silent.
    pub(crate) silent_after: Duration,
    /// How long an update is held back at the most, if it is.
    pub(crate) apply_jitter: Option<Duration>,
    /// After how long in one step the feed is called stuck.
    pub(crate) watchdog: Duration,
    /// Whether unreachable dynos are a reason to ask for the whole document.
    pub(crate) feedback_relist: bool,
}

impl Default for FeedRules {
    fn default() -> Self {
        let options = FeedOptions::default();
        Self {
            shrink_thousandths: 250,
            shrink_persists: options.shrink_persists,
            relist_every: options.relist_every,
            silent_after: options.silent_after,
            apply_jitter: None,
            watchdog: options.watchdog,
            feedback_relist: options.feedback_relist,
        }
    }
}

impl FeedRules {
    /// The same for the feed.
    pub(crate) fn options(&self) -> FeedOptions {
        FeedOptions {
            shrink_share: f64::from(self.shrink_thousandths) / 1000.0,
            shrink_persists: self.shrink_persists,
            relist_every: self.relist_every,
            silent_after: self.silent_after,
            apply_jitter: self.apply_jitter.unwrap_or_default(),
            watchdog: self.watchdog,
            feedback_relist: self.feedback_relist,
            ..FeedOptions::default()
        }
    }
}

/// Reads them.
pub(super) fn rules(section: &mut Section<'_>) -> FeedRules {
    let mut rules = FeedRules::default();
    if let Some(share) = section.share("shrink_share") {
        rules.shrink_thousandths = share;
    }
    rules.shrink_persists = section.duration("shrink_persists");
    rules.apply_jitter = section.duration("apply_jitter");
    for (key, value) in [
        ("relist_every", &mut rules.relist_every),
        ("silent_after", &mut rules.silent_after),
        ("watchdog", &mut rules.watchdog),
    ] {
        if let Some(duration) = section.duration(key) {
            *value = duration;
        }
    }
    if let Some(feedback) = section.boolean("feedback_relist") {
        rules.feedback_relist = feedback;
    }
    rules
}
