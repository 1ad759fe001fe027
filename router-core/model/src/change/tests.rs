//! What changes come out as, what they are refused for, and that nothing in them can panic the parser.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn app(name: &str) -> Value {
    json!({"name": name, "domains": [format!("{name}.example")], "dynos": [{"name": "web.1", "address": "127.0.0.1:5001", "state": "up"}]})
}

fn read(change: &Value) -> Result<Change, SnapshotError> {
    parse(change.to_string().as_bytes())
}

fn names(change: &Change) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let upsert = change.upsert.iter().map(|app| &*app.name).collect();
    let remove = change.remove.iter().map(|name| &**name).collect();
    let rejected = change.rejected.iter().map(|rejection| &*rejection.app);
    (upsert, remove, rejected.collect())
}

#[test]
fn a_change_is_read_entry_by_entry() {
    let change = read(&json!({"from": 7, "to": 9, "changes": [
        {"app": app("a")}, {"remove": "b"}, {"app": {"name": "c", "domains": ["-"], "dynos": []}}, {"app": app("d"), "more": 1},
    ], "unknown": {}}))
    .unwrap();
    assert_eq!((change.from, change.to, change.allow_shrink), (7, 9, false));
    assert_eq!(names(&change), (vec!["a", "d"], vec!["b"], vec!["c"]));
    assert_eq!(change.certificates, None);
}

#[test]
fn of_several_entries_with_one_name_the_last_one_counts() {
    let bad = json!({"app": {"name": "a"}});
    let (put, take) = (json!({"app": app("a")}), json!({"remove": "a"}));
    for (entries, expected) in [
        (vec![&put, &take], (vec![], vec!["a"], vec![])),
        (vec![&take, &put], (vec!["a"], vec![], vec![])),
        (vec![&put, &put, &put], (vec!["a"], vec![], vec![])),
        (vec![&put, &bad], (vec![], vec![], vec!["a"])),
        (vec![&bad, &put], (vec!["a"], vec![], vec![])),
        (vec![&put, &bad, &take], (vec![], vec!["a"], vec![])),
    ] {
        let change = read(&json!({"from": 1, "to": 2, "changes": entries})).unwrap();
        assert_eq!(names(&change), expected, "{entries:?}");
    }
}

#[test]
fn what_is_no_entry_is_rejected_alone() {
    for entry in [
        json!(null),
        json!("a"),
        json!({}),
        json!({"remove": 1}),
        json!({"remove": {"name": "a"}}),
        json!({"app": app("a"), "remove": "a"}),
        json!({"app": "a"}),
        json!({"app": {"domains": []}}),
    ] {
        let change =
            read(&json!({"from": 1, "to": 2, "changes": [entry, {"remove": "b"}]})).unwrap();
        assert_eq!(
            names(&change),
            (vec![], vec!["b"], vec!["changes[0]"]),
            "{entry}"
        );
    }
}

#[test]
fn an_entry_that_nobody_can_hold_is_rejected_alone() {
    let text = br#"{"from": 1, "to": 2, "changes": [{"app": {"name": "a", "x": 1e999}}, {"remove": "b", "x": 1e999},
        [null, "c"], {"remove": "\ud800"}, {"app": {"name": "d", "unreadable": "no JSON"}}]}"#;
    let change = parse(text).unwrap();
    let rejected = ["changes[2]", "changes[3]"];
    assert_eq!(
        names(&change),
        (vec![], vec!["b"], [&["a"][..], &rejected, &["d"]].concat())
    );
}

#[test]
fn what_is_wrong_with_a_change_as_a_whole_refuses_it() {
    for (change, named) in [
        (json!([]), "JSON object"),
        (json!({"to": 2, "changes": []}), "from: missing"),
        (json!({"from": -1, "to": 2, "changes": []}), "from: -1"),
        (json!({"from": 1, "to": "2", "changes": []}), "to: \"2\""),
        (json!({"from": 2, "to": 2, "changes": []}), "greater"),
        (json!({"from": 3, "to": 2, "changes": []}), "greater"),
        (json!({"from": 1, "to": 2}), "changes: missing"),
        (
            json!({"from": 1, "to": 2, "changes": {}}),
            "changes: an object",
        ),
        (
            json!({"from": 1, "to": 2, "changes": [], "allow_shrink": 1}),
            "allow_shrink: 1",
        ),
        (
            json!({"from": 1, "to": 2, "changes": [], "certificates": 1}),
            "certificates",
        ),
        (
            json!({"format": 2, "from": 1, "to": 2, "changes": []}),
            "format: 2",
        ),
    ] {
        let error = read(&change).unwrap_err().to_string();
        assert!(error.contains(named), "{change}: {error}");
    }
    assert!(parse(b"{\"from\":1,\"to\":2,\"changes\":[").is_err());
}

#[test]
fn a_change_is_the_same_in_one_go_and_field_by_field() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let named = format!("{{\"name\":\"a\",\"deep\":{deep}}}");
    for entry in [
        json!({"app": app("a")}).to_string(),
        json!({"app": app("a"), "remove": null, "more": 1}).to_string(),
        json!({"app": null, "remove": "a"}).to_string(),
        json!({"app": app("a"), "remove": "a"}).to_string(),
        json!({"app": app("a"), "remove": 1}).to_string(),
        json!({"app": {"name": "a", "domains": 1}}).to_string(),
        json!({"app": null}).to_string(),
        format!("{{\"app\":{named}}}"),
        format!("{{\"app\":{},\"deep\":{deep}}}", app("a")),
        format!("{{\"app\":{0},\"app\":{0}}}", app("a")),
        json!(["a"]).to_string(),
    ] {
        for keys in [
            "\"allow_shrink\":true,\"certificates\":[{}]",
            "\"allow_shrink\":null,\"certificates\":null,\"format\":null",
            "\"allow_shrink\":1",
            "\"format\":2",
        ] {
            let usual = format!("{{\"from\":1,\"to\":2,{keys},\"changes\":[{entry}]}}");
            // Of a key that is there twice, the second counts.
            let other = usual.replace("{\"from\":1,", "{\"from\":\"\",\"from\":1,");
            let read = |text: &str| parse(text.as_bytes()).map_err(|error| error.to_string());
            assert_eq!(read(&usual), read(&other), "{usual}");
        }
    }
}

#[test]
fn certificates_are_all_of_them_or_no_word() {
    for (certificates, expected) in [
        (json!(null), None),
        (json!([]), Some(0)),
        (json!([{"chain": "c", "key": "k"}, {}]), Some(1)),
    ] {
        let change = json!({"from": 1, "to": 2, "changes": [], "certificates": certificates});
        let read = read(&change).unwrap();
        assert_eq!(read.certificates.map(|entries| entries.len()), expected);
    }
}

#[test]
fn file_names_start_from_the_folder() {
    let mut secured = app("a");
    secured["settings"] = json!({"dyno_tls": {"verify": "ca.pem"}});
    let change = json!({"from": 1, "to": 2, "changes": [{"app": secured}],
        "certificates": [{"chain_file": "a.crt", "key_file": "/a.key"}]});
    let mut change = read(&change).unwrap();
    change.start_from(Path::new("/etc"));
    let shown = format!("{change:?}");
    assert!(
        shown.contains("/etc/ca.pem") && shown.contains("/etc/a.crt"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn nothing_panics(text in "\\PC{0,60}|\\{(\"(from|to|changes|app|remove)\": ?(1|2|\\[|\\{|\\]|\\}|\"a\"),?){0,6}\\}") {
        if let Err(error) = parse(text.as_bytes()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn bytes_that_are_no_text_refuse_the_whole_wherever_they_stand() {
    for (text, refused) in [
        (
            &b"{\"format\":1,\"revision\":1,\"apps\":[],\"x\":\"\xff\"}"[..],
            true,
        ),
        (
            b"{\"format\":1,\"revision\":1,\"apps\":[],\"x\":\"\xc3\xa9\"}",
            false,
        ),
    ] {
        let read = snapshot::parse(text);
        assert_eq!(matches!(read, Err(SnapshotError::NotUtf8(_))), refused);
        assert_eq!(read.is_err(), refused);
    }
    let error = parse(b"{\"from\":1,\"to\":2,\"changes\":[],\"x\":\"\xff\"}").unwrap_err();
    assert!(error.to_string().contains("not UTF-8"), "{error}");
}
