//! Changes: nothing panics, what is accepted keeps the rules that the feed relies on, every rejection says why, and an app is
//! judged alike in a change and in a route document. The input is a change, and beside that the text of an app.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use router_model::change::{self, Change};
use router_model::snapshot;

fuzz_target!(|input: &[u8]| {
    match change::parse(input) {
        Ok(change) => check(&change),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if serde_json::from_slice::<&serde_json::value::RawValue>(input).is_ok() {
        check_app(input);
    }
});

fn check(change: &Change) {
    assert!(change.from < change.to);
    let mut names = HashSet::new();
    for app in &change.upsert {
        assert!(names.insert(&*app.name), "{} twice", app.name);
    }
    for name in &change.remove {
        assert!(names.insert(name), "{name} twice");
    }
    for rejection in change.rejected.iter().chain(&change.rejected_certificates) {
        assert!(
            !rejection.app.is_empty() && !rejection.reason.is_empty(),
            "{rejection:?}"
        );
        assert!(!rejection.reason.contains(char::is_control));
    }
}

/// A well-formed text in the place of an app spoils nothing around it.
fn check_app(text: &[u8]) {
    let document = [br#"{"format":1,"revision":1,"apps":["#, text, b"]}"].concat();
    let change = [br#"{"from":1,"to":2,"changes":[{"app":"#, text, b"}]}"].concat();
    let snapshot = snapshot::parse(&document).expect("a document");
    let change = change::parse(&change).expect("a change");
    assert_eq!(snapshot.apps, change.upsert);
    assert_eq!(snapshot.apps.len() + snapshot.rejected.len(), 1);
    assert_eq!(snapshot.rejected.len(), change.rejected.len());
}
