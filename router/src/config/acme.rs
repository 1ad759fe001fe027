//! The `[acme]` table: certificates that the router orders by itself. Without the table it orders none.

use std::path::{Path, PathBuf};

use router_core::acme::{AcmeSettings, LETS_ENCRYPT};
use router_core::model::acme_schedule::provable;
use router_core::model::hostname::Domain;

use super::listener::Listener;
use super::problem::Problem;
use super::raw::Section;

/// Which certificates to order, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acme {
    /// The authority's directory.
    pub(crate) directory: String,
    /// Whom the authority may write to.
    pub(crate) email: Option<String>,
    /// Where account and certificates are kept.
    pub(crate) folder: PathBuf,
    /// These domains in any case.
    pub(crate) domains: Vec<Domain>,
    /// Every exact domain of the route table, as soon as it is there.
    pub(crate) on_demand: bool,
    /// Most orders an hour.
    pub(crate) per_hour: u32,
    /// Whom to believe that it is the authority, instead of those that browsers believe.
    pub(crate) root: Option<PathBuf>,
}

impl Default for Acme {
    fn default() -> Self {
        let default = AcmeSettings::new("acme");
        Self {
            directory: default.directory,
            email: default.email,
            folder: default.folder,
            domains: default.domains,
            on_demand: default.on_demand,
            per_hour: default.per_hour,
            root: default.root,
        }
    }
}

impl Acme {
    /// The same as the library wants it. The terms are accepted, else there would be no such table.
    pub(crate) fn settings(&self) -> AcmeSettings {
        AcmeSettings {
            directory: self.directory.clone(),
            email: self.email.clone(),
            domains: self.domains.clone(),
            on_demand: self.on_demand,
            accept_terms: true,
            per_hour: self.per_hour,
            root: self.root.clone(),
            ..AcmeSettings::new(&self.folder)
        }
    }
}

/// Reads the table; `None` without it. Relative paths start from `folder`.
pub(super) fn acme(root: &mut Section<'_>, listeners: &[Listener], folder: &Path) -> Option<Acme> {
    let wanted = root.has("acme");
    let mut section = root.section("acme");
    let mut acme = Acme::default();
    if let Some(directory) = section.string("directory") {
        acme.directory = directory.to_owned();
        if acme.settings().check_directory().is_err() {
            let wrong = format!("{directory:?} is not the URL of a directory");
            section.note(Problem::new(
                section.at("directory"),
                wrong,
                format!("a URL that begins with https://, such as {LETS_ENCRYPT:?}"),
            ));
        }
    }
    if let Some(email) = section.string("email") {
        acme.email = Some(email.to_owned());
        if acme.settings().check_email().is_err() {
            let wrong = format!("{email:?} is not an email address");
            section.note(Problem::new(
                section.at("email"),
                wrong,
                "an address such as \"admin@example.com\"",
            ));
        }
    }
    if let Some(path) = section.path("folder", "the path of a folder that the router writes") {
        acme.folder = path.into();
    }
    acme.folder = folder.join(acme.folder);
    acme.domains = domains(&mut section);
    acme.on_demand = section.boolean("on_demand").unwrap_or(acme.on_demand);
    let accepted = section.boolean("accept_terms");
    if let Some(per_hour) = section.integer("per_hour", 1..=10_000) {
        acme.per_hour = u32::try_from(per_hour).unwrap_or(u32::MAX);
    }
    acme.root = section
        .path("root", "the path of a PEM file")
        .map(|path| folder.join(path));
    if wanted {
        whole(&section, &acme, accepted, listeners);
    }
    section.finish();
    wanted.then_some(acme)
}

/// What is wrong with the table as a whole.
fn whole(section: &Section<'_>, acme: &Acme, accepted: Option<bool>, listeners: &[Listener]) {
    if accepted != Some(true) {
        let wrong =
            "the authority gives no account to those who do not agree to its terms of service";
        section.note(Problem::new(
            section.at("accept_terms"),
            wrong,
            "true, once you have read them",
        ));
    }
    if !acme.on_demand && !section.has("domains") {
        let wrong = "there is nothing to order: neither domains nor on_demand = true";
        section.note(Problem::plain("acme", wrong));
    }
    // RFC 8555 §8.3: the authority asks port 80, without TLS.
    if !listeners.is_empty() && listeners.iter().all(|listener| listener.https().is_some()) {
        let wrong = "the authority calls port 80 of each domain, so there must be a listener with protocol = \"http\"";
        section.note(Problem::plain("acme", wrong));
    }
}

fn domains(section: &mut Section<'_>) -> Vec<Domain> {
    let key = "domains";
    let mut domains = Vec::new();
    for (index, entry) in section.list(key).into_iter().flatten().enumerate() {
        let wrong = match entry.as_str().map(Domain::parse) {
            Some(Ok(domain)) => match provable(&domain) {
                Ok(()) => {
                    domains.push(domain);
                    continue;
                }
                Err(reason) => format!("{entry} {reason}"),
            },
            Some(Err(error)) => format!("{entry}: {error}"),
            None => format!("{entry} is not a hostname"),
        };
        let key = format!("{}[{index}]", section.at(key));
        section.note(Problem::new(
            key,
            wrong,
            "hostnames such as \"www.example.com\"",
        ));
    }
    domains
}
