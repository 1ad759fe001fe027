//! A well-behaved HTTP/2 client (the `h2` crate's) whose streams the test opens, feeds, reads and ends by hand.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::DEADLINE;
use crate::h2_body::{self, reset_code};
use crate::h2_response::H2Response;
use crate::io::Io;
use crate::tls_dialer::{TlsDialer, TlsFacts};
use crate::wire::within;

/// One connection. Dropping it cuts it; [`H2Client::ended`] ends it well.
pub struct H2Client {
    requests: SendRequest<Bytes>,
    driver: Driver,
    tls: Option<TlsFacts>,
    address: SocketAddr,
}

impl H2Client {
    /// Connects with prior knowledge.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, |_| {}).await
    }

    /// The same with other settings of the client, such as small windows.
    pub async fn connect_with(address: SocketAddr, change: impl FnOnce(&mut Builder)) -> Self {
        let stream = within(DEADLINE, TcpStream::connect(address)).await;
        let stream = stream.expect("connecting in time").expect("connect");
        Self::over(Io::Plain(stream), change).await
    }

    /// Connects over TLS; panics when the router does not choose `h2`.
    pub async fn connect_tls(address: SocketAddr, dialer: &TlsDialer) -> Self {
        Self::connect_tls_with(address, dialer, |_| {}).await
    }

    /// The same with other settings of the client.
    pub async fn connect_tls_with(
        address: SocketAddr,
        dialer: &TlsDialer,
        change: impl FnOnce(&mut Builder),
    ) -> Self {
        let dialer = dialer.clone().alpn(&["h2"]);
        let io = dialer.dial(address).await.expect("TLS with the router");
        let client = Self::over(io, change).await;
        assert_eq!(client.tls().alpn.as_deref(), Some("h2"));
        client
    }

    async fn over(io: Io, change: impl FnOnce(&mut Builder)) -> Self {
        io.tcp().set_nodelay(true).expect("TCP_NODELAY");
        let (tls, address) = (TlsFacts::of(&io), io.tcp().local_addr().unwrap());
        let mut builder = Builder::new();
        builder.enable_push(false);
        change(&mut builder);
        let handshake = within(DEADLINE, builder.handshake(io)).await;
        let (requests, mut connection) = handshake.expect("in time").expect("an HTTP/2 connection");
        let mut pings = connection.ping_pong().expect("taken once");
        let driver = Driver(tokio::spawn(connection));
        // The router's settings come before its answer to a PING: from here on they are known.
        let known = within(DEADLINE, pings.ping(Ping::opaque())).await;
        known
            .expect("an answer to a PING in time")
            .expect("a connection that lives");
        Self {
            requests,
            driver,
            tls,
            address,
        }
    }

    /// What the handshake agreed on; panics in the clear.
    pub fn tls(&self) -> &TlsFacts {
        self.tls.as_ref().expect("a TLS connection")
    }

    /// The client's own address, as the router sees it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the router announced extended CONNECT (RFC 8441).
    pub fn may_extend_connect(&self) -> bool {
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// How many streams the router allows at once.
    pub fn stream_limit(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Opens a stream. Waits while as many are open as the router allows.
    pub async fn open(&mut self, request: Request<()>, end: bool) -> H2Stream {
        let opened = self.try_open(request, end).await;
        opened.unwrap_or_else(|error| panic!("opening a stream: {error}"))
    }

    /// The same, or why it cannot be: the router is going away or gone.
    pub async fn try_open(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> Result<H2Stream, h2::Error> {
        let ready = within(DEADLINE, poll_fn(|cx| self.requests.poll_ready(cx))).await;
        ready.expect("room for a stream in time")?;
        let (response, sender) = self.requests.send_request(request, end)?;
        Ok(H2Stream {
            response,
            sender,
            body: None,
            read: H2Response::default(),
            held: 0,
        })
    }

    /// Sends a request without a body and reads the response.
    pub async fn exchange(&mut self, request: Request<()>) -> H2Response {
        self.open(request, true).await.response().await
    }

    /// Sends a request with a body and reads the response.
    pub async fn exchange_with(
        &mut self,
        request: Request<()>,
        body: impl Into<Bytes>,
    ) -> H2Response {
        let mut stream = self.open(request, false).await;
        stream.send(body, true).await;
        stream.response().await
    }

    /// Ends the connection once its streams are over and waits for that: `Ok` unless it broke.
    pub async fn ended(self) -> Result<(), h2::Error> {
        let Self {
            requests,
            mut driver,
            ..
        } = self;
        // The connection ends itself when nobody can open a stream on it any more.
        drop(requests);
        driver.ended().await
    }

    /// Waits until the router ends the connection: `Ok` after a GOAWAY without error, or a FIN with no stream open.
    pub async fn ended_by_router(&mut self) -> Result<(), h2::Error> {
        self.driver.ended().await
    }

    /// Whether the connection still runs.
    pub fn is_open(&self) -> bool {
        !self.driver.0.is_finished()
    }
}

/// The task that runs a connection.
struct Driver(JoinHandle<Result<(), h2::Error>>);

impl Driver {
    async fn ended(&mut self) -> Result<(), h2::Error> {
        let ended = within(DEADLINE, &mut self.0).await;
        ended
            .expect("the connection ends in time")
            .expect("the driver")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One stream of a client, which is reset when it is dropped before its end.
pub struct H2Stream {
    response: ResponseFuture,
    sender: SendStream<Bytes>,
    body: Option<RecvStream>,
    read: H2Response,
    held: usize,
}

impl H2Stream {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.sender.stream_id().as_u32()
    }

    /// Sends body bytes as the windows allow.
    pub async fn send(&mut self, bytes: impl Into<Bytes>, end: bool) {
        let sent = self.try_send(bytes, end).await;
        sent.unwrap_or_else(|error| panic!("sending a body: {error}"));
    }

    /// The same, or why it could not be sent to its end.
    pub async fn try_send(&mut self, bytes: impl Into<Bytes>, end: bool) -> Result<(), h2::Error> {
        let sent = within(DEADLINE, h2_body::send(&mut self.sender, bytes.into(), end)).await;
        sent.expect("the body is taken in time")
    }

    /// Sends as much of the bytes as the router takes at once, without waiting for more room; how much that was.
    pub async fn send_what_fits(&mut self, bytes: Bytes) -> usize {
        h2_body::send_what_fits(&mut self.sender, bytes).await
    }

    /// Ends the request with trailers.
    pub fn send_trailers(&mut self, fields: &[(&str, &str)]) {
        let trailers = header_map(fields);
        self.sender.send_trailers(trailers).expect("an open stream");
    }

    /// RST_STREAM.
    pub fn reset(&mut self, reason: Reason) {
        self.sender.send_reset(reason);
    }

    /// The next interim response, before the final one: status and fields.
    pub async fn interim(&mut self) -> (u16, Vec<(String, String)>) {
        let interim = within(DEADLINE, poll_fn(|cx| self.response.poll_informational(cx))).await;
        let interim = interim.expect("an interim response in time");
        let interim = interim.expect("an interim response").expect("no reset");
        (interim.status().as_u16(), fields(interim.headers()))
    }

    /// Waits for the final response's head; panics when the stream is reset before.
    pub async fn head(&mut self) -> &H2Response {
        if let Err(reason) = self.try_head().await {
            panic!("reset before a response: {reason:?}");
        }
        &self.read
    }

    /// Waits for the final response's head, or the reset that came instead.
    pub async fn try_head(&mut self) -> Result<(), u32> {
        if self.body.is_some() {
            return Ok(());
        }
        let response = within(DEADLINE, async {
            poll_fn(|cx| {
                while let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
                    match interim {
                        Ok(interim) => self
                            .read
                            .informational
                            .push((interim.status().as_u16(), fields(interim.headers()))),
                        Err(_) => break,
                    }
                }
                Pin::new(&mut self.response).poll(cx)
            })
            .await
        })
        .await;
        let response = match response.expect("a response in time") {
            Ok(response) => response,
            Err(error) => {
                let code = reset_code(&error);
                self.read.reset = Some(code);
                return Err(code);
            }
        };
        let (parts, body) = response.into_parts();
        self.read.status = parts.status.as_u16();
        self.read.headers = fields(&parts.headers);
        self.body = Some(body);
        Ok(())
    }

    /// The next piece of the body; nothing at its end. The window is opened for as much.
    pub async fn data(&mut self) -> Option<Bytes> {
        let piece = self.try_data().await;
        piece.unwrap_or_else(|code| panic!("reset in the body: {code}"))
    }

    /// The same, or the code of the reset that came.
    pub async fn try_data(&mut self) -> Result<Option<Bytes>, u32> {
        let piece = self.held_data().await?;
        self.release();
        Ok(piece)
    }

    /// The next piece of the body, without opening the window for more.
    pub async fn held_data(&mut self) -> Result<Option<Bytes>, u32> {
        self.head().await;
        let body = self.body.as_mut().expect("a head");
        let piece = within(DEADLINE, h2_body::piece(body)).await;
        let piece = piece.expect("a piece of the body in time")?;
        self.held += piece.as_ref().map_or(0, Bytes::len);
        Ok(piece)
    }

    /// Opens the window for all that was held.
    pub fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        let body = self.body.as_mut().expect("a head");
        // A stream that is over needs no window.
        drop(body.flow_control().release_capacity(held));
    }

    /// Reads exactly so many bytes of the body.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend(self.data().await.expect("more of the body"));
        }
        assert_eq!(bytes.len(), count, "more than asked for");
        bytes
    }

    /// The whole response, to its end or its reset.
    pub async fn response(mut self) -> H2Response {
        if self.try_head().await.is_err() {
            return self.read;
        }
        loop {
            match self.try_data().await {
                Ok(Some(piece)) => self.read.body.extend_from_slice(&piece),
                Ok(None) => break,
                Err(code) => {
                    self.read.reset = Some(code);
                    return self.read;
                }
            }
        }
        let body = self.body.as_mut().expect("a head");
        match within(DEADLINE, body.trailers())
            .await
            .expect("an end in time")
        {
            Ok(trailers) => self.read.trailers = trailers.as_ref().map(fields).unwrap_or_default(),
            Err(error) => self.read.reset = Some(reset_code(&error)),
        }
        self.read
    }

    /// Waits until the router resets the stream.
    pub async fn reset_by_router(&mut self) -> Reason {
        let reset = within(DEADLINE, poll_fn(|cx| self.sender.poll_reset(cx))).await;
        reset.expect("a reset in time").expect("a reset")
    }
}

pub(crate) fn fields(map: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| crate::raw_head::text(value.as_bytes());
    map.iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

pub(crate) fn header_map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a field name");
        map.append(name, HeaderValue::from_str(value).expect("a field value"));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::H2Dyno;

    fn get(address: SocketAddr) -> Request<()> {
        Request::get(format!("http://{address}/x"))
            .body(())
            .unwrap()
    }

    #[tokio::test]
    async fn streams_are_fed_and_read_by_hand() {
        let mut dyno = H2Dyno::start_with(|settings| {
            settings.initial_window_size(1000);
        })
        .await;
        let mut client = H2Client::connect_with(dyno.address(), |settings| {
            settings.initial_window_size(500);
        })
        .await;
        let mut stream = client.open(get(dyno.address()), false).await;
        let mut call = dyno.call().await;
        assert_eq!(stream.send_what_fits(vec![1; 5000].into()).await, 1000);
        let mut held = 0;
        while held < 1000 {
            held += call.held_data().await.unwrap().unwrap().len();
        }
        call.release();
        stream.send("rest", false).await;
        stream.send_trailers(&[("t", "1")]);
        assert_eq!(call.body().await, b"rest");
        call.interim(103, &[("a", "b")]);
        assert_eq!(stream.interim().await.0, 103);
        call.respond(201, &[], false);
        assert_eq!(call.send_what_fits(vec![2; 5000].into()).await, 500);
        assert_eq!(stream.head().await.status, 201);
        assert_eq!(stream.exactly(500).await.len(), 500);
        call.reset(Reason::INTERNAL_ERROR);
        assert_eq!(stream.response().await.reset, Some(2));
        assert!(client.is_open());
        client.ended().await.unwrap();
    }

    #[tokio::test]
    async fn a_serving_dyno_answers_streams_in_parallel() {
        let dyno = H2Dyno::start().await.serve(|mut call| async move {
            let body = call.body().await;
            call.answer(200, body).await;
        });
        let mut client = H2Client::connect(dyno.address()).await;
        let mut first = client.open(get(dyno.address()), false).await;
        let second = client.exchange_with(get(dyno.address()), "two").await;
        assert_eq!(second.whole().text(), "two");
        first.send("one", true).await;
        assert_eq!(first.response().await.whole().text(), "one");
        assert_eq!(dyno.connections(), 1);
        let running = client.open(get(dyno.address()), false).await;
        drop(dyno);
        assert_eq!(running.response().await.reset, Some(u32::MAX));
        assert!(client.ended_by_router().await.is_err());
    }
}
