//! What is spoken to an app's dynos, and how it is known that it is them. Nothing here reads a file: what a document names
//! is loaded by whoever connects.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::hostname::Domain;

/// What is spoken to dynos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DynoProtocol {
    /// HTTP/1.1, over TLS if the app has `dyno_tls`.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113 §3.3).
    H2c,
    /// HTTP/2 over TLS, agreed by ALPN.
    H2,
}

impl DynoProtocol {
    /// Every protocol, in the order in which they are documented.
    pub const ALL: [Self; 3] = [Self::Http1, Self::H2c, Self::H2];

    /// The spelling in the route document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2c => "h2c",
            Self::H2 => "h2",
        }
    }

    /// Whether it is a form of HTTP/2.
    pub fn is_http2(self) -> bool {
        match self {
            Self::H2c | Self::H2 => true,
            Self::Http1 => false,
        }
    }
}

impl FromStr for DynoProtocol {
    type Err = UnknownDynoProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.as_str() == text)
            .ok_or(UnknownDynoProtocol)
    }
}

/// The text names no protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of http1, h2c, h2")]
pub struct UnknownDynoProtocol;

/// TLS to an app's dynos: whose word is taken that they are who they say, and who they have to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct DynoTls {
    /// Who must have signed a dyno's certificate.
    pub verify: Verify,
    /// The name that a dyno's certificate must carry; `Identity::AnyName` whenever `verify` is `Verify::Anybody`.
    pub identity: Identity,
}

/// Who must have signed a dyno's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verify {
    /// A certificate authority in this PEM file. Relative names have the route document's folder put before them when
    /// the document is taken over.
    File(PathBuf),
    /// A certificate authority in this PEM text.
    Pem(Arc<str>),
    /// Any authority that browsers trust.
    System,
    /// Anybody: encrypted, and no more than that.
    Anybody,
}

impl Verify {
    /// Reads `"system"`, `"none"`, a PEM text or the name of a PEM file; `None` for an empty text, or one that can be
    /// neither.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" => None,
            "system" => Some(Self::System),
            "none" => Some(Self::Anybody),
            pem if pem.contains(PEM) => Some(Self::Pem(pem.into())),
            name if name.contains(char::is_control) => None,
            name => Some(Self::File(name.into())),
        }
    }

    /// Starts a relative file name from a folder.
    pub(crate) fn start_from(&mut self, folder: &Path) {
        if let Self::File(path) = self {
            *path = folder.join(&*path);
        }
    }
}

/// As in the document, but a PEM text is only mentioned.
impl Serialize for Verify {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => serializer.collect_str(&path.display()),
            Self::Pem(_) => serializer.serialize_str("PEM in the document"),
            Self::System => serializer.serialize_str("system"),
            Self::Anybody => serializer.serialize_str("none"),
        }
    }
}

/// The name that a dyno's certificate must carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Identity {
    /// The dyno's own name, such as `web.1`, so that an address which passed to another dyno is noticed.
    #[default]
    DynoName,
    /// This name, the same for all dynos; lower-case ASCII.
    Name(Arc<str>),
    /// Any name.
    AnyName,
}

impl Identity {
    /// Reads `"dyno-name"`, `"none"` or a DNS name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "dyno-name" => Some(Self::DynoName),
            "none" => Some(Self::AnyName),
            name => Domain::parse(name)
                .ok()
                .filter(|name| !name.is_wildcard())
                .map(|name| Self::Name(name.as_str().into())),
        }
    }

    /// The spelling in the route document.
    pub fn as_str(&self) -> &str {
        match self {
            Self::DynoName => "dyno-name",
            Self::Name(name) => name,
            Self::AnyName => "none",
        }
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// No file name has it, every PEM text does.
const PEM: &str = "-----BEGIN ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_reads_back_and_the_refusal_lists_them_all() {
        for protocol in DynoProtocol::ALL {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
            assert_eq!(serde_json::to_value(protocol).unwrap(), protocol.as_str());
            assert!(UnknownDynoProtocol.to_string().contains(protocol.as_str()));
        }
        assert_eq!("HTTP1".parse::<DynoProtocol>(), Err(UnknownDynoProtocol));
    }

    #[test]
    fn authorities() {
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        for (text, expected) in [
            ("system", Some((Verify::System, "system"))),
            ("none", Some((Verify::Anybody, "none"))),
            ("ca.pem", Some((Verify::File("ca.pem".into()), "ca.pem"))),
            ("None", Some((Verify::File("None".into()), "None"))),
            (pem, Some((Verify::Pem(pem.into()), "PEM in the document"))),
            ("", None),
            ("ca\n.pem", None),
        ] {
            let parsed = Verify::parse(text);
            assert_eq!(
                parsed,
                expected.as_ref().map(|(verify, _)| verify.clone()),
                "{text:?}"
            );
            if let Some((verify, shown)) = expected {
                assert_eq!(serde_json::to_value(verify).unwrap(), shown);
            }
        }
    }

    #[test]
    fn file_names_start_from_the_folder_unless_they_are_absolute() {
        for (name, expected) in [("ca.pem", "/etc/routes/ca.pem"), ("/ca.pem", "/ca.pem")] {
            let mut verify = Verify::parse(name).unwrap();
            verify.start_from(Path::new("/etc/routes"));
            assert_eq!(verify, Verify::File(expected.into()));
        }
    }

    #[test]
    fn identities() {
        for (text, expected) in [
            ("dyno-name", Some("dyno-name")),
            ("none", Some("none")),
            ("Dynos.Internal.", Some("dynos.internal")),
            ("*.internal", None),
            ("10.0.0.1", None),
            ("a b", None),
            ("", None),
        ] {
            let parsed = Identity::parse(text);
            assert_eq!(parsed.as_ref().map(Identity::as_str), expected, "{text:?}");
        }
        assert_eq!(Identity::parse("dyno-name"), Some(Identity::default()));
    }
}
