//! The twelve rules of a route feed, each as a test. Time is tokio's where it can be, so that ten minutes pass at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use router_core::Router;
use router_core::feed::{FeedOptions, Update};
use router_testkit::{AppDoc, FakeDyno, RouteDoc, ServingDyno, eventually};
use serde_json::json;

use crate::scripted::Scripted;
use crate::world::{World, assert_failed, assert_served, get, ok, shop};

fn router() -> Router {
    Router::builder().workers(1).build().unwrap()
}

/// An app with a domain of its name; `version` makes it differ from its others.
fn app(name: &str, version: u64) -> AppDoc {
    AppDoc::new(name)
        .domain(&format!("{name}.test"))
        .field("formation", json!({"web": version}))
        .web(1, ([127, 0, 0, 1], 1).into())
}

fn apps(names: &[&str]) -> Vec<AppDoc> {
    names.iter().map(|name| app(name, 1)).collect()
}

fn put(app: &AppDoc) -> serde_json::Value {
    json!({"app": app.to_json()})
}

/// The version of an app that is served.
fn served(router: &Router, name: &str) -> Option<u32> {
    router.app(name).map(|app| app.web_quantity)
}

fn is_routed(router: &Router, host: &str) -> bool {
    router.explain(host, "/").app.is_some()
}

#[tokio::test(start_paused = true)]
async fn rule_01_desired_state_with_a_monotonic_revision() {
    let router = router();
    let source = Scripted::start(&router, FeedOptions::default());
    source.whole(5, &apps(&["a", "b"]));
    source.change(5, 7, &json!([put(&app("a", 2))]));
    source.at_revision(7).await;
    assert_eq!(
        (served(&router, "a"), served(&router, "b")),
        (Some(2), Some(1))
    );

    // What is older, or was there before, changes nothing.
    source.whole(6, &[app("a", 9), app("b", 9)]);
    source.change(5, 7, &json!([put(&app("a", 9))]));
    source.change(
        7,
        8,
        &json!([{"remove": "a"}, put(&app("a", 3)), put(&app("c", 1))]),
    );
    source.at_revision(8).await;
    assert_eq!(
        (served(&router, "a"), served(&router, "c")),
        (Some(3), Some(1))
    );

    // Something is missing, or overlaps: only the whole helps.
    for (from, to) in [(9, 10), (6, 10)] {
        let gaps = source.status().gaps;
        source.change(from, to, &json!([put(&app("a", 9))]));
        source
            .until("the gap is noticed", |status| status.gaps == gaps + 1)
            .await;
        source.asked_for_the_whole(8).await;
    }
    source.whole(10, &[app("a", 10), app("b", 10), app("c", 10)]);
    source.at_revision(10).await;
    assert_eq!(served(&router, "b"), Some(10));
    assert!(source.status().relists.gap >= 2);
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rule_02_validated_whole_and_applied_per_app() {
    let router = router();
    let source = Scripted::start(&router, FeedOptions::default());
    source.whole(1, &apps(&["a", "b", "c"]));
    let bad = |name: &str| app(name, 2).dyno("web.1", ([127, 0, 0, 1], 2).into(), "sleeping");
    source.whole(2, &[app("a", 2), bad("b"), app("c", 2)]);
    source.at_revision(2).await;
    let version = |name| served(&router, name);
    assert_eq!(
        [version("a"), version("b"), version("c")],
        [Some(2), Some(1), Some(2)]
    );
    source.change(
        2,
        3,
        &json!([put(&bad("a")), put(&app("c", 3)), {"what": "is this"}]),
    );
    source.at_revision(3).await;
    assert_eq!(
        [version("a"), version("b"), version("c")],
        [Some(2), Some(1), Some(3)]
    );
    let rejected = |source: &Scripted| {
        let rejected = source.status().rejected.into_iter();
        rejected.map(|rejection| rejection.app).collect::<Vec<_>>()
    };
    assert_eq!(rejected(&source), ["b", "a", "changes[2]"]);
    source.change(3, 4, &json!([put(&app("b", 4)), put(&app("a", 4))]));
    source.at_revision(4).await;
    assert_eq!(version("b"), Some(4));
    source.whole(5, &[app("a", 5), app("b", 5), app("c", 5)]);
    source.at_revision(5).await;
    assert_eq!(rejected(&source), [""; 0]);
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rule_03_the_source_is_told_what_is_in_force() {
    let router = router();
    let options = FeedOptions {
        router_id: "edge-7".to_owned(),
        ..FeedOptions::default()
    };
    let source = Scripted::start(&router, options);
    source.whole(1, &[app("a", 1), AppDoc::new("b").domain("-")]);
    let ack = source.told(1).await;
    assert_eq!((ack.router.as_str(), ack.rejected_count), ("edge-7", 1));
    assert_eq!(ack.rejected[0].app, "b");

    // Many changes are not as many messages; whoever waits for the last one is told.
    for revision in 1..100 {
        source.change(revision, revision + 1, &json!([put(&app("a", revision))]));
    }
    source.feed.wait_for(100).await;
    assert_eq!(served(&router, "a"), Some(99));
    source.told(100).await;
    assert!(source.noted(|noted| noted.acks.len()) < 20);

    // What did not arrive is told again.
    source.noted(|noted| noted.acks_fail = true);
    source.change(100, 101, &json!([]));
    source
        .until("it fails", |status| status.acknowledgements_failed > 1)
        .await;
    assert_eq!(source.status().acknowledged, Some(100));
    source.noted(|noted| noted.acks_fail = false);
    source
        .until("it arrives", |status| status.acknowledged == Some(101))
        .await;
    source.feed.stop().await;
}

#[tokio::test]
async fn rule_03_of_changes_that_do_not_end_those_on_disk_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let router = router();
    let options = FeedOptions {
        cache: Some(folder.path().join("routes.json")),
        ..FeedOptions::default()
    };
    let source = Scripted::start(&router, options);
    source.whole(1, &[app("a", 1)]);
    source.told(1).await;
    let mut revision = 1;
    eventually("one is told while others come", || {
        for _ in 0..3 {
            source.change(revision, revision + 1, &json!([put(&app("a", revision))]));
            revision += 1;
        }
        let told = source.noted(|noted| noted.acks.last().map(|ack| ack.revision));
        let saved = source.status().cache.and_then(|cache| cache.revision);
        // Looked at in this order, what is told is never ahead.
        assert!(told <= saved, "{told:?} {saved:?}");
        (told > Some(1)).then_some(())
    })
    .await;
    source.told(revision).await;
    assert_eq!(source.status().cache.unwrap().revision, Some(revision));
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_in_crowds_are_each_judged() {
    let router = router();
    let source = Scripted::start(&router, FeedOptions::default());
    source.noted(|noted| noted.crowds = true);
    source.whole(1, &apps(&["a", "b", "c", "d"]));
    source.told(1).await;
    let asked = source.noted(|noted| noted.asked.len());
    for revision in 1..=100 {
        source.change(revision, revision + 1, &json!([put(&app("a", revision))]));
    }
    source.at_revision(101).await;
    assert_eq!(served(&router, "a"), Some(100));
    assert_eq!(source.status().changes, 100);
    assert!(source.noted(|noted| noted.asked.len()) < asked + 20);

    // One of them is in force already, and one does not follow: what comes behind that does not either.
    source.change(101, 102, &json!([put(&app("a", 200))]));
    source.change(101, 102, &json!([put(&app("a", 201))]));
    source.change(102, 103, &json!([put(&app("a", 202))]));
    source.change(104, 105, &json!([put(&app("a", 203))]));
    source.change(103, 104, &json!([put(&app("a", 204))]));
    source.asked_for_the_whole(103).await;
    assert_eq!(served(&router, "a"), Some(202));
    assert_eq!(source.status().gaps, 1);
    source.whole(106, &[app("a", 300), app("b", 1), app("c", 1), app("d", 1)]);
    source.told(106).await;
    assert_eq!(served(&router, "a"), Some(300));
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rule_04_nothing_takes_too_much_away() {
    let router = router();
    let options = FeedOptions {
        shrink_share: 0.5,
        shrink_persists: Some(Duration::from_secs(3600)),
        ..FeedOptions::default()
    };
    let source = Scripted::start(&router, options);
    let four = apps(&["a", "b", "c", "d"]);
    source.whole(1, &four);
    // One of three is less than a half, three of four are more.
    source.whole(2, &four[..1]);
    source
        .until("it is refused", |status| status.shrinks_refused == 1)
        .await;
    let status = source.status();
    assert_eq!((status.revision, router.table().app_count()), (Some(1), 4));
    assert!(status.last_error.unwrap().contains("allow_shrink"));
    assert_eq!(status.withheld.unwrap().revision, 2);
    source.change(
        1,
        2,
        &json!([{"remove": "a"}, {"remove": "b"}, {"remove": "c"}]),
    );
    source
        .until("so is the change", |status| status.shrinks_refused == 2)
        .await;
    source.asked_for_the_whole(1).await;
    source.whole(2, &four[..1]);
    source
        .until("and the whole again", |status| status.refused == 3)
        .await;

    // An operator's word, or an hour, or the document's own word.
    assert!(!source.feed.confirm(1) && source.feed.confirm(2));
    source.asked_for_the_whole(1).await;
    source.whole(2, &four[..1]);
    source.at_revision(2).await;
    assert_eq!(source.status().withheld, None);
    source.whole(3, &four);
    source.whole(4, &four[1..2]);
    source
        .until("it is refused", |status| status.withheld.is_some())
        .await;
    tokio::time::sleep(Duration::from_secs(3601)).await;
    source.asked_for_the_whole(3).await;
    source.whole(4, &four[1..2]);
    source.at_revision(4).await;
    source.whole(5, &four);
    source.document(&RouteDoc::new(6, &four[2..3]).allow_shrink());
    source.at_revision(6).await;

    // The empty set is never believed.
    source.whole(7, &[]);
    source
        .until("it is refused", |status| status.withheld.is_some())
        .await;
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    source.whole(8, &[]);
    source
        .until("it is refused", |status| {
            status
                .withheld
                .as_ref()
                .is_some_and(|withheld| withheld.revision == 8)
        })
        .await;
    assert!(is_routed(&router, "c.test"));
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rule_05_the_last_good_routes_outlast_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache/routes.json");
    let start = || {
        let router = router();
        let options = FeedOptions {
            cache: Some(cache.clone()),
            ..FeedOptions::default()
        };
        let source = Scripted::start(&router, options);
        (router, source)
    };
    let (_, source) = start();
    source.whole(1, &apps(&["a", "b", "c"]));
    // Rejected, but served in its previous version: after a restart too.
    source.whole(2, &[app("a", 2), AppDoc::new("b").domain("-"), app("c", 2)]);
    source.change(2, 3, &json!([put(&app("c", 3)), put(&app("d", 3))]));
    // Told when a restart would find it, so that nobody need wait for the disk.
    source.told(3).await;
    assert_eq!(source.status().cache.unwrap().revision, Some(3));
    source.feed.stop().await;

    let (router, source) = start();
    source.at_revision(3).await;
    let all = || ["a", "b", "c", "d"].map(|name| served(&router, name));
    assert_eq!(all(), [Some(2), Some(1), Some(3), Some(3)]);
    let status = source.status();
    assert!(status.stale && status.last_error.is_none(), "{status:?}");
    let rejected: Vec<_> = status
        .rejected
        .iter()
        .map(|rejection| &*rejection.app)
        .collect();
    assert_eq!(rejected, ["b"]);
    // Changes go on from there, and an older document is not believed.
    source.whole(1, &apps(&["a", "b", "c", "d"]));
    source.change(3, 4, &json!([put(&app("a", 4))]));
    source.told(4).await;
    assert!(!source.status().stale);
    source.feed.stop().await;

    // A torn line, and a document that was changed on disk.
    let log = PathBuf::from(format!("{}.changes", cache.display()));
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 3]).unwrap();
    let text = std::fs::read_to_string(&cache).unwrap();
    std::fs::write(&cache, text.replace("127.0.0.1:1\"", "127.0.0.1:8\"")).unwrap();
    let (router, source) = start();
    source.at_revision(3).await;
    assert_eq!(served(&router, "a"), Some(2));
    let cache = source.status().cache.unwrap();
    assert!(cache.error.unwrap().contains("not as it was written"));
    source.feed.stop().await;
}

#[tokio::test]
async fn rule_06_not_ready_before_the_first_routes() {
    let world = World::start();
    let source = Scripted::start(&world.router, FeedOptions::default());
    source.fail("the control plane is away");
    source.feed.answered().await;
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503, "and not 404");
    assert!(!world.router.table().is_loaded());
    let dyno = dyno_of("first").await;
    source.whole(1, &[shop().web(1, dyno.address())]);
    source.feed.wait_for(1).await;
    assert!(world.router.table().is_loaded());
    assert_eq!(client.exchange(get("/")).await.text(), "first");
    assert_served(&world.log.next().await, "web.1", 200);
    source.feed.stop().await;
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn rule_07_staleness_is_told_and_stale_routes_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let options = || FeedOptions {
        cache: Some(folder.path().join("routes.json")),
        ..FeedOptions::default()
    };
    let source = Scripted::start(&router(), options());
    source.whole(7, &apps(&["a"]));
    source.told(7).await;
    assert!(!source.status().stale);
    source.feed.stop().await;

    let router = router();
    let source = Scripted::start_with_heartbeat(&router, options());
    source.at_revision(7).await;
    source.alive(None);
    source.alive(Some(3));
    source
        .until("it is heard of", |status| status.heard_seconds.is_some())
        .await;
    assert!(source.status().stale, "no word about revision 7 yet");
    tokio::time::sleep(Duration::from_secs(3 * 24 * 3600)).await;
    let status = source.status();
    assert!(status.stale && status.silent && is_routed(&router, "a.test"));
    let days = |seconds: Option<f64>| seconds.unwrap() / 86_400.0;
    assert!(days(status.age_seconds) >= 3.0 && days(status.heard_seconds) >= 3.0);
    // The source has nothing newer: what was stale is what it should be.
    source.alive(Some(7));
    source
        .until("it is fresh", |status| !status.stale && !status.silent)
        .await;
    source.told(7).await;
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rule_07_an_app_may_have_its_routes_expire() {
    let router = router();
    let source = Scripted::start_with_heartbeat(&router, FeedOptions::default());
    let hour = app("hour", 1).setting("expire_after", "1h");
    source.whole(1, &[hour, app("ever", 1)]);
    source.at_revision(1).await;
    let reason = |name: &str| router.explain(&format!("{name}.test"), "/").reason;
    let expired = Some("H99 Platform error".to_owned());
    tokio::time::sleep(Duration::from_secs(3590)).await;
    assert!(source.status().silent);
    assert_eq!((reason("hour"), reason("ever")), (None, None));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((reason("hour"), reason("ever")), (expired, None));
    // One word is enough; nothing was forgotten.
    source.alive(None);
    source
        .until("it speaks again", |status| !status.silent)
        .await;
    assert_eq!(reason("hour"), None);
    source.feed.stop().await;

    // A source without a heartbeat may say nothing for long, but not be out of reach.
    let router = self::router();
    let source = Scripted::start(&router, FeedOptions::default());
    let reason = || router.explain("hour.test", "/").reason;
    source.whole(1, &[app("hour", 1).setting("expire_after", "1h")]);
    source.at_revision(1).await;
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!(reason(), None);
    source.fail("no route to host");
    tokio::time::sleep(Duration::from_secs(3590)).await;
    assert_eq!(reason(), None);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(reason().is_some());
    source.feed.stop().await;
}

#[tokio::test]
async fn rule_07_requests_of_an_expired_app_are_h99() {
    let world = World::start();
    let options = FeedOptions {
        silent_after: Duration::from_millis(50),
        ..FeedOptions::default()
    };
    let source = Scripted::start_with_heartbeat(&world.router, options);
    let dyno = dyno_of("first").await;
    let shop = shop().web(1, dyno.address()).setting("expire_after", "1ms");
    source.whole(1, &[shop]);
    source
        .until("it is silent", |status| {
            status.silent && status.revision == Some(1)
        })
        .await;
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_failed(&world.log.next().await, "H99", 503);
    source.feed.stop().await;
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn rule_08_nothing_expires_by_the_clock() {
    let router = router();
    let source = Scripted::start_with_heartbeat(&router, FeedOptions::default());
    source.whole(1, &apps(&["a", "b"]));
    source.at_revision(1).await;
    for _ in 0..30 {
        source.fail("connection refused");
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert!(is_routed(&router, "a.test") && is_routed(&router, "b.test"));
    }
    assert!(
        source
            .status()
            .last_error
            .unwrap()
            .contains("connection refused")
    );
    // Nor does it when the source is back: it is taken at its word only.
    source.alive(Some(1));
    source
        .until("it is back", |status| status.last_error.is_none())
        .await;
    assert_eq!(router.table().app_count(), 2);
    source.feed.stop().await;
}

#[tokio::test]
async fn rule_09_equal_is_no_change() {
    let world = World::start();
    let source = Scripted::start(&world.router, FeedOptions::default());
    let (dyno, other) = (FakeDyno::start().await, dyno_of("other").await);
    let one = || shop().domain("b.test").web(1, dyno.address());
    let reordered = || {
        let app = AppDoc::new("shop").domain("b.test").domain("shop.test");
        app.web(1, dyno.address())
    };
    source.whole(1, &[one()]);
    source.feed.wait_for(1).await;
    let applied = |app: AppDoc| world.apply_document(&RouteDoc::new(1, &[app])).unwrap();
    assert_eq!(
        (applied(reordered()).changed, applied(one()).changed),
        (0, 0)
    );

    // A tunnel feels nothing of it, however often it is said.
    let mut client = world.client().await;
    client.send(UPGRADE).await;
    let (mut conn, _) = dyno.accept_and_answer(SWITCHING).await;
    assert_eq!(client.read_response().await.status, 101);
    for revision in 2..40 {
        source.whole(
            revision,
            &[if revision % 4 == 0 {
                one()
            } else {
                reordered()
            }],
        );
        source.whole(revision, &[reordered()]);
        source.change(revision, revision + 1, &json!([put(&one())]));
    }
    source.feed.wait_for(40).await;
    conn.write("still").await;
    assert_eq!(client.read_exact(5).await, b"still");
    drop((conn, client));
    world.log.next().await;
    drop(other);
    source.feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn rule_10_endpoint_states_are_data() {
    let world = World::start();
    let source = Scripted::start(&world.router, FeedOptions::default());
    let (one, two) = (dyno_of("1").await, dyno_of("2").await);
    source.whole(1, &[shop().web(1, one.address()).web(2, two.address())]);
    let draining = shop()
        .dyno("web.1", one.address(), "draining")
        .web(2, two.address())
        .homeless_dyno("web.3", "starting");
    source.change(1, 2, &json!([put(&draining)]));
    source.feed.wait_for(2).await;
    let mut client = world.client().await;
    for _ in 0..10 {
        assert_eq!(client.exchange(get("/")).await.text(), "2");
        assert_served(&world.log.next().await, "web.2", 200);
    }
    source.feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn rule_11_make_before_break() {
    // A domain that moves from app to app is somebody's at every moment.
    let router = router();
    let source = Scripted::start(&router, FeedOptions::default());
    let holder = |name: &str| {
        AppDoc::new(name)
            .domain("x.test")
            .domain(&format!("{name}.test"))
    };
    source.whole(1, &[holder("a"), app("b", 1)]);
    source.feed.wait_for(1).await;
    let (stop, watched) = (Arc::new(AtomicBool::new(false)), router.clone());
    let stopping = Arc::clone(&stop);
    let looking = std::thread::spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            assert!(is_routed(&watched, "x.test"));
        }
    });
    for revision in 1..200 {
        let (from, to) = if revision % 2 == 1 {
            ("a", "b")
        } else {
            ("b", "a")
        };
        let changes = json!([put(&app(from, 1)), put(&holder(to))]);
        source.change(revision, revision + 1, &changes);
    }
    source.feed.wait_for(200).await;
    stop.store(true, Ordering::Relaxed);
    looking.join().expect("it was always somebody's");
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_and_added_again_is_there_in_one_revision_and_in_two() {
    let router = router();
    let source = Scripted::start(&router, FeedOptions::default());
    source.whole(1, &apps(&["a", "b", "c", "d", "e"]));
    source.at_revision(1).await;
    let state = || (served(&router, "a"), is_routed(&router, "a.test"));
    source.change(1, 2, &json!([{"remove": "a"}, put(&app("a", 2))]));
    source.at_revision(2).await;
    assert_eq!(state(), (Some(2), true));
    source.change(2, 3, &json!([{"remove": "a"}]));
    source.at_revision(3).await;
    assert_eq!(state(), (None, false));
    source.change(3, 4, &json!([put(&app("a", 4))]));
    source.at_revision(4).await;
    assert_eq!(state(), (Some(4), true));
    // The same by whole documents, and the domain goes to an app of another name.
    source.whole(5, &apps(&["b", "c", "d", "e"]));
    source.at_revision(5).await;
    assert_eq!(state(), (None, false));
    let other = AppDoc::new("z")
        .domain("a.test")
        .web(1, ([127, 0, 0, 1], 1).into());
    source.whole(6, &[apps(&["b", "c", "d", "e"]), vec![other]].concat());
    source.at_revision(6).await;
    assert_eq!(router.explain("a.test", "/").app.as_deref(), Some("z"));
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_silent_source_is_noticed_and_asked() {
    let router = router();
    let source = Scripted::start_with_heartbeat(&router, FeedOptions::default());
    source.whole(1, &apps(&["a"]));
    source.at_revision(1).await;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!source.status().silent);
        source.alive(Some(1));
    }
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(source.status().silent);
    assert_eq!(source.status().relists.silence, 1);
    source.asked_for_the_whole(1).await;
    source.alive(Some(1));
    source
        .until("it is heard of", |status| !status.silent)
        .await;
    // A newer revision of which nothing came: something was lost.
    source.alive(Some(2));
    source.asked_for_the_whole(1).await;
    assert_eq!(source.status().gaps, 1);
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rule_12_the_whole_is_asked_for_every_ten_minutes() {
    let router = router();
    let source = Scripted::start(&router, FeedOptions::default());
    for revision in 1..6 {
        source.whole(revision, &[app("a", revision)]);
        source.at_revision(revision).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!source.noted(|noted| noted.asked.last().unwrap().need_whole));
        tokio::time::sleep(Duration::from_secs(11 * 60 + 1)).await;
        source.asked_for_the_whole(revision).await;
    }
    assert_eq!(source.status().relists.timer, 5);
    assert!(!source.status().silent, "it has no heartbeat to miss");
    source.feed.stop().await;
}

#[tokio::test]
async fn rule_12_unreachable_dynos_make_it_ask() {
    let world = World::start();
    let options = FeedOptions {
        silent_after: Duration::from_millis(1),
        ..FeedOptions::default()
    };
    let source = Scripted::start(&world.router, options);
    let gone = FakeDyno::start().await.address();
    source.whole(1, &[shop().web(1, gone)]);
    source.feed.wait_for(1).await;
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    world.log.next().await;
    source.asked_for_the_whole(1).await;
    assert_eq!(source.status().relists.feedback, 1);
    // The new address comes with the whole document.
    let dyno = dyno_of("here").await;
    source.whole(2, &[shop().web(1, dyno.address())]);
    source.feed.wait_for(2).await;
    assert_eq!(client.exchange(get("/")).await.text(), "here");
    world.log.next().await;
    source.feed.stop().await;
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn rule_12_updates_are_held_back_for_a_random_time() {
    let mut taken = Vec::new();
    for _ in 0..16 {
        let router = router();
        let options = FeedOptions {
            apply_jitter: Duration::from_secs(60),
            ..FeedOptions::default()
        };
        let source = Scripted::start(&router, options);
        let start = tokio::time::Instant::now();
        source.whole(1, &apps(&["a"]));
        source.at_revision(1).await;
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "there is nothing to lose yet"
        );
        let start = tokio::time::Instant::now();
        source.change(1, 2, &json!([put(&app("a", 2))]));
        source.change(2, 3, &json!([put(&app("a", 3))]));
        source.feed.wait_for(3).await;
        taken.push(start.elapsed());
        source.feed.stop().await;
    }
    assert!(taken.iter().all(|taken| *taken <= Duration::from_secs(61)));
    let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
    assert!(*most > *least + Duration::from_secs(5), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_stuck_step_is_told() {
    let router = router();
    let options = FeedOptions {
        watchdog: Duration::from_secs(2),
        ..FeedOptions::default()
    };
    let source = Scripted::start(&router, options);
    source.noted(|noted| noted.acks_hang = true);
    source.whole(1, &apps(&["a"]));
    source
        .until("it is told", |status| status.stuck.is_some())
        .await;
    let stuck = source.status().stuck.unwrap();
    assert!(stuck.step.contains("telling the source") && stuck.seconds > 2.0);
    // Nobody else has to wait for it: the table is free, and the feed goes on.
    assert!(is_routed(&router, "a.test"));
    source.noted(|noted| noted.acks_hang = false);
    source.whole(2, &apps(&["a", "b"]));
    source.at_revision(2).await;
    source
        .until("it is over", |status| status.stuck.is_none())
        .await;
    source.feed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rubbish_and_repetition_keep_nobody_busy() {
    let router = router();
    let source = Scripted::start(&router, FeedOptions::default());
    source.whole(1, &apps(&["a"]));
    source.at_revision(1).await;
    let start = tokio::time::Instant::now();
    for _ in 0..10 {
        source.say(Update::Change("{".into()));
        source.say(Update::Snapshot("[]".into()));
    }
    source
        .until("all are refused", |status| status.refused == 20)
        .await;
    assert!(
        start.elapsed() > Duration::from_secs(3),
        "it waits between them"
    );
    assert!(is_routed(&router, "a.test"));
    source.whole(2, &apps(&["a", "b"]));
    source.at_revision(2).await;
    assert_eq!(source.status().last_error, None);
    source.feed.stop().await;
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

async fn dyno_of(name: &'static str) -> ServingDyno {
    FakeDyno::respond_with(move |_| ok(name).into_bytes()).await
}
