//! Diagnostics: `tracing` to standard error. What they say is for operators; requests are told in the access log. They are written by a thread of their own, and
//! lost when nobody reads them: a full pipe must not stop a worker, the feed or the exit.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Starts diagnostics. `--log-level` beats `RUST_LOG`, which beats `info`; all three may be a level or directives such as
/// `router_core::feed=debug`. What is said last is written when the guard is dropped.
pub(crate) fn start(level: Option<&str>) -> Result<WorkerGuard, String> {
    let (filter, broken_env) = match level {
        Some(level) => (
            EnvFilter::try_new(level).map_err(|error| format!("--log-level {level:?}: {error}"))?,
            None,
        ),
        None => from_environment(),
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MOST_LINES)
        .finish(io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|error| error.to_string())?;
    if let Some(error) = broken_env {
        tracing::warn!(%error, "RUST_LOG is not understood; \"{DEFAULT}\" is used");
    }
    Ok(guard)
}

fn from_environment() -> (EnvFilter, Option<String>) {
    let Some(directives) = std::env::var_os("RUST_LOG").filter(|text| !text.is_empty()) else {
        return (EnvFilter::new(DEFAULT), None);
    };
    match EnvFilter::try_new(directives.to_string_lossy()) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT), Some(error.to_string())),
    }
}

const DEFAULT: &str = "info";

/// Lines that wait for a slow reader before new ones are lost.
const MOST_LINES: usize = 4096;
