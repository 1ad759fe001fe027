//! `router check` and the command line itself.

use std::process::Output;

use crate::process::Place;

const GOOD: &str = r#"{"format": 1, "revision": 42, "apps": [
    {"name": "shop", "domains": ["shop.example.com", "*.shop.example.com"],
     "dynos": [{"name": "web.1", "address": "127.0.0.1:5001", "state": "up"}]}]}"#;

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_good_configuration_is_summed_up() {
    let place = Place::new("");
    place.write("routes.json", GOOD);
    let (code, out, err) = texts(&place.run(&["check", "--config", "router.toml"]));
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (Some(0), "ok: 1 apps, 2 domains, revision 42\n", "")
    );
}

#[test]
fn the_files_that_come_with_the_router_are_good() {
    let place = Place::with_config(include_str!("../../../config/router.toml"));
    place.write(
        "routes.json",
        include_str!("../../../config/routes.example.json"),
    );
    let (code, out, err) = texts(&place.run(&["check", "--config", "router.toml"]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
}

#[test]
fn all_problems_of_both_files_are_said() {
    let place = Place::with_config(
        "[[listener]]\naddress = \"nowhere\"\n[feed]\npath = \"routes.json\"\n[timeout]\nidle = \"1s\"\n\
         [timeouts]\nidle = \"0s\"\n[access_log]\nformat = \"xml\"\n",
    );
    place.write(
        "routes.json",
        r#"{"format": 1, "revision": 1, "apps": [
            {"name": "shop", "domains": ["bad domain"], "dynos": []},
            {"name": "blog", "domains": ["blog.example.com"], "dynos": [{"name": "web.1", "address": "x", "state": "up"}]},
            {"name": "good", "domains": ["good.example.com"], "dynos": []}]}"#,
    );
    let (code, out, err) = texts(&place.run(&["check", "--config", "router.toml"]));
    assert_eq!((code, out.as_str()), (Some(64), ""));
    for wanted in [
        "router.toml: listener[0].address: \"nowhere\" is not an address; allowed: ",
        "router.toml: access_log.format: \"xml\" is unknown; allowed: \"heroku\", \"json\"",
        "router.toml: timeouts.idle: must be more than zero; allowed: ",
        "router.toml: timeout: unknown key, the nearest known one is \"timeouts\"; allowed: ",
        "routes.json: app shop: ",
        "routes.json: app blog: ",
    ] {
        assert!(
            err.lines().any(|line| line.starts_with(wanted)),
            "no {wanted:?} in\n{err}"
        );
    }
    assert_eq!(err.lines().count(), 6, "{err}");
}

#[test]
fn unknown_keys_are_warned_of_and_change_nothing() {
    let place = Place::new("");
    let warning = "routes.json: app shop: domain: unknown key, the nearest known one is \"domains\"; it is ignored\n";
    place.write(
        "routes.json",
        &GOOD.replace("\"dynos\"", "\"domain\": [], \"dynos\""),
    );
    let (code, out, err) = texts(&place.run(&["check", "--config", "router.toml"]));
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (Some(0), "ok: 1 apps, 2 domains, revision 42\n", warning)
    );
    place.write("routes.json", &GOOD.replace("\"domains\"", "\"domain\""));
    let (code, out, err) = texts(&place.run(&["check", "--config", "router.toml"]));
    assert_eq!((code, out.as_str()), (Some(64), ""));
    assert!(
        err.starts_with("routes.json: app shop: domains: ") && err.ends_with(warning),
        "{err}"
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let place = Place::new("");
    for (arguments, wanted) in [
        (
            ["check", "--config", "router.toml"],
            "routes.json: cannot be read: ",
        ),
        (
            ["check", "--config", "absent.toml"],
            "absent.toml: cannot be read: ",
        ),
    ] {
        let (code, _, err) = texts(&place.run(&arguments));
        assert_eq!(code, Some(64));
        assert!(err.starts_with(wanted) && err.lines().count() == 1, "{err}");
    }
    place.write("routes.json", "{");
    let (code, _, err) = texts(&place.run(&["check", "--config", "router.toml"]));
    assert!(
        code == Some(64) && err.starts_with("routes.json: "),
        "{err}"
    );
    place.write("router.toml", "[feed\n");
    let (code, _, err) = texts(&place.run(&["check", "--config", "router.toml"]));
    assert!(
        code == Some(64) && err.starts_with("router.toml: line 1, column 6: "),
        "{err}"
    );
}

#[test]
fn usage_errors_are_64_and_help_is_0() {
    let place = Place::new("");
    for (arguments, wanted) in [
        (&[][..], 0),
        (&["--help"], 0),
        (&["--version"], 0),
        (&["serve", "--help"], 0),
        (&["serve"], 64),
        (&["check"], 64),
        (&["explain"], 64),
        (&["explain", ""], 64),
        (&["explain", "/cart"], 64),
        (&["frobnicate"], 64),
        (&["serve", "--config", "router.toml", "--frob"], 64),
        (&["serve", "--config", "absent.toml"], 64),
        (&["routes", "--admin", "nowhere"], 64),
        (&["routes", "--config", "absent.toml"], 64),
        (
            &["serve", "--config", "router.toml", "--log-level", "a=b=c"],
            64,
        ),
    ] {
        let (code, out, err) = texts(&place.run(arguments));
        assert_eq!(code, Some(wanted), "{arguments:?}\n{out}{err}");
        assert!(if wanted == 0 {
            !out.is_empty() && err.is_empty()
        } else {
            out.is_empty() && !err.is_empty()
        });
    }
    let (_, _, err) = texts(&place.run(&["explain", ""]));
    assert!(
        err.contains("HOST[/PATH]") && err.contains("there is no host in it"),
        "{err}"
    );
    let (_, out, _) = texts(&place.run(&[]));
    assert!(
        ["serve", "check", "explain", "routes"]
            .iter()
            .all(|command| out.contains(command)),
        "{out}"
    );
}

#[test]
fn what_serve_would_refuse_check_refuses() {
    let dynos = r#""dynos": [{"name": "web.1", "address": "127.0.0.1:5001", "state": "up"}]"#;
    let conflict = format!(
        r#"{{"format": 1, "revision": 1, "apps": [
            {{"name": "a", "domains": ["x.test"], {dynos}}}, {{"name": "b", "domains": ["X.test."], {dynos}}}]}}"#
    );
    let empty = r#"{"format": 1, "revision": 1, "apps": []}"#;
    for (document, wanted) in [
        (conflict.as_str(), "routes.json: app b: "),
        (empty, "routes.json: no app would be left"),
    ] {
        let place = Place::new("");
        place.write("routes.json", document);
        let (code, out, err) = texts(&place.run(&["check", "--config", "router.toml"]));
        assert_eq!((code, out.as_str()), (Some(64), ""));
        assert!(err.contains(wanted), "{wanted} not in {err}");
    }
}
