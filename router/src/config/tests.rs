//! The configuration as its readers meet it: the documented file is the default, and every problem is said.

use std::fs;
use std::time::Duration;

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
    let later = [
        "listener[0].certificate",
        "listener[0].private_key",
        "listener[0].min_tls_version",
        "listener[0].http2",
        "feed.url",
        "feed.token_file",
        "feed.endpoints",
        "feed.prefix",
        "tls",
    ];
    let commented = ["feed.cache", "affinity.key"];
    for key in known.iter().filter(|key| !later.contains(&key.as_str())) {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let section = section.trim_end_matches("[0]");
        let documented = match (section, table.get(section)) {
            ("", _) => table.contains_key(name),
            (_, Some(toml::Value::Array(items))) => items[0].get(name).is_some(),
            (_, Some(inner)) => inner.get(name).is_some(),
            (_, None) => false,
        };
        let mentioned =
            commented.contains(&key.as_str()) && DOCUMENTED.contains(&format!("# {name} = "));
        assert!(
            documented || mentioned,
            "config/router.toml says nothing of {key}"
        );
    }
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
        ["[::1]:0".parse().unwrap(), "0.0.0.0:80".parse().unwrap()]
    );
    assert_eq!(config.feed.path, Path::new("/r.json"));
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
    assert_eq!(
        loaded.config.feed.path,
        Path::new("/etc/router/routes.json")
    );
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
        ("[tls]\ncertificates='certs/'", "tls: TLS is not supported yet".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nprotocol='https'",
         "listener[1].protocol: \"https\" is not supported yet; allowed: \"http\"".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nprotocol='spdy'",
         "listener[1].protocol: \"spdy\" is unknown; allowed: \"http\", \"https\"".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\ncertificate='a.crt'",
         "listener[1].certificate: TLS is not supported yet".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\nproxy_protocol=true",
         "listener[1].proxy_protocol: the PROXY protocol is not supported yet; allowed: false".into()),
        ("[[listener]]\naddress='127.0.0.1:1'\ntrusted_proxies=['10.0.0.0/8']",
         "listener[1].trusted_proxies: trusting proxies is not supported yet; allowed: []".into()),
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
            "listener[0].trusted_proxies",
            "feed.source",
            "feed.path",
            "timeouts.drain",
            "timeouts.conect",
            "colour",
            "limit",
        ]
    );
    assert!(
        problems[8].contains("nearest known one is \"connect\""),
        "{}",
        problems[8]
    );
    assert!(
        problems[10].contains("nearest known one is \"limits\""),
        "{}",
        problems[10]
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
    let (_, problems) =
        read("[listener]\naddress='127.0.0.1:1'\n[feed]\nsource='http'\nurl='http://x/'\n");
    assert_eq!(
        problems,
        [
            "router.toml: listener: has the wrong type (a table); allowed: an array of tables ([[listener]])",
            "router.toml: feed.source: \"http\" is not supported yet; allowed: \"file\"",
            "router.toml: feed.url: the \"http\" feed is not supported yet",
        ]
    );
}
