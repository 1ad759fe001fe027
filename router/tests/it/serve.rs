//! `router serve`: how it starts, what it refuses to start with, and its access log.

use std::fs;
use std::net::TcpListener;

use crate::dyno::Dyno;
use crate::process::{Place, eventually, get, send};

#[test]
fn a_bad_configuration_ends_with_64_and_all_problems() {
    let place = Place::new("[timeouts]\nidle = \"x\"\ndrain = \"0s\"\n");
    let output = place.run(&["serve", "--config", "router.toml"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        err.contains("timeouts.idle") && err.contains("timeouts.drain"),
        "{err}"
    );
}

#[test]
fn a_taken_address_ends_with_1_and_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    for (listener, admin) in [
        (taken.to_string(), "127.0.0.1:0".to_owned()),
        ("127.0.0.1:0".to_owned(), taken.to_string()),
    ] {
        let place = Place::with_config(&format!(
            "[[listener]]\naddress = \"{listener}\"\n[admin]\naddress = \"{admin}\"\n[feed]\npath = \"routes.json\"\n"
        ));
        let output = place.run(&["serve", "--config", "router.toml"]);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(
            err.lines().last().unwrap().contains(&taken.to_string()),
            "{err}"
        );
    }
    drop(holder);
}

/// Workers share an address among themselves; that must not let a second router take a share of it unseen.
#[test]
fn the_address_of_another_router_is_taken_too() {
    let first = Place::new("").serve();
    let place = Place::with_config(&format!(
        "[[listener]]\naddress = \"{}\"\n[admin]\naddress = \"127.0.0.1:0\"\n[feed]\npath = \"routes.json\"\n",
        first.client
    ));
    let output = place.run(&["serve", "--config", "router.toml"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&first.client.to_string()), "{err}");
}

#[test]
fn an_access_log_that_cannot_be_opened_ends_with_1() {
    let place = Place::new("[access_log]\ntarget = \".\"\n");
    let output = place.run(&["serve", "--config", "router.toml"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("the access log cannot be opened"), "{err}");
}

#[test]
fn each_request_is_one_line_on_standard_output() {
    let dyno = Dyno::start();
    let place = Place::new("");
    place.write("routes.json", &dyno.routes(1));
    let router = place.serve();
    router.wait_for_revision(1);
    let request = "GET /x?y=1 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n";
    let pending = send(router.client, request);
    dyno.request().answer();
    let response = pending.finish();
    assert_eq!((response.status, response.body.as_str()), (200, "hello"));
    assert_eq!(get(router.client, "unknown.example.com", "/").status, 404);
    for line in [
        "router_requests_total{code=\"none\",status=\"2xx\"} 1",
        "router_requests_refused_total{reason=\"no_such_app\"} 1",
        "router_response_bytes_total 5",
        "router_connect_seconds_count 1",
        "router_apps 1",
        "router_domains 2",
        "router_feed_revision 1",
    ] {
        // A request is counted when its exchange has ended, which the client may see a moment earlier.
        eventually(line, || {
            let metrics = get(router.admin, "admin", "/metrics").body;
            metrics.lines().any(|found| found == line)
        });
    }
    router.signal("TERM");
    let (code, out) = router.end();
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{out}");
    assert!(
        out.contains(
            " heroku[router]: at=info method=GET path=\"/x?y=1\" host=shop.example.com request_id="
        ),
        "{out}"
    );
    assert!(
        out.contains(" dyno=web.1 connect=")
            && out.contains("status=200 bytes=5 protocol=http1.1 tls=false"),
        "{out}"
    );
}

#[test]
fn hangup_reopens_a_log_file() {
    let dyno = Dyno::start();
    let place = Place::new("[access_log]\ntarget = \"access.log\"\nformat = \"json\"\n");
    place.write("routes.json", &dyno.routes(1));
    let router = place.serve();
    router.wait_for_revision(1);
    fs::rename(place.path("access.log"), place.path("access.log.1")).unwrap();
    router.signal("HUP");
    router.wait_for_line("the access log was reopened");
    let request = "GET / HTTP/1.1\r\nHost: a.shop.example.com\r\nConnection: close\r\n\r\n";
    let pending = send(router.client, request);
    dyno.request().answer();
    pending.finish();
    router.signal("INT");
    assert_eq!(router.end(), (Some(0), String::new()));
    let log = fs::read_to_string(place.path("access.log")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!(
        (&line["host"], &line["status"]),
        (&"a.shop.example.com".into(), &200.into())
    );
}

/// A full pipe must stop neither the feed nor the exit.
#[test]
fn diagnostics_that_nobody_reads_hold_nothing_up() {
    let place = Place::new("");
    let router = place.serve();
    let bad: Vec<_> = (0..3000).map(|n| format!("bad domain {n}")).collect();
    for revision in 1..=3 {
        let document = serde_json::json!({"format": 1, "revision": revision, "apps": [
            {"name": "good", "domains": ["good.test"], "dynos": []},
            {"name": "bad", "domains": bad, "dynos": []},
        ]});
        place.write("routes.json", &document.to_string());
        router.wait_for_revision(revision);
    }
    router.signal("TERM");
    assert_eq!(router.end().0, Some(0));
}
