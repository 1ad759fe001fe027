//! The certificates of a document: which texts or files they are. Whether a text is a certificate, and a key fits it, is
//! for whoever can parse them. Private keys are moved, never copied, wiped when dropped and shown nowhere.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::reasons::{self, Reasons};
use super::rejections::{Named, Rejections};
use super::{Certificates, SnapshotError};

/// One entry of `certificates`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateEntry {
    /// Its place, to call it by: `certificates[3]`.
    pub place: String,
    /// Where its chain and key are.
    pub source: CertificateSource,
}

/// Where a certificate's chain and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// In the document, as PEM.
    Inline {
        /// The chain, the certificate itself first.
        chain: String,
        /// Its private key.
        key: PrivateKeyText,
    },
    /// In two PEM files.
    Files {
        /// The chain, the certificate itself first.
        chain: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

impl CertificateSource {
    /// Makes file names start from a folder, unless they are absolute.
    pub(super) fn start_from(&mut self, folder: &Path) {
        match self {
            Self::Inline { .. } => {}
            Self::Files { chain, key } => {
                *chain = folder.join(&*chain);
                *key = folder.join(&*key);
            }
        }
    }
}

/// The PEM text of a private key. It is wiped with its last clone, and prints as three dots.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKeyText(Arc<Zeroizing<String>>);

impl PrivateKeyText {
    /// Takes a text over.
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The text, for whoever parses it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

/// Reads `certificates`; one that is wrong is rejected alone.
pub(super) fn entries(value: Value) -> Result<Certificates, SnapshotError> {
    let values = match value {
        Value::Array(values) => values,
        // No telling which of the certificates in force were meant.
        other => {
            return Err(SnapshotError::Field {
                field: "certificates",
                found: kind(&other),
                expected: "must be an array of certificates",
            });
        }
    };
    let (mut entries, mut rejected) = (Vec::new(), Rejections::of("certificates"));
    for (index, value) in values.into_iter().enumerate() {
        let place = format!("certificates[{index}]");
        match source(value, &place) {
            Ok(source) => entries.push(CertificateEntry { place, source }),
            Err(reasons) => rejected.add(Named::No, place, &reasons.into_vec()),
        }
    }
    Ok((entries, rejected.into_list()?))
}

fn source(value: Value, place: &str) -> Result<CertificateSource, Reasons> {
    let mut reasons = Reasons::default();
    let Value::Object(mut object) = value else {
        reasons.add_described(place, &kind(&value), SHAPES);
        return Err(reasons);
    };
    let there = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
    let inline = there("chain") || there("key");
    let files = there("chain_file") || there("key_file");
    let (chain_name, key_name) = match (inline, files) {
        (true, false) => ("chain", "key"),
        (false, true) => ("chain_file", "key_file"),
        (true, true) | (false, false) => {
            reasons.add(place, Some(&Value::Object(object)), SHAPES);
            return Err(reasons);
        }
    };
    let expected = if inline {
        "must be a PEM text"
    } else {
        "must be the name of a file"
    };
    let key = text(&mut object, key_name).map(PrivateKeyText::new);
    let chain = text(&mut object, chain_name);
    if key.is_none() {
        let found = object
            .get(key_name)
            .map_or_else(|| "missing".to_owned(), kind);
        reasons.add_described(key_name, &found, format_args!("{expected} and not empty"));
    }
    if chain.is_none() {
        reasons.add(
            chain_name,
            object.get(chain_name),
            format_args!("{expected} and not empty"),
        );
    }
    let mut pasted = false;
    if files {
        let chain = chain.as_deref();
        let key = key.as_ref().map(PrivateKeyText::expose);
        for (name, path) in [(chain_name, chain), (key_name, key)] {
            if path.is_some_and(is_no_path) {
                pasted = true;
                let instead = name.trim_end_matches("_file");
                reasons.add_described(
                    name,
                    "a PEM text or several lines",
                    format_args!("{expected}; a PEM text belongs into {instead:?}"),
                );
            }
        }
    }
    if pasted {
        return Err(reasons);
    }
    match (chain, key) {
        (Some(chain), Some(key)) if inline => Ok(CertificateSource::Inline { chain, key }),
        (Some(chain), Some(key)) => Ok(CertificateSource::Files {
            chain: chain.into(),
            key: key.expose().into(),
        }),
        _ => Err(reasons),
    }
}

/// Whether a text that stands where a path belongs is a key or a certificate, pasted: paths are repeated in messages.
pub fn is_no_path(text: &str) -> bool {
    text.contains("-----BEGIN") || text.contains(char::is_control)
}

/// What kind of value stands where a key could be, without showing it.
fn kind(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "an empty text".to_owned(),
        Value::String(_) => "a text".to_owned(),
        other => reasons::describe(Some(other)),
    }
}

/// Takes a filled text out; anything else stays.
fn text(object: &mut Map<String, Value>, name: &str) -> Option<String> {
    let filled = object
        .get(name)?
        .as_str()
        .is_some_and(|text| !text.is_empty());
    match object.get_mut(name)? {
        Value::String(text) if filled => Some(std::mem::take(text)),
        _ => None,
    }
}

const SHAPES: &str =
    "must be {\"chain\", \"key\"} with PEM texts or {\"chain_file\", \"key_file\"}";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Rejection;
    use super::super::{Snapshot, parse};
    use super::*;

    fn read(certificates: &Value) -> Result<Snapshot, SnapshotError> {
        let document =
            json!({"format": 1, "revision": 1, "apps": [], "certificates": certificates});
        parse(document.to_string().as_bytes())
    }

    #[test]
    fn texts_and_files() {
        let mut snapshot = read(&json!([
            {"chain": "CHAIN", "key": "KEY", "chain_file": null, "a field of the future": 1},
            {"chain_file": "a.crt", "key_file": "/keys/a.key"},
        ]))
        .unwrap();
        snapshot.start_from(Path::new("/etc/routes"));
        assert_eq!(snapshot.rejected_certificates, []);
        let [inline, files] = &snapshot.certificates[..] else {
            panic!("{snapshot:?}");
        };
        assert_eq!(
            (&*inline.place, &*files.place),
            ("certificates[0]", "certificates[1]")
        );
        let CertificateSource::Inline { chain, key } = &inline.source else {
            panic!("{inline:?}");
        };
        assert_eq!((chain.as_str(), key.expose()), ("CHAIN", "KEY"));
        let wanted = CertificateSource::Files {
            chain: "/etc/routes/a.crt".into(),
            key: "/keys/a.key".into(),
        };
        assert_eq!(files.source, wanted);
        for none in [json!(null), json!([])] {
            assert_eq!(read(&none).unwrap().certificates, []);
        }
    }

    #[test]
    fn each_bad_entry_is_rejected_alone_and_keys_are_not_shown() {
        let secret = "KEY";
        let shapes = format!(", {SHAPES}");
        for (entry, expected) in [
            (json!("KEY"), format!("certificates[1]: a text{shapes}")),
            (json!({}), format!("certificates[1]: an object{shapes}")),
            (json!({"key": secret, "key_file": "a.key"}), format!("certificates[1]: an object{shapes}")),
            (json!({"key": secret}), "chain: missing, must be a PEM text and not empty".to_owned()),
            (json!({"key": secret, "chain": ""}), "chain: \"\", must be a PEM text and not empty".to_owned()),
            (json!({"key": [secret], "chain": "C"}), "key: an array, must be a PEM text and not empty".to_owned()),
            (
                json!({"chain_file": 7}),
                "key_file: missing, must be the name of a file and not empty; chain_file: 7, must be the name of a file and \
                 not empty".to_owned(),
            ),
            (
                json!({"chain_file": "a.crt", "key_file": "-----BEGIN PRIVATE KEY-----KEY"}),
                "key_file: a PEM text or several lines, must be the name of a file; a PEM text belongs into \"key\"".to_owned(),
            ),
            (
                json!({"chain_file": "KEY\nKEY", "key_file": "a.key"}),
                "chain_file: a PEM text or several lines, must be the name of a file; a PEM text belongs into \"chain\"".to_owned(),
            ),
        ] {
            let good = json!({"chain": "C", "key": "KEY"});
            let snapshot = read(&json!([good, entry, good])).unwrap();
            let places: Vec<_> = snapshot.certificates.iter().map(|entry| &*entry.place).collect();
            assert_eq!(places, ["certificates[0]", "certificates[2]"]);
            let rejection = Rejection {
                app: "certificates[1]".to_owned(),
                reason: expected,
            };
            assert_eq!(snapshot.rejected_certificates, [rejection]);
            assert!(!format!("{snapshot:?}").contains("KEY"), "{snapshot:?}");
        }
    }

    #[test]
    fn no_list_of_certificates_refuses_the_document() {
        let error = read(&json!({"chain": "C", "key": "KEY"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "certificates: an object, must be an array of certificates"
        );
        assert!(!read(&json!("KEY")).unwrap_err().to_string().contains("KEY"));
    }
}
