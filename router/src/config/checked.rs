//! The second stage of the configuration: `Config`, in which every value is legal, and the rules that make one from a
//! file. The defaults are Heroku's figures and live in the model; only what the router alone knows has its default here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use router_core::feed::PublishSettings;
use router_core::model::h1::field::is_token;
use router_core::model::limits::{Http2Limits, Limits};
use router_core::model::timeouts::Timeouts;
use toml::Table;

use super::acme::{self, Acme};
use super::feed::{self, Feed};
use super::listener::{self, Listener};
use super::problem::Problem;
use super::raw::{Reading, Section};
use super::relay;

/// Everything the router is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where clients call.
    pub(crate) listeners: Vec<Listener>,
    /// Where certificates come from, beside the route document.
    pub(crate) tls: Tls,
    /// Which certificates the router orders by itself; none if `None`.
    pub(crate) acme: Option<Acme>,
    /// Where operators call.
    pub(crate) admin: SocketAddr,
    /// Where the routes come from.
    pub(crate) feed: Feed,
    /// To whom `router relay` passes routes on; `None` without the table.
    pub(crate) relay: Option<PublishSettings>,
    /// Where the access log goes, and its form.
    pub(crate) access_log: AccessLog,
    /// How long the router waits.
    pub(crate) timeouts: Timeouts,
    /// How much the router takes.
    pub(crate) limits: Limits,
    /// Workers; 0 is one per core.
    pub(crate) threads: usize,
    /// The router's name in `Via`, `Server` and its cookie.
    pub(crate) name: String,
    /// What session affinity cookies are signed with; none is a new random key for each start.
    pub(crate) affinity_key: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: vec![Listener::http(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                8080,
            )))],
            tls: Tls::default(),
            acme: None,
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            feed: Feed::default(),
            relay: None,
            access_log: AccessLog {
                target: LogTarget::Stdout,
                format: LogFormat::Heroku,
            },
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            threads: 0,
            name: "router".to_owned(),
            affinity_key: None,
        }
    }
}

/// What all https listeners share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The watched folder of certificates.
    pub(crate) certificates: Option<PathBuf>,
    /// The file of the keys that session tickets are sealed with; random keys without it.
    pub(crate) ticket_keys: Option<PathBuf>,
}

/// The access log: one line per request of a known app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessLog {
    /// Where the lines go.
    pub(crate) target: LogTarget,
    /// What a line looks like.
    pub(crate) format: LogFormat,
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error, between the diagnostics.
    Stderr,
    /// Nowhere.
    Off,
    /// A file, reopened on SIGHUP.
    File(PathBuf),
}

/// What an access log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Heroku's `key=value` line.
    Heroku,
    /// One JSON object per line.
    Json,
}

/// Makes a configuration of a parsed file. Whatever is wrong is noted in `reading`, and its default stands in, so that
/// the rest can be looked at too. Relative paths start from `folder`.
pub(crate) fn build(reading: &Reading, table: &Table, folder: &Path) -> Config {
    let mut root = Section::root(reading, table);
    let mut config = Config::default();
    if let Some(admin) = admin(root.section("admin")) {
        config.admin = admin;
    }
    config.listeners = listener::listeners(&mut root, config.admin, folder);
    config.tls = tls(root.section("tls"), folder);
    config.acme = acme::acme(&mut root, &config.listeners, folder);
    config.feed = feed::feed(root.section("feed"), folder);
    config.relay = relay::relay(&mut root, config.admin, folder);
    access_log(root.section("access_log"), folder, &mut config.access_log);
    timeouts(root.section("timeouts"), &mut config.timeouts);
    limits(root.section("limits"), &mut config.limits);
    http2(root.section("http2"), &mut config.limits.http2);
    let mut workers = root.section("workers");
    set_size(&mut config.threads, workers.integer("threads", 0..=1024));
    workers.finish();
    if let Some(name) = identity(root.section("identity")) {
        config.name = name;
    }
    let mut affinity = root.section("affinity");
    config.affinity_key = affinity
        .filled_string("key", "any secret text")
        .map(str::to_owned);
    affinity.finish();
    root.finish();
    config
}

fn admin(mut section: Section<'_>) -> Option<SocketAddr> {
    let address = section.address("address");
    section.finish();
    address
}

fn tls(mut section: Section<'_>, folder: &Path) -> Tls {
    let certificates = section.path("certificates", "the path of a folder");
    if let Some(path) = certificates.map(|path| folder.join(path))
        && !path.is_dir()
    {
        let wrong = format!("there is no folder {}", path.display());
        section.note(Problem::new(
            section.at("certificates"),
            wrong,
            "a folder with NAME.crt and NAME.key for each certificate",
        ));
    }
    let ticket_keys = section.path("ticket_keys", "the path of a file with keys");
    section.finish();
    Tls {
        certificates: certificates.map(|path| folder.join(path)),
        ticket_keys: ticket_keys.map(|path| folder.join(path)),
    }
}

fn access_log(mut section: Section<'_>, folder: &Path, log: &mut AccessLog) {
    let allowed = "\"stdout\", \"stderr\", \"off\" or the path of a file";
    match section.filled_string("target", allowed) {
        None => {}
        Some("stdout") => log.target = LogTarget::Stdout,
        Some("stderr") => log.target = LogTarget::Stderr,
        Some("off") => log.target = LogTarget::Off,
        Some(path) => {
            let path = folder.join(path);
            if !path
                .parent()
                .is_some_and(|parent| parent.as_os_str().is_empty() || parent.is_dir())
            {
                let wrong = format!("there is no folder for {}", path.display());
                section.note(Problem::new(section.at("target"), wrong, allowed));
            }
            log.target = LogTarget::File(path);
        }
    }
    if let Some(format) = section.choice(
        "format",
        &[("heroku", LogFormat::Heroku), ("json", LogFormat::Json)],
    ) {
        log.format = format;
    }
    section.finish();
}

fn timeouts(mut section: Section<'_>, timeouts: &mut Timeouts) {
    for (key, value) in [
        ("connect", &mut timeouts.connect),
        ("connect_total", &mut timeouts.connect_total),
        ("first_byte", &mut timeouts.first_byte),
        ("idle", &mut timeouts.idle),
        ("tls_handshake", &mut timeouts.tls_handshake),
        ("proxy_header", &mut timeouts.proxy_header),
        ("client_header", &mut timeouts.client_header),
        ("client_idle", &mut timeouts.client_idle),
        ("dyno_idle", &mut timeouts.dyno_idle),
        ("drain", &mut timeouts.drain),
    ] {
        if let Some(duration) = section.duration(key) {
            *value = duration;
        }
    }
    section.finish();
}

fn limits(mut section: Section<'_>, limits: &mut Limits) {
    for (key, value) in [
        (
            "concurrent_requests_per_dyno",
            &mut limits.concurrent_requests_per_dyno,
        ),
        ("connect_attempts", &mut limits.connect_attempts),
    ] {
        if let Some(number) = section.integer(key, 1..=1_000_000) {
            *value = u32::try_from(number).unwrap_or(u32::MAX);
        }
    }
    if let Some(duration) = section.duration("quarantine") {
        limits.quarantine = duration;
    }
    for (key, least, value) in [
        ("request_line", 1, &mut limits.request_line),
        ("request_header_line", 1, &mut limits.request_header_line),
        ("request_header_name", 1, &mut limits.request_header_name),
        ("request_headers", 1, &mut limits.request_headers),
        ("request_head", 1, &mut limits.request_head),
        ("request_buffer", 1024, &mut limits.request_buffer),
        ("response_status_line", 1, &mut limits.response_status_line),
        ("response_header_line", 1, &mut limits.response_header_line),
        ("response_cookie_line", 1, &mut limits.response_cookie_line),
        ("response_headers", 1, &mut limits.response_headers),
        ("response_head", 1, &mut limits.response_head),
        ("response_buffer", 1, &mut limits.response_buffer),
        ("client_connections", 1, &mut limits.client_connections),
        ("tls_handshakes", 1, &mut limits.tls_handshakes),
        (
            "idle_connections_per_dyno",
            0,
            &mut limits.idle_connections_per_dyno,
        ),
    ] {
        set_size(value, section.integer(key, least..=MOST));
    }
    section.finish();
}

/// Windows have a floor and a ceiling of their own: RFC 9113 §6.9.2 begins a connection with 65,535 bytes, and a window is
/// memory that every client may make the router use.
fn http2(mut section: Section<'_>, limits: &mut Http2Limits) {
    for (key, range, value) in [
        ("streams", 1..=10_000, &mut limits.streams),
        ("header_list", 1024..=16_777_216, &mut limits.header_list),
        (
            "stream_window",
            65_535..=16_777_216,
            &mut limits.stream_window,
        ),
        (
            "connection_window",
            65_535..=268_435_456,
            &mut limits.connection_window,
        ),
        ("resets", 1..=1_000_000, &mut limits.resets),
        ("pings", 1..=1_000_000, &mut limits.pings),
        ("settings", 1..=1_000_000, &mut limits.settings),
        ("empty_frames", 1..=1_000_000, &mut limits.empty_frames),
    ] {
        if let Some(number) = section
            .integer(key, range)
            .and_then(|number| u32::try_from(number).ok())
        {
            *value = number;
        }
    }
    section.finish();
}

/// The name is an HTTP token: it goes into header fields and is the start of a cookie's name.
fn identity(mut section: Section<'_>) -> Option<String> {
    let name = section.string("name");
    let good = name.is_none_or(|name| (1..=64).contains(&name.len()) && is_token(name.as_bytes()));
    if !good {
        let wrong = format!(
            "{:?} is not a name for header fields",
            name.unwrap_or_default()
        );
        section.note(Problem::new(
            section.at("name"),
            wrong,
            "1 to 64 letters, digits and !#$%&'*+-.^_`|~",
        ));
    }
    section.finish();
    name.filter(|_| good).map(str::to_owned)
}

fn set_size(value: &mut usize, number: Option<u64>) {
    if let Some(number) = number.and_then(|number| usize::try_from(number).ok()) {
        *value = number;
    }
}

/// The most of anything: far beyond what is sensible, far below what overflows.
const MOST: u64 = 1 << 30;
