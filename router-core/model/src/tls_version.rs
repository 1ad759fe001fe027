//! The TLS versions that the router speaks, as configuration, route document, views and log lines write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of TLS; a newer one is greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}

impl TlsVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 2] = [Self::V1_2, Self::V1_3];

    /// The spelling in configuration and route document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }

    /// The spelling in log lines.
    pub fn log_text(self) -> &'static str {
        match self {
            Self::V1_2 => "tls1.2",
            Self::V1_3 => "tls1.3",
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TlsVersion {
    type Err = UnknownTlsVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or(UnknownTlsVersion)
    }
}

/// The text names no TLS version that the router speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be \"1.2\" or \"1.3\"")]
pub struct UnknownTlsVersion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_back_as_it_is_spelt() {
        for version in TlsVersion::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
            assert_eq!(serde_json::to_value(version).unwrap(), version.as_str());
            let read: TlsVersion = serde_json::from_value(version.as_str().into()).unwrap();
            assert_eq!(read, version);
            assert!(UnknownTlsVersion.to_string().contains(version.as_str()));
        }
        for wrong in ["", "1.1", "TLSv1.3", "tls1.2", "1"] {
            assert_eq!(
                wrong.parse::<TlsVersion>(),
                Err(UnknownTlsVersion),
                "{wrong}"
            );
        }
        assert!(TlsVersion::V1_2 < TlsVersion::V1_3);
    }
}
