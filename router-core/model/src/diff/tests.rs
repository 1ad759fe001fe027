//! Plans against a naive table: a map of apps and a map of domains.

mod changes;
mod guard;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::app::{Dyno, DynoName, DynoState};
use crate::settings::{DynoProtocol, DynoTls, Hsts, Identity, Settings, Verify};
use crate::tls_version::TlsVersion;

#[derive(Debug, Clone, Default, PartialEq)]
struct NaiveTable {
    apps: BTreeMap<Arc<str>, Arc<App>>,
    holders: BTreeMap<String, Arc<str>>,
}

impl TableView for NaiveTable {
    fn app(&self, name: &str) -> Option<Arc<App>> {
        self.apps.get(name).cloned()
    }

    fn holder(&self, key: &str) -> Option<Arc<str>> {
        self.holders.get(key).cloned()
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.apps.keys().cloned().collect()
    }

    fn app_count(&self) -> usize {
        self.apps.len()
    }

    fn domain_count(&self) -> usize {
        self.holders.len()
    }
}

impl NaiveTable {
    fn apply(&mut self, plan: &Plan) {
        for name in &plan.remove {
            self.apps
                .remove(name)
                .expect("only apps of the table are removed");
        }
        for app in &plan.upsert {
            self.apps.insert(Arc::clone(&app.name), Arc::clone(app));
        }
        self.holders.clear();
        for app in self.apps.values() {
            for domain in &app.domains {
                let earlier = self
                    .holders
                    .insert(domain.key().to_owned(), Arc::clone(&app.name));
                assert_eq!(earlier, None, "{domain} has two holders");
            }
        }
    }

    fn applied(snapshot: &Snapshot) -> Self {
        let mut table = Self::default();
        table.apply(&plan(&table, snapshot));
        table
    }
}

/// An app with the given domains; `dynos` makes it differ from another version of itself.
fn app(name: &str, domains: &[&str], dynos: u16) -> Arc<App> {
    Arc::new(App {
        name: name.into(),
        domains: domains
            .iter()
            .map(|domain| Domain::parse(domain).unwrap())
            .collect(),
        formation: None,
        dynos: (1..=dynos)
            .map(|n| Dyno {
                name: DynoName::parse(&format!("web.{n}")).unwrap(),
                address: Some(([127, 0, 0, 1], n).into()),
                state: DynoState::Up,
            })
            .collect(),
        maintenance: false,
        released: true,
        suspended: None,
        degraded: false,
        settings: Settings::default(),
    })
}

fn snapshot(apps: &[Arc<App>], rejected: &[&str]) -> Snapshot {
    let rejected = rejected
        .iter()
        .map(|app| Rejection {
            app: (*app).to_owned(),
            reason: "bad".to_owned(),
        })
        .collect();
    Snapshot {
        revision: 1,
        allow_shrink: false,
        apps: apps.to_vec(),
        rejected,
        certificates: Vec::new(),
        rejected_certificates: Vec::new(),
    }
}

fn upserted(plan: &Plan) -> Vec<(&str, Vec<&str>)> {
    plan.upsert
        .iter()
        .map(|app| (&*app.name, app.domains.iter().map(Domain::as_str).collect()))
        .collect()
}

#[test]
fn the_same_in_another_order_is_no_difference() {
    let domains = ["s.example", "t.example", "*.s.example"];
    let table = NaiveTable::applied(&snapshot(&[app("a", &domains, 3)], &[]));
    let mut other = App::clone(&app("a", &["*.s.example", "t.example", "s.example"], 3));
    other.dynos.rotate_left(1);
    let next = snapshot(&[Arc::new(other.clone())], &[]);
    assert_eq!(upserted(&plan(&table, &next)), []);
    other.dynos[0].state = DynoState::Draining;
    let next = snapshot(&[Arc::new(other)], &[]);
    assert_eq!(plan(&table, &next).upsert.len(), 1);
}

#[test]
fn only_what_differs_is_put_in_and_what_is_gone_is_taken_out() {
    let table = NaiveTable::applied(&snapshot(
        &[
            app("same", &["s.example"], 1),
            app("grown", &["g.example"], 1),
            app("gone", &["x.example", "y.example"], 1),
        ],
        &[],
    ));
    let next = snapshot(
        &[
            app("new", &["n.example"], 1),
            app("same", &["s.example"], 1),
            app("grown", &["g.example"], 2),
        ],
        &[],
    );
    let plan = plan(&table, &next);
    assert_eq!(
        upserted(&plan),
        [("new", vec!["n.example"]), ("grown", vec!["g.example"])]
    );
    assert_eq!(plan.remove, ["gone".into()]);
    assert_eq!((plan.domains_before, plan.domains_removed), (4, 2));
    assert_eq!(plan.rejected, []);
}

#[test]
fn a_rejected_app_stays_with_its_domains_if_the_table_has_it() {
    let mut table = NaiveTable::applied(&snapshot(&[app("shop", &["shop.example"], 1)], &[]));
    let next = snapshot(
        &[app("thief", &["shop.example", "thief.example"], 1)],
        &["shop", "unknown"],
    );
    let plan = plan(&table, &next);
    assert_eq!(upserted(&plan), [("thief", vec!["thief.example"])]);
    assert_eq!(plan.remove, []);
    assert_eq!(plan.domains_removed, 0);
    let apps: Vec<_> = plan
        .rejected
        .iter()
        .map(|rejection| rejection.app.as_str())
        .collect();
    assert_eq!(apps, ["shop", "unknown", "thief"]);
    table.apply(&plan);
    assert_eq!(table.holder("shop.example").as_deref(), Some("shop"));
}

#[test]
fn a_good_app_applies_although_a_second_one_of_its_name_was_rejected() {
    let table = NaiveTable::applied(&snapshot(&[app("shop", &["shop.example"], 1)], &[]));
    let plan = plan(
        &table,
        &snapshot(&[app("shop", &["shop.example"], 2)], &["shop"]),
    );
    assert_eq!(upserted(&plan), [("shop", vec!["shop.example"])]);
    assert_eq!(plan.remove, []);
}

#[test]
fn a_domain_belongs_to_one_app() {
    let (a, b) = (
        |domains: &[&str]| app("a", domains, 1),
        |domains: &[&str]| app("b", domains, 1),
    );
    for (what, before, after, holder) in [
        (
            "first in the document",
            vec![],
            vec![b(&["x.example"]), a(&["x.example"])],
            "b",
        ),
        (
            "the holder",
            vec![a(&["x.example"])],
            vec![b(&["x.example"]), a(&["x.example"])],
            "a",
        ),
        (
            "the holder let go",
            vec![a(&["x.example"])],
            vec![a(&[]), b(&["x.example"])],
            "b",
        ),
        (
            "the holder is gone",
            vec![a(&["x.example"])],
            vec![b(&["x.example"])],
            "b",
        ),
        (
            "the loser of before",
            vec![a(&["x.example"]), b(&["x.example"])],
            vec![b(&["x.example"])],
            "b",
        ),
    ] {
        let mut table = NaiveTable::applied(&snapshot(&before, &[]));
        let after = snapshot(&after, &[]);
        table.apply(&plan(&table, &after));
        assert_eq!(table.holder("x.example").as_deref(), Some(holder), "{what}");
    }
}

#[test]
fn the_newcomer_loses_only_the_domain_in_question_and_is_told_why() {
    let table = NaiveTable::applied(&snapshot(
        &[app("shop", &["x.example", "*.y.example"], 1)],
        &[],
    ));
    let next = snapshot(
        &[
            app("new", &["x.example", "*.y.example", "y.example"], 1),
            app("shop", &["x.example", "*.y.example"], 1),
        ],
        &[],
    );
    let plan = plan(&table, &next);
    assert_eq!(upserted(&plan), [("new", vec!["y.example"])]);
    let reason = "domains: x.example belongs to the app shop, a domain may belong to one app only; \
                  domains: *.y.example belongs to the app shop, a domain may belong to one app only";
    assert_eq!(
        plan.rejected,
        [Rejection {
            app: "new".to_owned(),
            reason: reason.to_owned()
        }]
    );
}

#[test]
fn an_app_that_chose_anything_else_is_put_in() {
    let tls = |identity: &str| DynoTls {
        verify: Verify::System,
        identity: Identity::parse(identity).unwrap(),
    };
    let choose: [fn(&mut Settings); 5] = [
        |settings| settings.redirect_to_https = true,
        |settings| settings.hsts = Some(Hsts::a_year()),
        |settings| settings.min_tls_version = Some(TlsVersion::V1_3),
        |settings| settings.dyno_protocol = DynoProtocol::H2c,
        |settings| settings.http2 = false,
    ];
    let mut versions: Vec<_> = choose.iter().map(changed).collect();
    versions.push(changed(|settings| settings.dyno_tls = Some(tls("none"))));
    versions.push(changed(|settings| {
        settings.dyno_tls = Some(tls("a.test"));
    }));
    for (before, after) in versions.iter().zip(&versions[1..]) {
        let table = NaiveTable::applied(&snapshot(std::slice::from_ref(before), &[]));
        let same = plan(&table, &snapshot(std::slice::from_ref(before), &[]));
        assert_eq!(upserted(&same), []);
        let other = plan(&table, &snapshot(std::slice::from_ref(after), &[]));
        assert_eq!(upserted(&other), [("a", vec!["a.test"])]);
    }
}

fn changed(choose: impl Fn(&mut Settings)) -> Arc<App> {
    let mut app = App::clone(&app("a", &["a.test"], 1));
    choose(&mut app.settings);
    Arc::new(app)
}

#[test]
fn a_domain_that_moves_is_not_removed() {
    let table = NaiveTable::applied(&snapshot(&[app("a", &["x.example", "y.example"], 1)], &[]));
    let plan = plan(&table, &snapshot(&[app("b", &["x.example"], 1)], &[]));
    assert_eq!((plan.domains_before, plan.domains_removed), (2, 1));
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    const DOMAINS: [&str; 5] = [
        "u.example",
        "v.example",
        "w.example",
        "*.w.example",
        "x.w.example",
    ];
    let one = (
        0u8..4,
        proptest::sample::subsequence(&DOMAINS, 0..=5),
        0u16..3,
    );
    proptest::sample::subsequence(&NAMES, 0..=4)
        .prop_shuffle()
        .prop_flat_map(move |names| {
            proptest::collection::vec(one.clone(), names.len()).prop_map(move |apps| {
                let mut result = snapshot(&[], &[]);
                for (name, (fate, domains, dynos)) in names.iter().zip(&apps) {
                    match fate {
                        0 => result.rejected.push(Rejection {
                            app: (*name).to_owned(),
                            reason: "bad".to_owned(),
                        }),
                        _ => result.apps.push(app(name, domains, *dynos)),
                    }
                }
                result
            })
        })
}

proptest! {
    #[test]
    fn plans_keep_the_table_sound(snapshots in proptest::collection::vec(any_snapshot(), 1..6)) {
        let mut table = NaiveTable::default();
        for next in &snapshots {
            let before = table.clone();
            let planned = plan(&before, next);
            // Applying asserts that each domain has one holder.
            table.apply(&planned);

            let lost = before.holders.keys().filter(|key| !table.holders.contains_key(*key)).count();
            prop_assert_eq!((planned.domains_before, planned.domains_removed), (before.holders.len(), lost));
            for app in &next.apps {
                prop_assert!(table.apps.contains_key(&app.name));
                for domain in &app.domains {
                    // Whoever claims a domain gets it, or somebody else has it.
                    let holder = table.holder(domain.key());
                    prop_assert!(holder.is_some());
                    // Its holder of before keeps it while it claims it.
                    if before.holder(domain.key()).as_ref() == Some(&app.name) {
                        prop_assert_eq!(holder.as_ref(), Some(&app.name));
                    }
                }
            }
            for rejection in &next.rejected {
                prop_assert_eq!(table.app(&rejection.app), before.app(&rejection.app));
            }
            let again = plan(&table, next);
            prop_assert!(again.upsert.is_empty() && again.remove.is_empty() && again.domains_removed == 0);
            prop_assert_eq!(again.rejected, planned.rejected);
        }
    }
}
