//! `router relay` between a file and a router, and `router routes --wait` as a deploy script uses it.

use std::net::SocketAddr;

use crate::dyno::Dyno;
use crate::process::{Place, Running, eventually, get};

const RELAY: &str = "[admin]\naddress = \"127.0.0.1:0\"\n[relay]\naddress = \"127.0.0.1:0\"\n";
const ROUTER: &str =
    "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";

fn relay_of_a_file(more: &str) -> Place {
    Place::with_config(&format!(
        "{RELAY}{more}\n[feed]\npath = \"routes.json\"\nrouter_id = \"root\"\n"
    ))
}

fn reads(relay: &Running, name: &str, more: &str) -> String {
    let url = format!("http://{}/v1/routes", relay.client);
    format!("[feed]\nsource = \"http\"\nurl = \"{url}\"\nrouter_id = \"{name}\"\n{more}")
}

/// Runs `router routes --wait`; gives exit code, what it printed, and its complaints.
fn wait(
    place: &Place,
    admin: SocketAddr,
    revision: &str,
    time: &str,
) -> (Option<i32>, String, String) {
    let admin = admin.to_string();
    let output = place.run(&[
        "routes",
        "--admin",
        &admin,
        "--wait",
        revision,
        "--timeout",
        time,
    ]);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_router_behind_two_relays_has_the_routes_and_all_of_them_say_so() {
    let dyno = Dyno::start();
    let source = relay_of_a_file("");
    source.write("routes.json", &dyno.routes(7));
    let root = source.relay();
    let between = Place::with_config(&format!("{RELAY}{}", reads(&root, "between", "")));
    let leaf = between.relay();
    let edge = Place::with_config(&format!("{ROUTER}{}", reads(&leaf, "edge", "")));
    let router = edge.serve();
    router.wait_for_revision(7);
    let request = crate::process::send(
        router.client,
        "GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n",
    );
    dyno.request().answer();
    assert_eq!(request.finish().body, "hello");

    // Whoever publishes hears of the router through both relays.
    source.write("routes.json", &dyno.routes(8));
    let answer = get(root.client, "relay", "/v1/routes/acks?at_least=8&wait=30s");
    assert_eq!(answer.status, 200, "{}", answer.body);
    eventually("all are known", || {
        let known = get(root.client, "relay", "/v1/routes/acks").json()["routers"].clone();
        let names = known
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["router"].as_str().unwrap());
        let names: Vec<_> = names.collect();
        ["between", "edge"].iter().all(|name| names.contains(name))
    });
    router.wait_for_revision(8);
    let feed = get(root.admin, "admin", "/v1/feed").json();
    assert_eq!(feed["relay"]["subscribers"], 1, "{feed}");
    let metrics = get(leaf.admin, "admin", "/metrics").body;
    assert!(metrics.contains("router_relay_revision 8\n"), "{metrics}");

    root.signal("TERM");
    assert_eq!(root.end().0, Some(0));
    // What is behind goes on.
    assert_eq!(
        get(leaf.client, "relay", "/v1/routes").json()["revision"],
        8
    );
}

#[test]
fn a_relay_that_starts_without_its_source_serves_what_it_knew() {
    let dyno = Dyno::start();
    let source = relay_of_a_file("");
    source.write("routes.json", &dyno.routes(7));
    let root = source.relay();
    let place = Place::with_config(&format!(
        "{RELAY}{}",
        reads(&root, "between", "cache = \"cache.json\"\n")
    ));
    let relay = place.relay();
    relay.wait_for_revision(7);
    eventually("it is saved", || {
        get(relay.admin, "admin", "/v1/feed").json()["cache"]["revision"] == 7
    });
    drop(relay);
    drop(root);

    let relay = place.relay();
    relay.wait_for_revision(7);
    assert_eq!(get(relay.admin, "admin", "/v1/feed").json()["stale"], true);
    let document = get(relay.client, "relay", "/v1/routes").json();
    assert_eq!(
        (&document["revision"], &document["apps"][0]["name"]),
        (&7.into(), &"shop".into())
    );
}

#[test]
fn what_a_relay_cannot_use_is_said_at_once() {
    for (config, wanted) in [
        (
            ROUTER,
            "router.toml: relay: is missing; allowed: a table [relay], which may be empty",
        ),
        (
            "[relay]\ntoken_file = \"none.txt\"\n",
            "router.toml: relay.token_file: none.txt cannot be read: ",
        ),
        (
            "[relay]\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"\n",
            "router.toml: relay.certificate: a.crt",
        ),
    ] {
        let place = Place::with_config(&format!("{config}[feed]\npath = \"routes.json\"\n"));
        place.write("routes.json", &Dyno::start().routes(1));
        let output = place.run(&["relay", "--config", "router.toml"]);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{err}");
        assert!(err.starts_with(wanted), "{err}");
        let checked = place.run(&["check", "--config", "router.toml"]);
        assert_eq!(
            checked.status.code(),
            Some(if config == ROUTER { 0 } else { 64 })
        );
    }
    let place = relay_of_a_file("");
    place.write("routes.json", &Dyno::start().routes(1));
    let output = place.run(&["serve", "--config", "router.toml"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), err.as_str()),
        (
            Some(64),
            "router.toml: listener: is missing; allowed: at least one [[listener]] with an address\n"
        )
    );
    assert_eq!(
        place
            .run(&["check", "--config", "router.toml"])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn a_deploy_script_waits_for_a_revision() {
    let dyno = Dyno::start();
    let place = Place::new("");
    place.write("routes.json", &dyno.routes(7));
    let router = place.serve();
    let waiting = |revision, time| wait(&place, router.admin, revision, time);
    let (code, out, err) = waiting("7", "30s");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("feed: revision 7, "), "{out}");
    assert_eq!(waiting("6", "30s").0, Some(0), "a newer one is as good");

    let (code, _, err) = waiting("8", "100ms");
    assert_eq!(
        (code, err.as_str()),
        (Some(2), "revision 8 is not in force after 100ms\n")
    );
    // An app that is rejected is not there, whatever the revision says; whoever waits for it is told.
    let both = dyno.routes(8).replace(
        "\"apps\":[",
        "\"apps\":[{\"name\":\"bad\",\"domains\":[\"no domain\"],\"dynos\":[]},",
    );
    place.write("routes.json", &both);
    let (code, _, err) = waiting("8", "30s");
    assert_eq!(code, Some(0), "{err}");
    assert!(err.starts_with("rejected: bad: "), "{err}");

    let admin = router.admin.to_string();
    for (app, wanted) in [("bad", 3), ("shop", 0)] {
        let output = place.run(&["routes", "--admin", &admin, "--wait", "8", "--app", app]);
        assert_eq!(output.status.code(), Some(wanted), "{app}");
    }

    let (code, _, err) = wait(&place, "127.0.0.1:1".parse().unwrap(), "7", "100ms");
    assert_eq!(code, Some(1));
    assert!(
        err.starts_with("the router cannot be reached at 127.0.0.1:1: "),
        "{err}"
    );
    let nobody_waits = place.run(&["routes", "--timeout", "1s"]);
    assert_eq!(nobody_waits.status.code(), Some(64));
}
