//! The etcd feed against a real etcd: killed, restarted, wiped, compacted, paused and cut off. What a router that follows
//! it has is compared with what stands in the store.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use router_core::feed::{
    Ack, EtcdFeed, EtcdFeedSettings, EtcdUser, Feed, FeedError, Position, Update,
};
use router_core::model::change::{self, Change};
use router_core::model::snapshot::{self, Rejection, Snapshot};
use router_testkit::{AppDoc, DEADLINE, TestCa};
use serde_json::json;

use crate::etcd_server::{EtcdServer, Gate, Options, PREFIX};

/// A router reduced to what it was told: the names of its apps, each with its first domain.
struct Follower {
    feed: EtcdFeed,
    position: Position,
    apps: BTreeMap<String, String>,
    rejected: Vec<Rejection>,
    /// Whole documents so far.
    wholes: usize,
    /// An older revision than what it has, which it did not take.
    withheld: Option<u64>,
    /// Errors since the last update.
    errors: Vec<String>,
}

impl Follower {
    fn of(endpoints: &[std::net::SocketAddr]) -> Self {
        Self::with(endpoints, |_| {})
    }

    fn with(
        endpoints: &[std::net::SocketAddr],
        change: impl FnOnce(&mut EtcdFeedSettings),
    ) -> Self {
        let endpoints = endpoints.iter().map(|address| format!("http://{address}"));
        let mut settings = EtcdFeedSettings {
            prefix: PREFIX.to_owned(),
            heartbeat: Duration::from_millis(200),
            answer: Duration::from_secs(1),
            ..EtcdFeedSettings::new(endpoints.collect())
        };
        change(&mut settings);
        Self {
            feed: EtcdFeed::new(settings).expect("settings"),
            position: Position::default(),
            apps: BTreeMap::new(),
            rejected: Vec::new(),
            wholes: 0,
            withheld: None,
            errors: Vec::new(),
        }
    }

    /// Waits until what it has is this.
    async fn has(&mut self, apps: &[(&str, &str)]) {
        let wanted: BTreeMap<_, _> = apps
            .iter()
            .map(|(name, domain)| ((*name).to_owned(), (*domain).to_owned()))
            .collect();
        self.until(&format!("{wanted:?}"), |follower| follower.apps == wanted)
            .await;
    }

    async fn until(&mut self, what: &str, mut reached: impl FnMut(&Self) -> bool) {
        // A pause after failures, a start of etcd that takes its time, and a read that it forgets meanwhile may add up.
        let waited = tokio::time::timeout(3 * DEADLINE, async {
            while !reached(self) {
                self.step().await;
            }
        });
        if waited.await.is_err() {
            panic!(
                "not in time: {what}; it has {:?}, {:?}",
                self.apps, self.errors
            );
        }
    }

    /// Takes what comes next; true if it was a sign of life.
    async fn step(&mut self) -> bool {
        match self.feed.next(self.position).await {
            Ok(Update::Snapshot(document)) => {
                self.whole(snapshot::parse(&document).expect("a document"));
            }
            Ok(Update::Change(change)) => self.change(change::parse(&change).expect("a change")),
            Ok(Update::Alive { .. }) => return true,
            Err(FeedError(error)) => self.errors.push(error),
        }
        false
    }

    fn whole(&mut self, snapshot: Snapshot) {
        if Some(snapshot.revision) < self.position.revision {
            self.withheld = Some(snapshot.revision);
            return;
        }
        let rejected: Vec<_> = snapshot
            .rejected
            .iter()
            .map(|bad| bad.app.clone())
            .collect();
        self.apps.retain(|name, _| rejected.contains(name));
        self.apps
            .extend(snapshot.apps.iter().map(|app| summary(app)));
        self.rejected = snapshot.rejected;
        self.at(snapshot.revision);
        self.wholes += 1;
    }

    fn change(&mut self, change: Change) {
        assert_eq!(Some(change.from), self.position.revision, "{change:?}");
        self.apps
            .extend(change.upsert.iter().map(|app| summary(app)));
        for name in &change.remove {
            self.apps.remove(&**name);
        }
        self.rejected = change.rejected;
        self.at(change.to);
    }

    fn at(&mut self, revision: u64) {
        self.errors.clear();
        self.position = Position {
            revision: Some(revision),
            need_whole: false,
        };
    }

    async fn error(&mut self) -> String {
        self.until("an error", |follower| !follower.errors.is_empty())
            .await;
        self.errors.pop().unwrap_or_default()
    }
}

fn summary(app: &router_core::model::app::App) -> (String, String) {
    let domain = app.domains.first().map_or("", |domain| domain.as_str());
    (app.name.to_string(), domain.to_owned())
}

fn app(name: &str, domain: &str) -> AppDoc {
    AppDoc::new(name).domain(domain)
}

fn text(name: &str, domain: &str) -> String {
    app(name, domain).to_json().to_string()
}

#[tokio::test]
async fn everything_is_listed_and_then_watched() {
    let etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let listed = etcd.put_app("b", &app("b", "b.test")).await;
    let mut follower = Follower::of(&[etcd.address()]);
    follower.has(&[("a", "a.test"), ("b", "b.test")]).await;
    assert_eq!(follower.position.revision, Some(listed));
    let changed = etcd.put_app("a", &app("a", "new.test")).await;
    follower.has(&[("a", "new.test"), ("b", "b.test")]).await;
    assert_eq!(follower.position.revision, Some(changed));
    etcd.delete("apps/b").await;
    follower.has(&[("a", "new.test")]).await;
    // Removed and put again, at once and one after the other.
    etcd.transaction(&[("apps/a", None), ("apps/c", Some(&text("c", "c.test")))])
        .await;
    etcd.put_app("a", &app("a", "again.test")).await;
    follower.has(&[("a", "again.test"), ("c", "c.test")]).await;
    assert_eq!(follower.wholes, 1);
}

#[tokio::test]
async fn what_one_transaction_does_is_told_at_once() {
    let etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "moving.test")).await;
    let mut follower = Follower::of(&[etcd.address()]);
    follower.has(&[("a", "moving.test")]).await;
    for _ in 0..20 {
        for (from, to) in [("a", "b"), ("b", "a")] {
            let (gone, new) = (format!("apps/{from}"), format!("apps/{to}"));
            etcd.transaction(&[(&gone, None), (&new, Some(&text(to, "moving.test")))])
                .await;
            follower
                .until("the domain has moved", |follower| {
                    let domains: Vec<_> = follower.apps.values().collect();
                    assert_eq!(domains, ["moving.test"], "between two revisions");
                    follower.apps.contains_key(to)
                })
                .await;
        }
    }
}

#[tokio::test]
async fn a_store_of_many_pages_is_one_document() {
    const APPS: usize = 4100;
    let etcd = EtcdServer::start().await;
    let texts: Vec<_> = (0..APPS)
        .map(|number| {
            let name = format!("app-{number:05}");
            (format!("apps/{name}"), text(&name, &format!("{name}.test")))
        })
        .collect();
    for some in texts.chunks(100) {
        let puts = some.iter();
        let puts = puts.map(|(key, text)| (key.as_str(), Some(text.as_str())));
        etcd.transaction(&puts.collect::<Vec<_>>()).await;
    }
    let mut follower = Follower::of(&[etcd.address()]);
    follower
        .until("all are there", |follower| follower.apps.len() == APPS)
        .await;
    assert_eq!((follower.wholes, follower.rejected.len()), (1, 0));
}

#[tokio::test]
async fn one_poisoned_app_among_many_is_rejected_alone() {
    let etcd = EtcdServer::start().await;
    for number in 0..50 {
        let name = format!("app-{number}");
        etcd.put_app(&name, &app(&name, &format!("{name}.test")))
            .await;
    }
    let mut follower = Follower::of(&[etcd.address()]);
    follower
        .until("all are there", |follower| follower.apps.len() == 50)
        .await;
    let deep = format!(
        "{{\"name\":\"app-7\",\"x\":{}{}}}",
        "[".repeat(500),
        "]".repeat(500)
    );
    for poison in [
        "",
        "{",
        "\0\u{7f}",
        "]}]},\"revision\":9999,",
        "{\"name\":\"app-8\"}",
        &deep,
    ] {
        etcd.transaction(&[
            ("apps/app-7", Some(poison)),
            ("apps/app-9", Some(&text("app-9", "on.test"))),
        ])
        .await;
        follower
            .until("the others advance", |follower| {
                follower.apps["app-9"] == "on.test"
            })
            .await;
        let rejected: Vec<_> = follower
            .rejected
            .iter()
            .map(|bad| bad.app.as_str())
            .collect();
        assert_eq!(rejected, ["app-7"], "{poison:?}");
        assert_eq!(
            follower.apps["app-7"], "app-7.test",
            "its previous version stays"
        );
        etcd.transaction(&[("apps/app-9", Some(&text("app-9", "back.test")))])
            .await;
        follower
            .until("the next comes", |follower| {
                follower.apps["app-9"] == "back.test"
            })
            .await;
    }
    // It is the same for who begins with it.
    let mut late = Follower::of(&[etcd.address()]);
    late.until("a whole", |late| late.wholes == 1).await;
    assert_eq!((late.apps.len(), late.rejected.len()), (49, 1));
}

#[tokio::test]
async fn a_store_that_was_killed_is_followed_on_when_it_is_back() {
    let mut etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let mut follower = Follower::of(&[etcd.address()]);
    follower.has(&[("a", "a.test")]).await;
    for round in ["1.test", "2.test"] {
        etcd.kill();
        let error = follower.error().await;
        assert!(error.contains(&etcd.address().to_string()), "{error}");
        etcd.restart().await;
        etcd.put_app("a", &app("a", round)).await;
        follower.has(&[("a", round)]).await;
    }
    assert_eq!(follower.wholes, 1, "where it was is known all the time");
}

#[tokio::test]
async fn a_store_that_comes_later_is_read_when_it_comes() {
    let mut etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    etcd.kill();
    let mut follower = Follower::of(&[etcd.address()]);
    let error = follower.error().await;
    assert!(error.contains("cannot connect"), "{error}");
    etcd.restart().await;
    follower.has(&[("a", "a.test")]).await;
}

#[tokio::test]
async fn what_was_compacted_while_cut_off_is_listed_again_and_deletions_are_seen() {
    let etcd = EtcdServer::start().await;
    let gate = Gate::to(etcd.address()).await;
    for name in ["a", "b", "c"] {
        etcd.put_app(name, &app(name, &format!("{name}.test")))
            .await;
    }
    let mut follower = Follower::of(&[gate.address()]);
    follower
        .until("all are there", |follower| follower.apps.len() == 3)
        .await;
    gate.shut();
    follower.error().await;
    etcd.delete("apps/b").await;
    etcd.put_app("c", &app("c", "new.test")).await;
    etcd.put_app("d", &app("d", "d.test")).await;
    etcd.compact().await;
    gate.open();
    follower
        .has(&[("a", "a.test"), ("c", "new.test"), ("d", "d.test")])
        .await;
    assert_eq!(follower.wholes, 2);
    etcd.delete("apps/d").await;
    follower.has(&[("a", "a.test"), ("c", "new.test")]).await;
    assert_eq!(follower.wholes, 2, "from there on, changes");
}

#[tokio::test]
async fn a_black_hole_is_noticed_and_the_next_endpoint_asked() {
    let etcd = EtcdServer::start().await;
    let gates = [
        Gate::to(etcd.address()).await,
        Gate::to(etcd.address()).await,
    ];
    etcd.put_app("a", &app("a", "a.test")).await;
    let endpoints = gates.each_ref().map(Gate::address);
    let mut follower = Follower::with(&endpoints, |settings| {
        settings.answer = Duration::from_millis(500);
    });
    follower.has(&[("a", "a.test")]).await;
    let used = usize::from(gates[1].accepted() > 0);
    gates[used].swallow();
    let began = Instant::now();
    etcd.put_app("a", &app("a", "b.test")).await;
    follower.has(&[("a", "b.test")]).await;
    assert!(gates[1 - used].accepted() > 0);
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(follower.wholes, 1);
}

/// Connections may die singly, in a firewall that forgets them: heartbeats on another one say nothing about that.
#[tokio::test]
async fn a_watch_that_says_nothing_is_replaced() {
    let etcd = EtcdServer::start().await;
    let gate = Gate::to(etcd.address()).await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let mut follower = Follower::with(&[gate.address()], |settings| {
        settings.silence = Duration::from_millis(500);
        // None within this test, after the first.
        settings.heartbeat = Duration::from_mins(10);
    });
    follower.has(&[("a", "a.test")]).await;
    follower.step().await;
    gate.swallow();
    gate.open();
    etcd.put_app("a", &app("a", "b.test")).await;
    follower.has(&[("a", "b.test")]).await;
    assert_eq!((follower.wholes, follower.errors.len()), (1, 0));
}

#[tokio::test]
async fn a_store_that_stands_still_is_left_for_another() {
    let etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let mut follower = Follower::with(&[etcd.address()], |settings| {
        settings.answer = Duration::from_millis(500);
    });
    follower.has(&[("a", "a.test")]).await;
    etcd.pause();
    let error = follower.error().await;
    assert!(error.contains("no answer within 0.5 s"), "{error}");
    etcd.resume();
    etcd.put_app("a", &app("a", "b.test")).await;
    follower.has(&[("a", "b.test")]).await;
}

#[tokio::test]
async fn a_wiped_store_is_not_believed_until_somebody_says_so() {
    let mut etcd = EtcdServer::start().await;
    for number in 0..5 {
        etcd.put_app("a", &app("a", &format!("{number}.test")))
            .await;
    }
    let in_force = etcd.put_app("a", &app("a", "a.test")).await;
    let mut follower = Follower::of(&[etcd.address()]);
    follower.has(&[("a", "a.test")]).await;
    etcd.wipe().await;
    follower
        .until("it says that the store went back", |follower| {
            let says =
                |error: &String| error.contains("wiped") && error.contains("/router/test/meta");
            follower.errors.iter().any(says)
        })
        .await;
    // So that somebody may confirm what it is now.
    assert_eq!(follower.withheld, Some(1));
    etcd.put_app("a", &app("a", "other.test")).await;
    for _ in 0..3 {
        follower.step().await;
    }
    follower.has(&[("a", "a.test")]).await;
    let base = json!({"revision_base": in_force}).to_string();
    etcd.put("meta", &base).await;
    follower.has(&[("a", "other.test")]).await;
    assert!(follower.position.revision > Some(in_force));
    etcd.put_app("b", &app("b", "b.test")).await;
    follower.has(&[("a", "other.test"), ("b", "b.test")]).await;
}

#[tokio::test]
async fn what_was_refused_is_told_again_once_there_is_news() {
    let etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let mut follower = Follower::of(&[etcd.address()]);
    follower.has(&[("a", "a.test")]).await;
    let (position, apps) = (follower.position, follower.apps.clone());
    etcd.delete_all().await;
    follower.has(&[]).await;
    // As a router that has not believed it.
    (follower.position, follower.apps) = (position, apps);
    for _ in 0..3 {
        match follower.feed.next(position).await {
            Ok(Update::Alive { revision: None }) => {}
            other => panic!("nothing is new, and what it has is not what the store has: {other:?}"),
        }
    }
    etcd.put("meta", "{\"allow_shrink\": true}").await;
    let update = tokio::time::timeout(DEADLINE, follower.feed.next(position)).await;
    let Ok(Ok(Update::Snapshot(document))) = update else {
        panic!("a whole document: {update:?}")
    };
    let snapshot = snapshot::parse(&document).unwrap();
    assert!(snapshot.allow_shrink && snapshot.apps.is_empty());
}

#[tokio::test]
async fn the_whole_comes_when_it_is_wanted_and_waits_that_are_dropped_lose_nothing() {
    let etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let mut follower = Follower::of(&[etcd.address()]);
    follower.has(&[("a", "a.test")]).await;
    follower.position.need_whole = true;
    follower
        .until("a whole", |follower| follower.wholes == 2)
        .await;
    for number in 0..20 {
        let domain = format!("{number}.test");
        etcd.put_app("a", &app("a", &domain)).await;
        // Once more in between.
        follower.position.need_whole = number == 10;
        for _ in 0..20 {
            let pause = Duration::from_micros(fastrand::u64(..3000));
            tokio::time::timeout(pause, follower.step()).await.ok();
        }
        follower.has(&[("a", &domain)]).await;
    }
    assert_eq!(follower.wholes, 3);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_costs_nothing_but_its_turn() {
    let etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let nobody = router_testkit::refused_address();
    for _ in 0..4 {
        let mut follower = Follower::of(&[nobody, etcd.address(), nobody]);
        follower.has(&[("a", "a.test")]).await;
    }
}

#[tokio::test]
async fn with_a_password_and_a_token_that_is_renewed() {
    let etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    for (path, request) in [
        ("auth/user/add", json!({"name": "root", "password": "root"})),
        ("auth/role/add", json!({"name": "root"})),
        ("auth/user/grant", json!({"user": "root", "role": "root"})),
        (
            "auth/user/add",
            json!({"name": "router", "password": "pass word"}),
        ),
        ("auth/role/add", json!({"name": "router"})),
        (
            "auth/role/grant",
            json!({"name": "router", "perm": {"permType": "READWRITE",
            "key": STANDARD.encode(format!("{PREFIX}/")), "range_end": STANDARD.encode(format!("{PREFIX}0"))}}),
        ),
        (
            "auth/user/grant",
            json!({"user": "router", "role": "router"}),
        ),
        ("auth/enable", json!({})),
    ] {
        etcd.call(path, request).await;
    }
    let answer = etcd
        .call(
            "auth/authenticate",
            json!({"name": "root", "password": "root"}),
        )
        .await;
    let root = answer["token"].as_str().expect("a token");
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "wrong\n").unwrap();
    let mut follower = Follower::with(&[etcd.address()], |settings| {
        settings.user = Some(EtcdUser {
            name: "router".to_owned(),
            password_file: password_file.clone(),
        });
    });
    let error = follower.error().await;
    assert!(error.contains("invalid user ID or password"), "{error}");
    std::fs::write(&password_file, "pass word\n").unwrap();
    follower.has(&[("a", "a.test")]).await;
    // A new password makes the old tokens worthless.
    std::fs::write(&password_file, "another").unwrap();
    let change = json!({"name": "router", "password": "another"});
    etcd.call_with(root, "auth/user/changepw", change).await;
    let kv = json!({"key": STANDARD.encode(format!("{PREFIX}/apps/b")), "value": STANDARD.encode(text("b", "b.test"))});
    etcd.call_with(root, "kv/put", kv).await;
    follower.has(&[("a", "a.test"), ("b", "b.test")]).await;
    for _ in 0..3 {
        follower.until("a sign of life", |_| true).await;
        follower.step().await;
    }
    let mut stranger = Follower::with(&[etcd.address()], |settings| {
        settings.prefix = "/somebody/else".to_owned();
        settings.user = Some(EtcdUser {
            name: "router".to_owned(),
            password_file: password_file.clone(),
        });
    });
    let error = stranger.error().await;
    assert!(error.contains("permission denied"), "{error}");
    let mut nobody = Follower::of(&[etcd.address()]);
    let error = nobody.error().await;
    assert!(error.contains("user name is empty"), "{error}");
}

#[tokio::test]
async fn by_tls_with_certificates_on_both_sides() {
    let (ca, clients) = (TestCa::new("of the members"), TestCa::new("of the routers"));
    let etcd = EtcdServer::with(Options {
        // A member's gateway is a client of the member, with the member's own certificate.
        tls: Some((ca.certificate(&["127.0.0.1"]), clients.pem() + &ca.pem())),
    })
    .await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let router = clients.certificate(&["router.test"]);
    let pair = (
        write("r.crt", router.chain_pem()),
        write("r.key", router.key_pem()),
    );
    let root = write("ca.pem", &ca.pem());
    let follower = |ca: Option<_>, pair: Option<_>| {
        Follower::with(&[], |settings| {
            settings.endpoints = vec![format!("https://{}/", etcd.tls_address())];
            settings.ca = ca;
            settings.client_certificate = pair;
        })
    };
    let mut good = follower(Some(root.clone()), Some(pair.clone()));
    good.has(&[("a", "a.test")]).await;
    etcd.put_app("a", &app("a", "b.test")).await;
    good.has(&[("a", "b.test")]).await;
    let error = follower(None, Some(pair)).error().await;
    assert!(error.contains("certificate"), "{error}");
    let error = follower(Some(root), None).error().await;
    assert!(error.contains("BadCertificate"), "{error}");
}

#[tokio::test]
async fn what_is_in_force_stands_in_the_store_for_as_long_as_the_router_lives() {
    let mut etcd = EtcdServer::start().await;
    etcd.put_app("a", &app("a", "a.test")).await;
    let mut follower = Follower::of(&[etcd.address()]);
    follower.has(&[("a", "a.test")]).await;
    let revision = follower.position.revision.unwrap();
    let rejected = Rejection {
        app: "b".to_owned(),
        reason: "why".to_owned(),
    };
    let ack = Ack {
        router: "r1".to_owned(),
        revision,
        rejected: vec![rejected],
        rejected_count: 1,
    };
    follower.feed.acknowledge(&ack).await.unwrap();
    let wanted = format!(
        r#"{{"router":"r1","revision":{revision},"rejected":[{{"app":"b","reason":"why"}}],"rejected_count":1}}"#
    );
    let lease = stands(&etcd, &mut follower, &wanted).await;
    let answer = etcd.call("lease/timetolive", json!({"ID": lease})).await;
    let ttl: u64 = answer["TTL"].as_str().unwrap().parse().unwrap();
    assert!((50..=60).contains(&ttl), "{answer}");
    // Acknowledgements wake nobody: this would be told as a change.
    for _ in 0..3 {
        follower.step().await;
    }
    assert_eq!(follower.position.revision, Some(revision));
    // The same again is not written again, only the lease kept alive.
    let (_, before) = etcd.get("acks/r1").await.unwrap();
    follower.feed.acknowledge(&ack).await.unwrap();
    let next = Ack {
        revision: revision + 1,
        ..ack.clone()
    };
    follower.feed.acknowledge(&next).await.unwrap();
    let wanted = serde_json::to_string(&next).unwrap();
    assert_eq!(stands(&etcd, &mut follower, &wanted).await, before);
    // Somebody tidies up.
    etcd.delete("acks/r1").await;
    follower.feed.acknowledge(&next).await.unwrap();
    assert_eq!(stands(&etcd, &mut follower, &wanted).await, before);
    // A lease that is gone is replaced.
    etcd.call("lease/revoke", json!({"ID": lease})).await;
    follower.feed.acknowledge(&next).await.unwrap();
    assert_ne!(stands(&etcd, &mut follower, &wanted).await, lease);
    // A store that is away is told when it is back.
    etcd.kill();
    follower.error().await;
    follower.feed.acknowledge(&ack).await.unwrap();
    etcd.restart().await;
    let wanted = serde_json::to_string(&ack).unwrap();
    stands(&etcd, &mut follower, &wanted).await;
}

/// Waits until the acknowledgement of `r1` in the store is this, and gives its lease.
async fn stands(etcd: &EtcdServer, follower: &mut Follower, wanted: &str) -> u64 {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match etcd.get("acks/r1").await {
            Some((found, lease)) if found == wanted && lease > 0 => return lease,
            found => assert!(Instant::now() < deadline, "{found:?}, wanted {wanted}"),
        }
        follower.step().await;
    }
}
