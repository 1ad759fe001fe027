//! Where routes come from. A [`Feed`] brings whole documents; the runner judges, guards and applies them, and nothing
//! that a feed does (errors, silence, rubbish) takes a route away.

mod cache;
mod certificates;
mod file;
mod runner;

use std::path::Path;

use bytes::Bytes;
use router_model::snapshot::Rejection;
use serde::Serialize;

pub use certificates::check_certificates;
pub use file::FileFeed;
pub use runner::{FeedHandle, FeedOptions, start};

/// A source of route documents.
pub trait Feed: Send + 'static {
    /// What it is called in `/v1/feed` and metrics: `file`.
    fn source(&self) -> &'static str;

    /// The folder that relative file names in its documents start from; the working directory if there is none.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// Waits for the next document. The first call gives what is there now. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Bytes, FeedError>> + Send;
}

/// Why a feed has no document to give. The runner keeps what it has and asks again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FeedError(pub String);

/// How the feed stands, as `/v1/feed` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FeedStatus {
    /// What feeds the router.
    pub source: String,
    /// The revision in force.
    pub revision: Option<u64>,
    /// Seconds since that revision was put in force.
    pub age_seconds: Option<f64>,
    /// The routes come from the cache, because the feed has given none yet.
    pub stale: bool,
    /// Why the last document was not put in force, or could not be had; none once one is good again.
    pub last_error: Option<String>,
    /// Apps of the document in force that were rejected, or lost a domain, and certificates that were rejected
    /// (`certificates[3]`).
    pub rejected: Vec<Rejection>,
    /// Documents put in force.
    pub accepted: u64,
    /// Documents refused, ignored as old, or not to be had.
    pub refused: u64,
}
