//! What documents come out as, what they are refused for, and that nothing in them can panic the parser.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::app::DynoState;
use crate::settings::{Balancer, HashKey, Settings};

fn document(apps: Value) -> Vec<u8> {
    serde_json::to_vec(&json!({"format": 1, "revision": 1, "apps": apps})).unwrap()
}

fn good_app() -> Value {
    json!({
        "name": "shop",
        "domains": ["shop.example.com"],
        "dynos": [
            {"name": "web.1", "address": "127.0.0.1:5001", "state": "up"},
            {"name": "web.2", "address": "127.0.0.1:5002", "state": "up"},
        ],
        "settings": {},
    })
}

/// The good app with the value at a JSON pointer put in, or taken out if `None`.
fn app_with(pointer: &str, value: Option<Value>) -> Value {
    let mut app = good_app();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match (app.pointer_mut(parent).unwrap(), value) {
        (Value::Object(object), Some(value)) => drop(object.insert(key.to_owned(), value)),
        (Value::Object(object), None) => drop(object.remove(key)),
        (Value::Array(array), Some(value)) => array[key.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("{other}"),
    }
    app
}

fn accepted(app: Value) -> App {
    let snapshot = parse(&document(json!([app]))).unwrap();
    assert_eq!(snapshot.rejected, []);
    App::clone(&snapshot.apps[0])
}

fn rejected(app: Value) -> Rejection {
    let snapshot = parse(&document(json!([app]))).unwrap();
    assert_eq!(snapshot.apps, [], "{app}");
    snapshot.rejected[0].clone()
}

#[test]
fn the_example_document_has_nothing_to_reject() {
    let snapshot = parse(include_bytes!("../../../../config/routes.example.json")).unwrap();
    assert_eq!(snapshot.rejected, []);
    assert_eq!(snapshot.revision, 42);
    let names: Vec<_> = snapshot.apps.iter().map(|app| &*app.name).collect();
    assert_eq!(names, ["shop", "tenants", "docs", "mailer", "new", "hobby"]);

    let shop = &snapshot.apps[0];
    assert_eq!(
        shop.domains.iter().map(|d| d.as_str()).collect::<Vec<_>>(),
        ["shop.example.com", "*.shop.example.com"]
    );
    assert_eq!(shop.web_quantity(), 2);
    assert_eq!(
        shop.dynos
            .iter()
            .map(|d| d.state.as_str())
            .collect::<Vec<_>>(),
        ["up", "starting", "up", "up"]
    );
    assert_eq!(shop.dynos[3].address, None);
    assert_eq!(
        shop.settings,
        Settings {
            error_page_url: Some("//cdn.example.com/error.html".to_owned()),
            maintenance_page_url: Some("//cdn.example.com/maintenance.html".to_owned()),
            first_byte_timeout: Some(Duration::from_secs(30)),
            idle_timeout: Some(Duration::from_secs(55)),
            concurrent_requests_per_dyno: Some(200),
            ..Settings::default()
        }
    );
    let tenants = &snapshot.apps[1];
    assert_eq!(tenants.settings.balancer, Balancer::ConsistentHash);
    assert_eq!(
        tenants.settings.hash_key,
        HashKey::Header("x-tenant".to_owned())
    );
    assert_eq!(tenants.dynos[2].state, DynoState::Draining);
    let states: Vec<_> = snapshot.apps[2..]
        .iter()
        .map(|a| (a.maintenance, a.web_quantity(), a.released))
        .collect();
    assert_eq!(
        states,
        [
            (true, 1, true),
            (false, 0, true),
            (false, 0, false),
            (false, 1, true)
        ]
    );
    assert_eq!(
        snapshot.apps[5].suspended.as_deref(),
        Some("free hours used up")
    );
}

#[test]
fn only_name_domains_and_dynos_are_required_and_null_is_absent() {
    let bare = accepted(json!({"name": "a", "domains": [], "dynos": []}));
    assert!(bare.released && !bare.maintenance && !bare.degraded && bare.suspended.is_none());
    assert_eq!(bare.settings, Settings::default());
    let nulls = json!({
        "name": "a", "domains": [], "dynos": [], "formation": null, "maintenance": null, "released": null,
        "suspended": null, "degraded": null, "settings": {
            "error_page_url": null, "balancer": null, "hash_key": null, "http2": null, "idle_timeout": null,
            "concurrent_requests_per_dyno": null, "a setting of the future": [1],
        }, "a field of the future": {},
    });
    assert_eq!(accepted(nulls), bare);
    let settings = accepted(app_with("/settings", Some(Value::Null))).settings;
    assert_eq!(settings, Settings::default());
}

#[test]
fn an_app_written_as_a_document_reads_as_the_same_app() {
    let example = parse(include_bytes!("../../../../config/routes.example.json")).unwrap();
    let mut apps: Vec<_> = example.apps.iter().map(|app| App::clone(app)).collect();
    let authority = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for settings in [
        json!({"dyno_tls": {"verify": authority, "identity": "dyno-name"}}),
        json!({"dyno_tls": {"verify": "/etc/ca.pem", "identity": "a.test"}, "dyno_protocol": "h2"}),
        json!({"dyno_tls": {"verify": "none", "identity": "none"}, "http2": false}),
        json!({"hash_key": {"cookie": "Sid"}, "balancer": "consistent_hash", "session_affinity": true}),
        json!({"first_byte_timeout": "1500ms", "idle_timeout": "1h 2m", "expire_after": "1day", "concurrent_requests_per_dyno": 7}),
        json!({"error_page_url": "//a.test/", "end_to_end_continue": true, "dyno_keepalive": false}),
    ] {
        apps.push(accepted(app_with("/settings", Some(settings))));
    }
    for app in apps {
        assert_eq!(accepted(app.to_document()), app);
    }
}

#[test]
fn documents_refused_as_a_whole() {
    for (document, expected) in [
        (
            "",
            "the route document is not JSON: EOF while parsing a value at line 1 column 0",
        ),
        (
            "{\"format\": 1,",
            "the route document is not JSON: EOF while parsing a value at line 1 column 13",
        ),
        ("[]", "the route document is not a JSON object"),
        ("{}", "format: missing, but this router reads format 1"),
        (
            r#"{"format": 2, "revision": 1, "apps": []}"#,
            "format: 2, but this router reads format 1",
        ),
        (
            r#"{"format": "1", "revision": 1, "apps": []}"#,
            "format: \"1\", but this router reads format 1",
        ),
        (
            r#"{"format": 1, "apps": []}"#,
            "revision: missing, must be a whole number that is not negative",
        ),
        (
            r#"{"format": 1, "revision": -1, "apps": []}"#,
            "revision: -1, must be a whole number that is not negative",
        ),
        (
            r#"{"format": 1, "revision": "7", "apps": []}"#,
            "revision: \"7\", must be a whole number that is not negative",
        ),
        (
            r#"{"format": 1, "revision": 1}"#,
            "apps: missing, must be an array of apps",
        ),
        (
            r#"{"format": 1, "revision": 1, "apps": {}}"#,
            "apps: an object, must be an array of apps",
        ),
        (
            r#"{"format": 1, "revision": 1, "apps": [], "allow_shrink": "yes"}"#,
            "allow_shrink: \"yes\", must be true or false",
        ),
    ] {
        assert_eq!(
            parse(document.as_bytes()).unwrap_err().to_string(),
            expected
        );
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(
        parse(deep.as_bytes()),
        Err(SnapshotError::NotAnObject)
    ));
    let within =
        |key: &str| format!(r#"{{"format": 1, "revision": 1, "apps": [], "{key}": {deep}}}"#);
    for key in ["revision", "certificates"] {
        let read = parse(within(key).as_bytes());
        assert!(matches!(read, Err(SnapshotError::NotJson(_))), "{key}");
    }
    let snapshot = parse(within("apps").as_bytes()).unwrap();
    assert_eq!(snapshot.rejected[0].app, "apps[0]");
    assert!(parse(within("unknown").as_bytes()).is_ok());
}

#[test]
fn the_head_of_a_document() {
    let snapshot = parse(
        br#"{"format": 1, "revision": 18446744073709551615, "apps": [], "allow_shrink": true}"#,
    )
    .unwrap();
    assert_eq!((snapshot.revision, snapshot.allow_shrink), (u64::MAX, true));
    let snapshot = parse(br#"{"format": 1, "revision": 0, "apps": [], "x": 1}"#).unwrap();
    assert_eq!((snapshot.revision, snapshot.allow_shrink), (0, false));
}

#[test]
fn one_wrong_field_rejects_the_app_with_field_value_and_what_is_allowed() {
    let state = "must be one of starting, up, draining, idle, crashed, down";
    let address = "must be an IP address and a port, such as 10.0.0.7:5001 or [fd00::7]:5001";
    let url = "must be an address that begins with https://, http:// or //, without spaces";
    let duration =
        "must be a duration such as \"30s\" or \"1500ms\", more than zero and at most a year";
    let balancer = "must be one of least_requests, random, round_robin, consistent_hash";
    let hash_key = "must be \"client_address\", {\"header\": \"a header's name\"} or {\"cookie\": \"a cookie's name\"}";
    let quantity = "must be a whole number from 0 to 4294967295";
    let limit = "must be a whole number from 1 to 4294967295";
    for (pointer, value, expected) in [
        ("/domains", None, "domains: missing, must be an array of hostnames".to_owned()),
        ("/domains", Some(json!("a.example")), "domains: \"a.example\", must be an array of hostnames".to_owned()),
        ("/domains/0", Some(json!(7)), "domains[0]: 7, must be a hostname".to_owned()),
        (
            "/domains/0",
            Some(json!("a b")),
            "domains[0]: \"a b\", the character ' ' is not allowed in a hostname; allowed are letters, digits, '-', '_' and '.'"
                .to_owned(),
        ),
        ("/dynos", None, "dynos: missing, must be an array of dynos".to_owned()),
        ("/dynos", Some(Value::Null), "dynos: null, must be an array of dynos".to_owned()),
        (
            "/dynos/1",
            Some(json!("web.2")),
            "dynos[1]: \"web.2\", must be an object with a name, a state and, if it listens, an address".to_owned(),
        ),
        ("/dynos/1/name", None, "dynos[1].name: missing, must be a process type and an instance, such as web.1".to_owned()),
        ("/dynos/1/name", Some(json!("web 2")), "dynos[1].name: \"web 2\", the character ' ' is not allowed in a name".to_owned()),
        ("/dynos/1/name", Some(json!("web.1")), "dynos[1].name: \"web.1\", is the name of an earlier dyno of this app that is up too".to_owned()),
        ("/dynos/1/state", None, format!("dynos[1].state: missing, {state}")),
        ("/dynos/1/state", Some(json!("Up")), format!("dynos[1].state: \"Up\", {state}")),
        ("/dynos/1/state", Some(json!(1)), format!("dynos[1].state: 1, {state}")),
        ("/dynos/1/address", Some(json!("localhost:5002")), format!("dynos[1].address: \"localhost:5002\", {address}")),
        ("/dynos/1/address", Some(json!("127.0.0.1")), format!("dynos[1].address: \"127.0.0.1\", {address}")),
        ("/dynos/1/address", Some(json!("127.0.0.1:0")), format!("dynos[1].address: \"127.0.0.1:0\", {address}")),
        ("/dynos/1/address", Some(json!(5002)), format!("dynos[1].address: 5002, {address}")),
        ("/dynos/1/address", None, "dynos[1].address: missing, a web dyno that is up needs one".to_owned()),
        (
            "/dynos/1/address",
            Some(json!("127.0.0.1:5001")),
            "dynos[1].address: \"127.0.0.1:5001\", is the address of web.1 too".to_owned(),
        ),
        ("/formation", Some(json!([])), "formation: an array, must be an object of process types and quantities".to_owned()),
        ("/formation", Some(json!({"web": -1})), format!("formation[\"web\"]: -1, {quantity}")),
        ("/formation", Some(json!({"web": 4294967296_u64})), format!("formation[\"web\"]: 4294967296, {quantity}")),
        ("/maintenance", Some(json!("true")), "maintenance: \"true\", must be true or false".to_owned()),
        ("/released", Some(json!(0)), "released: 0, must be true or false".to_owned()),
        ("/degraded", Some(json!([])), "degraded: an array, must be true or false".to_owned()),
        ("/suspended", Some(json!(true)), "suspended: true, must be a text".to_owned()),
        ("/settings", Some(json!("none")), "settings: \"none\", must be an object".to_owned()),
        ("/settings/balancer", Some(json!("p2c")), format!("settings.balancer: \"p2c\", {balancer}")),
        ("/settings/balancer", Some(json!(1)), format!("settings.balancer: 1, {balancer}")),
        ("/settings/hash_key", Some(json!("ip")), format!("settings.hash_key: \"ip\", {hash_key}")),
        ("/settings/hash_key", Some(json!({"query": "q"})), format!("settings.hash_key: an object, {hash_key}")),
        ("/settings/hash_key", Some(json!({"header": "X Y"})), format!("settings.hash_key: an object, {hash_key}")),
        ("/settings/hash_key", Some(json!({"cookie": ""})), format!("settings.hash_key: an object, {hash_key}")),
        ("/settings/hash_key", Some(json!({"header": "a", "cookie": "b"})), format!("settings.hash_key: an object, {hash_key}")),
        ("/settings/http2", Some(json!(1)), "settings.http2: 1, must be true or false".to_owned()),
        ("/settings/session_affinity", Some(json!("on")), "settings.session_affinity: \"on\", must be true or false".to_owned()),
        ("/settings/first_byte_timeout", Some(json!(30)), format!("settings.first_byte_timeout: 30, {duration}")),
        ("/settings/expire_after", Some(json!(30)), format!("settings.expire_after: 30, {duration}")),
        ("/settings/first_byte_timeout", Some(json!("30")), format!("settings.first_byte_timeout: \"30\", {duration}")),
        ("/settings/idle_timeout", Some(json!("0s")), format!("settings.idle_timeout: \"0s\", {duration}")),
        ("/settings/idle_timeout", Some(json!("2years")), format!("settings.idle_timeout: \"2years\", {duration}")),
        (
            "/settings/concurrent_requests_per_dyno",
            Some(json!(0)),
            format!("settings.concurrent_requests_per_dyno: 0, {limit}"),
        ),
        (
            "/settings/concurrent_requests_per_dyno",
            Some(json!(1.5)),
            format!("settings.concurrent_requests_per_dyno: 1.5, {limit}"),
        ),
        ("/settings/error_page_url", Some(json!("/error.html")), format!("settings.error_page_url: \"/error.html\", {url}")),
        (
            "/settings/error_page_url",
            Some(json!("javascript://x%0aalert(1)")),
            format!("settings.error_page_url: \"javascript://x%0aalert(1)\", {url}"),
        ),
        ("/settings/error_page_url", Some(json!("https://")), format!("settings.error_page_url: \"https://\", {url}")),
        ("/settings/maintenance_page_url", Some(json!("//a b")), format!("settings.maintenance_page_url: \"//a b\", {url}")),
        ("/settings/maintenance_page_url", Some(json!("//a\n")), format!("settings.maintenance_page_url: \"//a\\n\", {url}")),
    ] {
        let rejection = rejected(app_with(pointer, value));
        assert_eq!(rejection, Rejection { app: "shop".to_owned(), reason: expected });
    }
}

#[test]
fn accepted_values_that_look_odd() {
    for (pointer, value) in [
        ("/dynos/1/address", json!("[::1]:5002")),
        ("/dynos/1/name", json!("worker.1")),
        ("/formation", json!({"web": 0, "a process type": 3})),
        ("/settings/hash_key", json!("client_address")),
        ("/settings/hash_key", json!({"cookie": "SID"})),
        ("/settings/idle_timeout", json!("1m 30s")),
        (
            "/settings/error_page_url",
            json!("HTTPS://cdn.example/e?x=1&y=\""),
        ),
        ("/suspended", json!("")),
    ] {
        accepted(app_with(pointer, Some(value)));
    }
    for state in ["starting", "idle", "crashed", "down"] {
        let app = accepted(app_with(
            "/dynos/1",
            Some(json!({"name": "web.2", "state": state})),
        ));
        assert_eq!(app.dynos[1].address, None);
    }
    // A deploy: the old generation goes by the same names, and a new dyno may get a dead one's address.
    for old in [
        json!({"name": "web.1", "address": "127.0.0.1:4001", "state": "draining"}),
        json!({"name": "web.9", "address": "127.0.0.1:5001", "state": "crashed"}),
    ] {
        accepted(app_with("/dynos/1", Some(old)));
    }
    // Only web dynos are ever connected to, so that another's address is its own business.
    accepted(app_with(
        "/dynos/1",
        Some(json!({"name": "worker.1", "state": "up", "address": "127.0.0.1:5001"})),
    ));
    accepted(app_with(
        "/dynos/1",
        Some(json!({"name": "worker.1", "state": "draining"})),
    ));
}

#[test]
fn a_domain_listed_twice_is_one_domain() {
    let app = accepted(app_with(
        "/domains",
        Some(json!(["a.example", "A.example.", "*.a.example"])),
    ));
    assert_eq!(
        app.domains.iter().map(|d| d.as_str()).collect::<Vec<_>>(),
        ["a.example", "*.a.example"]
    );
}

#[test]
fn apps_without_a_usable_name_are_called_by_their_place() {
    let reason = "must be a name of visible ASCII characters without quotes, at most 255";
    let long = "x".repeat(256);
    let shown = format!("name: \"{}\"..., {reason}", "x".repeat(80));
    for (name, expected) in [
        (None, format!("name: missing, {reason}")),
        (Some(json!(7)), format!("name: 7, {reason}")),
        (Some(json!("")), format!("name: \"\", {reason}")),
        (
            Some(json!("my shop")),
            format!("name: \"my shop\", {reason}"),
        ),
        (Some(json!(long)), shown),
    ] {
        let snapshot = parse(&document(json!([good_app(), app_with("/name", name)]))).unwrap();
        assert_eq!(snapshot.apps.len(), 1);
        assert_eq!(
            snapshot.rejected,
            [Rejection {
                app: "apps[1]".to_owned(),
                reason: expected
            }]
        );
    }
    let rejection = rejected(json!("shop"));
    assert_eq!(
        rejection,
        Rejection {
            app: "apps[0]".to_owned(),
            reason: "apps[0]: \"shop\", must be an object".to_owned()
        }
    );
}

#[test]
fn every_reason_of_an_app_is_given_and_the_others_apply() {
    let bad = json!({
        "name": "bad",
        "domains": ["-x", 1],
        "dynos": [{"name": "", "state": "on", "address": "x"}],
        "settings": {"balancer": "x", "idle_timeout": 1},
    });
    let snapshot = parse(&document(json!([bad, good_app()]))).unwrap();
    assert_eq!(snapshot.apps.len(), 1);
    let reason = &snapshot.rejected[0].reason;
    let fields: Vec<_> = reason
        .split("; ")
        .map(|reason| reason.split(':').next().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "domains[0]",
            "domains[1]",
            "dynos[0].name",
            "dynos[0].state",
            "dynos[0].address",
            "settings.balancer",
            "settings.idle_timeout"
        ]
    );
}

#[test]
fn the_later_of_two_apps_of_one_name_is_rejected() {
    let mut later = good_app();
    later["maintenance"] = json!(true);
    let snapshot = parse(&document(json!([good_app(), later]))).unwrap();
    assert!(!snapshot.apps[0].maintenance);
    let reason = "name: shop was used by an earlier app of this document".to_owned();
    assert_eq!(
        snapshot.rejected,
        [Rejection {
            app: "shop".to_owned(),
            reason
        }]
    );

    let first_is_bad = parse(&document(json!([app_with("/domains", None), good_app()]))).unwrap();
    assert_eq!(
        (first_is_bad.apps.len(), first_is_bad.rejected.len()),
        (0, 2)
    );
}

#[test]
fn an_app_that_json_allows_but_nobody_can_hold_is_rejected_alone() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (field, expected) in [
        (
            format!("\"future\": {deep}"),
            "it cannot be read: recursion limit exceeded",
        ),
        (
            "\"future\": 1e999".to_owned(),
            "it cannot be read: number out of range",
        ),
        (
            "\"future\": \"\\ud800\"".to_owned(),
            "it cannot be read: unexpected end of hex escape",
        ),
    ] {
        let good = good_app();
        let text = format!(
            "{{\"format\": 1, \"revision\": 1, \"apps\": [{{{field}, \"name\": \"bad\"}}, {good}], \"future\": {deep}}}"
        );
        let snapshot = parse(text.as_bytes()).unwrap();
        assert_eq!(snapshot.apps.len(), 1, "{field}");
        let [Rejection { app, reason }] = &snapshot.rejected[..] else {
            panic!("{snapshot:?}");
        };
        assert_eq!(app, "bad");
        assert!(reason.starts_with(expected), "{reason}");
    }
}

#[test]
fn an_app_that_its_source_could_not_read_is_rejected_for_that_reason() {
    let rejection =
        rejected(json!({"name": "shop", "unreadable": "no JSON:\nat line 1", "domains": 7}));
    assert_eq!(
        rejection,
        Rejection {
            app: "shop".to_owned(),
            reason: "no JSON: at line 1".to_owned()
        }
    );
    let rejection = rejected(json!({"name": "a b", "unreadable": "x"}));
    assert_eq!(rejection.app, "apps[0]");
    assert!(rejection.reason.ends_with("; x"), "{rejection:?}");
    accepted(app_with("/unreadable", Some(Value::Null)));
}

#[test]
fn more_web_dynos_than_a_pool_can_hold_are_rejected() {
    let dyno = |n: u32| {
        let address = std::net::SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 80));
        json!({"name": format!("web.{n}"), "state": "up", "address": address.to_string()})
    };
    let mut dynos: Vec<_> = (1..=65_535).map(dyno).collect();
    accepted(app_with("/dynos", Some(json!(dynos))));
    dynos.push(dyno(65_536));
    let rejection = rejected(app_with("/dynos", Some(json!(dynos))));
    assert_eq!(
        rejection.reason,
        "dynos: 65536, web dynos are more than the 65535 allowed"
    );
}

/// Any JSON value whose keys and texts are often those of the document.
fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("web.1".to_owned()),
        Just("up".to_owned()),
        Just("127.0.0.1:80".to_owned()),
        Just("*.a.example".to_owned()),
        Just("30s".to_owned()),
        "\\PC{0,12}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let key = prop_oneof![
            proptest::sample::select(vec![
                "name",
                "domains",
                "dynos",
                "formation",
                "settings",
                "address",
                "state",
                "web",
                "balancer",
                "hash_key",
                "header",
                "cookie",
                "idle_timeout",
                "error_page_url",
                "suspended",
                "maintenance",
                "hsts",
                "min_tls_version",
                "dyno_protocol",
                "dyno_tls",
                "verify",
                "identity",
            ])
            .prop_map(str::to_owned),
            "\\PC{0,6}",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..10)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(parse(&bytes));
    }

    #[test]
    fn arbitrary_json_never_panics(value in any_value()) {
        drop(parse(&serde_json::to_vec(&value).unwrap()));
    }

    #[test]
    fn every_certificate_is_accepted_or_rejected_with_a_reason(values in proptest::collection::vec(any_value(), 0..4)) {
        let document = json!({"format": 1, "revision": 1, "apps": [], "certificates": values});
        let snapshot = parse(&serde_json::to_vec(&document).unwrap()).unwrap();
        let rejected = snapshot.rejected_certificates;
        prop_assert_eq!(snapshot.certificates.len() + rejected.len(), values.len());
        prop_assert!(rejected.iter().all(|rejection| !rejection.reason.is_empty()));
        prop_assert!(rejected.iter().all(|rejection| !rejection.reason.contains(char::is_control)));
    }

    #[test]
    fn every_app_is_accepted_or_rejected_with_a_reason(apps in proptest::collection::vec(any_value(), 0..4)) {
        let snapshot = parse(&document(json!(apps))).unwrap();
        prop_assert_eq!(snapshot.apps.len() + snapshot.rejected.len(), apps.len());
        prop_assert!(snapshot.rejected.iter().all(|rejection| !rejection.reason.is_empty()));
        prop_assert!(snapshot.rejected.iter().all(|rejection| !rejection.reason.contains(char::is_control)));
    }

    #[test]
    fn one_strange_field_never_touches_the_other_app(
        pointer in proptest::sample::select(vec![
            "/domains", "/domains/0", "/dynos", "/dynos/0", "/dynos/0/address", "/formation", "/settings",
            "/settings/hash_key", "/settings/idle_timeout", "/settings/error_page_url", "/settings/hsts",
            "/settings/dyno_protocol", "/settings/dyno_tls", "/dyno_tls",
        ]),
        value in any_value(),
    ) {
        let mut other = good_app();
        other["name"] = json!("other");
        let snapshot = parse(&document(json!([app_with(pointer, Some(value)), other]))).unwrap();
        prop_assert!(snapshot.apps.iter().any(|app| &*app.name == "other"));
    }

    #[test]
    fn a_cut_document_is_refused(cut in 0usize..400) {
        let whole = document(json!([good_app()]));
        prop_assume!(cut < whole.len());
        prop_assert!(parse(&whole[..cut]).is_err());
    }
}
