//! Whoever wants to know what is put in force, as it came: a relay, which passes it on.

use router_model::change::Change;
use router_model::snapshot::Snapshot;

/// Told of everything that is put in force, in order, from the feed and from the cache.
pub trait Tap: Send + 'static {
    /// This is in force now. Called where updates are applied, so that it holds up the next one.
    fn accepted(&mut self, update: Accepted<'_>);
}

/// What is in force now.
#[derive(Debug, Clone, Copy)]
pub enum Accepted<'a> {
    /// A whole document.
    Document {
        /// As it came.
        text: &'a [u8],
        /// What it says.
        parsed: &'a Snapshot,
        /// It may take away many domains: it says so itself, or has been let through although it does.
        shrinks: bool,
    },
    /// A change.
    Change {
        /// As it came.
        text: &'a [u8],
        /// What it says.
        parsed: &'a Change,
        /// It may take away many domains: it says so itself, or has been let through although it does.
        shrinks: bool,
    },
}
