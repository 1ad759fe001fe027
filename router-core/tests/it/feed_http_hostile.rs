//! The HTTP feed against sources that contradict themselves, or say more than anybody wants to hear.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use router_core::Router;
use router_core::feed::{self, Ack, Feed, FeedOptions, HttpFeed, HttpFeedSettings, Position};
use router_testkit::{FakeDyno, RawHead};
use tokio::time::Instant;

const DOCUMENT: &str =
    r#"{"format":1,"revision":5,"apps":[{"name":"shop","domains":["shop.test"],"dynos":[]}]}"#;

type Source = (&'static str, fn(&RawHead) -> Vec<u8>);

fn feed_of(address: std::net::SocketAddr) -> HttpFeed {
    HttpFeed::new(HttpFeedSettings::new(format!("http://{address}/v1/routes"))).unwrap()
}

fn answer(status: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{fields}\r\n{body}").into_bytes()
}

fn stream(lines: &[&str]) -> Vec<u8> {
    let kind = "Content-Type: application/x-ndjson\r\nETag: \"five\"\r\n";
    answer("200 OK", kind, &format!("{}\n", lines.join("\n")))
}

/// How often a source is asked within two minutes that always answers so.
async fn asked_for_two_minutes(answers: fn(&RawHead) -> Vec<u8>) -> usize {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let dyno = FakeDyno::respond_with_body(move |head, _| {
        if head.method() == "POST" {
            return answer("404 Not Found", "", "");
        }
        counted.fetch_add(1, Ordering::Relaxed);
        answers(head)
    })
    .await;
    let router = Router::builder().workers(1).build().unwrap();
    let feed = feed::start(&router, feed_of(dyno.address()), FeedOptions::default());
    tokio::time::sleep(Duration::from_secs(120)).await;
    feed.stop().await;
    asked.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_source_is_not_asked_in_a_circle() {
    let sources: [Source; 7] = [
        ("304 to everything", |_| answer("304 Not Modified", "", "")),
        ("304 to the whole, 410 to the rest", |head| {
            match head.target().contains("since=") {
                true => answer("410 Gone", "", ""),
                false => answer("304 Not Modified", "", ""),
            }
        }),
        ("once a document, then so", |head| {
            match (head.target().contains("since="), head.has("if-none-match")) {
                (true, _) => answer("410 Gone", "", ""),
                (false, false) => answer("200 OK", "ETag: \"five\"\r\n", DOCUMENT),
                (false, true) => answer("304 Not Modified", "", ""),
            }
        }),
        ("a heartbeat of what does not come", |_| {
            stream(&[DOCUMENT, r#"{"heartbeat":6}"#])
        }),
        ("a change that does not follow", |_| {
            stream(&[DOCUMENT, r#"{"from":6,"to":7,"changes":[]}"#])
        }),
        ("a change that is none", |_| {
            stream(&[DOCUMENT, r#"{"from":5,"to":5,"changes":[]}"#])
        }),
        (
            "a document that is known by its tag, and older",
            |head| match (head.target().contains("since="), head.has("if-none-match")) {
                (false, false) => stream(&[DOCUMENT, r#"{"heartbeat":6}"#]),
                (true, _) => stream(&[r#"{"heartbeat":6}"#]),
                (false, true) => answer("304 Not Modified", "Feed-Revision: 4\r\n", ""),
            },
        ),
    ];
    for (name, answers) in sources {
        let asked = asked_for_two_minutes(answers).await;
        // Whoever mends a change that was refused does not wait for long.
        let most = if name == "a change that is none" {
            300
        } else {
            60
        };
        assert!((5..most).contains(&asked), "{name}: {asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_an_acknowledgement_is_not_listened_to() {
    let dyno = FakeDyno::start().await;
    let mut feed = feed_of(dyno.address());
    let ack = Ack {
        router: "edge-1".to_owned(),
        revision: 5,
        ..Ack::default()
    };
    let head = "HTTP/1.1 200 OK\r\n";
    // Each comes on a connection of its own, because the one before was given up.
    for words in [
        format!("{head}Content-Length: 1000000000\r\n\r\nLet me tell you"),
        format!("{head}Content-Length: 5000\r\n\r\n{}", "x".repeat(5000)),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nLet m"),
    ] {
        let began = Instant::now();
        let (told, _conn) = tokio::join!(feed.acknowledge(&ack), async {
            let mut conn = dyno.accept().await;
            conn.read_head().await;
            conn.try_write(words).await;
            conn
        });
        assert_eq!(told, Ok(()));
        assert!(began.elapsed().as_secs() <= 1, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_address_is_cut() {
    let dyno = FakeDyno::start().await;
    let mut feed = feed_of(dyno.address());
    let to = format!("Location: /{}\r\n", "x".repeat(50_000));
    let (update, _conn) = tokio::join!(
        feed.next(Position::default()),
        dyno.accept_and_answer(answer("302 Found", &to, ""))
    );
    let error = update.unwrap_err().to_string();
    assert!(error.len() < 500, "{}", error.len());
    assert!(error.contains("xxxx; redirects are not followed"));
}

#[tokio::test(start_paused = true)]
async fn what_a_relay_remembers_is_no_word_from_its_source() {
    let dyno = FakeDyno::respond_with_body(|head, _| match head.method() {
        "POST" => answer("404 Not Found", "", ""),
        _ if head.has("if-none-match") => answer(
            "304 Not Modified",
            "Feed-Silent: 1\r\nFeed-Revision: 5\r\n",
            "",
        ),
        _ => answer("200 OK", "Feed-Silent: 1\r\nETag: \"five\"\r\n", DOCUMENT),
    })
    .await;
    let router = Router::builder().workers(1).build().unwrap();
    let feed = feed::start(&router, feed_of(dyno.address()), FeedOptions::default());
    feed.wait_for(5).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let status = feed.status();
    assert_eq!(status.heard_seconds, None);
    let unheard = status.unheard_seconds.unwrap();
    assert!(unheard > 3500.0, "{unheard}");
    feed.stop().await;
}
