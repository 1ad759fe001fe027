//! What the etcd feed is told about its store, and what of it cannot be.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

/// Where the routes are in etcd, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdFeedSettings {
    /// Client URLs of the cluster's members, http or https. Routers begin with one each by chance.
    pub endpoints: Vec<String>,
    /// What the keys begin with.
    pub prefix: String,
    /// Who the router is, if etcd asks for a password.
    pub user: Option<EtcdUser>,
    /// PEM file of the authority that vouches for the members; without it, those that browsers believe.
    pub ca: Option<PathBuf>,
    /// PEM files of a certificate chain and its key, for members that ask who the router is.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How often the quorum is asked for a sign of life.
    pub heartbeat: Duration,
    /// After how long without a word a watch is replaced by another.
    pub silence: Duration,
    /// How long a request may take to be answered.
    pub answer: Duration,
}

/// A user of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// The user's name.
    pub name: String,
    /// A file with the password, read whenever a token is asked for.
    pub password_file: PathBuf,
}

impl EtcdFeedSettings {
    /// The store with these members, with defaults for all else.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: "/router/v1".to_owned(),
            user: None,
            ca: None,
            client_certificate: None,
            // Heard of within ten seconds, the answer included, unless something is wrong.
            heartbeat: Duration::from_secs(8),
            silence: Duration::from_secs(30),
            answer: Duration::from_secs(5),
        }
    }

    /// The endpoints without a slash at their end.
    pub(super) fn checked_endpoints(&self) -> Result<Vec<String>, EtcdFeedSettingsError> {
        if self.endpoints.is_empty() {
            return Err(EtcdFeedSettingsError::NoEndpoint);
        }
        // Without one, other people's keys would be listed and watched.
        if self.prefix.trim_end_matches('/').is_empty() {
            return Err(EtcdFeedSettingsError::Prefix);
        }
        let endpoints = self.endpoints.iter();
        endpoints.map(|endpoint| checked(endpoint)).collect()
    }
}

fn checked(endpoint: &str) -> Result<String, EtcdFeedSettingsError> {
    let wrong = || EtcdFeedSettingsError::Endpoint(endpoint.to_owned());
    let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    if authority.as_str().contains('@') {
        return Err(EtcdFeedSettingsError::Secret);
    }
    let plain = uri.path() == "/" && uri.query().is_none() && !endpoint.contains('#');
    match uri.scheme_str() {
        Some("http" | "https") if plain && !authority.host().is_empty() => {
            Ok(endpoint.trim_end_matches('/').to_owned())
        }
        _ => Err(wrong()),
    }
}

/// What is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdFeedSettingsError {
    /// An empty list.
    #[error("there is no endpoint; expected client URLs such as http://127.0.0.1:2379")]
    NoEndpoint,
    /// No URL, or one of something else.
    #[error("{0:?} is no endpoint; expected a client URL such as http://127.0.0.1:2379")]
    Endpoint(String),
    /// Secrets in a URL end up in logs.
    #[error("an endpoint has a user name or a password in it; they have settings of their own")]
    Secret,
    /// Nothing, or only slashes.
    #[error("the prefix is empty; expected the beginning of the keys, such as /router/v1")]
    Prefix,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_and_prefixes() {
        let endpoint = |text: &str| Err(EtcdFeedSettingsError::Endpoint(text.to_owned()));
        for (text, expected) in [
            ("http://127.0.0.1:2379", Ok("http://127.0.0.1:2379")),
            ("https://etcd.test:2379/", Ok("https://etcd.test:2379")),
            ("http://[::1]:2379", Ok("http://[::1]:2379")),
            ("127.0.0.1:2379", endpoint("127.0.0.1:2379")),
            ("etcd.test", endpoint("etcd.test")),
            ("ftp://etcd.test", endpoint("ftp://etcd.test")),
            ("http://etcd.test/v3", endpoint("http://etcd.test/v3")),
            ("http://etcd.test/?a", endpoint("http://etcd.test/?a")),
            ("http://etcd.test/#a", endpoint("http://etcd.test/#a")),
            ("", endpoint("")),
            (
                "http://me:secret@etcd.test",
                Err(EtcdFeedSettingsError::Secret),
            ),
        ] {
            let settings = EtcdFeedSettings::new(vec![text.to_owned()]);
            let expected = expected.map(|endpoint| vec![endpoint.to_owned()]);
            assert_eq!(settings.checked_endpoints(), expected, "{text}");
        }
        let none = EtcdFeedSettings::new(Vec::new());
        assert_eq!(
            none.checked_endpoints(),
            Err(EtcdFeedSettingsError::NoEndpoint)
        );
        let bare = EtcdFeedSettings {
            prefix: "/".to_owned(),
            ..EtcdFeedSettings::new(vec!["http://a".to_owned()])
        };
        assert_eq!(bare.checked_endpoints(), Err(EtcdFeedSettingsError::Prefix));
    }
}
