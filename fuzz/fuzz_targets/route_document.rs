//! Route documents: nothing panics, what is accepted keeps the rules that the router relies on, every rejection says why, and
//! applying the same document twice changes nothing the second time. The whole input is the document.

#![no_main]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use router_model::app::{App, DynoName, DynoState};
use router_model::diff::{Guard, Plan, TableView, plan};
use router_model::hostname::Domain;
use router_model::settings::{DynoProtocol, Hsts};
use router_model::snapshot::{Snapshot, parse};

fuzz_target!(|document: &[u8]| {
    let snapshot = match parse(document) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    check_snapshot(&snapshot);
    let mut table = Table::default();
    let first = plan(&table, &snapshot);
    let judged = Guard::default().judge(&first, snapshot.allow_shrink, Instant::now());
    assert_eq!(judged.is_err(), first.empties && !snapshot.allow_shrink);
    assert!(
        first.remove.is_empty() && first.domains_removed == 0,
        "nothing can be taken from an empty table"
    );
    table.apply(&first);
    let second = plan(&table, &snapshot);
    assert!(
        second.upsert.is_empty() && second.remove.is_empty(),
        "the same document twice: {second:?}"
    );
    assert_eq!(
        (second.domains_before, second.domains_removed),
        (table.domain_count(), 0)
    );
    assert_eq!(second.rejected, first.rejected);
});

fn check_snapshot(snapshot: &Snapshot) {
    let mut names = HashSet::new();
    for app in &snapshot.apps {
        assert!(
            !app.name.is_empty() && names.insert(&app.name),
            "the name of {app:?}"
        );
        check_app(app);
    }
    for entry in &snapshot.certificates {
        assert!(entry.place.starts_with("certificates["), "{entry:?}");
    }
    for rejection in snapshot
        .rejected
        .iter()
        .chain(&snapshot.rejected_certificates)
    {
        assert!(
            !rejection.app.is_empty() && !rejection.reason.is_empty(),
            "{rejection:?}"
        );
    }
}

fn check_app(app: &App) {
    for domain in &app.domains {
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(domain));
    }
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    for dyno in &app.dynos {
        assert_eq!(DynoName::parse(dyno.name.as_str()).as_ref(), Ok(&dyno.name));
        assert!(
            dyno.state != DynoState::Up || names.insert(dyno.name.as_str()),
            "two dynos of one name are up: {app:?}"
        );
    }
    for dyno in app.web_dynos() {
        let must_answer = matches!(dyno.state, DynoState::Up | DynoState::Draining);
        assert!(
            dyno.address.is_some() || !must_answer,
            "nowhere to send to: {app:?}"
        );
        let up = dyno.address.filter(|_| dyno.state == DynoState::Up);
        assert!(
            up.is_none_or(|address| addresses.insert(address)),
            "two dynos of one address are up: {app:?}"
        );
    }
    let settings = &app.settings;
    let limits = [
        settings.first_byte_timeout,
        settings.idle_timeout,
        settings.expire_after,
    ];
    assert!(
        limits.iter().flatten().all(|limit| !limit.is_zero()),
        "no time at all: {app:?}"
    );
    assert_ne!(settings.concurrent_requests_per_dyno, Some(0));
    assert!(
        match settings.dyno_protocol {
            DynoProtocol::Http1 => true,
            DynoProtocol::H2c => settings.dyno_tls.is_none(),
            DynoProtocol::H2 => settings.dyno_tls.is_some(),
        },
        "{app:?}"
    );
    if let Some(hsts) = &settings.hsts {
        assert_eq!(Hsts::parse(hsts.as_str()).as_ref(), Ok(hsts));
    }
    for url in [&settings.error_page_url, &settings.maintenance_page_url]
        .into_iter()
        .flatten()
    {
        assert!(
            !url.contains(|c: char| c.is_control() || c.is_whitespace()),
            "{url:?}"
        );
    }
}

/// The route table in its simplest form.
#[derive(Default)]
struct Table {
    apps: HashMap<Arc<str>, Arc<App>>,
    holders: HashMap<String, Arc<str>>,
}

impl Table {
    fn apply(&mut self, plan: &Plan) {
        for app in &plan.upsert {
            for domain in &app.domains {
                let before = self
                    .holders
                    .insert(domain.key().to_owned(), Arc::clone(&app.name));
                assert!(before.is_none(), "{domain} has two holders");
            }
            self.apps.insert(Arc::clone(&app.name), Arc::clone(app));
        }
    }
}

impl TableView for Table {
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
