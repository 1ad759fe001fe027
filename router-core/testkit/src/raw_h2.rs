//! An HTTP/2 client that sends exactly the frames it is given, right or wrong, and shows every frame it gets.

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::DEADLINE;
use crate::h2_frame::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2Frame, HEADERS, PING,
    RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::h2_response::H2Response;
use crate::tls_dialer::{TlsDialer, TlsFacts};
use crate::wire::{Ending, Read, Short, Wire, in_time, within};

/// One connection. SETTINGS and PING of the router are answered while frames are read, as they must be; nothing else
/// happens on its own, and in particular windows open only when told to.
pub struct RawH2 {
    wire: Wire,
    /// Frames that were read while another was looked for.
    waiting: VecDeque<H2Frame>,
    settings: Vec<(u16, u32)>,
    answers: bool,
}

/// The settings of a client that keeps no dynamic table (this one cannot decode from one) and wants no push.
const NO_TABLE_NO_PUSH: [(u16, u32); 2] = [(0x1, 0), (0x2, 0)];

impl RawH2 {
    /// Connects with prior knowledge and exchanges SETTINGS.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[]).await
    }

    /// The same with further settings.
    pub async fn connect_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = within(DEADLINE, TcpStream::connect(address)).await;
        let stream = stream.expect("connecting in time").expect("connect");
        Self::start(Wire::new(stream), settings).await
    }

    /// Connects over TLS and exchanges SETTINGS; panics when the router does not choose `h2`.
    pub async fn connect_tls(address: SocketAddr, dialer: &TlsDialer) -> Self {
        Self::connect_tls_with(address, dialer, &[]).await
    }

    /// The same with further settings.
    pub async fn connect_tls_with(
        address: SocketAddr,
        dialer: &TlsDialer,
        settings: &[(u16, u32)],
    ) -> Self {
        let dialer = dialer.clone().alpn(&["h2"]);
        let io = dialer.dial(address).await.expect("TLS with the router");
        let facts = TlsFacts::of(&io).expect("TLS");
        assert_eq!(facts.alpn.as_deref(), Some("h2"), "{facts:?}");
        Self::start(Wire::over(io), settings).await
    }

    async fn start(wire: Wire, settings: &[(u16, u32)]) -> Self {
        let mut client = Self {
            wire,
            waiting: VecDeque::new(),
            settings: Vec::new(),
            answers: true,
        };
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client
            .settings(&[&NO_TABLE_NO_PUSH, settings].concat())
            .await;
        let first = client.frame().await;
        let H2Frame::Settings { ack: false, values } = first else {
            panic!("not SETTINGS first: {first:?}");
        };
        client.settings = values;
        client
    }

    /// The value of a setting that the router sent in its first SETTINGS.
    pub fn setting(&self, identifier: u16) -> Option<u32> {
        let of = |entry: &&(u16, u32)| entry.0 == identifier;
        self.settings.iter().rev().find(of).map(|entry| entry.1)
    }

    /// From now on leaves SETTINGS and PING of the router unanswered.
    pub fn answer_nothing(&mut self) {
        self.answers = false;
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let taken = self.try_send(bytes).await;
        assert!(taken, "the router ended the connection");
    }

    /// Sends bytes to a router that may have ended the connection; true when it took all of them. What the router sends
    /// meanwhile is taken in, so that neither waits for the other.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.write_while_reading(bytes.as_ref()).await
    }

    /// Sends a frame as it is.
    pub async fn send_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(h2_frame::bytes(kind, flags, stream, payload))
            .await;
    }

    /// HEADERS in one frame: a request, or trailers.
    pub async fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        let block = h2_frame::block(fields);
        self.send_frame(HEADERS, flags, stream, &block).await;
    }

    /// The same, cut into HEADERS and CONTINUATION frames of at most `size` bytes.
    pub async fn headers_in_pieces(
        &mut self,
        stream: u32,
        fields: &[(&str, &str)],
        end: bool,
        size: usize,
    ) {
        let block = h2_frame::block(fields);
        let last = block.len().div_ceil(size) - 1;
        let mut frames = Vec::new();
        for (at, piece) in block.chunks(size).enumerate() {
            let (kind, start) = match at {
                0 => (HEADERS, if end { END_STREAM } else { 0 }),
                _ => (CONTINUATION, 0),
            };
            let flags = start | if at == last { END_HEADERS } else { 0 };
            frames.extend(h2_frame::bytes(kind, flags, stream, piece));
        }
        self.send(frames).await;
    }

    /// DATA.
    pub async fn data(&mut self, stream: u32, data: impl AsRef<[u8]>, end: bool) {
        let flags = if end { END_STREAM } else { 0 };
        self.send_frame(DATA, flags, stream, data.as_ref()).await;
    }

    /// RST_STREAM.
    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.send_frame(RST_STREAM, 0, stream, &code.to_be_bytes())
            .await;
    }

    /// SETTINGS.
    pub async fn settings(&mut self, values: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (identifier, value) in values {
            payload.extend_from_slice(&identifier.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.send_frame(SETTINGS, 0, 0, &payload).await;
    }

    /// PING.
    pub async fn ping(&mut self, payload: [u8; 8]) {
        self.send_frame(PING, 0, 0, &payload).await;
    }

    /// WINDOW_UPDATE of a stream, or of the connection (0).
    pub async fn window_update(&mut self, stream: u32, by: u32) {
        self.send_frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
            .await;
    }

    /// GOAWAY.
    pub async fn go_away(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.send_frame(GOAWAY, 0, 0, &payload).await;
    }

    /// The next frame, whatever it is.
    pub async fn frame(&mut self) -> H2Frame {
        if let Some(frame) = self.waiting.pop_front() {
            return frame;
        }
        let read = in_time(self.read()).await;
        self.wire.expect("frame", read)
    }

    /// The next frame that `wanted` gives something for; the others wait for their turn.
    pub async fn find<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&H2Frame) -> Option<T>,
    ) -> T {
        let waiting = self
            .waiting
            .iter()
            .position(|frame| wanted(frame).is_some());
        if let Some(at) = waiting {
            let frame = self.waiting.remove(at).unwrap();
            return wanted(&frame).unwrap();
        }
        loop {
            let read = in_time(self.read()).await;
            let frame = self.wire.expect(what, read);
            if let Some(found) = wanted(&frame) {
                return found;
            }
            self.waiting.push_back(frame);
        }
    }

    /// The next HEADERS, DATA or RST_STREAM of a stream.
    pub async fn frame_of(&mut self, stream: u32) -> H2Frame {
        self.find(&format!("frame of stream {stream}"), |frame| {
            let passes = matches!(
                frame,
                H2Frame::Headers { .. } | H2Frame::Data { .. } | H2Frame::Reset { .. }
            );
            (passes && frame.stream() == stream).then(|| frame.clone())
        })
        .await
    }

    /// The response on a stream, to its end or its reset. Opens the windows as it reads.
    pub async fn response(&mut self, stream: u32) -> H2Response {
        let mut response = H2Response::default();
        loop {
            let ended = match self.frame_of(stream).await {
                H2Frame::Headers {
                    mut fields, end, ..
                } => {
                    let status = fields.iter().position(|field| field.0 == ":status");
                    let status = status.map(|at| fields.remove(at).1.parse().expect("a status"));
                    match status {
                        Some(interim @ 100..200) => response.informational.push((interim, fields)),
                        Some(status) => (response.status, response.headers) = (status, fields),
                        None => response.trailers = fields,
                    }
                    end
                }
                H2Frame::Data { data, end, .. } => {
                    if !data.is_empty() {
                        let by = u32::try_from(data.len()).unwrap();
                        let updates = [
                            h2_frame::bytes(WINDOW_UPDATE, 0, 0, &by.to_be_bytes()),
                            h2_frame::bytes(WINDOW_UPDATE, 0, stream, &by.to_be_bytes()),
                        ];
                        self.try_send(updates.concat()).await;
                    }
                    response.body.extend(data);
                    end
                }
                H2Frame::Reset { code, .. } => {
                    response.reset = Some(code);
                    true
                }
                other => unreachable!("{other:?}"),
            };
            if ended {
                return response;
            }
        }
    }

    /// Sends a request without a body and reads the response.
    pub async fn exchange(&mut self, stream: u32, fields: &[(&str, &str)]) -> H2Response {
        self.headers(stream, fields, true).await;
        self.response(stream).await
    }

    /// The next GOAWAY: the last stream and the error code.
    pub async fn expect_go_away(&mut self) -> (u32, u32) {
        self.find("GOAWAY", |frame| match frame {
            H2Frame::GoAway { last, code, .. } => Some((*last, *code)),
            _ => None,
        })
        .await
    }

    /// The next RST_STREAM of a stream: its code.
    pub async fn expect_reset(&mut self, stream: u32) -> u32 {
        self.find("RST_STREAM", |frame| match frame {
            H2Frame::Reset { stream: of, code } if *of == stream => Some(*code),
            _ => None,
        })
        .await
    }

    /// A PING and its answer: everything that the router sent before it is read (and waits), and it has taken in
    /// everything sent before.
    pub async fn round_trip(&mut self) {
        const MARK: [u8; 8] = *b"mark....";
        self.ping(MARK).await;
        self.find("answer to a PING", |frame| {
            let expected = H2Frame::Ping {
                ack: true,
                payload: MARK.to_vec(),
            };
            (*frame == expected).then_some(())
        })
        .await;
    }

    /// Takes the frames that were read and not asked for.
    pub fn take_waiting(&mut self) -> Vec<H2Frame> {
        self.waiting.drain(..).collect()
    }

    /// Every frame until the router ends the connection, and how it ended it.
    pub async fn read_until_end(&mut self) -> (Vec<H2Frame>, Ending) {
        let mut frames = self.take_waiting();
        loop {
            match in_time(self.read()).await {
                Some(Ok(frame)) => frames.push(frame),
                Some(Err(Short::Ended(ending))) => return (frames, ending),
                other => {
                    self.wire.expect("end of the connection", other);
                }
            }
        }
    }

    /// FIN (after the closing alert of TLS), while reading goes on.
    pub async fn half_close(&mut self) {
        self.wire.half_close().await;
    }

    /// FIN and gone.
    pub async fn close(self) {
        self.wire.close().await;
    }

    /// RST of the TCP connection.
    pub fn cut(self) {
        self.wire.reset();
    }

    async fn read(&mut self) -> Read<H2Frame> {
        let (kind, mut flags, stream, mut payload) = self.read_one().await?;
        while kind == HEADERS && flags & END_HEADERS == 0 {
            let (next, more, of, piece) = self.read_one().await?;
            if (next, of) != (CONTINUATION, stream) {
                return Err(Short::Malformed(format!("frame {next} inside a block")));
            }
            flags |= more & END_HEADERS;
            payload.extend(piece);
        }
        let frame = H2Frame::read(kind, flags, stream, &payload);
        let answer = match &frame {
            H2Frame::Settings { ack: false, .. } => Some(h2_frame::bytes(SETTINGS, ACK, 0, &[])),
            H2Frame::Ping {
                ack: false,
                payload,
            } => Some(h2_frame::bytes(PING, ACK, 0, payload)),
            _ => None,
        };
        if let Some(answer) = answer.filter(|_| self.answers) {
            // A router that is gone needs no answer.
            self.wire.write_while_reading(&answer).await;
        }
        Ok(frame)
    }

    async fn read_one(&mut self) -> Read<(u8, u8, u32, Vec<u8>)> {
        let head = self.wire.exactly(9).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & (u32::MAX >> 1);
        let payload = self.wire.exactly(length).await?;
        Ok((head[3], head[4], stream, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{H2Dyno, TestCa};

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/x?y"),
    ];

    #[tokio::test]
    async fn frames_go_out_as_given_and_come_back_as_sent() {
        let certificate = TestCa::new("root").certificate(&["a.test"]);
        let mut dyno = H2Dyno::start_tls_with(&certificate, |settings| {
            settings.max_concurrent_streams(7);
        })
        .await;
        let dialer = TlsDialer::trusting_anyone("a.test");
        let mut client = RawH2::connect_tls(dyno.address(), &dialer).await;
        assert_eq!(client.setting(0x3), Some(7));
        client.headers_in_pieces(1, &GET, false, 5).await;
        client.data(1, "up", false).await;
        client.headers(1, &[("t", "1")], true).await;
        let mut call = dyno.call().await;
        assert_eq!(
            (call.method(), call.path(), call.authority(), call.sni()),
            ("GET", "/x?y", Some("a.test"), Some("a.test"))
        );
        assert_eq!(call.body().await, b"up");
        assert_eq!(call.trailers().await, [("t".to_owned(), "1".to_owned())]);
        call.interim(103, &[("link", "l")]);
        call.respond(200, &[("a", "1"), ("a", "2"), ("huff-man", "x^y~z")], false);
        let sending = async {
            call.send(vec![b'.'; 100_000], false).await;
            call.send_trailers(&[("grpc-status", "0")]);
        };
        let (response, ()) = tokio::join!(client.response(1), sending);
        let response = response.whole();
        assert_eq!(response.status, 200);
        assert_eq!(response.informational[0].0, 103);
        assert_eq!(
            (response.all("a"), response.header("huff-man")),
            (vec!["1", "2"], Some("x^y~z"))
        );
        assert_eq!(
            (response.body.len(), response.trailer("grpc-status")),
            (100_000, Some("0"))
        );
    }

    #[tokio::test]
    async fn resets_errors_and_endings_are_seen() {
        let mut dyno = H2Dyno::start().await;
        let mut client = RawH2::connect(dyno.address()).await;
        client.headers(1, &GET, true).await;
        dyno.call().await.reset(h2::Reason::REFUSED_STREAM);
        assert_eq!(client.expect_reset(1).await, 7);
        client.headers(3, &GET, false).await;
        let mut call = dyno.call().await;
        client.reset(3, 8).await;
        assert_eq!(call.try_data().await, Err(8));
        client.headers(5, &GET, true).await;
        let mut last = dyno.call().await;
        last.go_away();
        assert_eq!(client.expect_go_away().await.1, 0);
        last.answer(200, "bye").await;
        assert_eq!(client.response(5).await.whole().text(), "bye");
        let (_, ending) = client.read_until_end().await;
        assert_eq!(ending, Ending::Closed);

        let mut client = RawH2::connect(dyno.address()).await;
        client
            .headers(1, &[(":method", "GET"), ("connection", "x")], true)
            .await;
        assert_eq!(client.expect_reset(1).await, 1, "PROTOCOL_ERROR");
        client.data(0, "", false).await;
        assert_eq!(client.expect_go_away().await.1, 1);
        dyno.assert_no_call();
    }
}
