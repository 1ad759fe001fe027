//! The route document, from bytes to values that cannot be wrong. What is wrong with the document as a whole refuses
//! it; what is wrong with one app rejects that app alone, with every reason at once. Parsing never panics and takes
//! time linear in the document, whatever it holds.

mod certificate;
mod document;
mod raw;
pub(crate) mod reasons;
pub(crate) mod rejections;
mod tls;

use std::path::Path;
use std::str::Utf8Error;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::app::App;
use document::{Apps, Document};

pub use certificate::{CertificateEntry, CertificateSource, PrivateKeyText, is_no_path};
pub(crate) use raw::{Parsed as ParsedApp, app, app_text};

/// One accepted route document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every document of a feed.
    pub revision: u64,
    /// Whether the document may take away many domains at once.
    pub allow_shrink: bool,
    /// The good apps, in the order of the document, names unique.
    pub apps: Vec<Arc<App>>,
    /// The bad apps.
    pub rejected: Vec<Rejection>,
    /// The certificates as far as the document says which they are; whether they are any good, only reading them tells.
    pub certificates: Vec<CertificateEntry>,
    /// The entries of `certificates` that say nothing usable.
    pub rejected_certificates: Vec<Rejection>,
}

impl Snapshot {
    /// Makes every file name in the document start from a folder, unless it is absolute.
    pub fn start_from(&mut self, folder: &Path) {
        start_from(folder, &mut self.certificates, &mut self.apps);
    }
}

pub(crate) fn start_from(
    folder: &Path,
    certificates: &mut [CertificateEntry],
    apps: &mut [Arc<App>],
) {
    for entry in certificates {
        entry.source.start_from(folder);
    }
    // Copies no app that names no file.
    let names_a_file = |app: &&mut Arc<App>| app.settings.dyno_tls.is_some();
    for app in apps.iter_mut().filter(names_a_file) {
        Arc::make_mut(app).settings.start_from(folder);
    }
}

/// An app, one of its domains or a certificate that was not applied, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Rejection {
    /// The app's name, or its place (`apps[3]`) when it has no usable one; a certificate's place (`certificates[3]`).
    pub app: String,
    /// Every reason: field, value and what is allowed, separated by `; `.
    pub reason: String,
}

/// Why a whole document is refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Bytes that are no text, wherever they stand: others that read this must not come to another result.
    #[error("the route document is not UTF-8: {0}")]
    NotUtf8(#[from] Utf8Error),
    /// Not JSON at all, or nested too deeply.
    #[error("the route document is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// JSON, but an array or a plain value.
    #[error("the route document is not a JSON object")]
    NotAnObject,
    /// A format this router does not know, or none.
    #[error("format: {found}, but this router reads format 1")]
    Format {
        /// The value found, as a person would read it.
        found: String,
    },
    /// A key of the document itself that is missing or not what it has to be.
    #[error("{field}: {found}, {expected}")]
    Field {
        /// The key.
        field: &'static str,
        /// The value found, as a person would read it.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
}

/// The keys of a document or a change beside what it lists.
#[derive(Debug, Default)]
pub(crate) struct Head(Map<String, Value>);

impl Head {
    /// The fields that are there.
    pub(crate) fn of<const N: usize>(fields: [(&str, Option<Value>); N]) -> Self {
        let there = fields
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Self(there.collect())
    }

    /// Takes a field; one that means nothing is not read.
    pub(crate) fn add(&mut self, key: &str, text: &RawValue) -> Result<(), serde_json::Error> {
        if KNOWN.contains(&key) {
            let value = serde_json::from_str(text.get())?;
            self.0.insert(key.to_owned(), value);
        }
        Ok(())
    }

    /// A change needs no format of its own; one that has another is none for this router.
    pub(crate) fn check_format_if_there(&self) -> Result<(), SnapshotError> {
        match self.0.get("format") {
            None | Some(Value::Null) => Ok(()),
            Some(_) => self.check_format(),
        }
    }

    fn check_format(&self) -> Result<(), SnapshotError> {
        match self.0.get("format").and_then(Value::as_u64) {
            Some(FORMAT) => Ok(()),
            _ => Err(SnapshotError::Format {
                found: reasons::describe(self.0.get("format")),
            }),
        }
    }

    pub(crate) fn revision(&self, field: &'static str) -> Result<u64, SnapshotError> {
        let revision = self.0.get(field).and_then(Value::as_u64);
        revision.ok_or_else(|| self.wrong(field, "must be a whole number that is not negative"))
    }

    pub(crate) fn flag(&self, field: &'static str) -> Result<bool, SnapshotError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(field, "must be true or false")),
        }
    }

    pub(crate) fn wrong(&self, field: &'static str, expected: &'static str) -> SnapshotError {
        SnapshotError::Field {
            field,
            found: reasons::describe(self.0.get(field)),
            expected,
        }
    }

    /// The certificates, if there is a word about them. Taken out, so that keys are moved and not copied.
    pub(crate) fn certificates(&mut self) -> Result<Option<Certificates>, SnapshotError> {
        let value = self
            .0
            .remove("certificates")
            .filter(|value| !value.is_null());
        value.map(certificate::entries).transpose()
    }
}

/// The usable entries of `certificates` and the others.
pub(crate) type Certificates = (Vec<CertificateEntry>, Vec<Rejection>);

/// Reads a route document. Apps are made one by one as they are read, so that a large document is never in memory as a
/// tree of values.
pub fn parse(document: &[u8]) -> Result<Snapshot, SnapshotError> {
    std::str::from_utf8(document)?;
    let Document { mut head, apps } = document::read(document)?;
    head.check_format()?;
    let revision = head.revision("revision")?;
    let allow_shrink = head.flag("allow_shrink")?;
    let apps = match apps {
        Apps::Read(apps) => apps,
        Apps::Missing => return Err(head.wrong("apps", "must be an array of apps")),
        Apps::Wrong(found) => {
            return Err(SnapshotError::Field {
                field: "apps",
                found,
                expected: "must be an array of apps",
            });
        }
    };
    let (certificates, rejected_certificates) = head.certificates()?.unwrap_or_default();
    Ok(Snapshot {
        revision,
        allow_shrink,
        apps: apps.good,
        rejected: apps.rejected.into_list()?,
        certificates,
        rejected_certificates,
    })
}

const FORMAT: u64 = 1;
/// The keys of documents and changes beside what they list.
const KNOWN: [&str; 6] = [
    "format",
    "revision",
    "from",
    "to",
    "allow_shrink",
    "certificates",
];

#[cfg(test)]
mod tests;
