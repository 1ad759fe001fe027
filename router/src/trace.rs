//! Diagnostics: `tracing` to standard error. What they say is for operators; requests are told in the access log. They are written by a thread of their own, and
//! lost when nobody reads them: a full pipe must not stop a worker, the feed or the exit.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Starts diagnostics. `--log-level` beats `RUST_LOG`, which beats `info`; all three may be a level or directives such as
/// `router_core::feed=debug`. The TLS library speaks only if it is named: it has a warning for whatever a client says wrong,
/// which any client could fill the disk with. What is said last is written when the guard is dropped.
pub(crate) fn start(level: Option<&str>) -> Result<WorkerGuard, String> {
    let (filter, broken_env) = match level {
        Some(level) => (
            filter(level).map_err(|error| format!("--log-level {level:?}: {error}"))?,
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
    let default = || EnvFilter::new(with_libraries(DEFAULT));
    let Some(directives) = std::env::var_os("RUST_LOG").filter(|text| !text.is_empty()) else {
        return (default(), None);
    };
    match filter(&directives.to_string_lossy()) {
        Ok(filter) => (filter, None),
        Err(error) => (default(), Some(error.to_string())),
    }
}

fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(with_libraries(directives))
}

/// What is given for a target beats what stands before it.
fn with_libraries(directives: &str) -> String {
    format!("{LIBRARIES},{directives}")
}

const DEFAULT: &str = "info";
const LIBRARIES: &str = "rustls=error";

/// Lines that wait for a slow reader before new ones are lost.
const MOST_LINES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tls_library_speaks_only_if_it_is_named() {
        for (given, rustls) in [
            ("info", "rustls=error"),
            ("debug", "rustls=error"),
            ("router_core=debug", "rustls=error"),
            ("info,rustls=debug", "rustls=debug"),
        ] {
            let filter = filter(given).unwrap().to_string();
            let said = filter.split(',').filter(|part| part.starts_with("rustls"));
            assert_eq!(said.collect::<Vec<_>>(), [rustls], "{given}: {filter}");
        }
    }
}
