//! The `[feed]` table: where the routes come from.

use std::path::{Path, PathBuf};

use router_core::feed::{
    EtcdFeed, EtcdFeedSettings, EtcdUser, FeedOptions, HttpFeed, HttpFeedSettings,
};

use super::feed_rules::{self, FeedRules};
use super::problem::Problem;
use super::raw::Section;

/// Where the routes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Feed {
    /// What brings them.
    pub(crate) source: FeedSource,
    /// Where the last good document is kept.
    pub(crate) cache: Option<PathBuf>,
    /// What the router is called in acknowledgements; a random name for each start without it.
    pub(crate) router_id: Option<String>,
    /// How far it is believed.
    pub(crate) rules: FeedRules,
}

/// What brings routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FeedSource {
    /// A watched file.
    File(PathBuf),
    /// An HTTP server.
    Http(HttpFeedSettings),
    /// An etcd cluster.
    Etcd(EtcdFeedSettings),
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            source: FeedSource::File(PathBuf::from("routes.json")),
            cache: None,
            router_id: None,
            rules: FeedRules::default(),
        }
    }
}

impl Feed {
    /// The same for the library, all but the source.
    pub(crate) fn options(&self) -> FeedOptions {
        let mut options = self.rules.options();
        options.cache.clone_from(&self.cache);
        if let Some(id) = &self.router_id {
            options.router_id.clone_from(id);
        }
        options
    }

    /// The route document, if it is a file.
    pub(crate) fn document(&self) -> Option<&Path> {
        match &self.source {
            FeedSource::File(path) if !path.as_os_str().is_empty() => Some(path),
            FeedSource::File(_) | FeedSource::Http(_) | FeedSource::Etcd(_) => None,
        }
    }
}

/// What a table says that names this source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    File,
    Http,
    Etcd,
}

/// Reads the table. Relative paths start from `folder`.
pub(super) fn feed(mut section: Section<'_>, folder: &Path) -> Feed {
    let named = section.choice(
        "source",
        &[
            ("file", Source::File),
            ("http", Source::Http),
            ("etcd", Source::Etcd),
        ],
    );
    // One that is unknown may have been meant to be any of them.
    let likely = if section.has("endpoints") {
        Source::Etcd
    } else if section.has("url") && !section.has("path") {
        Source::Http
    } else {
        Source::File
    };
    let source = named.unwrap_or(likely);
    let path = document(&mut section, source).map(|path| folder.join(path));
    let tls = Tls::read(&mut section, source, folder);
    let etcd = etcd(&mut section, source, &tls, folder);
    let http = http(&mut section, source, &tls, folder);
    section.both("client_certificate", "client_key");
    let cache = section.path("cache", "the path of a file that the router writes");
    let cache = cache.map(|cache| folder.join(cache));
    if path.is_some() && path == cache {
        section.note(Problem::plain(
            section.at("cache"),
            "is the same file as feed.path",
        ));
    }
    let router_id = section.filled_string("router_id", "any name, another one for each router");
    let rules = feed_rules::rules(&mut section);
    section.finish();
    let source = match source {
        Source::Etcd => FeedSource::Etcd(etcd),
        Source::Http => FeedSource::Http(http),
        Source::File => FeedSource::File(path.unwrap_or_default()),
    };
    Feed {
        source,
        cache,
        router_id: router_id.map(str::to_owned),
        rules,
    }
}

fn document<'a>(section: &mut Section<'a>, source: Source) -> Option<&'a str> {
    if source == Source::File && !section.has("path") {
        section.note(Problem::new(
            section.at("path"),
            "is missing",
            "the path of the route document",
        ));
    }
    let path = section.path("path", "the path of the route document");
    if source != Source::File {
        belongs_to(section, "path", "file");
    }
    path
}

/// Whom to believe that he is the source, and how to prove who we are.
struct Tls {
    ca: Option<PathBuf>,
    client_certificate: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    fn read(section: &mut Section<'_>, source: Source, folder: &Path) -> Self {
        let mut path = |key: &'static str| {
            let path = section.path(key, "the path of a PEM file");
            path.map(|path| folder.join(path))
        };
        let ca = path("ca");
        let (certificate, key) = (path("client_certificate"), path("client_key"));
        if source == Source::File {
            for key in ["ca", "client_certificate", "client_key"] {
                belongs_to_network(section, key);
            }
        }
        Self {
            ca,
            client_certificate: certificate.zip(key),
        }
    }
}

fn http(section: &mut Section<'_>, source: Source, tls: &Tls, folder: &Path) -> HttpFeedSettings {
    let allowed = "the http or https URL of a route document";
    let url = section.filled_string("url", allowed);
    let mut settings = HttpFeedSettings::new(url.unwrap_or_default());
    let token_file = section.path("token_file", "the path of a file with a bearer token");
    settings.token_file = token_file.map(|path| folder.join(path));
    settings.ca.clone_from(&tls.ca);
    settings
        .client_certificate
        .clone_from(&tls.client_certificate);
    for (key, value) in [
        ("wait", &mut settings.wait),
        ("poll", &mut settings.poll),
        ("document_time", &mut settings.document_time),
    ] {
        if let Some(duration) = section.duration(key) {
            *value = duration;
        }
    }
    let longest = section.integer("longest_document", 1024..=1 << 40);
    if let Some(longest) = longest.and_then(|longest| usize::try_from(longest).ok()) {
        settings.longest_document = longest;
    }
    if source != Source::Http {
        for key in OF_HTTP {
            belongs_to(section, key, "http");
        }
    } else if !section.has("url") {
        section.note(Problem::new(section.at("url"), "is missing", allowed));
    } else if url.is_some()
        && let Err(error) = HttpFeed::new(settings.clone())
    {
        section.note(Problem::plain(section.at("url"), error.to_string()));
    }
    settings
}

fn etcd(section: &mut Section<'_>, source: Source, tls: &Tls, folder: &Path) -> EtcdFeedSettings {
    let mut settings = EtcdFeedSettings::new(endpoints(section));
    if let Some(prefix) = section.filled_string("prefix", "the beginning of the keys") {
        settings.prefix = prefix.to_owned();
    }
    let user = section.filled_string("user", "the name of a user of etcd");
    let password_file = section.path("password_file", "the path of a file with the password");
    section.both("user", "password_file");
    settings.user = user
        .zip(password_file)
        .map(|(name, password_file)| EtcdUser {
            name: name.to_owned(),
            password_file: folder.join(password_file),
        });
    settings.ca.clone_from(&tls.ca);
    settings
        .client_certificate
        .clone_from(&tls.client_certificate);
    if source == Source::Etcd {
        if let Err(error) = EtcdFeed::new(settings.clone()) {
            section.note(Problem::plain(section.at("endpoints"), error.to_string()));
        }
    } else {
        for key in OF_ETCD {
            belongs_to(section, key, "etcd");
        }
    }
    settings
}

fn endpoints(section: &mut Section<'_>) -> Vec<String> {
    let mut endpoints = Vec::new();
    for (index, entry) in section.list("endpoints").into_iter().flatten().enumerate() {
        match entry.as_str() {
            Some(endpoint) => endpoints.push(endpoint.to_owned()),
            None => section.note(Problem::new(
                format!("{}[{index}]", section.at("endpoints")),
                format!("{entry} is not a string"),
                "a client URL such as \"http://127.0.0.1:2379\"",
            )),
        }
    }
    endpoints
}

/// A key that says nothing for this source was meant for another one.
fn belongs_to(section: &Section<'_>, key: &str, source: &str) {
    if section.has(key) {
        let wrong = format!("is for source = {source:?} only");
        section.note(Problem::plain(section.at(key), wrong));
    }
}

/// The same for a key that several sources know.
fn belongs_to_network(section: &Section<'_>, key: &str) {
    if section.has(key) {
        let wrong = "is for source = \"http\" and source = \"etcd\" only";
        section.note(Problem::plain(section.at(key), wrong));
    }
}

const OF_HTTP: [&str; 6] = [
    "url",
    "token_file",
    "wait",
    "poll",
    "document_time",
    "longest_document",
];
const OF_ETCD: [&str; 4] = ["endpoints", "prefix", "user", "password_file"];
