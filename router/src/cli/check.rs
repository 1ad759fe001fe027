//! `router check`: says everything that is wrong with a configuration and with the route document that it points to.

use std::path::Path;
use std::process::ExitCode;

use router_core::model::diff::{self, EmptyTable};
use router_core::model::snapshot;

use super::{ConfigFile, USAGE, complain, print};
use crate::config;

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let loaded = config::load(&self.config.config);
        let mut problems = loaded.problems();
        let mut summary = String::new();
        if let Some(path) = loaded.route_document() {
            match look_at(path) {
                Ok(good) => summary = good,
                Err(bad) => problems.extend(bad),
            }
        }
        if problems.is_empty() {
            print(&format!("{summary}\n"));
            return ExitCode::SUCCESS;
        }
        complain(problems);
        ExitCode::from(USAGE)
    }
}

/// A line about a good document, or all that is wrong with a bad one.
fn look_at(path: &Path) -> Result<String, Vec<String>> {
    let file = path.display();
    let document =
        std::fs::read(path).map_err(|error| vec![format!("{file}: cannot be read: {error}")])?;
    let snapshot = snapshot::parse(&document).map_err(|error| vec![format!("{file}: {error}")])?;
    // What a router that starts with this document would make of it.
    let plan = diff::plan(&EmptyTable, &snapshot);
    diff::guard(&plan, &snapshot).map_err(|refusal| vec![format!("{file}: {refusal}")])?;
    if !plan.rejected.is_empty() {
        return Err(plan
            .rejected
            .iter()
            .map(|rejection| format!("{file}: app {}: {}", rejection.app, rejection.reason))
            .collect());
    }
    let domains: usize = snapshot.apps.iter().map(|app| app.domains.len()).sum();
    Ok(format!(
        "ok: {} apps, {domains} domains, revision {}",
        snapshot.apps.len(),
        snapshot.revision
    ))
}
