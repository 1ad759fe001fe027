//! What the HTTP feed is told about its source, and what of it cannot be.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

/// Where an HTTP feed's documents are, and how they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpFeedSettings {
    /// The route document, an http or https URL.
    pub url: String,
    /// A file with a bearer token, read again for each request.
    pub token_file: Option<PathBuf>,
    /// PEM file of the authority that vouches for the server; without it, those that browsers believe.
    pub ca: Option<PathBuf>,
    /// PEM files of a certificate chain and its key, for servers that ask who the router is.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How long a server that cannot stream may hold a request until there is something new.
    pub wait: Duration,
    /// How often a server is asked that can do neither.
    pub poll: Duration,
    /// Most bytes of a document, or of one change.
    pub longest_document: usize,
    /// For one document, from its first byte to its last.
    pub document_time: Duration,
}

impl HttpFeedSettings {
    /// The documents of this URL, with defaults for all else.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token_file: None,
            ca: None,
            client_certificate: None,
            wait: Duration::from_secs(30),
            poll: Duration::from_secs(5),
            longest_document: 128 << 20,
            document_time: Duration::from_mins(5),
        }
    }
}

/// What is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpFeedSettingsError {
    /// No URL, or one of something else.
    #[error(
        "{0:?} is no http or https URL of a route document, such as https://control.example/v1/routes"
    )]
    Url(String),
    /// Secrets in a URL end up in logs.
    #[error("the URL has a user name or a password in it; put a token into a file and name that")]
    Secret,
}

/// The URL of a route document, and those that belong to it.
#[derive(Debug, Clone)]
pub(super) struct FeedUrl(Uri);

impl FeedUrl {
    pub(super) fn parse(text: &str) -> Result<Self, HttpFeedSettingsError> {
        let wrong = || HttpFeedSettingsError::Url(text.to_owned());
        // http's own parser drops what follows a #.
        let uri = Some(text).filter(|text| !text.contains('#'));
        let uri: Uri = uri.and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
        let known = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&uri.scheme());
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(HttpFeedSettingsError::Secret);
        }
        if !known || authority.host().is_empty() {
            return Err(wrong());
        }
        Ok(Self(uri))
    }

    /// The document, or what has changed since a revision.
    pub(super) fn routes(&self, since: Option<(u64, Duration)>) -> Uri {
        match since {
            None => self.0.clone(),
            Some((since, wait)) => {
                let query = self
                    .0
                    .query()
                    .map_or_else(String::new, |query| query.to_owned() + "&");
                let wait = in_words(wait);
                self.with(format!(
                    "{}?{query}since={since}&wait={wait}",
                    self.0.path()
                ))
            }
        }
    }

    /// Where acknowledgements go.
    pub(super) fn acks(&self) -> Uri {
        let path = self.0.path().trim_end_matches('/');
        let query = self
            .0
            .query()
            .map_or_else(String::new, |query| format!("?{query}"));
        self.with(format!("{path}/acks{query}"))
    }

    /// For messages: without the query, which may hold secrets.
    pub(super) fn shown(&self) -> String {
        let text = self.0.to_string();
        text.split('?').next().unwrap_or_default().to_owned()
    }

    fn with(&self, path_and_query: String) -> Uri {
        let mut parts = self.0.clone().into_parts();
        // Made of a valid path, a valid query, digits and letters, so that it is one, too.
        parts.path_and_query = PathAndQuery::try_from(path_and_query).ok();
        Uri::from_parts(parts).unwrap_or_else(|_| self.0.clone())
    }
}

/// A duration as humantime reads it, without blanks.
fn in_words(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_belong_to_the_documents() {
        for (url, since, acks) in [
            (
                "https://c.test/v1/routes",
                "https://c.test/v1/routes?since=7&wait=30s",
                "https://c.test/v1/routes/acks",
            ),
            (
                "http://[::1]:81/?fleet=eu",
                "http://[::1]:81/?fleet=eu&since=7&wait=30s",
                "http://[::1]:81/acks?fleet=eu",
            ),
            (
                "http://c.test",
                "http://c.test/?since=7&wait=30s",
                "http://c.test/acks",
            ),
            (
                "http://c.test/routes/?",
                "http://c.test/routes/?&since=7&wait=30s",
                "http://c.test/routes/acks?",
            ),
        ] {
            let parsed = FeedUrl::parse(url).unwrap();
            let wait = Duration::from_secs(30);
            assert_eq!(parsed.routes(Some((7, wait))).to_string(), since);
            assert_eq!(parsed.acks().to_string(), acks);
        }
        let url = FeedUrl::parse("http://c.test/a?token=x").unwrap();
        assert_eq!(url.shown(), "http://c.test/a");
        let half = Duration::from_millis(1500);
        assert!(
            url.routes(Some((0, half)))
                .to_string()
                .ends_with("wait=1500ms")
        );
    }

    #[test]
    fn what_is_no_url_of_a_document_is_refused() {
        for url in [
            "",
            "routes",
            "/v1/routes",
            "ftp://c.test/",
            "https://",
            "http://c.test/#a",
            "http:///a",
        ] {
            let error = FeedUrl::parse(url).unwrap_err();
            assert_eq!(error, HttpFeedSettingsError::Url(url.to_owned()));
        }
        let error = FeedUrl::parse("https://me:secret@c.test/").unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
