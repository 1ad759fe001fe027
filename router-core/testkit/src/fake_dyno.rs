//! A dyno whose every byte the test reads and writes itself: accepted connections are values, nothing happens on its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::HandshakeKind;
use tokio::net::TcpListener;

use crate::DEADLINE;
use crate::dyno_listener::DynoListener;
use crate::raw_head::RawHead;
use crate::serving_dyno::ServingDyno;
use crate::test_ca::TestCertificate;
use crate::wire::{Chunked, Ending, Wire, in_time, within};

/// A listening dyno on a free port of 127.0.0.1.
pub struct FakeDyno(DynoListener);

impl FakeDyno {
    /// Listens; from now on connections are established (by the kernel) and wait for [`FakeDyno::accept`].
    pub async fn start() -> Self {
        Self(DynoListener::bind().await)
    }

    /// The same, speaking TLS with this certificate.
    pub async fn start_tls(certificate: &TestCertificate) -> Self {
        Self(DynoListener::bind_tls(certificate, &["http/1.1"]).await)
    }

    pub(crate) fn at(listener: std::net::TcpListener) -> Self {
        let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
        Self(DynoListener::of(listener))
    }

    /// A dyno that answers by itself: every request of every (kept) connection with the bytes of `answer`. A request's
    /// body is read and dropped first; an answer with `Connection: close` ends the connection.
    pub async fn respond_with(
        answer: impl Fn(&RawHead) -> Vec<u8> + Send + Sync + 'static,
    ) -> ServingDyno {
        Self::respond_with_body(move |head, _| answer(head)).await
    }

    /// The same, for answers that depend on the request's (decoded) body.
    pub async fn respond_with_body(
        answer: impl Fn(&RawHead, &[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> ServingDyno {
        Self::start().await.serve(answer)
    }

    /// Answers by itself from now on, as [`FakeDyno::respond_with_body`] does.
    pub fn serve(
        self,
        answer: impl Fn(&RawHead, &[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> ServingDyno {
        ServingDyno::new(self.0, answer)
    }

    /// The address for the route document.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// The next connection the router opened, its TLS handshake done.
    pub async fn accept(&self) -> DynoConn {
        let accepted = self.try_accept().await;
        accepted.unwrap_or_else(|error| panic!("TLS handshake with the router: {error}"))
    }

    /// The same, or why the handshake failed.
    pub async fn try_accept(&self) -> io::Result<DynoConn> {
        let accepted = within(DEADLINE, self.0.listener.accept()).await;
        let (stream, _) = accepted
            .expect("the router opened no connection to the dyno")
            .expect("accept");
        let handshake = within(DEADLINE, self.0.handshake(stream)).await;
        let io = handshake.expect("a handshake that ends in time")?;
        Ok(DynoConn {
            wire: Wire::over(io),
        })
    }

    /// Accepts a connection, reads one request without a body on it and answers it: the usual first exchange.
    pub async fn accept_and_answer(&self, response: impl AsRef<[u8]>) -> (DynoConn, RawHead) {
        let mut conn = self.accept().await;
        let head = conn.answer(response).await;
        (conn, head)
    }

    /// Panics when a connection waits to be accepted. An established connection is in the queue before the router can
    /// have used it, so this is exact once the exchange in question has ended.
    pub fn assert_not_contacted(self) {
        let listener = self.0.listener.into_std().expect("std listener");
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("accept: {error}"),
            Ok((_, router)) => {
                panic!("the router ({router}) opened a connection to a dyno it must leave alone")
            }
        }
    }
}

/// The dyno's side of one connection.
pub struct DynoConn {
    wire: Wire,
}

impl DynoConn {
    /// The name that the router asked for in its TLS handshake.
    pub fn sni(&self) -> Option<&str> {
        self.wire.io().sni()
    }

    /// Whether the router resumed an earlier TLS session.
    pub fn is_resumed(&self) -> bool {
        let session = self.wire.io().tls().expect("TLS");
        session.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The next request head.
    pub async fn read_head(&mut self) -> RawHead {
        let read = in_time(self.wire.head()).await;
        self.wire.expect("request head", read)
    }

    /// Exactly `count` more bytes.
    pub async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let read = in_time(self.wire.exactly(count)).await;
        self.wire
            .expect(&format!("{count} bytes of a request body"), read)
    }

    /// A whole chunked body with its chunk boundaries and trailers.
    pub async fn read_chunked_raw(&mut self) -> Chunked {
        let read = in_time(self.wire.chunked()).await;
        self.wire.expect("chunked request body", read)
    }

    /// At least one byte, whatever has arrived.
    pub async fn read_some(&mut self) -> Vec<u8> {
        let read = in_time(self.wire.some()).await;
        self.wire.expect("bytes from the router", read)
    }

    /// Everything until the router ends the connection, and how it ended it.
    pub async fn read_until_end(&mut self) -> (Vec<u8>, Ending) {
        let read = in_time(async { Ok(self.wire.rest().await) }).await;
        self.wire.expect("end of the router's connection", read)
    }

    /// Waits until the router ends the connection; panics when it sends anything more before.
    pub async fn expect_end(&mut self) -> Ending {
        let (bytes, ending) = self.read_until_end().await;
        assert!(
            bytes.is_empty(),
            "the router sent more before the end: {:?}",
            crate::raw_head::text(&bytes)
        );
        ending
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write(bytes.as_ref()).await;
    }

    /// Sends bytes to a router that may have ended the connection; true when it took all of them.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.try_write(bytes.as_ref()).await
    }

    /// Sends each piece `gap` after the one before: an app that works at its own pace.
    pub async fn write_paced(&mut self, pieces: &[&[u8]], gap: Duration) {
        for piece in pieces {
            tokio::time::sleep(gap).await;
            self.wire.write(piece).await;
        }
    }

    /// Reads one request without a body and answers it.
    pub async fn answer(&mut self, response: impl AsRef<[u8]>) -> RawHead {
        let head = self.read_head().await;
        self.write(response).await;
        head
    }

    /// Panics when the router has ended the connection or sent something unread.
    pub fn assert_open(&self) {
        assert!(
            self.wire.is_quiet_and_open(),
            "the router's connection is not open and quiet"
        );
    }

    /// FIN, while reading goes on.
    pub async fn half_close(&mut self) {
        self.wire.half_close().await;
    }

    /// FIN and gone.
    pub async fn close(self) {
        self.wire.close().await;
    }

    /// RST.
    pub fn reset(self) {
        self.wire.reset();
    }
}
