//! The file feed: what is written to the file is in force, and nothing that is written there can hurt what is served.

use std::path::PathBuf;

use router_core::feed::{self, FeedHandle, FeedOptions, FileFeed};
use router_testkit::{AppDoc, FakeDyno, RouteDoc, ServingDyno, eventually};

use crate::world::{World, assert_served, get, ok, shop};

/// A world fed by a file in a directory of its own.
struct Fed {
    world: World,
    feed: FeedHandle,
    directory: tempfile::TempDir,
}

impl Fed {
    fn start(first: Option<&RouteDoc>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("routes.json");
        if let Some(document) = first {
            std::fs::write(&path, document.to_bytes()).expect("write");
        }
        let world = World::start();
        let feed = feed::start(&world.router, FileFeed::new(path), FeedOptions::default());
        Self {
            world,
            feed,
            directory,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("routes.json")
    }

    /// Writes beside the file and renames over it, as careful programs do.
    fn replace(&self, content: impl AsRef<[u8]>) {
        let beside = self.directory.path().join("routes.json.new");
        std::fs::write(&beside, content).expect("write");
        std::fs::rename(beside, self.path()).expect("rename");
    }

    async fn at_revision(&self, revision: u64) {
        let what = format!(
            "revision {revision} is in force, {:?}",
            self.feed.status().last_error
        );
        eventually(&what, || {
            (self.feed.status().revision == Some(revision)).then_some(())
        })
        .await;
    }

    /// Waits until a document has been refused, and gives the reason.
    async fn refused(&self) -> String {
        eventually("a document is refused", || {
            self.feed.status().last_error.filter(|_| true)
        })
        .await
    }

    async fn check_answers(&self, expected: &str) {
        let mut client = self.world.client().await;
        assert_eq!(client.exchange(get("/")).await.text(), expected);
        assert_served(&self.world.log.next().await, "web.1", 200);
    }

    async fn finish(self) {
        self.feed.stop().await;
        self.world.finish().await;
    }
}

async fn dyno_of(name: &'static str) -> ServingDyno {
    FakeDyno::respond_with(move |_| ok(name).into_bytes()).await
}

fn document(revision: u64, dyno: &ServingDyno) -> RouteDoc {
    RouteDoc::new(revision, &[shop().web(1, dyno.address())])
}

#[tokio::test]
async fn the_file_is_read_at_the_start() {
    let dyno = dyno_of("first").await;
    let fed = Fed::start(Some(&document(7, &dyno)));
    fed.at_revision(7).await;
    let status = fed.feed.status();
    assert_eq!(
        (status.stale, &status.last_error, status.rejected.len()),
        (false, &None, 0)
    );
    assert!(
        status.age_seconds.is_some() && status.source == "file",
        "{status:?}"
    );
    fed.check_answers("first").await;
    fed.finish().await;
}

#[tokio::test]
async fn a_file_that_comes_later_is_read_when_it_comes() {
    let fed = Fed::start(None);
    let mut client = fed.world.client().await;
    assert_eq!(
        client.exchange(get("/")).await.status,
        503,
        "no routes yet, and no log line"
    );
    assert!(!fed.world.router.table().is_loaded());
    let dyno = dyno_of("late").await;
    fed.replace(document(1, &dyno).to_bytes());
    fed.at_revision(1).await;
    fed.check_answers("late").await;
    assert_eq!(
        client.exchange(get("/")).await.text(),
        "late",
        "the connection was not dropped"
    );
    assert_served(&fed.world.log.next().await, "web.1", 200);
    fed.finish().await;
}

#[tokio::test]
async fn renames_and_writes_in_place_are_both_seen() {
    let (one, two, three) = (dyno_of("1").await, dyno_of("2").await, dyno_of("3").await);
    let fed = Fed::start(Some(&document(1, &one)));
    fed.at_revision(1).await;
    fed.check_answers("1").await;
    fed.replace(document(2, &two).to_bytes());
    fed.at_revision(2).await;
    fed.check_answers("2").await;
    std::fs::write(fed.path(), document(3, &three).to_bytes()).unwrap();
    fed.at_revision(3).await;
    fed.check_answers("3").await;
    // A file that was renamed over is another file; the next write to it is seen as well.
    fed.replace(document(4, &one).to_bytes());
    fed.at_revision(4).await;
    std::fs::write(fed.path(), document(5, &two).to_bytes()).unwrap();
    fed.at_revision(5).await;
    fed.check_answers("2").await;
    fed.finish().await;
}

#[tokio::test]
async fn a_link_that_is_turned_to_another_file_is_seen() {
    // As configuration volumes do it: the name stays a link, what it leads to is swapped.
    let (one, two) = (dyno_of("1").await, dyno_of("2").await);
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("v1"), document(1, &one).to_bytes()).unwrap();
    std::fs::write(at("v2"), document(2, &two).to_bytes()).unwrap();
    std::os::unix::fs::symlink("v1", at("routes.json")).unwrap();
    let world = World::start();
    let options = FeedOptions::default();
    let feed = feed::start(&world.router, FileFeed::new(at("routes.json")), options);
    let fed = Fed {
        world,
        feed,
        directory,
    };
    fed.at_revision(1).await;
    std::os::unix::fs::symlink("v2", fed.directory.path().join("next")).unwrap();
    std::fs::rename(fed.directory.path().join("next"), fed.path()).unwrap();
    fed.at_revision(2).await;
    fed.check_answers("2").await;
    fed.finish().await;
}

#[tokio::test]
async fn a_directory_that_comes_later_is_no_reason_to_give_up() {
    let dyno = dyno_of("late").await;
    let directory = tempfile::tempdir().unwrap();
    let world = World::start();
    let path = directory.path().join("later").join("routes.json");
    let feed = feed::start(
        &world.router,
        FileFeed::new(path.clone()),
        FeedOptions::default(),
    );
    eventually("it is said that there is no file", || {
        feed.status().last_error
    })
    .await;
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, document(1, &dyno).to_bytes()).unwrap();
    let fed = Fed {
        world,
        feed,
        directory,
    };
    fed.at_revision(1).await;
    fed.check_answers("late").await;
    fed.finish().await;
}

#[tokio::test]
async fn an_update_drops_no_connection() {
    let (one, two) = (dyno_of("1").await, dyno_of("2").await);
    let fed = Fed::start(Some(&document(1, &one)));
    fed.at_revision(1).await;
    let mut client = fed.world.client().await;
    assert_eq!(client.exchange(get("/")).await.text(), "1");
    assert_served(&fed.world.log.next().await, "web.1", 200);
    fed.replace(document(2, &two).to_bytes());
    fed.at_revision(2).await;
    assert_eq!(
        client.exchange(get("/")).await.text(),
        "2",
        "the same connection, the new routes"
    );
    assert_served(&fed.world.log.next().await, "web.1", 200);
    fed.finish().await;
}

#[tokio::test]
async fn an_older_revision_is_ignored() {
    let (one, two, three) = (dyno_of("1").await, dyno_of("2").await, dyno_of("3").await);
    let fed = Fed::start(Some(&document(10, &one)));
    fed.at_revision(10).await;
    fed.replace(document(9, &two).to_bytes());
    // Nothing says when a document has been ignored; the next good one comes after it.
    fed.replace(document(9, &two).to_bytes());
    fed.replace(document(11, &three).to_bytes());
    fed.at_revision(11).await;
    fed.check_answers("3").await;
    fed.replace(document(10, &one).to_bytes());
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    assert_eq!(
        fed.feed.status().revision,
        Some(11),
        "not within the second an update may take"
    );
    fed.check_answers("3").await;
    fed.finish().await;
}

#[tokio::test]
async fn documents_that_are_wrong_as_a_whole_change_nothing_and_are_reported() {
    let dyno = dyno_of("good").await;
    let bad = [
        "",
        "{",
        "[]",
        "null",
        "{\"format\": 2, \"revision\": 9, \"apps\": []}",
        "{\"format\": 1, \"apps\": []}",
        "{\"format\": 1, \"revision\": \"9\", \"apps\": []}",
        "{\"format\": 1, \"revision\": 9}",
        "{\"format\": 1, \"revision\": 9, \"apps\": []}",
        "{\"format\": 1, \"revision\": 9, \"apps\": [{\"name\": \"other\", \"domains\": [\"other.test\"], \"dynos\": []}]}",
    ];
    for bad in bad {
        let fed = Fed::start(Some(&document(1, &dyno)));
        fed.at_revision(1).await;
        fed.replace(bad);
        let reason = fed.refused().await;
        assert!(!reason.is_empty(), "{bad}");
        let status = fed.feed.status();
        assert_eq!(status.revision, Some(1), "{bad}");
        fed.check_answers("good").await;
        fed.replace(document(10, &dyno).to_bytes());
        fed.at_revision(10).await;
        assert_eq!(
            fed.feed.status().last_error,
            None,
            "a good document ends the complaint: {bad}"
        );
        fed.finish().await;
    }
}

#[tokio::test]
async fn an_emptied_table_needs_to_be_allowed() {
    let dyno = dyno_of("good").await;
    let fed = Fed::start(Some(&document(1, &dyno)));
    fed.at_revision(1).await;
    let other = AppDoc::new("other").domain("other.test");
    fed.replace(
        RouteDoc::new(2, std::slice::from_ref(&other))
            .allow_shrink()
            .to_bytes(),
    );
    fed.at_revision(2).await;
    let mut client = fed.world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 404);
    fed.finish().await;
}

#[tokio::test]
async fn one_bad_app_is_rejected_alone_and_keeps_its_previous_version() {
    let (one, two) = (dyno_of("shop").await, dyno_of("other").await);
    let other = |dyno: &ServingDyno| {
        AppDoc::new("other")
            .domain("other.test")
            .web(1, dyno.address())
    };
    let fed = Fed::start(Some(&RouteDoc::new(
        1,
        &[shop().web(1, one.address()), other(&one)],
    )));
    fed.at_revision(1).await;
    let bad = shop().dyno("web.1", two.address(), "sleeping");
    fed.replace(RouteDoc::new(2, &[bad, other(&two)]).to_bytes());
    fed.at_revision(2).await;
    let rejected = fed.feed.status().rejected;
    assert_eq!(
        (rejected.len(), rejected[0].app.as_str()),
        (1, "shop"),
        "{rejected:?}"
    );
    for part in ["state", "sleeping", "starting"] {
        assert!(
            rejected[0].reason.contains(part),
            "field, value and what is allowed: {}",
            rejected[0].reason
        );
    }
    fed.check_answers("shop").await;
    let mut client = fed.world.client().await;
    let response = client
        .exchange("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
        .await;
    assert_eq!(response.text(), "other", "the rest of the document applies");
    assert_served(&fed.world.log.next().await, "web.1", 200);
    fed.replace(RouteDoc::new(3, &[shop().web(1, two.address()), other(&two)]).to_bytes());
    fed.at_revision(3).await;
    assert!(
        fed.feed.status().rejected.is_empty(),
        "empty again once mended"
    );
    fed.check_answers("other").await;
    fed.finish().await;
}

#[tokio::test]
async fn a_domain_taken_by_another_app_stays_where_it_is() {
    let (one, two) = (dyno_of("shop").await, dyno_of("thief").await);
    let fed = Fed::start(Some(&document(1, &one)));
    fed.at_revision(1).await;
    let thief = AppDoc::new("thief")
        .domain("shop.test")
        .domain("thief.test")
        .web(1, two.address());
    fed.replace(RouteDoc::new(2, &[thief, shop().web(1, one.address())]).to_bytes());
    fed.at_revision(2).await;
    fed.check_answers("shop").await;
    let rejected = fed.feed.status().rejected;
    assert_eq!(
        (rejected.len(), rejected[0].app.as_str()),
        (1, "thief"),
        "{rejected:?}"
    );
    let mut client = fed.world.client().await;
    let response = client
        .exchange("GET / HTTP/1.1\r\nHost: thief.test\r\n\r\n")
        .await;
    assert_eq!(response.text(), "thief", "it loses that domain only");
    assert_served(&fed.world.log.next().await, "web.1", 200);
    fed.finish().await;
}

#[tokio::test]
async fn losing_the_file_changes_no_route() {
    let (one, two) = (dyno_of("1").await, dyno_of("2").await);
    let fed = Fed::start(Some(&document(1, &one)));
    fed.at_revision(1).await;
    std::fs::remove_file(fed.path()).unwrap();
    fed.refused().await;
    fed.check_answers("1").await;
    fed.replace(document(2, &two).to_bytes());
    fed.at_revision(2).await;
    fed.check_answers("2").await;
    fed.finish().await;
}

#[tokio::test]
async fn an_edit_without_a_new_revision_is_not_ignored_silently() {
    let (one, two) = (dyno_of("1").await, dyno_of("2").await);
    let fed = Fed::start(Some(&document(1, &one)));
    fed.at_revision(1).await;
    fed.replace(document(1, &two).to_bytes());
    eventually("the edit is in force", || {
        (fed.feed.status().accepted == 2).then_some(())
    })
    .await;
    fed.check_answers("2").await;
    fed.finish().await;
}

#[tokio::test]
async fn the_last_good_document_serves_until_the_file_is_back() {
    let (one, two) = (dyno_of("1").await, dyno_of("2").await);
    let directory = tempfile::tempdir().unwrap();
    let (path, cache) = (
        directory.path().join("routes.json"),
        directory.path().join("last-good.json"),
    );
    std::fs::write(&path, document(1, &one).to_bytes()).unwrap();
    let world = World::start();
    let options = || FeedOptions {
        cache: Some(cache.clone()),
        ..FeedOptions::default()
    };
    let feed = feed::start(&world.router, FileFeed::new(path.clone()), options());
    eventually("read and saved", || {
        (feed.status().revision == Some(1) && cache.exists()).then_some(())
    })
    .await;
    feed.stop().await;
    world.finish().await;

    std::fs::remove_file(&path).unwrap();
    let world = World::start();
    let feed = feed::start(&world.router, FileFeed::new(path.clone()), options());
    eventually("serving from the cache", || {
        (feed.status().stale && world.router.table().is_loaded()).then_some(())
    })
    .await;
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.text(), "1");
    assert_served(&world.log.next().await, "web.1", 200);
    std::fs::write(&path, document(2, &two).to_bytes()).unwrap();
    eventually("fresh again", || {
        (!feed.status().stale && feed.status().revision == Some(2)).then_some(())
    })
    .await;
    assert_eq!(client.exchange(get("/")).await.text(), "2");
    assert_served(&world.log.next().await, "web.1", 200);
    feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn what_else_is_written_beside_the_file_is_no_document() {
    // A log in the same directory that tells of a refused document must not make it read, and refused, again.
    let dyno = dyno_of("fine").await;
    let fed = Fed::start(None);
    fed.replace("{bad");
    fed.refused().await;
    let before = fed.feed.status().refused;
    let noise = fed.directory.path().join("router.log");
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(80));
    for line in 0..8 {
        // Nothing signals that nothing happens; several gathering times have to pass.
        tick.tick().await;
        std::fs::write(&noise, format!("line {line}")).expect("write");
    }
    assert_eq!(fed.feed.status().refused, before);
    let document = RouteDoc::new(1, &[shop().web(1, dyno.address())]);
    fed.replace(document.to_bytes());
    fed.at_revision(1).await;
    fed.finish().await;
}
