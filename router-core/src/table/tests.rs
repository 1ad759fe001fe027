//! Lookups, domains that move, apps that are rejected, and what survives a new version.

use std::path::Path;

use router_testkit::TestCa;

use super::*;

fn snapshot(revision: u64, apps: serde_json::Value, allow_shrink: bool) -> Snapshot {
    let document = serde_json::json!({"format": 1, "revision": revision, "allow_shrink": allow_shrink, "apps": apps});
    router_model::snapshot::parse(document.to_string().as_bytes()).unwrap()
}

fn app(name: &str, domains: &[&str]) -> serde_json::Value {
    serde_json::json!({"name": name, "domains": domains, "dynos": [{"name": "web.1", "address": "127.0.0.1:5001", "state": "up"}]})
}

fn names(table: &RouteTable, hosts: &[&str]) -> Vec<Option<String>> {
    hosts
        .iter()
        .map(|host| table.lookup(host).map(|route| route.app.name.to_string()))
        .collect()
}

#[test]
fn exact_beats_wildcard_and_a_wildcard_is_one_label() {
    let table = RouteTable::new();
    table
        .apply(&snapshot(
            1,
            serde_json::json!([
                app("wild", &["*.shop.test"]),
                app("exact", &["a.shop.test"])
            ]),
            false,
        ))
        .unwrap();
    assert_eq!(
        names(
            &table,
            &[
                "a.shop.test",
                "b.shop.test",
                "a.b.shop.test",
                "shop.test",
                "*.shop.test",
                ""
            ]
        ),
        [
            Some("exact".into()),
            Some("wild".into()),
            None,
            None,
            Some("wild".into()),
            None
        ]
    );
    assert_eq!(
        table.matching_domain("b.shop.test").as_deref(),
        Some("*.shop.test")
    );
}

#[test]
fn a_new_version_keeps_no_text_twice() {
    let table = RouteTable::new();
    let put = |revision, domains: &[&str]| {
        let apps = serde_json::json!([app("a", domains)]);
        table.apply(&snapshot(revision, apps, true)).unwrap();
        let routed: Vec<_> = table
            .domains()
            .iter()
            .map(|domain| domain.as_str().as_ptr())
            .collect();
        (table.app("a").unwrap(), routed)
    };
    let (old, _) = put(1, &["one.test", "two.test", "gone.test"]);
    let (new, routed) = put(2, &["three.test", "two.test", "one.test"]);
    assert!(std::ptr::eq(&*old.app.name, &*new.app.name));
    let (was, is) = (&old.app.dynos[0].name, &new.app.dynos[0].name);
    assert!(std::ptr::eq(was.as_str(), is.as_str()));
    assert_eq!(routed.len(), 3);
    for domain in &new.app.domains {
        assert!(routed.contains(&domain.as_str().as_ptr()), "{domain}");
    }
    assert_eq!(table.domain_count(), 3);
}

#[test]
fn domains_move_and_go_with_their_apps() {
    let table = RouteTable::new();
    table
        .apply(&snapshot(
            1,
            serde_json::json!([
                app("a", &["one.test", "two.test"]),
                app("b", &["three.test"])
            ]),
            false,
        ))
        .unwrap();
    let before = table.app("b").unwrap();
    let applied = table
        .apply(&snapshot(
            2,
            serde_json::json!([
                app("a", &["one.test"]),
                app("b", &["three.test"]),
                app("c", &["two.test"])
            ]),
            false,
        ))
        .unwrap();
    assert_eq!(
        (applied.changed, applied.removed, applied.rejected),
        (2, 0, vec![])
    );
    assert_eq!(
        names(&table, &["one.test", "two.test", "three.test"]),
        [Some("a".into()), Some("c".into()), Some("b".into())]
    );
    assert!(
        Arc::ptr_eq(&before, &table.app("b").unwrap()),
        "an equal app is not touched"
    );
    assert_eq!(table.domain_count(), 3);
    table
        .apply(&snapshot(
            3,
            serde_json::json!([app("c", &["two.test"])]),
            true,
        ))
        .unwrap();
    assert_eq!((table.app_count(), table.domain_count()), (1, 1));
    assert_eq!(
        names(&table, &["one.test", "two.test"]),
        [None, Some("c".into())]
    );
}

#[test]
fn a_refused_snapshot_changes_nothing() {
    let table = RouteTable::new();
    assert!(!table.is_loaded());
    table
        .apply(&snapshot(
            1,
            serde_json::json!([app("a", &["one.test"]), app("b", &["two.test"])]),
            false,
        ))
        .unwrap();
    let generation = table.generation();
    assert!(
        table
            .apply(&snapshot(
                2,
                serde_json::json!([app("a", &["one.test"])]),
                false
            ))
            .is_err()
    );
    assert!(
        table
            .apply(&snapshot(3, serde_json::json!([]), false))
            .is_err()
    );
    assert_eq!((table.app_count(), table.generation()), (2, generation));
    assert!(
        table
            .apply(&snapshot(4, serde_json::json!([]), true))
            .is_ok()
    );
    assert!(table.is_loaded());
}

#[test]
fn the_in_flight_count_survives_a_new_version_and_returns_to_zero() {
    let table = RouteTable::new();
    table
        .apply(&snapshot(
            1,
            serde_json::json!([app("a", &["one.test"])]),
            false,
        ))
        .unwrap();
    let first = AppPermit::acquire(&table.app("a").unwrap().state, 2);
    table
        .apply(&snapshot(
            2,
            serde_json::json!([app("a", &["one.test", "two.test"])]),
            false,
        ))
        .unwrap();
    let state = Arc::clone(&table.app("a").unwrap().state);
    let second = AppPermit::acquire(&state, 2);
    assert!(first.is_some() && second.is_some());
    assert!(AppPermit::acquire(&state, 2).is_none());
    assert_eq!(state.in_flight(), 2);
    drop((first, second));
    assert_eq!(state.in_flight(), 0);
}

/// `authority`: the file of the one that certifies the app's dyno.
fn app_over_tls(name: &str, domains: &[&str], authority: &Path) -> serde_json::Value {
    let mut app = app(name, domains);
    app["settings"] = serde_json::json!({"dyno_tls": {"verify": authority}});
    app
}

/// On which terms the app's dyno is connected to.
fn terms(table: &RouteTable, name: &str) -> Option<Terms> {
    let route = table.app(name).unwrap();
    route.terms(route.pool.dyno(0).unwrap())
}

#[test]
fn an_app_whose_authority_cannot_be_read_is_rejected_alone_and_keeps_what_it_has() {
    let table = RouteTable::new();
    let folder = tempfile::tempdir().unwrap();
    let (ca, none) = (folder.path().join("ca.pem"), folder.path().join("none.pem"));
    std::fs::write(&ca, TestCa::new("root").pem()).unwrap();
    let apps = serde_json::json!([
        app_over_tls("a", &["one.test"], &ca),
        app("b", &["two.test"])
    ]);
    assert_eq!(table.apply(&snapshot(1, apps, false)).unwrap().rejected, []);
    let before = table.app("a").unwrap();
    let apps = serde_json::json!([
        app_over_tls("a", &["other.test"], &none),
        app_over_tls("new", &["new.test"], &none),
        app("b", &["one.test", "three.test"]),
    ]);
    let applied = table.apply(&snapshot(2, apps, true)).unwrap();
    let found: Vec<_> = applied
        .rejected
        .iter()
        .map(|rejection| {
            (
                &*rejection.app,
                rejection.reason.contains("dyno_tls.verify: "),
            )
        })
        .collect();
    assert_eq!(found, [("a", true), ("new", true), ("b", false)]);
    assert!(Arc::ptr_eq(&before, &table.app("a").unwrap()));
    assert_eq!(
        names(
            &table,
            &["one.test", "other.test", "new.test", "three.test"]
        ),
        [Some("a".into()), None, None, Some("b".into())]
    );
}

#[test]
fn another_authority_means_new_terms_and_nothing_else_does() {
    let table = RouteTable::new();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let root = TestCa::new("root").pem();
    std::fs::write(&ca, &root).unwrap();
    let apps = |domains: &[&str]| serde_json::json!([app_over_tls("a", domains, &ca)]);
    let apply = |revision, domains: &[&str]| {
        table
            .apply(&snapshot(revision, apps(domains), false))
            .unwrap()
            .changed
    };
    apply(1, &["one.test"]);
    let first = terms(&table, "a");
    assert!(table.has_authority_files() && first.is_some() && first != Some(Terms::CLEAR));
    assert_eq!(
        (table.look_at_authority_files(), apply(2, &["one.test"])),
        (0, 0)
    );
    assert_eq!(apply(3, &["one.test", "two.test"]), 1);
    assert_eq!(terms(&table, "a"), first);

    std::fs::write(&ca, TestCa::new("root").pem()).unwrap();
    assert_eq!(
        apply(4, &["one.test", "two.test"]),
        1,
        "the document is the same"
    );
    let second = terms(&table, "a");
    assert!(second.is_some() && second != first);

    std::fs::write(&ca, &root).unwrap();
    let (before, generation) = (table.app("a").unwrap(), table.generation());
    assert_eq!(table.look_at_authority_files(), 1);
    assert!(terms(&table, "a") != second && table.generation() > generation);
    let dyno = |route: &Route| Arc::clone(route.pool.dyno(0).unwrap());
    assert!(Arc::ptr_eq(&dyno(&before), &dyno(&table.app("a").unwrap())));

    let third = terms(&table, "a");
    std::fs::remove_file(&ca).unwrap();
    assert_eq!(
        (table.look_at_authority_files(), terms(&table, "a")),
        (0, third)
    );
    let clear = serde_json::json!([app("a", &["one.test"])]);
    table.apply(&snapshot(5, clear, true)).unwrap();
    assert_eq!(terms(&table, "a"), Some(Terms::CLEAR));
    assert!(!table.has_authority_files());
}
