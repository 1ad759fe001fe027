//! The HTTP feed against sources that are good, slow, dead, confused or lying: what it asks, and what it makes of the
//! answers. Every row of the table in `router-core/docs/feed.md` has its test here.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use router_core::feed::{Ack, Feed, FeedError, HttpFeed, HttpFeedSettings, Position, Update};
use router_testkit::{DynoConn, FakeDyno, RawHead, TestCa};
use tokio::time::Instant;

/// The rows of the page's table, and the tests that hold them.
const ROWS: &[(&str, &str)] = &[
    ("a stream", "a_stream_is_read_on"),
    ("a document", "a_document_is_asked_for_once"),
    ("a change", "a_change_is_followed_by_the_next_question"),
    (
        "304, after a while",
        "a_source_that_holds_requests_is_asked_again_at_once",
    ),
    (
        "304, at once",
        "a_source_that_holds_nothing_is_asked_now_and_then",
    ),
    ("304 without a tag", "a_source_is_not_asked_in_a_circle"),
    (
        "410",
        "a_source_that_has_forgotten_is_asked_for_the_document",
    ),
    ("401", "a_new_token_is_used_at_once"),
    ("503 with Retry-After", "a_source_may_ask_for_some_peace"),
    ("301 to another address", "redirects_are_not_followed"),
    ("a web page", "a_web_page_is_no_document"),
    ("nothing for 30 s", "a_source_that_falls_silent_is_left"),
    (
        "gzip that is none",
        "what_cannot_be_read_is_an_error_and_asked_for_again",
    ),
    (
        "what is compressed otherwise",
        "what_cannot_be_read_is_an_error_and_asked_for_again",
    ),
    (
        "more than `feed.longest_document` bytes",
        "what_cannot_be_read_is_an_error_and_asked_for_again",
    ),
    (
        "less than a whole document in 5 minutes",
        "a_document_that_trickles_in_is_given_up",
    ),
    (
        "half a line, and the end",
        "what_cannot_be_read_is_an_error_and_asked_for_again",
    ),
    (
        "the end of the stream",
        "a_stream_that_ends_is_asked_for_again",
    ),
    (
        "another certificate authority",
        "a_stranger_is_not_believed",
    ),
    ("no JSON", "the_runner_is_told_what_is_wrong"),
    (
        "a change that does not follow",
        "the_whole_is_asked_for_on_a_new_stream",
    ),
    (
        "a heartbeat of a newer revision",
        "the_whole_is_asked_for_on_a_new_stream",
    ),
    (
        "a heartbeat of an older revision",
        "the_runner_is_told_what_is_wrong",
    ),
    ("an older document", "the_runner_is_told_what_is_wrong"),
    (
        "the same document again",
        "the_runner_is_told_what_is_wrong",
    ),
    ("what never fits", "a_source_is_not_asked_in_a_circle"),
];

#[test]
fn each_row_of_the_page_has_its_test() {
    let page = include_str!("../../docs/feed.md");
    let table = page
        .split("| The source answers | The router |\n|---|---|\n")
        .nth(1)
        .unwrap();
    let rows: Vec<_> = table
        .lines()
        .map_while(|line| line.strip_prefix("| ")?.split(" | ").next())
        .collect();
    let held: Vec<_> = ROWS.iter().map(|(row, _)| *row).collect();
    assert_eq!(rows, held);
    let tests = [
        include_str!("feed_http.rs"),
        include_str!("feed_http_hostile.rs"),
    ]
    .concat();
    for (_, test) in ROWS {
        assert!(tests.contains(&format!("async fn {test}()")), "{test}");
    }
}

const DOCUMENT: &str =
    r#"{"format":1,"revision":7,"apps":[{"name":"shop","domains":["shop.test"],"dynos":[]}]}"#;
const CHANGE: &str = r#"{"from":7,"to":8,"changes":[{"remove":"shop"}]}"#;
const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";

fn at(revision: u64) -> Position {
    Position {
        revision: Some(revision),
        need_whole: false,
    }
}

fn nowhere() -> Position {
    Position::default()
}

fn whole(revision: u64) -> Position {
    Position {
        revision: Some(revision),
        need_whole: true,
    }
}

fn json(fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    )
}

fn empty(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{fields}\r\n")
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn snapshot(text: &'static str) -> Result<Update, FeedError> {
    Ok(Update::Snapshot(Bytes::from_static(text.as_bytes())))
}

fn change(text: &'static str) -> Result<Update, FeedError> {
    Ok(Update::Change(Bytes::from_static(text.as_bytes())))
}

fn alive(revision: u64) -> Result<Update, FeedError> {
    Ok(Update::Alive {
        revision: Some(revision),
    })
}

/// A source that the test plays, and the feed that reads it.
struct Source {
    dyno: FakeDyno,
    feed: HttpFeed,
}

impl Source {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut HttpFeedSettings)) -> Self {
        let dyno = FakeDyno::start().await;
        let mut settings = HttpFeedSettings::new(format!("http://{}/v1/routes", dyno.address()));
        change(&mut settings);
        let feed = HttpFeed::new(settings).unwrap();
        Self { dyno, feed }
    }

    /// What the feed gives when a new connection is answered with this.
    async fn once(
        &mut self,
        position: Position,
        answer: &str,
    ) -> (Result<Update, FeedError>, DynoConn, RawHead) {
        let (update, (conn, head)) = tokio::join!(
            self.feed.next(position),
            self.dyno.accept_and_answer(answer)
        );
        (update, conn, head)
    }

    /// The same on a connection that is there already.
    async fn again(
        &mut self,
        position: Position,
        conn: &mut DynoConn,
        answer: &str,
    ) -> (Result<Update, FeedError>, RawHead) {
        tokio::join!(self.feed.next(position), conn.answer(answer))
    }
}

fn why(update: Result<Update, FeedError>) -> String {
    update.expect_err("an error").to_string()
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_read_on() {
    let mut source = Source::start().await;
    assert!(!source.feed.has_heartbeat());
    let answer = format!("{STREAM}\r\n{}", chunk(&format!("{DOCUMENT}\n")));
    let (update, mut conn, head) = source.once(nowhere(), &answer).await;
    assert_eq!(update, snapshot(DOCUMENT));
    assert_eq!((head.method(), head.target()), ("GET", "/v1/routes"));
    assert_eq!(
        head.header("accept"),
        Some("application/x-ndjson, application/json;q=0.9, */*;q=0.1")
    );
    assert_eq!(head.header("accept-encoding"), Some("gzip"));
    assert!(!head.has("if-none-match") && !head.has("authorization"));
    assert!(head.header("user-agent").unwrap().starts_with("router/"));
    assert!(source.feed.has_heartbeat());
    // Lines however they are cut, blank ones in between.
    for piece in [
        &CHANGE[..9],
        &CHANGE[9..],
        "\n\n\r\n{\"heartbeat\":8}\n{\"heart",
    ] {
        conn.write(chunk(piece)).await;
    }
    assert_eq!(source.feed.next(at(7)).await, change(CHANGE));
    assert_eq!(source.feed.next(at(8)).await, alive(8));
    // A wait that is dropped loses nothing.
    let dropped = tokio::time::timeout(Duration::from_secs(1), source.feed.next(at(8))).await;
    assert!(dropped.is_err());
    conn.write(chunk("beat\":8}\n")).await;
    assert_eq!(source.feed.next(at(8)).await, alive(8));
}

#[tokio::test(start_paused = true)]
async fn a_document_is_asked_for_once() {
    let mut source = Source::start().await;
    let (update, mut conn, _) = source
        .once(nowhere(), &json("ETag: \"seven\"\r\n", DOCUMENT))
        .await;
    assert_eq!(update, snapshot(DOCUMENT));
    let answer = empty("304 Not Modified", "");
    let (update, head) = source.again(at(7), &mut conn, &answer).await;
    assert_eq!(update, alive(7));
    assert_eq!(head.target(), "/v1/routes?since=7&wait=30s");
    assert_eq!(head.header("if-none-match"), Some("\"seven\""));
    // Whoever needs the whole, and has it, need not be given it again.
    let (update, head) = source.again(whole(7), &mut conn, &answer).await;
    assert_eq!((update, head.target()), (alive(7), "/v1/routes"));
    assert_eq!(head.header("if-none-match"), Some("\"seven\""));
    // The tag stands for revision 7 only.
    let (update, head) = source.again(at(6), &mut conn, &answer).await;
    assert_eq!(
        (update, head.target()),
        (alive(6), "/v1/routes?since=6&wait=30s")
    );
    assert!(!head.has("if-none-match"));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_followed_by_the_next_question() {
    let mut source = Source::start().await;
    let (update, mut conn, _) = source
        .once(at(7), &json("ETag: \"eight\"\r\n", CHANGE))
        .await;
    assert_eq!(update, change(CHANGE));
    let (update, head) = source
        .again(at(8), &mut conn, &empty("304 Not Modified", ""))
        .await;
    assert_eq!(update, alive(8));
    assert_eq!(head.target(), "/v1/routes?since=8&wait=30s");
    assert_eq!(head.header("if-none-match"), Some("\"eight\""));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_holds_requests_is_asked_again_at_once() {
    let mut source = Source::start().await;
    let (update, mut conn, _) = source.once(at(7), &json("", CHANGE)).await;
    assert_eq!(update, change(CHANGE));
    for _ in 0..3 {
        let held = async {
            conn.read_head().await;
            tokio::time::sleep(Duration::from_secs(29)).await;
            conn.write(empty("304 Not Modified", "Feed-Revision: 9\r\n"))
                .await;
        };
        let began = Instant::now();
        let (update, ()) = tokio::join!(source.feed.next(at(8)), held);
        assert_eq!(update, alive(9), "the revision of the source");
        assert_eq!(began.elapsed().as_secs(), 29);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_holds_nothing_is_asked_now_and_then() {
    let mut source = Source::start().await;
    let (update, mut conn, _) = source.once(nowhere(), &json("", DOCUMENT)).await;
    assert_eq!(update, snapshot(DOCUMENT));
    for (answer, wanted) in [
        (json("", DOCUMENT), snapshot(DOCUMENT)),
        (empty("304 Not Modified", ""), alive(7)),
        (json("", DOCUMENT), snapshot(DOCUMENT)),
    ] {
        let began = Instant::now();
        let (update, _) = source.again(at(7), &mut conn, &answer).await;
        assert_eq!(update, wanted);
        // The first question was no repetition.
        let waited = began.elapsed();
        assert!(waited < Duration::from_millis(6100), "{waited:?}");
        assert!(
            waited > Duration::from_millis(3900) || wanted == snapshot(DOCUMENT),
            "{waited:?}"
        );
    }
    // What is new is followed up at once.
    let began = Instant::now();
    source
        .again(at(8), &mut conn, &json("", CHANGE))
        .await
        .0
        .unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(300),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_forgotten_is_asked_for_the_document() {
    let mut source = Source::start().await;
    let served = async {
        let (_conn, head) = source
            .dyno
            .accept_and_answer(empty("410 Gone", "Connection: close\r\n"))
            .await;
        assert_eq!(head.target(), "/v1/routes?since=7&wait=30s");
        let (conn, head) = source.dyno.accept_and_answer(json("", DOCUMENT)).await;
        assert_eq!(head.target(), "/v1/routes");
        conn
    };
    let (update, _conn) = tokio::join!(source.feed.next(at(7)), served);
    assert_eq!(update, snapshot(DOCUMENT));
}

#[tokio::test(start_paused = true)]
async fn a_new_token_is_used_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let file = path.clone();
    let mut source = Source::with(|settings| settings.token_file = Some(file)).await;
    let error = why(source.feed.next(nowhere()).await);
    assert!(
        error.contains("is not asked: ") && error.contains("cannot be read"),
        "{error}"
    );
    std::fs::write(&path, "old\n").unwrap();
    let refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 12\r\n\r\nwho\x1b are you";
    let (update, _conn, head) = source.once(nowhere(), refusal).await;
    assert_eq!(head.header("authorization"), Some("Bearer old"));
    let error = why(update);
    assert!(
        error.ends_with("answers 401 Unauthorized: who\\u{1b} are you"),
        "{error}"
    );
    std::fs::write(&path, "new").unwrap();
    let answer = format!("{STREAM}\r\n{}", chunk(&format!("{DOCUMENT}\n")));
    let (update, mut conn, head) = source.once(nowhere(), &answer).await;
    assert_eq!(head.header("authorization"), Some("Bearer new"));
    assert_eq!(update, snapshot(DOCUMENT));
    // A stream that was opened with a token that is replaced is opened anew with the new one.
    std::fs::write(&path, "newer").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    conn.write(chunk("{\"heartbeat\":7}\n")).await;
    assert_eq!(source.feed.next(at(7)).await, alive(7));
    let (update, _conn, head) = source
        .once(
            at(7),
            &format!("{STREAM}\r\n{}", chunk(&format!("{CHANGE}\n"))),
        )
        .await;
    assert_eq!(update, change(CHANGE));
    assert_eq!(head.header("authorization"), Some("Bearer newer"));
    assert_eq!(head.target(), "/v1/routes?since=7&wait=30s");
}

#[tokio::test(start_paused = true)]
async fn a_source_may_ask_for_some_peace() {
    let mut source = Source::start().await;
    for (asked, least, most) in [("20", 16, 24), ("3600", 48, 72)] {
        let answer = empty(
            "503 Busy",
            &format!("Retry-After: {asked}\r\nConnection: close\r\n"),
        );
        let (update, ..) = source.once(nowhere(), &answer).await;
        assert!(why(update).ends_with("answers 503 Service Unavailable"));
        let least = Duration::from_secs(least);
        let early = tokio::time::timeout(least, source.feed.next(nowhere())).await;
        assert!(early.is_err(), "{early:?}");
        let answer = json("Connection: close\r\n", DOCUMENT);
        let (update, _conn) = tokio::join!(source.feed.next(nowhere()), async {
            tokio::time::sleep(Duration::from_secs(most) - least).await;
            source.dyno.accept_and_answer(answer).await
        });
        assert_eq!(update, snapshot(DOCUMENT));
    }
}

#[tokio::test(start_paused = true)]
async fn redirects_are_not_followed() {
    let mut source = Source::start().await;
    let answer = empty(
        "301 Moved Permanently",
        "Location: https://elsewhere.test/\r\n",
    );
    let (update, ..) = source.once(nowhere(), &answer).await;
    let error = why(update);
    assert!(
        error.ends_with(
            "redirects (301 Moved Permanently) to https://elsewhere.test/; redirects are not followed, name the final URL"
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_web_page_is_no_document() {
    let mut source = Source::start().await;
    let page = "HTTP/1.1 200 OK\r\nContent-Type: Text/HTML; charset=utf-8\r\nContent-Length: 6\r\n\r\n<html>";
    let (update, ..) = source.once(nowhere(), page).await;
    assert!(why(update).contains("web page"));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_falls_silent_is_left() {
    let mut source = Source::start().await;
    // Before the head: a document is not waited for as long as a change.
    for (position, seconds) in [(nowhere(), 30), (at(7), 40)] {
        let began = Instant::now();
        let (update, mut conn) = tokio::join!(source.feed.next(position), async {
            let mut conn = source.dyno.accept().await;
            conn.read_head().await;
            conn
        });
        let error = why(update);
        assert!(
            error.ends_with(&format!("has not answered within {seconds} s")),
            "{error}"
        );
        assert!(began.elapsed().as_secs() >= seconds);
        conn.expect_end().await;
    }
    // In the middle of a stream.
    let answer = format!("{STREAM}\r\n{}", chunk(&format!("{DOCUMENT}\n")));
    let (update, _conn, _) = source.once(nowhere(), &answer).await;
    assert_eq!(update, snapshot(DOCUMENT));
    let began = Instant::now();
    let error = why(source.feed.next(at(7)).await);
    assert!(
        error.ends_with("ends its stream: nothing came for 30 s"),
        "{error}"
    );
    assert_eq!(began.elapsed().as_secs(), 30);
    // It is asked again on a connection of its own, after a pause.
    let (update, _conn, head) = source.once(at(7), &json("", CHANGE)).await;
    assert_eq!(
        (update, head.target()),
        (change(CHANGE), "/v1/routes?since=7&wait=30s")
    );
    let waited = began.elapsed() - Duration::from_secs(30);
    assert!(waited >= Duration::from_millis(250), "{waited:?}");
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn coded(coding: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Encoding: {coding}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test(start_paused = true)]
async fn compressed_answers_are_read() {
    let mut source = Source::start().await;
    let lines = format!("{DOCUMENT}\n{CHANGE}\n");
    for (kind, body) in [
        ("application/json", DOCUMENT),
        ("application/x-ndjson", &lines),
    ] {
        let answer = coded("gzip", kind, &gzip(body.as_bytes()));
        let (update, _conn) = tokio::join!(source.feed.next(nowhere()), async {
            let mut conn = source.dyno.accept().await;
            conn.answer(answer).await;
            conn
        });
        assert_eq!(update, snapshot(DOCUMENT));
    }
    assert_eq!(source.feed.next(at(7)).await, change(CHANGE));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_an_error_and_asked_for_again() {
    let mut source = Source::with(|settings| settings.longest_document = 1000).await;
    let bomb = gzip(&vec![b' '; 10 << 20]);
    let cut = &gzip(DOCUMENT.as_bytes())[..20];
    let (json, lines) = ("application/json", "application/x-ndjson");
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\nConnection: close\r\n\r\n";
    let endless = format!("{STREAM}\r\n{}", chunk(&"x".repeat(1001)));
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{";
    let too_long = "it is longer than 1000 bytes";
    for (answer, wanted) in [
        (coded("gzip", json, b"{}"), "it is no gzip"),
        (coded("gzip", lines, b"{}"), "it is no gzip"),
        (coded("gzip", json, cut), "it is no gzip"),
        (
            coded("br", json, b"{}"),
            "it is compressed as \"br\", only gzip was asked for",
        ),
        (coded("gzip", json, &bomb), too_long),
        (coded("gzip", lines, &bomb), too_long),
        (long.into(), too_long),
        (endless.into_bytes(), too_long),
        (
            coded("identity", lines, b"{\"heart"),
            "it ends within a line",
        ),
        (broken.into(), "end of file before message length reached"),
        (b"SMTP ready\r\n".into(), "invalid HTTP version parsed"),
        (b"".into(), "connection closed before message completed"),
    ] {
        let (update, ()) = tokio::join!(source.feed.next(nowhere()), async {
            // After so many errors the feed makes long pauses.
            tokio::time::sleep(Duration::from_secs(15)).await;
            let mut conn = source.dyno.accept().await;
            conn.read_head().await;
            // The feed may have had enough before all is written.
            conn.try_write(answer).await;
            conn.close().await;
        });
        let error = why(update);
        assert!(error.contains(wanted), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_that_trickles_in_is_given_up() {
    let mut source = Source::start().await;
    let began = Instant::now();
    let (update, ()) = tokio::join!(source.feed.next(nowhere()), async {
        let mut conn = source.dyno.accept().await;
        conn.answer("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
            .await;
        while conn.try_write("{").await {
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    });
    let error = why(update);
    assert!(
        error.ends_with("it has not come to its end within 300 s"),
        "{error}"
    );
    assert!(began.elapsed().as_secs() < 400);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_asked_for_again() {
    let mut source = Source::start().await;
    let answer = format!("{STREAM}\r\n{}", chunk(&format!("{DOCUMENT}\n")));
    let (update, mut conn, _) = source.once(nowhere(), &answer).await;
    assert_eq!(update, snapshot(DOCUMENT));
    // After some time this is nothing to speak of; it is not asked again at the same moment as all others.
    tokio::time::sleep(Duration::from_secs(20)).await;
    conn.write("0\r\n\r\n").await;
    let began = Instant::now();
    let answer = format!("{STREAM}\r\n0\r\n\r\n");
    let (update, _conn, head) = source.once(at(7), &answer).await;
    assert_eq!(head.target(), "/v1/routes?since=7&wait=30s");
    let waited = began.elapsed();
    assert!((250..=500).contains(&waited.as_millis()), "{waited:?}");
    // At once it is an error, or it would be asked for again and again without anybody knowing.
    assert!(why(update).ends_with("ends its stream at once"));
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_and_no_two_routers_make_the_same() {
    let mut pauses = Vec::new();
    for _ in 0..2 {
        let settings =
            HttpFeedSettings::new(format!("http://{}/", router_testkit::refused_address()));
        let mut feed = HttpFeed::new(settings).unwrap();
        let mut longest = Duration::ZERO;
        for attempt in 0..9 {
            let began = Instant::now();
            let error = why(feed.next(nowhere()).await);
            assert!(
                error.contains("cannot be asked: cannot connect to 127.0.0.1:"),
                "{error}"
            );
            assert!(attempt > 0 || began.elapsed() < Duration::from_millis(100));
            longest = longest.max(began.elapsed());
            pauses.push(began.elapsed());
        }
        assert!((7..=15).contains(&longest.as_secs()), "{longest:?}");
    }
    assert_ne!(pauses[..9], pauses[9..]);
}

#[tokio::test]
async fn a_stranger_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let at_path = |name: &str| folder.path().join(name);
    let (ca, stranger) = (TestCa::new("ours"), TestCa::new("a stranger"));
    std::fs::write(at_path("ca.pem"), ca.pem()).unwrap();
    for (certificate, wanted) in [
        (ca.certificate(&["127.0.0.1"]), None),
        (ca.certificate(&["127.0.0.2"]), Some("not valid for name")),
        (stranger.certificate(&["127.0.0.1"]), Some("UnknownIssuer")),
    ] {
        let dyno = FakeDyno::start_tls(&certificate).await;
        let mut settings = HttpFeedSettings::new(format!("https://{}/", dyno.address()));
        settings.ca = Some(at_path("ca.pem"));
        let mut feed = HttpFeed::new(settings).unwrap();
        let served = async {
            match dyno.try_accept().await {
                Ok(mut conn) => {
                    conn.answer(json("", DOCUMENT)).await;
                    Some(conn)
                }
                Err(_) => None,
            }
        };
        let (update, _conn) = tokio::join!(feed.next(nowhere()), served);
        match wanted {
            None => assert_eq!(update, snapshot(DOCUMENT)),
            Some(wanted) => {
                let error = why(update);
                assert!(
                    error.contains("certificate") && error.contains(wanted),
                    "{error}"
                );
            }
        }
    }
}

/// What it says is passed on as it is: the runner judges.
#[tokio::test(start_paused = true)]
async fn the_runner_is_told_what_is_wrong() {
    let mut source = Source::start().await;
    let lines = ["no JSON", DOCUMENT, DOCUMENT, "{\"heartbeat\":6}"];
    let stream: String = lines.map(|line| chunk(&format!("{line}\n"))).concat();
    let (update, _conn, _) = source.once(at(7), &format!("{STREAM}\r\n{stream}")).await;
    assert_eq!(update, snapshot("no JSON"));
    assert_eq!(source.feed.next(at(7)).await, snapshot(DOCUMENT));
    assert_eq!(source.feed.next(at(8)).await, snapshot(DOCUMENT));
    assert_eq!(source.feed.next(at(8)).await, alive(6));
}

#[tokio::test(start_paused = true)]
async fn the_whole_is_asked_for_on_a_new_stream() {
    let mut source = Source::start().await;
    let answer = format!("{STREAM}\r\n{}", chunk("{\"heartbeat\":9}\n"));
    let (update, mut first, _) = source.once(at(7), &answer).await;
    assert_eq!(update, alive(9));
    // Heartbeats before the document stand for nothing.
    let answer = format!(
        "{STREAM}ETag: \"seven\"\r\n\r\n{}",
        chunk("{\"heartbeat\":7}\n")
    );
    let (update, mut conn, head) = source.once(whole(7), &answer).await;
    assert_eq!(
        (update, head.target()),
        (Ok(Update::Alive { revision: None }), "/v1/routes")
    );
    first.expect_end().await;
    // It is asked for once, however often the runner looks for something else meanwhile.
    let dropped = tokio::time::timeout(Duration::from_secs(1), source.feed.next(whole(7))).await;
    assert!(dropped.is_err());
    conn.write(chunk(&format!("{DOCUMENT}\n"))).await;
    assert_eq!(source.feed.next(whole(7)).await, snapshot(DOCUMENT));
    // The next time, it is known by its tag; and what comes after it is asked for without a pause.
    let not_modified = empty("304 Not Modified", "");
    let (update, mut kept, head) = source.once(whole(7), &not_modified).await;
    assert_eq!(update, alive(7));
    assert_eq!(head.header("if-none-match"), Some("\"seven\""));
    let began = Instant::now();
    let stream = format!("{STREAM}\r\n{}", chunk("{\"heartbeat\":7}\n"));
    let (update, head) = source.again(at(7), &mut kept, &stream).await;
    assert_eq!(
        (update, head.target()),
        (alive(7), "/v1/routes?since=7&wait=30s")
    );
    assert!(began.elapsed() < Duration::from_millis(100));
    // A source that streams changes to whoever asks for the whole would never be of use.
    let answer = format!("{STREAM}\r\n{}", chunk(&format!("{CHANGE}\n")));
    let (update, ..) = source.once(whole(7), &answer).await;
    assert!(why(update).contains("was asked for the whole"));
}

fn ack(revision: u64) -> Ack {
    Ack {
        router: "edge-1".to_owned(),
        revision,
        ..Ack::default()
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_are_repeated_as_long_as_they_are_heard() {
    // Which connection carries what is the feed's business, so this source answers on all of them.
    let said = Arc::new(Mutex::new(Vec::new()));
    let (heard, began) = (Arc::clone(&said), Instant::now());
    let dyno = FakeDyno::respond_with_body(move |head, body| match head.method() {
        "POST" => {
            let ack: serde_json::Value = serde_json::from_slice(body).unwrap();
            let said = (began.elapsed().as_secs(), head.target().to_owned(), ack);
            heard.lock().unwrap().push(said);
            empty("204 No Content", "").into_bytes()
        }
        _ => empty("304 Not Modified", "").into_bytes(),
    })
    .await;
    let mut feed = HttpFeed::new(HttpFeedSettings::new(format!(
        "http://{}/v1/routes",
        dyno.address()
    )))
    .unwrap();
    assert_eq!(feed.acknowledge(&ack(7)).await, Ok(()));
    // While the feed is asked for news, the acknowledgement is kept alive.
    let asked = async {
        loop {
            assert_eq!(feed.next(at(7)).await, alive(7));
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(59), asked)
            .await
            .is_err()
    );
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 3, "{said:?}");
    for (number, (seconds, target, ack)) in said.iter().enumerate() {
        assert_eq!(
            (&**target, &ack["router"], &ack["revision"]),
            ("/v1/routes/acks", &"edge-1".into(), &7.into())
        );
        assert!(
            (20 * number as u64..20 * number as u64 + 2).contains(seconds),
            "{said:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_without_ears_is_left_alone() {
    let mut source = Source::start().await;
    let own = ack(7);
    for status in ["404 Not Found", "405 Method Not Allowed"] {
        let refusal = empty(status, "Connection: close\r\n");
        let (told, _conn) = tokio::join!(source.feed.acknowledge(&own), async {
            let mut conn = source.dyno.accept().await;
            conn.answer(refusal).await;
            conn
        });
        assert_eq!(told, Ok(()));
        tokio::time::sleep(Duration::from_secs(590)).await;
        assert_eq!(
            source.feed.acknowledge(&own).await,
            Ok(()),
            "nobody is asked"
        );
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
    let (told, _conn) = tokio::join!(source.feed.acknowledge(&own), async {
        let mut conn = source.dyno.accept().await;
        conn.answer(empty("500 Oops", "")).await;
        conn
    });
    assert!(
        told.unwrap_err()
            .to_string()
            .ends_with("answers 500 Internal Server Error")
    );
}
