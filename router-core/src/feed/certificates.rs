//! The certificates of the route document on their way into the store. One that cannot be used is rejected alone, and as
//! long as there is such a one, no certificate of the previous document is taken away unless another with the same names
//! is there: nobody can tell which one the bad entry was meant to replace. Files that a document names are read again
//! when they change, so that a renewal needs no new document.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use router_model::snapshot::{CertificateEntry, CertificateSource, Rejection, Snapshot};
use zeroize::Zeroizing;

use crate::tls::{self, Certificate, CertificateStore, Identity, Origin};

/// How often the files that a document names are looked at.
pub(super) const LOOK_AT_FILES: Duration = Duration::from_secs(10);

/// Reads the certificates of a document without serving them: those that would be rejected.
pub fn check_certificates(snapshot: &Snapshot) -> Vec<Rejection> {
    let mut certificates = DocumentCertificates::new(Arc::default());
    let next = certificates.read(snapshot);
    certificates.settle(next);
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
    /// What the store shall hold.
    certificates: Vec<Arc<Certificate>>,
}

/// One entry of a document that says which certificate it is.
struct Entry {
    place: String,
    /// Where it is, if it is not in the document.
    files: Option<Files>,
    read: Result<Arc<Certificate>, String>,
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
    pub(super) fn read(&self, snapshot: &Snapshot) -> Next {
        let entries = snapshot.certificates.iter();
        let entries = entries
            .map(|entry| Entry::read(entry, &self.store))
            .collect();
        self.next(entries, snapshot.rejected_certificates.clone())
    }

    /// Puts in what is new and takes nothing away yet: routes that are still there may need it.
    pub(super) fn add(&self, next: &Next) {
        let mut all = next.certificates.clone();
        let wanted: HashSet<_> = all.iter().map(Arc::as_ptr).collect();
        let leaving = self.store.of(Origin::Document).into_iter();
        all.extend(leaving.filter(|held| !wanted.contains(&Arc::as_ptr(held))));
        self.replace(all);
    }

    /// Takes away what the document does not hold any more.
    pub(super) fn settle(&mut self, next: Next) {
        self.replace(next.certificates);
        self.entries = next.entries;
        self.unusable = next.unusable;
    }

    /// Whether the document names files.
    pub(super) fn have_files(&self) -> bool {
        self.entries.iter().any(|entry| entry.files.is_some())
    }

    /// Reads the files that have changed; says whether there were any.
    pub(super) fn look_at_files(&mut self) -> bool {
        let mut entries = std::mem::take(&mut self.entries);
        let mut changed = false;
        for entry in &mut entries {
            changed |= entry.look_at_files(&self.store);
        }
        let unusable = std::mem::take(&mut self.unusable);
        if changed {
            let next = self.next(entries, unusable);
            self.settle(next);
        } else {
            (self.entries, self.unusable) = (entries, unusable);
        }
        changed
    }

    /// The entries that are not used, and why.
    pub(super) fn rejected(&self) -> Vec<Rejection> {
        let unread = self.entries.iter().filter_map(|entry| {
            let reason = entry.read.as_ref().err()?.clone();
            let app = entry.place.clone();
            Some(Rejection { app, reason })
        });
        self.unusable.iter().cloned().chain(unread).collect()
    }

    fn next(&self, entries: Vec<Entry>, unusable: Vec<Rejection>) -> Next {
        let good = || entries.iter().filter_map(|entry| entry.read.as_ref().ok());
        let mut certificates: Vec<_> = good().cloned().collect();
        if !unusable.is_empty() || certificates.len() < entries.len() {
            let renewed: HashSet<Vec<&str>> = good().map(|good| good.names().collect()).collect();
            let held = self.store.of(Origin::Document);
            let staying = held
                .into_iter()
                .filter(|held| !renewed.contains(&held.names().collect::<Vec<_>>()));
            certificates.extend(staying);
        }
        Next {
            entries,
            unusable,
            certificates,
        }
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
                    read: read.map_err(|error| error.to_string()),
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
    fn read(&mut self, store: &CertificateStore) -> Result<Arc<Certificate>, String> {
        // Looked at before they are read: a change in between is seen as one next time.
        self.seen = self.look();
        let chain = read(&self.chain)?;
        let key = Zeroizing::new(read(&self.key)?);
        store.read_pem(&chain, &key).map_err(|error| {
            let (chain, key) = (self.chain.display(), self.key.display());
            format!("{chain} and {key}: {error}")
        })
    }

    /// What the files look like; `None` if one is not there, or may change unseen.
    fn look(&self) -> Option<[Identity; 2]> {
        Some([tls::look(&self.chain)?, tls::look(&self.key)?])
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}
