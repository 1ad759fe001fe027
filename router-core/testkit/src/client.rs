//! A client that sends exactly the bytes it is given and reads a response without repairing anything.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::DEADLINE;
use crate::raw_head::{RawHead, all, one, text};
use crate::tls_dialer::{TlsDialer, TlsFacts};
use crate::wire::{Chunked, Ending, Read, Short, Wire, in_time, within};

/// One client connection to the router.
pub struct RawClient {
    wire: Wire,
}

/// A response as read: the parts, and the bytes they were read from.
#[derive(Debug, Clone)]
pub struct RawResponse {
    /// The status line, without CRLF.
    pub status_line: String,
    /// Its code.
    pub status: u16,
    /// Its reason phrase, which may be empty.
    pub reason: String,
    /// The header lines in order, names in the case they came in.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// The data of each chunk, when the body was chunked.
    pub chunks: Vec<Vec<u8>>,
    /// The trailer fields of a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Whether the framing came to its end (a close-delimited body always does).
    pub complete: bool,
    /// Whether the connection can take another request: the router neither announced nor made an end of it.
    pub open: bool,
    /// 1xx responses that came before, in order.
    pub informational: Vec<RawHead>,
    /// Every byte of this response and of the 1xx before it.
    pub raw: Vec<u8>,
}

impl RawResponse {
    /// All values of a header, in order; names compare without case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        all(&self.headers, name)
    }

    /// The value of a header that may occur once at most; panics when it occurs twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        one(&self.headers, name)
    }

    /// The body as text, bytes to characters one to one.
    pub fn text(&self) -> String {
        text(&self.body)
    }
}

impl RawClient {
    /// Connects to the router.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within(DEADLINE, TcpStream::connect(address)).await;
        Self {
            wire: Wire::new(
                stream
                    .expect("connecting to the router in time")
                    .expect("connect to the router"),
            ),
        }
    }

    /// Connects from another loopback address, for tests in which the client address matters.
    pub async fn connect_from(from: SocketAddr, address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        socket.bind(from).expect("bind the client's address");
        let stream = within(DEADLINE, socket.connect(address)).await;
        Self {
            wire: Wire::new(
                stream
                    .expect("connecting to the router in time")
                    .expect("connect to the router"),
            ),
        }
    }

    /// A client whose kernel takes few bytes ahead of it: one that reads slowly is felt by the router soon.
    pub async fn connect_with_small_window(address: SocketAddr, bytes: u32) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        let stream = within(DEADLINE, socket.connect(address)).await;
        Self {
            wire: Wire::new(
                stream
                    .expect("connecting to the router in time")
                    .expect("connect to the router"),
            ),
        }
    }

    /// Connects and does a TLS handshake; panics when that fails.
    pub async fn connect_tls(address: SocketAddr, dialer: &TlsDialer) -> Self {
        let connected = Self::try_connect_tls(address, dialer).await;
        connected.unwrap_or_else(|error| panic!("TLS handshake with the router: {error}"))
    }

    /// Connects and does a TLS handshake, or says why it failed; an alert of the router is a `rustls::Error` inside.
    pub async fn try_connect_tls(address: SocketAddr, dialer: &TlsDialer) -> io::Result<Self> {
        let io = dialer.dial(address).await?;
        Ok(Self {
            wire: Wire::over(io),
        })
    }

    /// Does a TLS handshake on a connection on which only sending has been done so far, such as a PROXY header.
    pub async fn into_tls(self, dialer: &TlsDialer) -> io::Result<Self> {
        let io = dialer.over(self.wire.into_tcp()).await?;
        Ok(Self {
            wire: Wire::over(io),
        })
    }

    /// What the handshake agreed on; panics in the clear.
    pub fn tls(&self) -> TlsFacts {
        TlsFacts::of(self.wire.io()).expect("a TLS connection")
    }

    /// The client's own address, as the router sees it.
    pub fn address(&self) -> SocketAddr {
        self.wire.io().tcp().local_addr().expect("local address")
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write(bytes.as_ref()).await;
    }

    /// Sends bytes to a router that may have ended the connection; true when it took all of them.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.try_write(bytes.as_ref()).await
    }

    /// Sends each piece `gap` after the one before: a slow upload.
    pub async fn send_paced(&mut self, pieces: &[&[u8]], gap: Duration) {
        for piece in pieces {
            tokio::time::sleep(gap).await;
            self.wire.write(piece).await;
        }
    }

    /// Sends a request and reads the response to it.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> RawResponse {
        self.send(request).await;
        self.read_response().await
    }

    /// A whole response to any request but HEAD; panics when it is cut short.
    pub async fn read_response(&mut self) -> RawResponse {
        let read = in_time(self.response(false)).await;
        let response = self.wire.expect("response", read);
        assert!(
            response.complete,
            "the response was cut short: {:?}",
            text(&response.raw)
        );
        response
    }

    /// A whole response to a HEAD request.
    pub async fn read_response_to_head(&mut self) -> RawResponse {
        let read = in_time(self.response(true)).await;
        self.wire.expect("response to HEAD", read)
    }

    /// A response whose head came and whose body was cut short; panics when it is whole.
    pub async fn read_broken_response(&mut self) -> RawResponse {
        let read = in_time(self.response(false)).await;
        let response = self.wire.expect("response", read);
        assert!(
            !response.complete,
            "the response was not cut short: {:?}",
            text(&response.raw)
        );
        response
    }

    /// The next response head alone, 1xx or final; its body is left on the wire.
    pub async fn read_head(&mut self) -> RawHead {
        let read = in_time(self.wire.head()).await;
        self.wire.expect("response head", read)
    }

    /// Exactly `count` more bytes.
    pub async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let read = in_time(self.wire.exactly(count)).await;
        self.wire.expect(&format!("{count} bytes"), read)
    }

    /// Everything until the router ends the connection, and how it ended it.
    pub async fn read_raw_until_close(&mut self) -> (Vec<u8>, Ending) {
        let read = in_time(async { Ok(self.wire.rest().await) }).await;
        self.wire.expect("end of the connection", read)
    }

    /// Waits until the router ends the connection; panics when it sends anything more before.
    pub async fn expect_end(&mut self) -> Ending {
        let (bytes, ending) = self.read_raw_until_close().await;
        assert!(
            bytes.is_empty(),
            "the router sent more before the end: {:?}",
            text(&bytes)
        );
        ending
    }

    /// Whether the router has neither ended the connection nor sent something unread, as far as is known now.
    pub fn is_quiet_and_open(&self) -> bool {
        self.wire.is_quiet_and_open()
    }

    /// Panics when the router has ended the connection or sent something unread.
    pub fn assert_open(&self) {
        assert!(
            self.wire.is_quiet_and_open(),
            "the connection is not open and quiet"
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

    async fn response(&mut self, to_head: bool) -> Read<RawResponse> {
        self.wire.take_seen();
        let mut informational = Vec::new();
        let head = loop {
            let head = self.wire.head().await?;
            let status = status(&head)?;
            if !(100..200).contains(&status) || status == 101 {
                break head;
            }
            informational.push(head);
        };
        let status = status(&head)?;
        let body = self
            .body(
                &head,
                to_head || status == 204 || status == 304 || status == 101,
            )
            .await?;
        let announced_end = head
            .all("connection")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("close"));
        let mut open = body.complete && !body.to_close;
        if open && announced_end {
            // Whoever announces the end must make it, and send nothing after the response.
            let (rest, _) = self.wire.rest().await;
            if !rest.is_empty() {
                return Err(Short::Malformed(format!(
                    "bytes after the last response: {:?}",
                    text(&rest)
                )));
            }
            open = false;
        }
        Ok(RawResponse {
            status_line: head.start_line().to_owned(),
            status,
            reason: head.start_line().get(13..).unwrap_or_default().to_owned(),
            headers: head.headers().to_vec(),
            body: body.chunked.body(),
            trailers: body.chunked.trailers,
            chunks: body.chunked.chunks,
            complete: body.complete,
            open,
            informational,
            raw: self.wire.take_seen(),
        })
    }

    async fn body(&mut self, head: &RawHead, none: bool) -> Read<Body> {
        if none {
            return Ok(Body::whole(Vec::new()));
        }
        if head.header("transfer-encoding").is_some() {
            if head.has("content-length") {
                return Err(Short::Malformed(
                    "both Transfer-Encoding and Content-Length".to_owned(),
                ));
            }
            return self.chunked_body().await;
        }
        let Some(length) = head.header("content-length") else {
            let (bytes, ending) = self.wire.rest().await;
            return Ok(Body {
                to_close: true,
                complete: ending == Ending::Closed,
                ..Body::whole(bytes)
            });
        };
        let length = length
            .parse()
            .map_err(|_| Short::Malformed(format!("Content-Length {length:?}")))?;
        match self.wire.exactly(length).await {
            Ok(bytes) => Ok(Body::whole(bytes)),
            Err(Short::Ended(_)) => Ok(Body {
                complete: false,
                ..Body::whole(self.wire.rest().await.0)
            }),
            Err(malformed) => Err(malformed),
        }
    }

    async fn chunked_body(&mut self) -> Read<Body> {
        match self.wire.chunked().await {
            Ok(chunked) => Ok(Body {
                chunked,
                complete: true,
                to_close: false,
            }),
            // What had been read of it is in `raw`.
            Err(Short::Ended(_)) => Ok(Body {
                complete: false,
                ..Body::whole(Vec::new())
            }),
            Err(malformed) => Err(malformed),
        }
    }
}

struct Body {
    chunked: Chunked,
    complete: bool,
    to_close: bool,
}

impl Body {
    fn whole(bytes: Vec<u8>) -> Self {
        let chunked = Chunked {
            raw: Vec::new(),
            chunks: vec![bytes],
            trailers: Vec::new(),
        };
        Self {
            chunked,
            complete: true,
            to_close: false,
        }
    }
}

fn status(head: &RawHead) -> Read<u16> {
    let line = head.start_line();
    let code = line
        .strip_prefix("HTTP/1.1 ")
        .filter(|rest| rest.len() == 3 || rest.as_bytes().get(3) == Some(&b' '));
    code.and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| Short::Malformed(format!("status line {line:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FakeDyno;

    async fn pair() -> (RawClient, crate::DynoConn, FakeDyno) {
        let dyno = FakeDyno::start().await;
        let client = RawClient::connect(dyno.address()).await;
        let conn = dyno.accept().await;
        (client, conn, dyno)
    }

    #[tokio::test]
    async fn a_chunked_response_after_interim_ones_is_read_whole() {
        let (mut client, mut conn, _dyno) = pair().await;
        client.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let head = conn
            .answer(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nT: 1\r\n\r\n",
            )
            .await;
        assert_eq!(head.target(), "/a");
        let response = client.read_response().await;
        assert_eq!(
            (
                response.status,
                response.reason.as_str(),
                response.text().as_str()
            ),
            (200, "Fine", "abcd")
        );
        assert_eq!(response.chunks, [b"abc".to_vec(), b"d".to_vec()]);
        assert_eq!(response.trailers, [("T".to_owned(), "1".to_owned())]);
        assert_eq!(response.informational.len(), 1);
        assert!(response.open);
        client.assert_open();
    }

    #[tokio::test]
    async fn endings_and_truncation_are_told_apart() {
        let (mut client, mut conn, dyno) = pair().await;
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            .await;
        conn.close().await;
        let broken = client.read_broken_response().await;
        assert_eq!((broken.text().as_str(), broken.open), ("ab", false));

        let mut client = RawClient::connect(dyno.address()).await;
        dyno.accept().await.reset();
        assert_eq!(client.expect_end().await, Ending::Reset);

        let client = RawClient::connect(dyno.address()).await;
        let mut conn = dyno.accept().await;
        client.close().await;
        assert_eq!(conn.expect_end().await, Ending::Closed);
        dyno.assert_not_contacted();
    }

    #[tokio::test]
    async fn a_serving_dyno_keeps_connections_and_counts() {
        let dyno = FakeDyno::respond_with_body(|head, body| {
            let close = if head.target() == "/last" {
                "Connection: close\r\n"
            } else {
                ""
            };
            format!(
                "HTTP/1.1 200 OK\r\n{close}Content-Length: {}\r\n\r\n{}",
                body.len(),
                text(body)
            )
            .into_bytes()
        })
        .await;
        let mut client = RawClient::connect(dyno.address()).await;
        let first = client
            .exchange("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi")
            .await;
        assert_eq!((first.text().as_str(), first.open), ("hi", true));
        let last = client
            .exchange("POST /last HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            .await;
        assert!(!last.open);
        assert_eq!((dyno.connections(), dyno.requests()), (1, 2));
    }
}
