//! Diagnostics: `tracing` to standard error. What they say is for operators; requests are told in the access log.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts diagnostics. `--log-level` beats `RUST_LOG`, which beats `info`; all three may be a level or directives such as
/// `router_core::feed=debug`.
pub(crate) fn start(level: Option<&str>) -> Result<(), String> {
    let (filter, broken_env) = match level {
        Some(level) => (
            EnvFilter::try_new(level).map_err(|error| format!("--log-level {level:?}: {error}"))?,
            None,
        ),
        None => from_environment(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|error| error.to_string())?;
    if let Some(error) = broken_env {
        tracing::warn!(%error, "RUST_LOG is not understood; \"{DEFAULT}\" is used");
    }
    Ok(())
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
