//! A dyno that speaks HTTP/2: h2c with prior knowledge, or TLS with ALPN. The requests of all its connections are values
//! that the test answers, in any order and any way.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{Request, Response};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::DEADLINE;
use crate::dyno_listener::DynoListener;
use crate::h2_body;
use crate::h2_client::{fields, header_map};
use crate::io::Io;
use crate::test_ca::TestCertificate;
use crate::wire::within;

/// Dropping it stops listening and cuts its connections.
pub struct H2Dyno {
    address: SocketAddr,
    calls: mpsc::UnboundedReceiver<H2Call>,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
}

impl H2Dyno {
    /// Listens for h2c with prior knowledge.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same with other settings, such as a limit of streams or small windows.
    pub async fn start_with(change: impl FnOnce(&mut Builder)) -> Self {
        Self::serve_on(DynoListener::bind().await, change)
    }

    /// Listens for TLS with ALPN `h2`.
    pub async fn start_tls(certificate: &TestCertificate) -> Self {
        Self::start_tls_with(certificate, |_| {}).await
    }

    /// The same with other settings.
    pub async fn start_tls_with(
        certificate: &TestCertificate,
        change: impl FnOnce(&mut Builder),
    ) -> Self {
        Self::serve_on(DynoListener::bind_tls(certificate, &["h2"]).await, change)
    }

    fn serve_on(listener: DynoListener, change: impl FnOnce(&mut Builder)) -> Self {
        let mut builder = Builder::new();
        change(&mut builder);
        let (sender, calls) = mpsc::unbounded_channel();
        let counts = Arc::new(Counts::default());
        Self {
            address: listener.address(),
            calls,
            accepting: tokio::spawn(accept(listener, builder, sender, Arc::clone(&counts))),
            counts,
        }
    }

    /// The address for the route document.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// The next request of any connection.
    pub async fn call(&mut self) -> H2Call {
        let call = within(DEADLINE, self.calls.recv()).await;
        call.expect("the router sent no request to the dyno in time")
            .expect("the dyno runs")
    }

    /// Whether a request waits to be taken.
    pub fn has_call(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Panics when a request waits to be taken.
    pub fn assert_no_call(&mut self) {
        if let Ok(call) = self.calls.try_recv() {
            panic!("a request that must not reach the dyno: {:?}", call.head);
        }
    }

    /// Hands every request from now on to `answer`, each in a task of its own.
    pub fn serve<F>(mut self, answer: impl Fn(H2Call) -> F + Send + 'static) -> ServingH2Dyno
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (address, counts) = (self.address, Arc::clone(&self.counts));
        let serving = tokio::spawn(async move {
            let mut answers = JoinSet::new();
            while let Some(call) = self.calls.recv().await {
                answers.spawn(answer(call));
                while answers.try_join_next().is_some() {}
            }
        });
        ServingH2Dyno {
            address,
            counts,
            serving,
        }
    }
}

impl Drop for H2Dyno {
    fn drop(&mut self) {
        // The connections' tasks live in a set inside this task and are cut with it.
        self.accepting.abort();
    }
}

/// A dyno of HTTP/2 that answers by itself. Dropping it stops it.
pub struct ServingH2Dyno {
    address: SocketAddr,
    counts: Arc<Counts>,
    serving: JoinHandle<()>,
}

impl ServingH2Dyno {
    /// The address for the route document.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }
}

impl Drop for ServingH2Dyno {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What a test may do to a whole connection.
enum Command {
    GoAway,
    End(Reason),
    Cut,
}

/// One request, and the means to answer it.
pub struct H2Call {
    head: Parts,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    response: Option<SendStream<Bytes>>,
    held: usize,
    connection: usize,
    sni: Option<String>,
    commands: mpsc::UnboundedSender<Command>,
}

impl H2Call {
    /// The method.
    pub fn method(&self) -> &str {
        self.head.method.as_str()
    }

    /// The value of `:path`.
    pub fn path(&self) -> &str {
        self.head
            .uri
            .path_and_query()
            .map_or("", |path| path.as_str())
    }

    /// The value of `:authority`.
    pub fn authority(&self) -> Option<&str> {
        self.head.uri.authority().map(http::uri::Authority::as_str)
    }

    /// The value of `:scheme`.
    pub fn scheme(&self) -> Option<&str> {
        self.head.uri.scheme_str()
    }

    /// The fields, without pseudo-fields.
    pub fn headers(&self) -> Vec<(String, String)> {
        fields(&self.head.headers)
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        let mut all = self.headers();
        all.retain(|field| field.0 == name);
        all.into_iter().map(|field| field.1).collect()
    }

    /// The value of a field that may occur once at most; panics when it occurs twice.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() <= 1, "{name} occurs {} times: {all:?}", all.len());
        all.pop()
    }

    /// Which of the dyno's connections it came on, counted from 1.
    pub fn connection(&self) -> usize {
        self.connection
    }

    /// The name that the router asked for in its TLS handshake.
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// Whether the request ended with its head.
    pub fn has_no_body(&self) -> bool {
        self.body.is_end_stream()
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
        let piece = within(DEADLINE, h2_body::piece(&mut self.body)).await;
        let piece = piece.expect("a piece of the body in time")?;
        self.held += piece.as_ref().map_or(0, Bytes::len);
        Ok(piece)
    }

    /// Opens the window for all that was held.
    pub fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        // A stream that is over needs no window.
        drop(self.body.flow_control().release_capacity(held));
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

    /// The rest of the body, to its end.
    pub async fn body(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.data().await {
            bytes.extend(piece);
        }
        bytes
    }

    /// The trailers, after the body.
    pub async fn trailers(&mut self) -> Vec<(String, String)> {
        let trailers = within(DEADLINE, self.body.trailers()).await;
        let trailers = trailers.expect("the end in time").expect("no reset");
        trailers.as_ref().map(fields).unwrap_or_default()
    }

    /// Sends an interim response.
    pub fn interim(&mut self, status: u16, fields: &[(&str, &str)]) {
        let sent = self.respond.send_informational(head(status, fields));
        sent.expect("an open stream");
    }

    /// Sends the response's head; with `end` that is all of it.
    pub fn respond(&mut self, status: u16, fields: &[(&str, &str)], end: bool) {
        let sent = self.respond.send_response(head(status, fields), end);
        self.response = Some(sent.expect("an open stream"));
    }

    /// A whole response with a body.
    pub async fn answer(&mut self, status: u16, body: impl Into<Bytes>) {
        self.respond(status, &[], false);
        self.send(body, true).await;
    }

    /// Sends body bytes as the windows allow.
    pub async fn send(&mut self, bytes: impl Into<Bytes>, end: bool) {
        let sent = self.try_send(bytes, end).await;
        sent.unwrap_or_else(|error| panic!("sending a body: {error}"));
    }

    /// The same, or why it could not be sent to its end.
    pub async fn try_send(&mut self, bytes: impl Into<Bytes>, end: bool) -> Result<(), h2::Error> {
        let stream = self.response.as_mut().expect("a head sent before");
        let sent = within(DEADLINE, h2_body::send(stream, bytes.into(), end)).await;
        sent.expect("the body is taken in time")
    }

    /// Sends as much of the bytes as the router takes, without waiting long for more room; how much that was.
    pub async fn send_what_fits(&mut self, bytes: Bytes) -> usize {
        let stream = self.response.as_mut().expect("a head sent before");
        h2_body::send_what_fits(stream, bytes).await
    }

    /// Ends the response with trailers.
    pub fn send_trailers(&mut self, fields: &[(&str, &str)]) {
        let stream = self.response.as_mut().expect("a head sent before");
        let sent = stream.send_trailers(header_map(fields));
        sent.expect("an open stream");
    }

    /// RST_STREAM. `REFUSED_STREAM` says that nothing was done about the request.
    pub fn reset(&mut self, reason: Reason) {
        match &mut self.response {
            Some(stream) => stream.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    /// Waits until the router resets the stream.
    pub async fn reset_by_router(&mut self) -> Reason {
        let reset = within(
            DEADLINE,
            poll_fn(|cx| match &mut self.response {
                Some(stream) => stream.poll_reset(cx),
                None => self.respond.poll_reset(cx),
            }),
        )
        .await;
        reset.expect("a reset in time").expect("a reset")
    }

    /// Begins to end the connection: GOAWAY, and the end once the open streams are over.
    pub fn go_away(&self) {
        self.command(Command::GoAway);
    }

    /// Ends the connection with a GOAWAY of that reason, open streams and all.
    pub fn end_connection(&self, reason: Reason) {
        self.command(Command::End(reason));
    }

    /// Cuts the connection without a word.
    pub fn cut_connection(&self) {
        self.command(Command::Cut);
    }

    fn command(&self, command: Command) {
        // A connection that is over needs no ending.
        drop(self.commands.send(command));
    }
}

fn head(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status.try_into().expect("a status");
    *response.headers_mut() = header_map(fields);
    response
}

async fn accept(
    listener: DynoListener,
    builder: Builder,
    calls: mpsc::UnboundedSender<H2Call>,
    counts: Arc<Counts>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.listener.accept().await {
        let number = counts.connections.fetch_add(1, Ordering::SeqCst) + 1;
        counts.open.fetch_add(1, Ordering::SeqCst);
        let (counts, calls) = (Arc::clone(&counts), calls.clone());
        let (handshake, builder) = (listener.handshake(stream), builder.clone());
        connections.spawn(async move {
            // A connection ends however the router ends it; only the test knows whether that was right.
            if let Ok(io) = handshake.await {
                drop(run(io, builder, number, calls).await);
            }
            counts.open.fetch_sub(1, Ordering::SeqCst);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn run(
    io: Io,
    builder: Builder,
    number: usize,
    calls: mpsc::UnboundedSender<H2Call>,
) -> Result<(), h2::Error> {
    let sni = io.sni().map(ToOwned::to_owned);
    let (sender, mut commands) = mpsc::unbounded_channel();
    let mut connection = builder.handshake(io).await?;
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond): (Request<RecvStream>, _) = accepted?;
                let (head, body) = request.into_parts();
                let call = H2Call {
                    head,
                    body,
                    respond,
                    response: None,
                    held: 0,
                    connection: number,
                    sni: sni.clone(),
                    commands: sender.clone(),
                };
                // A test that is over takes no more requests.
                drop(calls.send(call));
            }
            Some(command) = commands.recv() => match command {
                Command::GoAway => connection.graceful_shutdown(),
                Command::End(reason) => connection.abrupt_shutdown(reason),
                Command::Cut => return Ok(()),
            },
        }
    }
}
