//! `router check`: says everything that is wrong with a configuration and with the route document that it points to.

use std::path::Path;
use std::process::ExitCode;

use router_core::model::snapshot;
use router_core::{Router, feed};

use super::{ConfigFile, USAGE, complain, print, unknown_keys};
use crate::certificates::{self, Defaults};
use crate::config::{self, Config};

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let loaded = config::load(&self.config.config);
        let mut problems = loaded.problems();
        if let Err(wrong) = Defaults::load(&loaded.config) {
            problems.extend(loaded.in_file(wrong));
        }
        problems.extend(certificates::check_folder(&loaded.config));
        let relay = loaded.config.relay.as_ref().and_then(config::check_relay);
        problems.extend(loaded.in_file(relay.into_iter().collect()));
        let mut warnings = Vec::new();
        let mut summary = "ok: the routes come from elsewhere, and were not looked at".to_owned();
        if let Some(path) = loaded.route_document() {
            let file = path.display();
            match std::fs::read(path) {
                Ok(document) => {
                    match look_at(&document, path) {
                        Ok(good) => {
                            problems
                                .extend(loaded.in_file(nothing_to_serve(&loaded.config, &good)));
                            summary = good.summary;
                        }
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

/// What there is to say of a good route document.
struct Good {
    summary: String,
    has_certificates: bool,
}

/// A word about a good route document, or all that is wrong with a bad one.
fn look_at(document: &[u8], path: &Path) -> Result<Good, Vec<String>> {
    let mut snapshot = snapshot::parse(document).map_err(|error| vec![error.to_string()])?;
    snapshot.start_from(path.parent().unwrap_or_else(|| Path::new("")));
    // What a router that starts with this document would make of it.
    let router = Router::builder()
        .workers(1)
        .build()
        .map_err(|error| vec![error.to_string()])?;
    let applied = router.table().apply(&snapshot);
    let applied = applied.map_err(|refusal| vec![refusal.to_string()])?;
    let apps = applied.rejected.iter();
    let apps = apps.map(|rejection| format!("app {}: {}", rejection.app, rejection.reason));
    let certificates = feed::check_certificates(&snapshot).into_iter();
    let certificates =
        certificates.map(|rejection| format!("{}: {}", rejection.app, rejection.reason));
    let rejected: Vec<_> = apps.chain(certificates).collect();
    if !rejected.is_empty() {
        return Err(rejected);
    }
    let domains: usize = snapshot.apps.iter().map(|app| app.domains.len()).sum();
    let apps = snapshot.apps.len();
    let mut summary = format!(
        "ok: {apps} apps, {domains} domains, revision {}",
        snapshot.revision
    );
    let certificates = snapshot.certificates.len();
    if certificates > 0 {
        summary.push_str(&format!(", {certificates} certificates"));
    }
    Ok(Good {
        summary,
        has_certificates: certificates > 0,
    })
}

/// An https listener needs a certificate from somewhere.
fn nothing_to_serve(config: &Config, good: &Good) -> Vec<String> {
    let elsewhere =
        good.has_certificates || config.tls.certificates.is_some() || config.acme.is_some();
    let https = config
        .listeners
        .iter()
        .filter_map(|listener| listener.https());
    let bare = https.filter(|https| https.default.is_none() && !elsewhere);
    bare.map(|_| {
        "listener: an https listener has nothing to serve: neither certificate and private_key, nor tls.certificates, \
         nor [acme], nor certificates in the route document"
            .to_owned()
    })
    .take(1)
    .collect()
}
