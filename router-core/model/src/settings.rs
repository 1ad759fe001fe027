//! The settings of one app: what a control plane may choose per app, with the defaults of the route document. A setting
//! that is `None` means "as the router's own configuration says"; the enumerations know their spelling in the document.

mod dyno_tls;
mod hsts;

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::tls_version::TlsVersion;

pub use dyno_tls::{DynoProtocol, DynoTls, Identity, UnknownDynoProtocol, Verify};
pub use hsts::{Hsts, HstsError};

/// What one app may choose for itself. Every field is legal in every combination, but for `dyno_protocol`: `h2` is with
/// `dyno_tls`, `h2c` is without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Page shown (in a frame) instead of the router's own error page.
    pub error_page_url: Option<String>,
    /// Page shown (in a frame) while the app is in maintenance.
    pub maintenance_page_url: Option<String>,
    /// How a dyno is chosen among those that may take the request.
    pub balancer: Balancer,
    /// What `Balancer::ConsistentHash` hashes.
    pub hash_key: HashKey,
    /// Whether a client is kept on one dyno by a cookie.
    pub session_affinity: bool,
    /// Whether connections to the app's dynos are kept open between requests.
    pub dyno_keepalive: bool,
    /// Whether `Expect: 100-continue` is passed to the dyno instead of being answered here.
    pub end_to_end_continue: bool,
    /// Whether clients may use HTTP/2 with this app.
    pub http2: bool,
    /// Whether clients who come without TLS are sent to the same address with `https://` (308).
    pub redirect_to_https: bool,
    /// `Strict-Transport-Security` of the responses that go out over TLS.
    pub hsts: Option<Hsts>,
    /// The oldest version of TLS that clients may use with the app, chosen by SNI; the listener's if `None`. It only
    /// ever raises the listener's.
    pub min_tls_version: Option<TlsVersion>,
    /// What is spoken to the app's dynos.
    pub dyno_protocol: DynoProtocol,
    /// TLS to the app's dynos; plain TCP if `None`.
    pub dyno_tls: Option<DynoTls>,
    /// Time for the first byte of a response (H12); the router's default if `None`.
    #[serde(serialize_with = "duration_text")]
    pub first_byte_timeout: Option<Duration>,
    /// Rolling idle time of a body or tunnel (H15, H28); the router's default if `None`.
    #[serde(serialize_with = "duration_text")]
    pub idle_timeout: Option<Duration>,
    /// How long the app is served by old routes while their source is silent or cannot be asked: then H99 until it
    /// speaks again. For ever if `None`.
    #[serde(serialize_with = "duration_text")]
    pub expire_after: Option<Duration>,
    /// Requests in flight per web dyno before H11; the router's default if `None`, never zero.
    pub concurrent_requests_per_dyno: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            error_page_url: None,
            maintenance_page_url: None,
            balancer: Balancer::default(),
            hash_key: HashKey::default(),
            session_affinity: false,
            dyno_keepalive: true,
            end_to_end_continue: false,
            http2: true,
            redirect_to_https: false,
            hsts: None,
            min_tls_version: None,
            dyno_protocol: DynoProtocol::default(),
            dyno_tls: None,
            first_byte_timeout: None,
            idle_timeout: None,
            expire_after: None,
            concurrent_requests_per_dyno: None,
        }
    }
}

impl Settings {
    /// Makes the file names in the settings start from a folder, unless they are absolute.
    pub(crate) fn start_from(&mut self, folder: &Path) {
        if let Some(tls) = &mut self.dyno_tls {
            tls.verify.start_from(folder);
        }
    }
}

/// The order in which an app's dynos are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balancer {
    /// The less busy of two dynos chosen at random.
    #[default]
    LeastRequests,
    /// Any dyno, as Heroku does.
    Random,
    /// One after the other.
    RoundRobin,
    /// The same dyno for the same `HashKey`, as long as it is there.
    ConsistentHash,
}

impl Balancer {
    /// Every balancer, in the order in which they are documented.
    pub const ALL: [Self; 4] = [
        Self::LeastRequests,
        Self::Random,
        Self::RoundRobin,
        Self::ConsistentHash,
    ];

    /// The spelling in the route document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeastRequests => "least_requests",
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::ConsistentHash => "consistent_hash",
        }
    }
}

impl FromStr for Balancer {
    type Err = UnknownBalancer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|balancer| balancer.as_str() == text)
            .ok_or(UnknownBalancer)
    }
}

/// The text names no balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of least_requests, random, round_robin, consistent_hash")]
pub struct UnknownBalancer;

/// What a consistent-hash balancer hashes. A request without the header or cookie falls back to the client's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The IP address of the client.
    #[default]
    ClientAddress,
    /// The value of this request header; the name is lower-case.
    Header(String),
    /// The value of this cookie; the name is case-sensitive.
    Cookie(String),
}

fn duration_text<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.collect_str(&humantime::format_duration(*duration)),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_balancer_reads_back_and_prints_as_it_is_spelt() {
        for balancer in Balancer::ALL {
            assert_eq!(balancer.as_str().parse(), Ok(balancer));
            assert_eq!(serde_json::to_value(balancer).unwrap(), balancer.as_str());
        }
        for wrong in ["", "Random", "least-requests", "p2c"] {
            assert_eq!(wrong.parse::<Balancer>(), Err(UnknownBalancer), "{wrong}");
        }
    }

    #[test]
    fn the_refusal_of_a_balancer_lists_every_one() {
        let text = UnknownBalancer.to_string();
        for balancer in Balancer::ALL {
            assert!(text.contains(balancer.as_str()), "{text}");
        }
    }

    #[test]
    fn settings_print_durations_as_text_and_keys_as_in_the_document() {
        let settings = Settings {
            hash_key: HashKey::Header("x-tenant".to_owned()),
            first_byte_timeout: Some(Duration::from_secs(30)),
            ..Settings::default()
        };
        let value = serde_json::to_value(&settings).unwrap();
        assert_eq!(value["first_byte_timeout"], "30s");
        assert_eq!(value["idle_timeout"], serde_json::Value::Null);
        assert_eq!(value["hash_key"], serde_json::json!({"header": "x-tenant"}));
        assert_eq!(value["balancer"], "least_requests");
        assert_eq!(
            serde_json::to_value(HashKey::ClientAddress).unwrap(),
            "client_address"
        );
    }

    #[test]
    fn defaults_are_those_of_the_route_document() {
        let settings = Settings::default();
        assert!(settings.dyno_keepalive && settings.http2);
        assert!(!settings.session_affinity && !settings.end_to_end_continue);
        assert!(!settings.redirect_to_https && settings.hsts.is_none());
        assert!(settings.dyno_tls.is_none() && !settings.dyno_protocol.is_http2());
        assert_eq!(settings.hash_key, HashKey::ClientAddress);
    }
}
