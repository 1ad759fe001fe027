//! The certificates of the route document on their way into the store. One that cannot be used is rejected alone, and what
//! it was meant to replace stays: the certificate of the previous document that has one of its names, if no good one has
//! it. Where not even the names can be read, that is whatever some routed domain would be left without. All others go,
//! for a certificate may have been withdrawn for a reason. Files that a document names are read again when they change,
//! so that a renewal needs no new document.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use router_model::hostname::{self, Domain};
use router_model::snapshot::{CertificateEntry, CertificateSource, Rejection, Snapshot};

use crate::tls::{self, Certificate, CertificateStore, Identity, Origin, files};

/// How often the files that a document names are looked at.
pub(super) const LOOK_AT_FILES: Duration = Duration::from_secs(10);

/// Reads the certificates of a document without serving them: those that would be rejected.
pub fn check_certificates(snapshot: &Snapshot) -> Vec<Rejection> {
    let mut certificates = DocumentCertificates::new(Arc::default());
    let next = certificates.read(&snapshot.certificates, &snapshot.rejected_certificates);
    certificates.settle(next, Vec::new);
    certificates.rejected()
}

/// The certificates of the document in force.
pub(super) struct DocumentCertificates {
    store: Arc<CertificateStore>,
    entries: Vec<Entry>,
    /// Entries that said nothing usable.
    unusable: Vec<Rejection>,
}

/// The certificates of a document that may come into force.
pub(super) struct Next {
    entries: Vec<Entry>,
    unusable: Vec<Rejection>,
}

/// One entry of a document that says which certificate it is.
struct Entry {
    place: String,
    /// Where it is, if it is not in the document.
    files: Option<Files>,
    read: Result<Arc<Certificate>, Unread>,
}

/// Why an entry gives no certificate.
#[derive(PartialEq, Eq)]
struct Unread {
    reason: String,
    /// The names in its chain, if that much can be read.
    names: Option<Box<[Arc<str>]>>,
}

struct Files {
    chain: PathBuf,
    key: PathBuf,
    /// What they looked like when they were read.
    seen: Option<[Identity; 2]>,
}

impl DocumentCertificates {
    pub(super) fn new(store: Arc<CertificateStore>) -> Self {
        Self {
            store,
            entries: Vec::new(),
            unusable: Vec::new(),
        }
    }

    /// Reads what a document holds or names; changes nothing.
    pub(super) fn read(&self, entries: &[CertificateEntry], unusable: &[Rejection]) -> Next {
        let entries = entries.iter();
        Next {
            entries: entries
                .map(|entry| Entry::read(entry, &self.store))
                .collect(),
            unusable: unusable.to_vec(),
        }
    }

    /// Puts in what is new and takes nothing away yet: routes that are still there may need it.
    pub(super) fn add(&self, next: &Next) {
        let mut all = good(&next.entries);
        let wanted: HashSet<_> = all.iter().map(Arc::as_ptr).collect();
        let leaving = self.store.of(Origin::Document).into_iter();
        all.extend(leaving.filter(|held| !wanted.contains(&Arc::as_ptr(held))));
        self.replace(all);
    }

    /// Takes away what the document does not hold any more; `routed` are the domains that are routed now.
    pub(super) fn settle(&mut self, next: Next, routed: impl FnOnce() -> Vec<Domain>) {
        let mut certificates = good(&next.entries);
        let held = self.store.of(Origin::Document);
        certificates.extend(staying(held, &next, &certificates, routed));
        self.replace(certificates);
        self.entries = next.entries;
        self.unusable = next.unusable;
    }

    /// Whether the document names files.
    pub(super) fn have_files(&self) -> bool {
        self.entries.iter().any(|entry| entry.files.is_some())
    }

    /// Reads the files that have changed; says whether there were any.
    pub(super) fn look_at_files(&mut self, routed: impl FnOnce() -> Vec<Domain>) -> bool {
        let mut entries = std::mem::take(&mut self.entries);
        let mut changed = false;
        for entry in &mut entries {
            changed |= entry.look_at_files(&self.store);
        }
        let unusable = std::mem::take(&mut self.unusable);
        if changed {
            self.settle(Next { entries, unusable }, routed);
        } else {
            (self.entries, self.unusable) = (entries, unusable);
        }
        changed
    }

    /// The entries that are not used, and why.
    pub(super) fn rejected(&self) -> Vec<Rejection> {
        let unread = self.entries.iter().filter_map(|entry| {
            let reason = entry.read.as_ref().err()?.reason.clone();
            let app = entry.place.clone();
            Some(Rejection { app, reason })
        });
        self.unusable.iter().cloned().chain(unread).collect()
    }

    /// The same certificates again are no change; that they are the same ones is what the store makes of equal texts.
    fn replace(&self, certificates: Vec<Arc<Certificate>>) {
        let held = self.store.of(Origin::Document);
        let same = held.len() == certificates.len()
            && held
                .iter()
                .zip(&certificates)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.store.replace(Origin::Document, certificates);
        }
    }
}

impl Entry {
    fn read(entry: &CertificateEntry, store: &CertificateStore) -> Self {
        let place = entry.place.clone();
        match &entry.source {
            CertificateSource::Inline { chain, key } => {
                let read = store.read_pem(chain.as_bytes(), key.expose().as_bytes());
                Self {
                    place,
                    files: None,
                    read: read.map_err(|error| Unread::of(chain.as_bytes(), error.to_string())),
                }
            }
            CertificateSource::Files { chain, key } => {
                let mut files = Files {
                    chain: chain.clone(),
                    key: key.clone(),
                    seen: None,
                };
                Self {
                    place,
                    read: files.read(store),
                    files: Some(files),
                }
            }
        }
    }

    /// Reads the files again if they have changed; says whether anything came of it.
    fn look_at_files(&mut self, store: &CertificateStore) -> bool {
        let Some(files) = &mut self.files else {
            return false;
        };
        if files.seen.is_some() && files.seen == files.look() {
            return false;
        }
        let read = files.read(store);
        let same = match (&self.read, &read) {
            (Ok(before), Ok(now)) => Arc::ptr_eq(before, now),
            (Err(before), Err(now)) => before == now,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        self.read = read;
        !same
    }
}

impl Files {
    fn read(&mut self, store: &CertificateStore) -> Result<Arc<Certificate>, Unread> {
        // Looked at before they are read: a change in between is seen as one next time.
        self.seen = self.look();
        let failed =
            |path: &Path, error: io::Error| format!("{} cannot be read: {error}", path.display());
        let chain = files::read(&self.chain).map_err(|error| Unread {
            reason: failed(&self.chain, error),
            names: None,
        })?;
        let key = files::read_secret(&self.key)
            .map_err(|error| Unread::of(&chain, failed(&self.key, error)))?;
        store.read_pem(&chain, &key).map_err(|error| {
            let (chain_path, key_path) = (self.chain.display(), self.key.display());
            Unread::of(&chain, format!("{chain_path} and {key_path}: {error}"))
        })
    }

    /// What the files look like; `None` if one is not there, or may change unseen.
    fn look(&self) -> Option<[Identity; 2]> {
        Some([tls::look(&self.chain)?, tls::look(&self.key)?])
    }
}

impl Unread {
    fn of(chain: &[u8], reason: String) -> Self {
        Self {
            reason,
            names: Certificate::names_in(chain).filter(|names| !names.is_empty()),
        }
    }
}

fn good(entries: &[Entry]) -> Vec<Arc<Certificate>> {
    let good = entries.iter().filter_map(|entry| entry.read.as_ref().ok());
    good.cloned().collect()
}

/// Those of the certificates held so far that a bad entry may have been meant to replace.
fn staying(
    held: Vec<Arc<Certificate>>,
    next: &Next,
    good: &[Arc<Certificate>],
    routed: impl FnOnce() -> Vec<Domain>,
) -> Vec<Arc<Certificate>> {
    let bad = || {
        next.entries
            .iter()
            .filter_map(|entry| entry.read.as_ref().err())
    };
    let nameless = !next.unusable.is_empty() || bad().any(|unread| unread.names.is_none());
    if !nameless && bad().next().is_none() {
        return Vec::new();
    }
    let covered: HashSet<&str> = good.iter().flat_map(|good| good.names()).collect();
    let names = bad().filter_map(|unread| unread.names.as_deref()).flatten();
    let replaced: HashSet<&str> = names
        .map(|name| &**name)
        .filter(|name| !covered.contains(name))
        .collect();
    let routed = if nameless { routed() } else { Vec::new() };
    let needs = Needs::of(&routed, &covered);
    let stays = |held: &Arc<Certificate>| {
        let mut names = held.names();
        names.any(|name| replaced.contains(name) || needs.include(name))
    };
    held.into_iter().filter(stays).collect()
}

/// The routed domains that no good certificate stands for.
struct Needs<'a> {
    domains: HashSet<&'a str>,
    /// Under which wildcards there are some: `.a.test` for `*.a.test` and for `x.a.test`.
    wildcards: HashSet<&'a str>,
    covered: &'a HashSet<&'a str>,
}

impl<'a> Needs<'a> {
    fn of(routed: &'a [Domain], covered: &'a HashSet<&'a str>) -> Self {
        let open = routed.iter().map(Domain::as_str);
        let open: HashSet<_> = open.filter(|domain| !covers(covered, domain)).collect();
        Self {
            wildcards: open
                .iter()
                .copied()
                .filter_map(hostname::wildcard_key)
                .collect(),
            domains: open,
            covered,
        }
    }

    /// Whether a certificate is needed for this name of it.
    fn include(&self, name: &str) -> bool {
        match name.strip_prefix('*') {
            Some(key) => self.wildcards.contains(key),
            None => {
                let wildcard = hostname::wildcard_key(name).map(|key| format!("*{key}"));
                self.domains.contains(name)
                    || !self.covered.contains(name)
                        && wildcard.is_some_and(|wildcard| self.domains.contains(&*wildcard))
            }
        }
    }
}

/// Whether one of the names in certificates stands for this domain, which may be a wildcard itself.
fn covers(names: &HashSet<&str>, domain: &str) -> bool {
    names.contains(domain)
        || hostname::wildcard_key(domain).is_some_and(|key| names.contains(&*format!("*{key}")))
}
