//! Connections to an h2 server at the other end of a pipe: opening, sharing, taking leave, falling silent.

use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::Reason;
use h2::client::ResponseFuture;
use h2::server::{Builder, SendResponse};
use router_model::app::DynoName;
use router_model::limits::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::super::h2::is_unprocessed;
use super::*;
use crate::clock;
use crate::tasks;

const SECOND: Duration = Duration::from_secs(1);
const KEEP: Duration = Duration::from_secs(90);
const TERMS: Terms = Terms::CLEAR;

fn dyno(name: &str) -> Arc<Dyno> {
    let address = SocketAddr::from(([10, 0, 0, 1], 5001));
    let name = DynoName::parse(name).unwrap();
    Arc::new(Dyno::new(name, address, clock::now()))
}

async fn open(io: DuplexStream) -> Result<H2Conn, Failure> {
    let deadline = clock::now() + 5 * SECOND;
    let owner = TaskTracker::new();
    H2Conn::open(
        io,
        "http",
        &Limits::default(),
        55 * SECOND,
        deadline,
        &owner,
    )
    .await
}

/// The dyno's end of a connection.
struct Peer {
    requests: mpsc::UnboundedReceiver<SendResponse<Bytes>>,
    say: mpsc::UnboundedSender<Say>,
}

enum Say {
    /// A GOAWAY that lets what is there finish.
    Leave,
    /// A GOAWAY that ends all.
    End(Reason),
    /// Nothing any more, but the connection stays.
    Nothing,
}

/// A connection to an h2 server with these settings.
async fn connected(change: impl FnOnce(&mut Builder)) -> (H2Conn, Peer) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let mut builder = Builder::new();
    change(&mut builder);
    let (sender, requests) = mpsc::unbounded_channel();
    let (say, mut said) = mpsc::unbounded_channel();
    tasks::spawn(&TaskTracker::new(), async move {
        let mut conn = builder.handshake(theirs).await.unwrap();
        loop {
            tokio::select! {
                accepted = conn.accept() => match accepted {
                    Some(Ok((_, respond))) => drop(sender.send(respond)),
                    _ => return,
                },
                say = said.recv() => match say {
                    Some(Say::Leave) => conn.graceful_shutdown(),
                    Some(Say::End(reason)) => conn.abrupt_shutdown(reason),
                    Some(Say::Nothing) => std::future::pending().await,
                    None => return,
                },
            }
        }
    });
    (open(ours).await.unwrap(), Peer { requests, say })
}

/// The same with so many streams at once.
async fn allowing(streams: u32) -> (H2Conn, Peer) {
    connected(|peer| {
        peer.max_concurrent_streams(streams);
    })
    .await
}

impl Peer {
    async fn answer(&mut self) {
        let mut respond = self.requests.recv().await.unwrap();
        respond
            .send_response(http::Response::new(()), true)
            .unwrap();
    }
}

fn request(slot: &mut H2Slot) -> ResponseFuture {
    let request = http::Request::get("http://shop.test/").body(()).unwrap();
    slot.send(request, true).unwrap().0
}

fn dialling(answer: Answer) -> Dialling {
    match answer {
        Answer::Dial(dialling) => dialling,
        Answer::Slot(_) | Answer::Wait(_) => panic!("a connection to be opened was expected"),
    }
}

fn slot(answer: Answer) -> H2Slot {
    match answer {
        Answer::Slot(slot) => slot,
        Answer::Dial(_) | Answer::Wait(_) => panic!("a stream was expected"),
    }
}

fn waiting(answer: Answer) -> Waiting {
    match answer {
        Answer::Wait(waiting) => waiting,
        Answer::Slot(_) | Answer::Dial(_) => panic!("a wait was expected"),
    }
}

/// Puts a connection there by way of a request that opens it.
fn put(conns: &mut H2Conns, dyno: &Arc<Dyno>, conn: H2Conn) -> H2Slot {
    let dialling = dialling(conns.ask(dyno, TERMS, true));
    dialling.opened(conns, conn).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_begin_says_why() {
    for (answer, closes, expected) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            true,
            Failure::DynoProtocol,
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            false,
            Failure::DynoProtocol,
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", false, Failure::DynoProtocol),
        (b"", true, Failure::ConnectRefused),
        (b"", false, Failure::ConnectTimeout),
        // A PING before SETTINGS is a mistake, but none that matters: the wait goes on.
        (
            b"\0\0\x08\x06\0\0\0\0\x0012345678",
            false,
            Failure::ConnectTimeout,
        ),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let dyno = async {
            theirs.read_exact(&mut [0; 24]).await.unwrap();
            theirs.write_all(answer).await.unwrap();
            if closes {
                drop(theirs);
            } else {
                theirs.read_to_end(&mut Vec::new()).await.unwrap();
            }
        };
        let (opened, ()) = tokio::join!(open(ours), dyno);
        assert_eq!(opened.err(), Some(expected), "{answer:?}");
    }
}

#[tokio::test]
async fn streams_fill_one_connection_after_the_other() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    let mut peers = Vec::new();
    let mut slots = Vec::new();
    for round in 0..3 {
        let (conn, peer) = allowing(2).await;
        assert_eq!(conn.most_streams(), 2);
        peers.push(peer);
        let first = dialling(conns.ask(&dyno, TERMS, false)).opened(&mut conns, conn);
        let second = slot(conns.ask(&dyno, TERMS, false));
        assert_eq!(
            (first.as_ref().unwrap().is_reused(), second.is_reused()),
            (false, true)
        );
        slots.extend([first.unwrap(), second]);
        assert_eq!((conns.idle(), slots.len()), (0, 2 * round + 2));
    }
    let responses: Vec<_> = slots.iter_mut().map(request).collect();
    for peer in &mut peers {
        peer.answer().await;
        peer.answer().await;
    }
    for response in responses {
        assert_eq!(response.await.unwrap().status(), 200);
    }
    // A slot that comes back is the next to be used.
    drop(slots.remove(3));
    assert!(slot(conns.ask(&dyno, TERMS, false)).is_reused());
    drop(slots);
    assert_eq!((conns.idle(), conns.idle_of(&dyno)), (3, 3));
}

#[tokio::test]
async fn a_dyno_that_allows_more_gets_a_hundred_and_one_that_allows_any_number_too() {
    let (more, _peer) = allowing(1000).await;
    let (any, _other) = connected(|_| {}).await;
    assert_eq!((more.most_streams(), any.most_streams()), (100, 100));
    let slots: Vec<_> = std::iter::from_fn(|| any.slot()).collect();
    assert_eq!(slots.len(), 100);
}

#[tokio::test]
async fn requests_that_come_at_once_wait_for_one_connection() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    let first = dialling(conns.ask(&dyno, TERMS, false));
    let waits: Vec<_> = (0..99)
        .map(|_| waiting(conns.ask(&dyno, TERMS, false)))
        .collect();
    // No more than the next connection will carry.
    let second = dialling(conns.ask(&dyno, TERMS, false));
    let (conn, _peer) = allowing(3).await;
    let slot_of_first = first.opened(&mut conns, conn).unwrap();
    for wait in waits {
        assert_eq!(wait.over().now_or_never(), Some(Ok(())));
    }
    let slots = [(); 2].map(|()| slot(conns.ask(&dyno, TERMS, false)));
    // It is known by now how many a connection carries: the one that is being opened, three.
    let waits = [(); 2].map(|()| waiting(conns.ask(&dyno, TERMS, false)));
    let third = dialling(conns.ask(&dyno, TERMS, false));
    // What could not be opened is told to all who waited for it, and to nobody else.
    second.failed(Failure::ConnectRefused);
    for wait in waits {
        assert_eq!(
            wait.over().now_or_never(),
            Some(Err(Failure::ConnectRefused))
        );
    }
    let wait = waiting(conns.ask(&dyno, TERMS, false));
    let mut over = pin!(wait.over());
    assert_eq!(over.as_mut().now_or_never(), None);
    // Whoever gives up leaves it to the others.
    drop(third);
    assert_eq!(over.now_or_never(), Some(Ok(())));
    drop(dialling(conns.ask(&dyno, TERMS, false)));
    drop((slots, slot_of_first));
}

#[tokio::test]
async fn one_stream_per_connection_means_no_waiting() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    let (conn, _peer) = allowing(1).await;
    let only = put(&mut conns, &dyno, conn);
    let both = [(); 2].map(|()| dialling(conns.ask(&dyno, TERMS, false)));
    drop((only, both));
    assert!(slot(conns.ask(&dyno, TERMS, false)).is_reused());
}

#[tokio::test]
async fn a_request_that_died_on_a_connection_gets_a_new_one() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    let (conn, _peer) = connected(|_| {}).await;
    drop(put(&mut conns, &dyno, conn));
    drop(dialling(conns.ask(&dyno, TERMS, true)));
    drop(slot(conns.ask(&dyno, TERMS, false)));
}

#[tokio::test]
async fn a_connection_whose_dyno_takes_leave_finishes_and_gets_nothing_new() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    let (conn, mut peer) = connected(|_| {}).await;
    let mut slot = put(&mut conns, &dyno, conn);
    let response = request(&mut slot);
    let mut respond = peer.requests.recv().await.unwrap();
    peer.say.send(Say::Leave).unwrap();
    let refused = loop {
        tokio::task::yield_now().await;
        if let Answer::Dial(dialling) = conns.ask(&dyno, TERMS, false) {
            break dialling;
        }
    };
    respond
        .send_response(http::Response::new(()), true)
        .unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    drop(refused);
    assert!(peer.requests.recv().await.is_none(), "closed");
    conns.sweep(KEEP, 10, clock::now());
    assert_eq!(conns.by_dyno.len(), 0);
}

#[tokio::test]
async fn what_was_certainly_not_processed_is_known() {
    // The second of two requests crosses a GOAWAY that counts in the first only.
    for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let (conn, mut peer) = connected(|_| {}).await;
        let mut slots = [conn.slot().unwrap(), conn.slot().unwrap()];
        let first = request(&mut slots[0]);
        let respond = peer.requests.recv().await.unwrap();
        peer.say.send(Say::End(reason)).unwrap();
        let second = request(&mut slots[1]);
        let [first, second] = [first.await.unwrap_err(), second.await.unwrap_err()];
        assert_eq!(
            (is_unprocessed(&first), is_unprocessed(&second)),
            (false, true),
            "{first}; {second}"
        );
        drop(respond);
    }
    for (reason, expected) in [
        (Reason::REFUSED_STREAM, true),
        (Reason::CANCEL, false),
        (Reason::INTERNAL_ERROR, false),
    ] {
        let (conn, mut peer) = connected(|_| {}).await;
        let mut slot = conn.slot().unwrap();
        let response = request(&mut slot);
        peer.requests.recv().await.unwrap().send_reset(reason);
        let error = response.await.unwrap_err();
        assert_eq!(is_unprocessed(&error), expected, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_after_a_while_and_busy_ones_do_not() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    let mut peers = Vec::new();
    let mut slots = Vec::new();
    for _ in 0..3 {
        let (conn, peer) = connected(|_| {}).await;
        peers.push(peer);
        slots.push(put(&mut conns, &dyno, conn));
    }
    let began = clock::now();
    drop(slots.split_off(1));
    conns.sweep(KEEP, 10, began + KEEP - SECOND);
    assert_eq!(conns.idle(), 2);
    conns.sweep(KEEP, 1, began + KEEP - SECOND);
    assert_eq!(conns.idle(), 1, "one is as many as may be kept");
    conns.sweep(KEEP, 10, began + KEEP);
    assert_eq!(conns.idle(), 0);
    for peer in &mut peers[1..] {
        assert!(peer.requests.recv().await.is_none(), "closed");
    }
    let response = request(&mut slots[0]);
    peers[0].answer().await;
    assert_eq!(response.await.unwrap().status(), 200);
    slots.clear();
    assert_eq!(conns.idle(), 1);
    conns.clear();
    assert!(peers[0].requests.recv().await.is_none(), "closed");
}

#[tokio::test]
async fn connections_of_a_retired_dyno_finish_and_close() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    let (conn, mut peer) = connected(|_| {}).await;
    let mut slot = put(&mut conns, &dyno, conn);
    dyno.retire();
    conns.sweep(KEEP, 10, clock::now());
    let response = request(&mut slot);
    peer.answer().await;
    assert_eq!(response.await.unwrap().status(), 200);
    drop(slot);
    assert!(peer.requests.recv().await.is_none(), "closed");
    let (conn, mut peer) = connected(|_| {}).await;
    drop(put(&mut conns, &dyno, conn));
    assert!(peer.requests.recv().await.is_none(), "not kept");
}

#[tokio::test]
async fn other_terms_need_other_connections() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    let (conn, _peer) = connected(|_| {}).await;
    let late = dialling(conns.ask(&dyno, TERMS, false));
    let other = Terms::next();
    let (other_conn, _other_peer) = connected(|_| {}).await;
    drop(dialling(conns.ask(&dyno, other, false)).opened(&mut conns, other_conn));
    drop(late.opened(&mut conns, conn));
    drop(slot(conns.ask(&dyno, other, false)));
    drop(dialling(conns.ask(&dyno, TERMS, false)));
}

#[tokio::test(start_paused = true)]
async fn a_dyno_that_fell_silent_is_asked_and_given_up() {
    let (mut conns, dyno) = (H2Conns::default(), dyno("web.1"));
    for answers in [true, false] {
        let (conn, mut peer) = connected(|_| {}).await;
        let mut impatient = put(&mut conns, &dyno, conn);
        let mut patient = slot(conns.ask(&dyno, TERMS, false));
        let (_, mut response) = (request(&mut impatient), request(&mut patient));
        let mut held = [peer.requests.recv().await, peer.requests.recv().await];
        if !answers {
            peer.say.send(Say::Nothing).unwrap();
        }
        tokio::time::sleep(30 * SECOND).await;
        drop(impatient);
        // Long enough for an answer, not long enough to give up.
        tokio::time::sleep(SECOND).await;
        let next = conns.ask(&dyno, TERMS, false);
        if answers {
            drop(slot(next));
            tokio::time::sleep(10 * SECOND).await;
            let respond = held[1].as_mut().unwrap();
            respond
                .send_response(http::Response::new(()), true)
                .unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
            drop(patient);
            conns.clear();
        } else {
            // Nothing new until it is known; what is there gets its chance.
            drop(dialling(next));
            assert!((&mut response).now_or_never().is_none());
            tokio::time::sleep(5 * SECOND).await;
            let error = response.await.unwrap_err();
            assert!(!is_unprocessed(&error), "{error}");
            conns.sweep(KEEP, 10, clock::now());
            assert!(conns.by_dyno.is_empty());
        }
    }
}
