//! Changes: they do to the table what the whole document after them would do, at a price that depends on them alone.

use std::cell::Cell;

use super::*;
use crate::change::Change;

fn change(upsert: &[Arc<App>], remove: &[&str], rejected: &[&str]) -> Change {
    Change {
        from: 1,
        to: 2,
        allow_shrink: false,
        upsert: upsert.to_vec(),
        remove: remove.iter().map(|name| (*name).into()).collect(),
        rejected: snapshot(&[], rejected).rejected,
        certificates: None,
        rejected_certificates: Vec::new(),
    }
}

/// A table with what it owes.
#[derive(Default)]
struct Owing {
    table: NaiveTable,
    contested: Contested,
    /// By app.
    rejected: BTreeMap<String, String>,
}

impl Owing {
    fn of(apps: &[Arc<App>]) -> Self {
        let mut owing = Self::default();
        owing.apply(&plan(&owing.table, &snapshot(apps, &[])));
        owing
    }

    fn change(&mut self, change: &Change) -> Plan {
        let plan = plan_change(&self.table, &self.contested, change);
        self.apply(&plan);
        plan
    }

    fn apply(&mut self, plan: &Plan) {
        self.table.apply(plan);
        self.contested.note(plan);
        if plan.whole {
            self.rejected.clear();
        }
        for name in &plan.settled {
            self.rejected.remove(&**name);
        }
        for rejection in &plan.rejected {
            self.rejected
                .insert(rejection.app.clone(), rejection.reason.clone());
        }
    }

    fn holder(&self, key: &str) -> Option<String> {
        self.table.holder(key).map(|name| name.to_string())
    }
}

#[test]
fn only_what_the_change_names_is_touched() {
    let mut owing = Owing::of(&[
        app("a", &["a.example"], 1),
        app("b", &["b.example", "x.example"], 1),
        app("c", &["c.example"], 1),
    ]);
    let plan = owing.change(&change(
        &[
            app("a", &["a.example"], 1),
            app("b", &["b.example"], 2),
            app("d", &["d.example"], 1),
        ],
        &["c", "unknown"],
        &[],
    ));
    assert_eq!(
        upserted(&plan),
        [("b", vec!["b.example"]), ("d", vec!["d.example"])]
    );
    assert_eq!(plan.remove, ["c".into()]);
    assert_eq!((plan.domains_before, plan.domains_removed), (4, 2));
    assert!(!plan.empties && plan.rejected.is_empty());
}

#[test]
fn whoever_has_waited_for_a_domain_gets_it_when_it_is_let_go_of() {
    let x = ["x.example"];
    let mut owing = Owing::of(&[
        app("a", &x, 1),
        app("b", &["b.example", "x.example"], 1),
        app("c", &x, 1),
    ]);
    assert_eq!(owing.rejected.keys().collect::<Vec<_>>(), ["b", "c"]);
    let plan = owing.change(&change(&[], &["a"], &[]));
    assert_eq!(owing.holder("x.example").as_deref(), Some("b"));
    assert_eq!(plan.domains_removed, 0);
    let told = owing.rejected.get("c").unwrap();
    assert!(told.contains("belongs to the app b"), "{told}");
    assert_eq!(owing.rejected.len(), 1);
    // A new app comes after those who wait, and an app that is gone waits no more.
    owing.change(&change(&[app("d", &x, 1)], &["c"], &[]));
    assert_eq!(owing.holder("x.example").as_deref(), Some("b"));
    owing.change(&change(&[app("b", &["b.example"], 1)], &[], &[]));
    assert_eq!(owing.holder("x.example").as_deref(), Some("d"));
    assert!(owing.rejected.is_empty() && owing.contested.is_empty());
}

#[test]
fn whoever_gets_one_domain_keeps_its_place_for_the_others() {
    let claims = ["x.example", "y.example"];
    let mut owing = Owing::of(&[
        app("a", &["x.example"], 1),
        app("b", &["y.example"], 1),
        app("c", &claims, 1),
        app("d", &claims, 1),
    ]);
    owing.change(&change(&[], &["a"], &[]));
    owing.change(&change(&[], &["b"], &[]));
    assert_eq!(owing.holder("x.example").as_deref(), Some("c"));
    assert_eq!(owing.holder("y.example").as_deref(), Some("c"));
}

#[test]
fn a_domain_moves_within_a_change_or_goes_back_and_forth() {
    let (a, b) = (
        app("a", &["a.example", "x.example"], 1),
        app("b", &["b.example"], 1),
    );
    let mut owing = Owing::of(&[a.clone(), b.clone()]);
    let moved = [
        app("b", &["b.example", "x.example"], 1),
        app("a", &["a.example"], 1),
    ];
    assert_eq!(owing.change(&change(&moved, &[], &[])).domains_removed, 0);
    assert_eq!(owing.holder("x.example").as_deref(), Some("b"));
    // Taken before it is given: refused to the one and held by the other until that one lets go.
    owing.change(&change(std::slice::from_ref(&a), &[], &[]));
    assert_eq!(owing.holder("x.example").as_deref(), Some("b"));
    assert_eq!(owing.rejected.keys().collect::<Vec<_>>(), ["a"]);
    let plan = owing.change(&change(&[b], &[], &[]));
    assert_eq!(owing.holder("x.example").as_deref(), Some("a"));
    assert_eq!((plan.domains_removed, owing.rejected.len()), (0, 0));
}

#[test]
fn a_rejected_app_keeps_what_it_has_and_is_mended_by_the_next_change() {
    let mut owing = Owing::of(&[app("a", &["a.example"], 1), app("b", &["b.example"], 1)]);
    let plan = owing.change(&change(&[app("b", &["a.example"], 1)], &[], &["a"]));
    assert_eq!(upserted(&plan), [("b", vec![])]);
    assert_eq!(owing.holder("a.example").as_deref(), Some("a"));
    assert_eq!(owing.rejected.keys().collect::<Vec<_>>(), ["a", "b"]);
    owing.change(&change(&[app("a", &["other.example"], 1)], &[], &[]));
    assert_eq!(owing.holder("a.example").as_deref(), Some("b"));
    assert!(owing.rejected.is_empty());
}

#[test]
fn no_app_left_is_empty() {
    let mut owing = Owing::of(&[app("a", &["a.example"], 1)]);
    let all = change(&[], &["a"], &[]);
    assert!(plan_change(&owing.table, &owing.contested, &all).empties);
    let other = change(&[app("b", &[], 1)], &["a"], &[]);
    assert!(!owing.change(&other).empties);
    let nothing = change(&[], &["unknown"], &[]);
    assert!(!Owing::default().change(&nothing).empties);
}

/// Counts what it is asked.
struct Asked<'a> {
    table: &'a NaiveTable,
    questions: Cell<usize>,
}

impl Asked<'_> {
    fn count(&self) -> &NaiveTable {
        self.questions.set(self.questions.get() + 1);
        self.table
    }
}

impl TableView for Asked<'_> {
    fn app(&self, name: &str) -> Option<Arc<App>> {
        self.count().app(name)
    }

    fn holder(&self, key: &str) -> Option<Arc<str>> {
        self.count().holder(key)
    }

    fn names(&self) -> Vec<Arc<str>> {
        panic!("a change looks at its own apps only")
    }

    fn app_count(&self) -> usize {
        self.count().app_count()
    }

    fn domain_count(&self) -> usize {
        self.count().domain_count()
    }
}

#[test]
fn a_change_costs_the_same_in_a_large_table() {
    let questions = |apps: usize| {
        let apps: Vec<_> = (0..apps)
            .map(|n| app(&format!("app{n}"), &[&format!("{n}.example")], 1))
            .collect();
        let owing = Owing::of(&apps);
        let table = Asked {
            table: &owing.table,
            questions: Cell::default(),
        };
        let next = change(
            &[app("app0", &["0.example", "new.example"], 1)],
            &["app1"],
            &[],
        );
        plan_change(&table, &owing.contested, &next);
        table.questions.get()
    };
    assert_eq!(questions(2), questions(500));
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What becomes of one app.
fn any_fate() -> impl Strategy<Value = (usize, u8, Vec<&'static str>, u16)> {
    const DOMAINS: [&str; 4] = ["u.example", "v.example", "*.w.example", "x.w.example"];
    let domains = proptest::sample::subsequence(&DOMAINS, 0..=4);
    (0..NAMES.len(), 0u8..8, domains, 0u16..3)
}

proptest! {
    #[test]
    fn changes_lead_where_the_whole_document_leads(changes in proptest::collection::vec(proptest::collection::vec(any_fate(), 0..4), 1..12)) {
        let mut owing = Owing::default();
        // What the control plane has: an app, or one that is no good.
        let mut documented: BTreeMap<&str, Option<Arc<App>>> = BTreeMap::new();
        for fates in &changes {
            let mut last = BTreeMap::new();
            for (name, fate, domains, dynos) in fates {
                last.insert(NAMES[*name], (fate, domains, dynos));
            }
            let mut next = change(&[], &[], &[]);
            for (name, (fate, domains, dynos)) in last {
                match fate {
                    0 | 1 => {
                        next.remove.push(name.into());
                        documented.remove(name);
                    }
                    2 => {
                        next.rejected.extend(snapshot(&[], &[name]).rejected);
                        documented.insert(name, None);
                    }
                    _ => {
                        let app = app(name, domains, *dynos);
                        next.upsert.push(Arc::clone(&app));
                        documented.insert(name, Some(app));
                    }
                }
            }
            let before = owing.table.clone();
            // Applying asserts that each domain has one holder.
            let planned = owing.change(&next);
            let lost = before.holders.keys().filter(|key| !owing.table.holders.contains_key(*key)).count();
            prop_assert_eq!((planned.domains_before, planned.domains_removed), (before.holders.len(), lost));
            prop_assert_eq!(planned.empties, owing.table.apps.is_empty() && !before.apps.is_empty());

            let good: Vec<_> = documented.values().flatten().cloned().collect();
            let bad: Vec<_> = documented.iter().filter(|(_, app)| app.is_none()).map(|(name, _)| *name).collect();
            let whole = plan(&owing.table, &snapshot(&good, &bad));
            prop_assert!(whole.upsert.is_empty() && whole.remove.is_empty(), "{:?}", whole);
            let told: BTreeMap<_, _> = whole.rejected.into_iter().map(|rejection| (rejection.app, rejection.reason)).collect();
            prop_assert_eq!(&told, &owing.rejected);
            // The same once more changes nothing.
            let again = owing.change(&next);
            prop_assert!(again.upsert.is_empty() && again.remove.is_empty(), "{:?}", again);
        }
    }
}
