//! The HTTP feed and changes that come faster than it has to look: each is given once, in order, however many at a time.

use std::time::Duration;

use router_core::feed::{Feed, HttpFeed, HttpFeedSettings, Position, Update};
use router_testkit::{DynoConn, FakeDyno};

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
const DOCUMENT: &str = "{\"format\":1,\"revision\":1,\"apps\":[]}\n";

fn at(revision: u64) -> Position {
    Position {
        revision: Some(revision),
        need_whole: false,
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn change(from: u64) -> String {
    let to = from + 1;
    format!("{{\"from\":{from},\"to\":{to},\"changes\":[]}}")
}

/// Writes a crowd of changes, cut anywhere, with a heartbeat after some.
async fn write(conn: &mut DynoConn, from: u64, to: u64, size: usize) {
    let mut text = String::new();
    for revision in from..to {
        text.push_str(&change(revision));
        text.push('\n');
        if revision % 7 == 0 {
            text.push_str("{\"heartbeat\":1}\n");
        }
    }
    for piece in text.as_bytes().chunks(size) {
        conn.write(chunk(std::str::from_utf8(piece).unwrap())).await;
    }
}

async fn read(feed: &mut HttpFeed, from: u64, to: u64) -> usize {
    let (mut revision, mut heartbeats) = (from, 0);
    let expect = |given: bytes::Bytes, revision: &mut u64| {
        assert_eq!(std::str::from_utf8(&given), Ok(&*change(*revision)));
        *revision += 1;
    };
    while revision < to {
        match feed.next(at(revision)).await.unwrap() {
            Update::Change(given) => expect(given, &mut revision),
            Update::Alive { .. } => heartbeats += 1,
            Update::Snapshot(_) => panic!("no document was sent"),
        }
        while let Some(given) = feed.next_of_crowd().await {
            expect(given, &mut revision);
        }
    }
    heartbeats
}

async fn a_crowd_is_given_whole(prepared: fn(HttpFeed) -> HttpFeed) {
    let dyno = FakeDyno::start().await;
    let settings = HttpFeedSettings::new(format!("http://{}/v1/routes", dyno.address()));
    let mut feed = prepared(HttpFeed::new(settings).unwrap());
    let answer = format!("{HEAD}{}", chunk(DOCUMENT));
    let (document, (mut conn, _)) = tokio::join!(
        feed.next(Position::default()),
        dyno.accept_and_answer(&answer)
    );
    assert!(matches!(document, Ok(Update::Snapshot(_))));
    assert_eq!(feed.next_of_crowd().await, None);
    let mut heartbeats = 0;
    // Nothing is left of one crowd when the next one comes: it has to be waited for.
    for (from, to, size) in [
        (1, 2, 1000),
        (2, 4, 1000),
        (4, 30, 11),
        (30, 100, 1),
        (100, 400, 333),
        (400, 401, 1),
        (401, 600, 4000),
    ] {
        write(&mut conn, from, to, size).await;
        heartbeats += read(&mut feed, from, to).await;
    }
    // The last line that was written may be one.
    assert!(heartbeats >= 599 / 7 - 1, "{heartbeats}");
    // What ends in the middle of a crowd ends behind it.
    conn.write(chunk(&format!(
        "{}\n{}\n{{\"from\":",
        change(600),
        change(601)
    )))
    .await;
    drop(conn);
    read(&mut feed, 600, 602).await;
    let error = loop {
        match feed.next(at(602)).await {
            Ok(Update::Alive { .. }) => {}
            other => break other.unwrap_err().to_string(),
        }
    };
    assert!(error.contains("ends its stream"), "{error}");
}

#[tokio::test]
async fn a_crowd_is_given_whole_to_who_shares_the_thread() {
    a_crowd_is_given_whole(|feed| feed).await;
}

#[tokio::test]
async fn a_crowd_is_given_whole_to_who_is_alone_on_it() {
    a_crowd_is_given_whole(HttpFeed::alone_on_its_thread).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_alone_is_given_at_once_and_what_follows_soon_is_gathered() {
    let dyno = FakeDyno::start().await;
    let settings = HttpFeedSettings::new(format!("http://{}/v1/routes", dyno.address()));
    let mut feed = HttpFeed::new(settings).unwrap();
    let answer = format!("{HEAD}{}", chunk(DOCUMENT));
    let (document, (mut conn, _)) = tokio::join!(
        feed.next(Position::default()),
        dyno.accept_and_answer(&answer)
    );
    assert!(matches!(document, Ok(Update::Snapshot(_))));
    for (from, pause, given_after) in [(1, 100, 0), (2, 0, 0), (3, 0, 10), (4, 100, 0)] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        write(&mut conn, from, from + 1, 1000).await;
        let began = tokio::time::Instant::now();
        read(&mut feed, from, from + 1).await;
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(given_after)
                && took < Duration::from_millis(given_after + 5),
            "{from}: {took:?}"
        );
    }
}
