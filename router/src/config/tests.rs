//! The configuration as its readers meet it: the documented file is the default, and every problem is said.

use std::fs;
use std::time::Duration;

use router_core::feed::{
    EtcdFeedSettings, EtcdUser, FeedOptions, HttpFeedSettings, PublishSettings, PublishTls,
};
use router_core::model::hostname::Domain;
use router_core::model::limits::Http2Limits;
use router_core::tls::TlsVersion;

use super::acme::Acme;
use super::checked::Tls;
use super::feed_rules::FeedRules;
use super::listener::Https;
use super::*;

fn read(text: &str) -> (Config, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.toml");
    fs::write(&file, text).unwrap();
    let loaded = parse(Path::new("router.toml"), &fs::read_to_string(file).unwrap());
    (loaded.config.clone(), loaded.problems())
}

const DOCUMENTED: &str = include_str!("../../../config/router.toml");
const DEVELOPMENT: &str = include_str!("../../../config/router.dev.toml");
const LEAST: &str = "[[listener]]\naddress = \"127.0.0.1:8080\"\n[feed]\npath = \"routes.json\"\n";

#[test]
fn the_documented_file_is_the_default() {
    assert_eq!(read(DOCUMENTED), (Config::default(), vec![]));
    assert_eq!(read(LEAST), (Config::default(), vec![]));
    assert_eq!(read(DEVELOPMENT).1, Vec::<String>::new());
}

#[test]
fn the_documented_file_names_every_key() {
    let table = raw::parse(DOCUMENTED).unwrap();
    let reading = raw::Reading::default();
    checked::build(&reading, &table, Path::new(""));
    let (_, known) = reading.finish();
    let commented = [
        "listener[0].certificate",
        "listener[0].private_key",
        "listener[0].min_tls_version",
        "listener[0].http2",
        "tls.certificates",
        "tls.ticket_keys",
        "feed.cache",
        "feed.shrink_persists",
        "feed.apply_jitter",
        "feed.router_id",
        "feed.url",
        "feed.token_file",
        "feed.wait",
        "feed.poll",
        "feed.longest_document",
        "feed.document_time",
        "feed.endpoints",
        "feed.prefix",
        "feed.user",
        "feed.password_file",
        "feed.ca",
        "feed.client_certificate",
        "feed.client_key",
        "affinity.key",
    ];
    for key in &known {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let section = section.trim_end_matches("[0]");
        let documented = match (section, table.get(section)) {
            ("", _) => table.contains_key(name),
            (_, Some(toml::Value::Array(items))) => items[0].get(name).is_some(),
            (_, Some(inner)) => inner.get(name).is_some(),
            (_, None) => false,
        };
        let mentioned = (commented.contains(&key.as_str()) || ["acme", "relay"].contains(&section))
            && DOCUMENTED.contains(&format!("# {name} = "))
            || ["acme", "relay"].contains(&key.as_str())
                && DOCUMENTED.contains(&format!("\n# [{key}]\n"));
        assert!(
            documented || mentioned,
            "config/router.toml says nothing of {key}"
        );
    }
}

/// The documented file with the comment taken from each line of a block that begins and ends with these texts.
fn uncommented(first: &str, last: &str) -> String {
    let (before, rest) = DOCUMENTED.split_once(first).unwrap();
    let (block, after) = rest.split_once(last).unwrap();
    let lines = format!("{first}{block}{last}").replace("\n# ", "\n");
    format!("{before}{}{after}", lines.trim_start_matches("# "))
}

#[test]
fn documented_values_of_https_are_the_defaults() {
    let (text, from) = (
        uncommented("# certificate = ", "# http2 = true"),
        "protocol = \"http\"",
    );
    let text = text
        .replace(from, "protocol = \"https\"")
        .replace("http2_prior_knowledge = false", "");
    let (config, problems) = read(&text);
    assert_eq!(problems, Vec::<String>::new());
    let wanted = Https {
        default: Some(Pair {
            place: "listener[0]".to_owned(),
            certificate: "default.crt".into(),
            private_key: "default.key".into(),
        }),
        min_version: TlsVersion::V1_2,
        http2: true,
    };
    assert_eq!(config.listeners[0].https(), Some(&wanted));
    let (config, _) = read(&format!(
        "{LEAST}[[listener]]\naddress='[::]:443'\nprotocol='https'\n"
    ));
    let bare = Https {
        default: None,
        ..wanted
    };
    assert_eq!(config.listeners[1].https(), Some(&bare));
}

#[test]
fn documented_values_of_acme_are_the_defaults() {
    let text = uncommented("# [acme]", "# root = ")
        .replace("accept_terms = false", "accept_terms = true")
        .replace("on_demand = false", "on_demand = true");
    let (config, problems) = read(&text);
    assert_eq!(problems, Vec::<String>::new());
    let wanted = Acme {
        email: Some("admin@example.com".to_owned()),
        on_demand: true,
        root: Some("ca.pem".into()),
        ..Acme::default()
    };
    assert_eq!(config.acme, Some(wanted));
}

#[test]
fn documented_values_of_a_relay_are_the_defaults() {
    let (config, problems) = read(&uncommented("# [relay]", "# history = 67108864"));
    assert_eq!(problems, Vec::<String>::new());
    let wanted = PublishSettings {
        token_file: Some("relay.tokens".into()),
        tls: Some(PublishTls {
            certificate: "relay.crt".into(),
            private_key: "relay.key".into(),
            client_ca: Some("routers-ca.pem".into()),
        }),
        ..PublishSettings::new("127.0.0.1:9091".parse().unwrap())
    };
    assert_eq!(config.relay, Some(wanted));
}

#[test]
fn a_relay_needs_no_listener() {
    let text = "[feed]\nsource='etcd'\nendpoints=['http://127.0.0.1:2379']\n[relay]\naddress='[::]:0'\n\
                path='/routes'\nconnections=50\nhistory=70000\ntoken_file='tokens'\n";
    let loaded = parse(Path::new("/etc/router/relay.toml"), text);
    assert_eq!(loaded.problems(), Vec::<String>::new());
    let wanted = PublishSettings {
        path: "/routes".to_owned(),
        connections: 50,
        history: 70_000,
        token_file: Some("/etc/router/tokens".into()),
        ..PublishSettings::new("[::]:0".parse().unwrap())
    };
    assert_eq!(loaded.config.relay, Some(wanted));
    assert_eq!(loaded.config.listeners, vec![]);
}

#[test]
fn values_of_tls_and_acme_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = folder.path().join("certs");
    fs::create_dir(&certificates).unwrap();
    let text = format!(
        "{LEAST}[[listener]]\naddress='[::]:443'\nprotocol='https'\ncertificate='a.crt'\nprivate_key='/keys/a.key'\n\
         min_tls_version='1.3'\nhttp2=false\nproxy_protocol=true\ntrusted_proxies=['10.0.0.0/8','::1']\n\
         [[listener]]\naddress='[::]:80'\nhttp2_prior_knowledge=true\n\
         [tls]\ncertificates={certificates:?}\nticket_keys='tickets.key'\n\
         [acme]\ndirectory='https://127.0.0.1:14000/dir'\nfolder='state'\ndomains=['A.test']\naccept_terms=true\nper_hour=3\n\
         [timeouts]\ntls_handshake='2s'\nproxy_header='500ms'\n[limits]\ntls_handshakes=7\n\
         [http2]\nstreams=1\nheader_list=2000\nstream_window=70000\nconnection_window=80000\nresets=2\npings=3\nsettings=4\nempty_frames=5\n"
    );
    let loaded = parse(Path::new("/etc/router/router.toml"), &text);
    assert_eq!(loaded.problems(), Vec::<String>::new());
    let config = loaded.config;
    let wanted = Listener {
        protocol: Protocol::Https(Https {
            default: Some(Pair {
                place: "listener[1]".to_owned(),
                certificate: "/etc/router/a.crt".into(),
                private_key: "/keys/a.key".into(),
            }),
            min_version: TlsVersion::V1_3,
            http2: false,
        }),
        proxy_protocol: true,
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..Listener::http("[::]:443".parse().unwrap())
    };
    assert_eq!(config.listeners[1], wanted);
    let prior_knowledge = Protocol::Http {
        http2_prior_knowledge: true,
    };
    assert_eq!(config.listeners[2].protocol, prior_knowledge);
    let tls = Tls {
        certificates: Some(certificates),
        ticket_keys: Some("/etc/router/tickets.key".into()),
    };
    assert_eq!(config.tls, tls);
    let acme = Acme {
        directory: "https://127.0.0.1:14000/dir".to_owned(),
        folder: "/etc/router/state".into(),
        domains: vec![Domain::parse("a.test").unwrap()],
        per_hour: 3,
        ..Acme::default()
    };
    assert_eq!(config.acme, Some(acme));
    let times = (config.timeouts.tls_handshake, config.timeouts.proxy_header);
    assert_eq!(times, (Duration::from_secs(2), Duration::from_millis(500)));
    assert_eq!(config.limits.tls_handshakes, 7);
    let http2 = Http2Limits {
        streams: 1,
        header_list: 2000,
        stream_window: 70_000,
        connection_window: 80_000,
        resets: 2,
        pings: 3,
        settings: 4,
        empty_frames: 5,
    };
    assert_eq!(config.limits.http2, http2);
}

#[test]
fn values_are_read() {
    let (config, problems) = read(
        "[[listener]]\naddress='[::1]:0'\n[[listener]]\naddress='0.0.0.0:80'\nproxy_protocol=false\ntrusted_proxies=[]\n\
         [feed]\nsource='file'\npath='/r.json'\ncache='c.json'\n[access_log]\ntarget='/tmp/access.log'\nformat='json'\n\
         [timeouts]\nfirst_byte='1500ms'\n[limits]\nconnect_attempts=3\nquarantine='2m'\n[workers]\nthreads=4\n\
         [identity]\nname='edge'\n[affinity]\nkey='k'\n",
    );
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(
        config.listeners,
        ["[::1]:0", "0.0.0.0:80"].map(|address| Listener::http(address.parse().unwrap()))
    );
    assert_eq!(config.feed.source, FeedSource::File("/r.json".into()));
    assert_eq!(config.feed.cache.as_deref(), Some(Path::new("c.json")));
    assert_eq!(
        config.access_log,
        AccessLog {
            target: LogTarget::File("/tmp/access.log".into()),
            format: LogFormat::Json
        }
    );
    assert_eq!(config.timeouts.first_byte, Duration::from_millis(1500));
    assert_eq!(
        (config.limits.connect_attempts, config.limits.quarantine),
        (3, Duration::from_secs(120))
    );
    assert_eq!(
        (
            config.threads,
            config.name.as_str(),
            config.affinity_key.as_deref()
        ),
        (4, "edge", Some("k"))
    );
}

#[test]
fn paths_are_relative_to_the_file() {
    let loaded = parse(Path::new("/etc/router/router.toml"), LEAST);
    let path = Path::new("/etc/router/routes.json");
    assert_eq!(loaded.route_document(), Some(path));
}

/// What is wrong with `LEAST` and some more text; each problem without its `router.toml: `.
fn problems(more: &str) -> Vec<String> {
    let (_, problems) = read(&format!("{LEAST}{more}"));
    problems
        .into_iter()
        .map(|line| line.strip_prefix("router.toml: ").unwrap().to_owned())
        .collect()
}

#[test]
fn each_problem_says_key_cause_and_what_is_allowed() {
    let duration = "a duration such as \"30s\" or \"1500ms\", from 1ms to 30days";
    for (more, wanted) in [
        ("[timeouts]\nidle='0s'", format!("timeouts.idle: must be more than zero; allowed: {duration}")),
        ("[timeouts]\nidle='soon'", format!("timeouts.idle: \"soon\" is not a duration; allowed: {duration}")),
        ("[timeouts]\nidle='400days'", format!("timeouts.idle: \"400days\" is out of range; allowed: {duration}")),
        ("[timeouts]\nidle=30", format!("timeouts.idle: has the wrong type (30); allowed: {duration}")),
        ("[limits]\nconnect_attempts=0",
         "limits.connect_attempts: 0 is out of range; allowed: a whole number from 1 to 1000000".into()),
        ("[limits]\nrequest_line=-1",
         "limits.request_line: -1 is out of range; allowed: a whole number from 1 to 1073741824".into()),
        ("[limits]\nrequest_line='8k'",
         "limits.request_line: has the wrong type (\"8k\"); allowed: a whole number from 1 to 1073741824".into()),
        ("[workers]\nthread=2", "workers.thread: unknown key, the nearest known one is \"threads\"; allowed: threads".into()),
        ("[workers]\nxyz=2", "workers.xyz: unknown key; allowed: threads".into()),
        ("[admin]\naddress='localhost:9090'",
         "admin.address: \"localhost:9090\" is not an address; allowed: an IP address and a port, such as \
          \"127.0.0.1:8080\" or \"[::]:443\"".into()),
        ("[access_log]\nformat='xml'", "access_log.format: \"xml\" is unknown; allowed: \"heroku\", \"json\"".into()),
        ("[access_log]\ntarget=''",
         "access_log.target: is empty; allowed: \"stdout\", \"stderr\", \"off\" or the path of a file".into()),
        ("[access_log]\ntarget='/no/such/folder/a.log'",
         "access_log.target: there is no folder for /no/such/folder/a.log; allowed: \"stdout\", \"stderr\", \"off\" or the \
          path of a file".into()),
        ("[identity]\nname='a b'",
         "identity.name: \"a b\" is not a name for header fields; allowed: 1 to 64 letters, digits and !#$%&'*+-.^_`|~".into()),
        ("[affinity]\nkey=''", "affinity.key: is empty; allowed: any secret text".into()),
        ("[tls]\ncertificates='no/such/'",
         "tls.certificates: there is no folder no/such/; allowed: a folder with NAME.crt and NAME.key for each certificate".into()),
        ("[tls]\nticket_keys=''", "tls.ticket_keys: is empty; allowed: the path of a file with keys".into()),
        ("[tls]\ncertificate='certs'",
         "tls.certificate: unknown key, the nearest known one is \"certificates\"; allowed: certificates, ticket_keys".into()),
        ("[tls]\nticket_keys='-----BEGIN PRIVATE KEY-----MIG'",
         "tls.ticket_keys: is a PEM text or several lines, not a path; allowed: the path of a file with keys".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nprotocol='https'\ncertificate='a.crt'\nprivate_key=\"MIG\\nMIG\"",
         "listener[1].private_key: is a PEM text or several lines, not a path; allowed: the path of a PEM file".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\ntrusted_proxies=['10.0.0.0/8', '::ffff:10.0.0.0/104']",
         "listener[1].trusted_proxies[1]: \"::ffff:10.0.0.0/104\" never matches: write \"10.0.0.0/8\"; allowed: CIDRs such as \
          \"10.0.0.0/8\" or \"fd00::/8\", and IP addresses".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\ntrusted_proxies=['::ffff:10.0.0.1', '::/0']",
         "listener[1].trusted_proxies[0]: \"::ffff:10.0.0.1\" never matches: write \"10.0.0.1/32\"; allowed: CIDRs such as \
          \"10.0.0.0/8\" or \"fd00::/8\", and IP addresses".into()),
        ("[http2]\nstreams=0", "http2.streams: 0 is out of range; allowed: a whole number from 1 to 10000".into()),
        ("[http2]\nconnection_window=65534",
         "http2.connection_window: 65534 is out of range; allowed: a whole number from 65535 to 268435456".into()),
        ("[http2]\nstrems=1",
         "http2.strems: unknown key, the nearest known one is \"streams\"; allowed: streams, header_list, stream_window, \
          connection_window, resets, pings, settings, empty_frames".into()),
        ("[acme]\ndomains=['a.test']",
         "acme.accept_terms: the authority gives no account to those who do not agree to its terms of service; allowed: true, \
          once you have read them".into()),
        ("shrink_share=1.5", "feed.shrink_share: 1.5 is out of range; allowed: a share from 0.0 to 1.0, such as 0.25".into()),
        ("shrink_share='0.5'",
         "feed.shrink_share: has the wrong type (\"0.5\"); allowed: a share from 0.0 to 1.0, such as 0.25".into()),
        ("feedback_relist='no'", "feed.feedback_relist: has the wrong type (\"no\"); allowed: true or false".into()),
        ("[relay]\npath='routes'",
         "relay.path: \"routes\" is no path; it must begin with / and have neither a query nor /acks at its end".into()),
        ("[relay]\naddress='127.0.0.1:9090'", "relay.address: 127.0.0.1:9090 is the admin address too".into()),
        ("[relay]\nclient_ca='ca.pem'", "relay.certificate: is missing, but relay.client_ca is there".into()),
        ("[relay]\ncertificate='a.crt'", "relay.private_key: is missing, but relay.certificate is there".into()),
        ("[relay]\nconnections=1", "relay.connections: 1 is out of range; allowed: a whole number from 10 to 1000000".into()),
        ("[acme]\naccept_terms=true", "acme: there is nothing to order: neither domains nor on_demand = true".into()),
        ("[acme]\naccept_terms=true\ndomains=['*.a.test']",
         "acme.domains[0]: \"*.a.test\" is a wildcard, which http-01 cannot prove; allowed: hostnames such as \
          \"www.example.com\"".into()),
        ("[acme]\naccept_terms=true\non_demand=true\nemail='me'",
         "acme.email: \"me\" is not an email address; allowed: an address such as \"admin@example.com\"".into()),
        ("[acme]\naccept_terms=true\non_demand=true\ndirectory='http://ca.test/'",
         "acme.directory: \"http://ca.test/\" is not the URL of a directory; allowed: a URL that begins with https://, such \
          as \"https://acme-v02.api.letsencrypt.org/directory\"".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nprotocol='https'\ncertificate='a.crt'",
         "listener[1].private_key: is missing, but there is listener[1].certificate; allowed: certificate and private_key, or \
          none of them".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nprotocol='https'\nmin_tls_version='1.1'",
         "listener[1].min_tls_version: \"1.1\" is unknown; allowed: \"1.2\", \"1.3\"".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nprotocol='https'\nhttp2_prior_knowledge=true",
         "listener[1].http2_prior_knowledge: is for listeners with protocol = \"http\" only".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nmin_tls_version='1.3'",
         "listener[1].min_tls_version: is for listeners with protocol = \"https\" only".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nhttp2=true",
         "listener[1].http2: is for listeners with protocol = \"https\" only; HTTP/2 without TLS is http2_prior_knowledge".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nprotocol='spdy'",
         "listener[1].protocol: \"spdy\" is unknown; allowed: \"http\", \"https\"".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nproxy_protocol='v2'",
         "listener[1].proxy_protocol: has the wrong type (\"v2\"); allowed: true or false".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\ntrusted_proxies=['balancer']",
         "listener[1].trusted_proxies[0]: \"balancer\" is not a network; allowed: CIDRs such as \"10.0.0.0/8\" or \
          \"fd00::/8\", and IP addresses".into()),
        ("[[listener]]\nprotocol='http'",
         "listener[1].address: is missing; allowed: an IP address and a port, such as \"127.0.0.1:8080\" or \
          \"[::]:443\"".into()),
        ("[[listener]]\naddress='127.0.0.1:8080'",
         "listener[1].address: 127.0.0.1:8080 is the address of another listener too".into()),
        ("[[listener]]\naddress='127.0.0.1:9090'", "listener[1].address: 127.0.0.1:9090 is the admin address too".into()),
    ] {
        assert_eq!(problems(more), [wanted], "{more}");
    }
}

#[test]
fn the_rules_of_the_feed_are_settings() {
    let (config, problems) = read(&format!(
        "{LEAST}shrink_share=0.5\nshrink_persists='1h'\nrelist_every='5m'\nsilent_after='10s'\napply_jitter='3s'\n\
         watchdog='1m'\nfeedback_relist=false\n"
    ));
    assert_eq!(problems, Vec::<String>::new());
    let options = config.feed.rules.options();
    let seconds = |duration: Duration| duration.as_secs();
    assert_eq!(options.shrink_share, 0.5);
    assert_eq!(options.shrink_persists.map(seconds), Some(3600));
    assert_eq!(
        [
            options.relist_every,
            options.silent_after,
            options.apply_jitter,
            options.watchdog
        ]
        .map(seconds),
        [300, 10, 3, 60]
    );
    assert!(!options.feedback_relist);
    // Those of the library.
    let defaults = FeedRules::default().options();
    let expected = FeedOptions {
        router_id: defaults.router_id.clone(),
        ..FeedOptions::default()
    };
    assert_eq!(defaults, expected);
}

#[test]
fn all_problems_are_said_at_once() {
    let (_, problems) = read(
        "colour = 1\nadmin = 3\n[[listener]]\naddress = 'x'\ntrusted_proxies=['10.0.0.0/33', '::1/128', 7]\n\
         [feed]\nsource='htpp'\n[limit]\nrequest_line = 1\n[timeouts]\nconect = '1s'\ndrain = 'x'\n",
    );
    let keys: Vec<_> = problems
        .iter()
        .map(|line| line.split(": ").nth(1).unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "admin",
            "listener[0].address",
            "listener[0].trusted_proxies[0]",
            "listener[0].trusted_proxies[2]",
            "feed.source",
            "feed.path",
            "timeouts.drain",
            "timeouts.conect",
            "colour",
            "limit",
        ]
    );
    assert!(
        problems[7].contains("nearest known one is \"connect\""),
        "{}",
        problems[7]
    );
    assert!(
        problems[9].contains("nearest known one is \"limits\""),
        "{}",
        problems[9]
    );
}

#[test]
fn listener_and_feed_are_required() {
    let (_, problems) = read("");
    assert_eq!(
        problems,
        [
            "router.toml: listener: is missing; allowed: at least one [[listener]] with an address",
            "router.toml: feed.path: is missing; allowed: the path of the route document",
        ]
    );
    let (_, problems) = read("[listener]\naddress='127.0.0.1:1'\n[feed]\nsource='http'\n");
    assert_eq!(
        problems,
        [
            "router.toml: listener: has the wrong type (a table); allowed: an array of tables ([[listener]])",
            "router.toml: feed.url: is missing; allowed: the http or https URL of a route document",
        ]
    );
}

#[test]
fn routes_may_come_from_a_server() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:8080\"\n";
    let read = |feed: &str| {
        let text = format!("{listener}[feed]\nsource = 'http'\n{feed}");
        let loaded = parse(Path::new("/etc/router/router.toml"), &text);
        (loaded.config.feed.clone(), loaded.problems())
    };
    let (feed, problems) = read(
        "url = 'https://c.test/routes'\ntoken_file = 't'\nca = 'ca.pem'\nclient_certificate = 'c.crt'\n\
         client_key = 'c.key'\nwait = '20s'\npoll = '1s'\ndocument_time = '1m'\nlongest_document = 4096\n",
    );
    assert_eq!(problems, Vec::<String>::new());
    let wanted = HttpFeedSettings {
        token_file: Some("/etc/router/t".into()),
        ca: Some("/etc/router/ca.pem".into()),
        client_certificate: Some(("/etc/router/c.crt".into(), "/etc/router/c.key".into())),
        wait: Duration::from_secs(20),
        poll: Duration::from_secs(1),
        document_time: Duration::from_mins(1),
        longest_document: 4096,
        ..HttpFeedSettings::new("https://c.test/routes")
    };
    assert_eq!(feed.source, FeedSource::Http(wanted));
    assert_eq!(feed.document(), None);
    for (feed, wanted) in [
        (
            "url = 'routes.json'",
            "feed.url: \"routes.json\" is no http or https URL of a route document, such as https://control.example/v1/routes",
        ),
        (
            "url = 'http://c.test'\npath = 'a'",
            "feed.path: is for source = \"file\" only",
        ),
        (
            "url = 'http://c.test'\nprefix = 'a'",
            "feed.prefix: is for source = \"etcd\" only",
        ),
        (
            "url = 'http://c.test'\nclient_key = 'a'",
            "feed.client_certificate: is missing, but feed.client_key is there",
        ),
    ] {
        let (_, problems) = read(feed);
        assert_eq!(problems, [format!("/etc/router/router.toml: {wanted}")]);
    }
    let file = "[feed]\npath = 'r.json'\nurl = 'http://c.test'\nca = 'ca.pem'";
    let (_, problems) = self::read(&format!("{listener}{file}"));
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn routes_may_come_from_etcd() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:8080\"\n";
    let read = |feed: &str| {
        let text = format!("{listener}[feed]\nsource = 'etcd'\n{feed}");
        let loaded = parse(Path::new("/etc/router/router.toml"), &text);
        (loaded.config.feed.clone(), loaded.problems())
    };
    let (feed, problems) = read("endpoints = ['http://127.0.0.1:2379']\ncache = 'c.json'\n");
    assert_eq!(problems, Vec::<String>::new());
    let least = EtcdFeedSettings::new(vec!["http://127.0.0.1:2379".to_owned()]);
    assert_eq!(feed.source, FeedSource::Etcd(least));
    assert_eq!(feed.cache, Some("/etc/router/c.json".into()));
    assert_eq!(feed.document(), None);
    let (feed, problems) = read(
        "endpoints = ['https://a.test:2379', 'https://b.test:2379']\nprefix = '/p'\nuser = 'u'\npassword_file = 'pw'\n\
         ca = '/ca.pem'\nclient_certificate = 'c.crt'\nclient_key = 'c.key'\n",
    );
    assert_eq!(problems, Vec::<String>::new());
    let FeedSource::Etcd(etcd) = feed.source else {
        panic!("{feed:?}");
    };
    assert_eq!((etcd.endpoints.len(), etcd.prefix.as_str()), (2, "/p"));
    let user = EtcdUser {
        name: "u".to_owned(),
        password_file: "/etc/router/pw".into(),
    };
    assert_eq!((etcd.user, etcd.ca), (Some(user), Some("/ca.pem".into())));
    let pair = ("/etc/router/c.crt".into(), "/etc/router/c.key".into());
    assert_eq!(etcd.client_certificate, Some(pair));
    for (feed, wanted) in [
        (
            "",
            vec![
                "feed.endpoints: there is no endpoint; expected client URLs such as http://127.0.0.1:2379",
            ],
        ),
        (
            "endpoints = ['127.0.0.1:2379']",
            vec![
                "feed.endpoints: \"127.0.0.1:2379\" is no endpoint; expected a client URL such as http://127.0.0.1:2379",
            ],
        ),
        (
            "endpoints = ['http://a.test', 7]",
            vec![
                "feed.endpoints[1]: 7 is not a string; allowed: a client URL such as \"http://127.0.0.1:2379\"",
            ],
        ),
        (
            "endpoints = ['http://a.test']\nuser = 'u'\nclient_key = 'k'\npath = 'routes.json'",
            vec![
                "feed.path: is for source = \"file\" only",
                "feed.password_file: is missing, but feed.user is there",
                "feed.client_certificate: is missing, but feed.client_key is there",
            ],
        ),
    ] {
        let (_, problems) = read(feed);
        let wanted: Vec<_> = wanted
            .iter()
            .map(|line| format!("/etc/router/router.toml: {line}"))
            .collect();
        assert_eq!(problems, wanted, "{feed}");
    }
    let text = format!("{LEAST}prefix = '/p'\n");
    let (_, problems) = self::read(&text);
    assert_eq!(
        problems,
        ["router.toml: feed.prefix: is for source = \"etcd\" only"]
    );
}
