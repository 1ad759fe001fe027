//! What becomes of keys and values, good ones and bad ones.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use router_model::{change, snapshot};
use serde_json::Value;

use super::*;

fn layout() -> Layout {
    Layout::new("/r")
}

/// A page of the range answer with these keys and values.
fn page(revision: u64, more: bool, kvs: &[(&str, &str, u64)]) -> String {
    let kvs: Vec<Value> = kvs
        .iter()
        .map(|(key, value, revision)| {
            json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value), "mod_revision": revision.to_string()})
        })
        .collect();
    json!({"header": {"revision": revision.to_string()}, "kvs": kvs, "more": more}).to_string()
}

fn events(events: &[(&str, Option<&str>, u64)]) -> String {
    let events: Vec<Value> = events
        .iter()
        .map(|(key, value, revision)| {
            let kind = if value.is_some() { "PUT" } else { "DELETE" };
            let kv = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value.unwrap_or("")),
                "mod_revision": revision.to_string()});
            json!({"type": kind, "kv": kv})
        })
        .collect();
    json!({"events": events}).to_string()
}

fn list(pages: &[String], has: Option<u64>) -> (Value, Known) {
    let mut listing = Listing::new(&layout());
    for page in pages {
        let answer: RangeAnswer<'_> = serde_json::from_str(page).unwrap();
        listing.add(&layout(), &answer).unwrap();
    }
    let (document, known) = listing.finish(has);
    (serde_json::from_slice(&document).unwrap(), known)
}

/// The change that comes of lines, for somebody who has `from`.
fn change(known: &mut Known, from: u64, lines: &[String]) -> Value {
    let mut pending = Pending::default();
    for line in lines {
        let answer: WatchAnswer<'_> = serde_json::from_str(line).unwrap();
        pending.add(&layout(), known, &answer).unwrap();
    }
    assert!(pending.any());
    serde_json::from_slice(&pending.change(known, from)).unwrap()
}

const A: &str = r#" {"name": "a", "domains": ["a.example"], "dynos": [], "future": 1e999} "#;

#[test]
fn pages_become_one_document_of_the_first_pages_revision() {
    let first = page(9, true, &[("/r/apps/a", A, 3)]);
    let mut listing = Listing::new(&layout());
    let answer: RangeAnswer<'_> = serde_json::from_str(&first).unwrap();
    assert_eq!(listing.next, b"/r/apps/");
    assert_eq!(listing.add(&layout(), &answer), Ok(true));
    assert_eq!(
        (listing.revision, &*listing.next),
        (Some(9), &b"/r/apps/a\0"[..])
    );
    let second = page(
        12,
        false,
        &[
            ("/r/apps/b", "{\"name\":\"b\"}", 4),
            ("/r/certs/x", "{\"chain\":\"c\"}", 5),
            ("/r/certs/y", "KEY", 5),
            ("/r/meta", "{\"revision_base\":100,\"x\":1}", 6),
            ("/r/other", "z", 6),
        ],
    );
    let answer: RangeAnswer<'_> = serde_json::from_str(&second).unwrap();
    assert_eq!(listing.add(&layout(), &answer), Ok(false));
    let (document, known) = listing.finish(Some(8));
    let document = String::from_utf8(document.to_vec()).unwrap();
    assert_eq!(
        document,
        format!(
            "{{\"format\":1,\"apps\":[{},{{\"name\":\"b\"}}],\"certificates\":[{{\"chain\":\"c\"}},null],\"revision\":109,\"allow_shrink\":false}}",
            A.trim()
        )
    );
    assert_eq!(known.told(9), 109);
}

#[test]
fn an_empty_store_is_an_empty_document() {
    let (document, _) = list(&[page(1, false, &[])], None);
    let wanted =
        json!({"format": 1, "apps": [], "certificates": [], "revision": 1, "allow_shrink": false});
    assert_eq!(document, wanted);
}

#[test]
fn shrinking_is_allowed_once_and_only_after_it_was_said() {
    let pages = [page(9, false, &[("/r/meta", "{\"allow_shrink\":true}", 5)])];
    for (has, allowed) in [
        (None, true),
        (Some(4), true),
        (Some(5), false),
        (Some(9), false),
    ] {
        let (document, _) = list(&pages, has);
        assert_eq!(document["allow_shrink"], allowed, "{has:?}");
    }
    let (_, mut known) = list(&pages, None);
    let gone = events(&[("/r/apps/a", None, 10)]);
    let told = change(&mut known, 9, std::slice::from_ref(&gone));
    assert_eq!(told["allow_shrink"], false);
    let said = events(&[
        ("/r/apps/b", None, 11),
        ("/r/meta", Some("{\"allow_shrink\":true}"), 11),
    ]);
    let told = change(&mut known, 10, &[said]);
    assert_eq!(told["allow_shrink"], true);
    // Taken back by a deletion or a value that says nothing.
    for value in [None, Some("nonsense")] {
        let said = events(&[("/r/meta", Some("{\"allow_shrink\":true}"), 12)]);
        let told = change(&mut known, 11, &[said, events(&[("/r/meta", value, 13)])]);
        assert_eq!(told["allow_shrink"], false, "{value:?}");
    }
}

#[test]
fn events_become_one_change_with_the_last_word_on_each_app() {
    let (_, mut known) = list(&[page(9, false, &[("/r/certs/x", "1", 2)])], None);
    let lines = [
        events(&[
            ("/r/apps/a", Some(A), 10),
            ("/r/apps/b", Some("{\"name\":\"b\"}"), 10),
        ]),
        events(&[("/r/apps/b", None, 11), ("/r/apps/q\"", None, 12)]),
        events(&[
            ("/r/apps/a", Some("{\"name\":\"a\"}"), 14),
            ("/r/other", Some("1"), 15),
        ]),
    ];
    let told = change(&mut known, 9, &lines);
    let wanted = json!({"from": 9, "to": 15, "allow_shrink": false, "changes": [
        {"app": {"name": "a"}}, {"remove": "b"}, {"remove": "q\""}]});
    assert_eq!(told, wanted);
    // A word about one certificate tells all of them.
    let lines = [events(&[("/r/certs/y", Some("2"), 16)])];
    assert_eq!(
        change(&mut known, 15, &lines)["certificates"],
        json!([1, 2])
    );
    let lines = [events(&[("/r/certs/x", None, 17)])];
    assert_eq!(change(&mut known, 16, &lines)["certificates"], json!([2]));
}

#[test]
fn a_value_that_is_no_app_of_that_name_is_rejected_alone_under_that_name() {
    for (value, why) in [
        (
            &b"nonsense"[..],
            "its value is not JSON: expected ident at line 1 column 2",
        ),
        (b"", "its value is not JSON: EOF"),
        (
            b"{\"name\":\"a\"}]},\"revision\":1",
            "its value is not JSON: trailing characters",
        ),
        (
            b"{\"name\":\"a\",\"x\":\"\xff\"}",
            "its value is not JSON: invalid unicode",
        ),
        (b"[\"a\"]", "its value is not a JSON object"),
        (b"\"a\"", "its value is not a JSON object"),
        (b"{}", "its name cannot be read: missing field `name`"),
        (b"{\"name\":7}", "its name cannot be read: invalid type"),
        (
            b"{\"name\":\"b\"}",
            "name: \"b\", must be as in its key: \"a\"",
        ),
    ] {
        let shown = String::from_utf8_lossy(value);
        let mut json = b"{\"format\":1,\"revision\":1,\"apps\":[".to_vec();
        write_app(&mut json, "a", value);
        json.extend_from_slice(b"]}");
        let read = snapshot::parse(&json).unwrap();
        let [rejection] = &read.rejected[..] else {
            panic!("{shown}: {read:?}")
        };
        assert_eq!(rejection.app, "a", "{shown}");
        assert!(
            rejection.reason.starts_with(why),
            "{shown}: {}",
            rejection.reason
        );
    }
}

proptest! {
    #[test]
    fn no_value_spoils_a_document_or_a_change(
        values in proptest::collection::vec((
            "[a-c\"/ é]{0,3}",
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..20),
                "(\\{|\\}|\\[|\\]|\"name\"|:|,|\"a\"|1e999|\\\\ud800| ){0,8}".prop_map(String::into_bytes),
            ],
        ), 1..5),
    ) {
        let (mut listing, mut pending, mut known) = (Listing::new(&layout()), Pending::default(), Known::default());
        for (index, (name, value)) in values.iter().enumerate() {
            let key = format!("/r/apps/{name}{index}");
            let kv = json!({"key": STANDARD.encode(&key), "value": STANDARD.encode(value), "mod_revision": 2});
            let page = json!({"header": {"revision": 2}, "kvs": [kv]}).to_string();
            let answer: RangeAnswer<'_> = serde_json::from_str(&page).unwrap();
            listing.add(&layout(), &answer).unwrap();
            let line = json!({"events": [{"kv": kv}]}).to_string();
            let answer: WatchAnswer<'_> = serde_json::from_str(&line).unwrap();
            pending.add(&layout(), &mut known, &answer).unwrap();
        }
        let read = snapshot::parse(&listing.finish(None).0).unwrap();
        prop_assert_eq!(read.apps.len() + read.rejected.len(), values.len());
        let read = change::parse(&pending.change(&known, 1)).unwrap_or_else(|error| panic!("{error}"));
        prop_assert_eq!(read.upsert.len() + read.rejected.len(), values.len());
    }
}
