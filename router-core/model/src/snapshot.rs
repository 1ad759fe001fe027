//! The route document, from bytes to values that cannot be wrong. What is wrong with the document as a whole refuses
//! it; what is wrong with one app rejects that app alone, with every reason at once. Parsing never panics and takes
//! time linear in the document, whatever it holds.

mod certificate;
mod raw;
mod reasons;
mod tls;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::app::App;

pub use certificate::{CertificateEntry, CertificateSource, PrivateKeyText, is_no_path};

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
        for entry in &mut self.certificates {
            entry.source.start_from(folder);
        }
        // Copies no app that names no file.
        let names_a_file = |app: &&mut Arc<App>| app.settings.dyno_tls.is_some();
        for app in self.apps.iter_mut().filter(names_a_file) {
            Arc::make_mut(app).settings.start_from(folder);
        }
    }
}

/// An app, one of its domains or a certificate that was not applied, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// The app's name, or its place (`apps[3]`) when it has no usable one; a certificate's place (`certificates[3]`).
    pub app: String,
    /// Every reason: field, value and what is allowed, separated by `; `.
    pub reason: String,
}

/// Why a whole document is refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
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

impl SnapshotError {
    fn of_field(field: &'static str, value: Option<&Value>, expected: &'static str) -> Self {
        Self::Field {
            field,
            found: reasons::describe(value),
            expected,
        }
    }
}

/// Reads a route document.
pub fn parse(document: &[u8]) -> Result<Snapshot, SnapshotError> {
    let Value::Object(mut document) = serde_json::from_slice(document)? else {
        return Err(SnapshotError::NotAnObject);
    };
    // Taken out, so that the keys in it are moved and not copied.
    let certificates = document.remove("certificates");
    let field = |field: &'static str, expected: &'static str| {
        SnapshotError::of_field(field, document.get(field), expected)
    };
    if document.get("format").and_then(Value::as_u64) != Some(FORMAT) {
        let found = reasons::describe(document.get("format"));
        return Err(SnapshotError::Format { found });
    }
    let revision = document
        .get("revision")
        .and_then(Value::as_u64)
        .ok_or_else(|| field("revision", "must be a whole number that is not negative"))?;
    let allow_shrink = match document.get("allow_shrink") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(allowed)) => *allowed,
        Some(_) => return Err(field("allow_shrink", "must be true or false")),
    };
    let Some(Value::Array(values)) = document.get("apps") else {
        return Err(field("apps", "must be an array of apps"));
    };
    let (certificates, rejected_certificates) = certificate::entries(certificates)?;

    let mut snapshot = Snapshot {
        revision,
        allow_shrink,
        apps: Vec::with_capacity(values.len()),
        rejected: Vec::new(),
        certificates,
        rejected_certificates,
    };
    let mut names: HashSet<Arc<str>> = HashSet::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let parsed = raw::app(value, index);
        // The name of a rejected app counts too: two apps of one name leave it open which one was meant.
        let repeated = parsed
            .name
            .as_ref()
            .is_some_and(|name| !names.insert(Arc::clone(name)));
        match parsed.app {
            Ok(app) if !repeated => snapshot.apps.push(Arc::new(app)),
            outcome => {
                let mut reasons = outcome.err().unwrap_or_default();
                if repeated {
                    reasons.insert(
                        0,
                        format!(
                            "name: {} was used by an earlier app of this document",
                            parsed.label
                        ),
                    );
                }
                snapshot.rejected.push(Rejection {
                    app: parsed.label,
                    reason: reasons.join("; "),
                });
            }
        }
    }
    Ok(snapshot)
}

const FORMAT: u64 = 1;

#[cfg(test)]
mod tests;
