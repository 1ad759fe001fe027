//! `router check`: says everything that is wrong with a configuration and with the route document that it points to.

use std::process::ExitCode;

use router_core::model::diff::{self, EmptyTable};
use router_core::model::snapshot;

use super::{ConfigFile, USAGE, complain, print, unknown_keys};
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
        let mut warnings = Vec::new();
        let mut summary = String::new();
        if let Some(path) = loaded.route_document() {
            let file = path.display();
            match std::fs::read(path) {
                Ok(document) => {
                    match look_at(&document) {
                        Ok(good) => summary = good,
                        Err(bad) => {
                            problems.extend(bad.iter().map(|bad| format!("{file}: {bad}")));
                        }
                    }
                    let unknown = unknown_keys::warnings(&document);
                    warnings.extend(unknown.iter().map(|warning| format!("{file}: {warning}")));
                }
                Err(error) => problems.push(format!("{file}: cannot be read: {error}")),
            }
        }
        let good = problems.is_empty();
        complain(problems);
        // They stand last also after problems, of which an unknown key is often the cause.
        complain(warnings);
        if !good {
            return ExitCode::from(USAGE);
        }
        print(&format!("{summary}\n"));
        ExitCode::SUCCESS
    }
}

/// A line about a good route document, or all that is wrong with a bad one.
fn look_at(document: &[u8]) -> Result<String, Vec<String>> {
    let snapshot = snapshot::parse(document).map_err(|error| vec![error.to_string()])?;
    // What a router that starts with this document would make of it.
    let plan = diff::plan(&EmptyTable, &snapshot);
    diff::guard(&plan, &snapshot).map_err(|refusal| vec![refusal.to_string()])?;
    if !plan.rejected.is_empty() {
        return Err(plan
            .rejected
            .iter()
            .map(|rejection| format!("app {}: {}", rejection.app, rejection.reason))
            .collect());
    }
    let domains: usize = snapshot.apps.iter().map(|app| app.domains.len()).sum();
    Ok(format!(
        "ok: {} apps, {domains} domains, revision {}",
        snapshot.apps.len(),
        snapshot.revision
    ))
}
