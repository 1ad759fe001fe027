//! `router explain` and `router routes` against a running router.

use std::net::TcpListener;

use crate::dyno::Dyno;
use crate::process::Place;

#[test]
fn a_running_router_explains_itself() {
    let dyno = Dyno::start();
    let place = Place::new("");
    place.write("routes.json", &dyno.routes(42));
    let router = place.serve();
    router.wait_for_revision(42);
    let admin = router.admin.to_string();
    // The file names port 0, so each command is told the real address.
    let ask = |arguments: &[&str]| {
        let output = place.run(&[arguments, &["--admin", &admin]].concat());
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };

    let (code, text) = ask(&["explain", "shop.example.com/x"]);
    assert_eq!(code, Some(0), "{text}");
    for wanted in [
        "shop.example.com/x: routed",
        "app: shop",
        "web.1",
        &dyno.address.to_string(),
        "feed: revision 42",
        "first_byte_timeout            30s",
        "concurrent_requests_per_dyno  200",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
    // What does not apply is not shown.
    assert!(
        !text.contains("hsts") && !text.contains("hash_key"),
        "{text}"
    );
    let (code, text) = ask(&["explain", "nobody.example.com"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("nobody.example.com/: not routed"), "{text}");
    let (code, text) = ask(&["explain", "--json", "shop.example.com"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["app"]), (Some(0), &"shop".into()));

    let (code, text) = ask(&["routes"]);
    assert_eq!(code, Some(0));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0][..3], ["APP", "DOMAINS", "DYNO"]);
    let address = dyno.address.to_string();
    assert_eq!(
        rows[1],
        [
            "shop",
            "shop.example.com,*.shop.example.com",
            "web.1",
            &address,
            "up",
            "0",
            "0"
        ]
    );
    let (_, text) = ask(&["routes", "--json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["apps"][0]["name"],
        "shop"
    );
}

#[test]
fn a_router_that_is_not_there_is_named() {
    let place = Place::new("");
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    for command in [
        &["explain", "shop.example.com", "--admin", &free][..],
        &["routes", "--admin", &free],
    ] {
        let output = place.run(command);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err.contains(&format!("the router cannot be reached at {free}")),
            "{err}"
        );
    }
}

/// Nobody listens at any of these addresses; the complaint tells which one was chosen.
#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let [file, environment, flag] = [(); 3].map(|()| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    });
    let place = Place::with_config(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"{file}\"\n[feed]\npath = \"r.json\"\n"
    ));
    let config = ("ROUTER_CONFIG", "router.toml");
    let admin = ("ROUTER_ADMIN", environment.as_str());
    for (variables, arguments, wanted) in [
        (&[][..], &["routes", "--config", "router.toml"][..], &file),
        (&[config], &["routes"], &file),
        (&[config, admin], &["routes"], &environment),
        (
            &[admin],
            &["routes", "--config", "router.toml"],
            &environment,
        ),
        (&[config, admin], &["routes", "--admin", &flag], &flag),
    ] {
        let output = place.run_with(variables, arguments);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.contains(wanted), "{variables:?} {arguments:?}: {err}");
    }
}
