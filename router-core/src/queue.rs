//! Bytes on their way out, in pieces as they came, so that a head and a body read from two sockets leave in one write;
//! and the pump that moves a body from one side of the router to the other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use router_model::h1::chunked::BadChunk;
use router_model::h1::{BodyDecoder, Piece, Step};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::{poll_read_buf, poll_write_buf};

/// Where a body goes: the queue of an HTTP/1 connection, or an HTTP/2 stream.
pub(crate) trait BodySink {
    /// Bytes queued.
    fn queued(&self) -> usize;

    /// Whether the chunk framing of an HTTP/1 body is to be kept as it came.
    fn takes_framing(&self) -> bool;

    /// Queues bytes of a body of which `content` are content, the others framing.
    fn put_framed(&mut self, bytes: Bytes, content: usize);

    /// The same of bytes that are few enough to be copied.
    fn put_copy(&mut self, bytes: &[u8], content: usize) {
        self.put_framed(Bytes::copy_from_slice(bytes), content);
    }

    /// Queues content.
    fn put(&mut self, content: Bytes);

    /// Adds trailers, as lines of HTTP/1 with their line ends; false when they are too many to be kept until they can be
    /// sent.
    fn put_trailers(&mut self, lines: Bytes) -> bool;

    /// Says that the body has ended; saying it again changes nothing.
    fn end(&mut self);
}

/// Where the bytes of a tunnel go.
pub(crate) trait Outlet {
    /// Writes what is taken of `bytes` at once, behind what is queued, and queues the rest; all, where writing is
    /// another's business.
    ///
    /// # Errors
    /// The other end takes no more.
    fn pass(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        self.sink().put_copy(bytes, bytes.len());
        Ok(())
    }

    /// Where pieces go that are in memory of their own already.
    fn sink(&mut self) -> &mut dyn BodySink;
}

/// Pieces to be written to an HTTP/1 connection.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    pieces: VecDeque<Queued>,
    /// What comes behind them: heads, and small pieces, of which each would cost more than it holds.
    tail: BytesMut,
    tail_content: usize,
    /// Of both.
    length: usize,
    /// Something was written, and the transport may still hold it (TLS does).
    unflushed: bool,
    /// The body in progress is chunked.
    chunked: bool,
    /// Trailers of a body that is chunked here.
    trailers: BytesMut,
    /// Its last chunk is queued.
    ended: bool,
}

#[derive(Debug)]
struct Queued {
    bytes: Bytes,
    /// How many of them are content, not framing.
    content: usize,
}

impl OutQueue {
    /// Queues bytes that are no body.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.put_framed(piece, 0);
    }

    /// Queues a head, which `write` writes.
    pub(crate) fn push_head(&mut self, write: impl FnOnce(&mut BytesMut)) {
        /// Most heads, and a small body.
        const TYPICAL: usize = 1024;
        if self.tail_content > 0 {
            self.seal();
        }
        self.tail.reserve(TYPICAL);
        let before = self.tail.len();
        write(&mut self.tail);
        self.length += self.tail.len() - before;
    }

    /// A head has been queued, whose body is chunked or not.
    pub(crate) fn begin_body(&mut self, chunked: bool) {
        self.chunked = chunked;
        self.ended = false;
        self.trailers.clear();
    }

    /// How much content is still queued; within the first piece, framing counts as sent first.
    pub(crate) fn unsent_content(&self) -> usize {
        self.pieces
            .iter()
            .map(|piece| piece.content.min(piece.bytes.len()))
            .sum::<usize>()
            + self.tail_content.min(self.tail.len())
    }

    /// Makes a piece of the tail.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(Queued {
                content: std::mem::take(&mut self.tail_content).min(self.tail.len()),
                bytes: std::mem::take(&mut self.tail).freeze(),
            });
        }
    }

    /// Takes back what was queued last, until `length` bytes are left.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.seal();
        while self.length > length {
            let Some(mut last) = self.pieces.pop_back() else {
                return;
            };
            self.length -= last.bytes.len();
            if self.length < length {
                last.bytes.truncate(length - self.length);
                self.push(last.bytes);
            }
        }
    }

    /// Whether all of it is with the system.
    pub(crate) fn is_flushed(&self) -> bool {
        self.length == 0 && !self.unflushed
    }

    /// Whether so many bytes are better copied behind what the tail holds: one piece is written with less ado than two.
    fn fits_behind_head(&self, length: usize) -> bool {
        let room = self.tail.capacity() - self.tail.len();
        !self.tail.is_empty() && length <= FEW.min(room)
    }
}

/// So many bytes are copied faster than they are shared.
const FEW: usize = 1024;

impl BodySink for OutQueue {
    fn queued(&self) -> usize {
        self.length
    }

    fn takes_framing(&self) -> bool {
        self.chunked
    }

    fn put_framed(&mut self, bytes: Bytes, content: usize) {
        if bytes.is_empty() {
            return;
        }
        if is_small(&bytes, self.pieces.len()) || self.fits_behind_head(bytes.len()) {
            return self.put_copy(&bytes, content);
        }
        self.length += bytes.len();
        self.seal();
        self.pieces.push_back(Queued { bytes, content });
    }

    fn put_copy(&mut self, bytes: &[u8], content: usize) {
        self.length += bytes.len();
        self.tail.extend_from_slice(bytes);
        self.tail_content += content;
    }

    fn put(&mut self, content: Bytes) {
        let length = content.len();
        if !self.chunked {
            return self.put_framed(content, length);
        }
        // An empty chunk would end the body.
        if length > 0 {
            self.push(Bytes::from(format!("{length:x}\r\n")));
            self.put_framed(content, length);
            self.push(Bytes::from_static(b"\r\n"));
        }
    }

    fn put_trailers(&mut self, lines: Bytes) -> bool {
        self.trailers.extend_from_slice(&lines);
        self.trailers.len() <= MOST_TRAILERS
    }

    fn end(&mut self) {
        if self.chunked && !std::mem::replace(&mut self.ended, true) {
            self.push(Bytes::from_static(b"0\r\n"));
            let trailers = self.trailers.split().freeze();
            self.push(trailers);
            self.push(Bytes::from_static(b"\r\n"));
        }
    }
}

/// Whether a piece is better copied behind others than kept as it is, with so many before it.
pub(crate) fn is_small(piece: &Bytes, pieces: usize) -> bool {
    const SMALL: usize = 512;
    const MANY: usize = 32;
    piece.len() < SMALL && pieces >= MANY
}

impl Buf for OutQueue {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&self.tail, |piece| &piece.bytes)
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let pieces = self.pieces.iter().map(|piece| &piece.bytes[..]);
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        for (slot, piece) in out.iter_mut().zip(pieces.chain(tail)) {
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count.min(self.length);
        while count > 0 {
            let Some(front) = self.pieces.front_mut() else {
                if count < self.tail.len() {
                    self.tail.advance(count);
                } else {
                    (self.tail, self.tail_content) = (BytesMut::new(), 0);
                }
                return;
            };
            if front.bytes.len() > count {
                front.bytes.advance(count);
                return;
            }
            count -= front.bytes.len();
            self.pieces.pop_front();
        }
    }
}

/// How far a body went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// All bytes at hand are understood; more are to come.
    NeedMore,
    /// The queue is full.
    Full,
    /// The body has ended.
    Done,
}

/// Trailers that one message may have where they are kept until its content is out: as much as a response head.
pub(crate) const MOST_TRAILERS: usize = 1024 * 1024;

/// Moves body bytes from `from` to `to` until `to` holds `room` bytes. Adds to `content` the bytes that are content.
pub(crate) fn pump(
    decoder: &mut BodyDecoder,
    from: &mut BytesMut,
    to: &mut dyn BodySink,
    room: usize,
    content: &mut u64,
) -> Result<Pumped, BadChunk> {
    let keep_framing = to.takes_framing();
    // Bytes at the front of `from` that are understood and go out in one piece.
    let mut run = Run::default();
    let mut trailers = BytesMut::new();
    loop {
        if to.queued() + run.length >= room {
            run.put(from, to);
            return Ok(Pumped::Full);
        }
        match decoder.step(from.get(run.length..).unwrap_or_default()) {
            Ok(Step::Take { piece, len }) => {
                if piece == Piece::Data {
                    *content += len as u64;
                    run.content += len;
                }
                if piece == Piece::Data || keep_framing && piece != Piece::Dropped {
                    run.length += len;
                    continue;
                }
                run.put(from, to);
                let taken = from.split_to(len);
                if piece == Piece::Trailer {
                    trailers.extend_from_slice(&taken);
                    if trailers.len() > MOST_TRAILERS {
                        return Err(BadChunk);
                    }
                }
            }
            Ok(step) => {
                run.put(from, to);
                if !trailers.is_empty() && !to.put_trailers(trailers.freeze()) {
                    return Err(BadChunk);
                }
                if step != Step::Done {
                    return Ok(Pumped::NeedMore);
                }
                if !keep_framing {
                    to.end();
                }
                return Ok(Pumped::Done);
            }
            Err(error) => {
                run.put(from, to);
                return Err(error);
            }
        }
    }
}

#[derive(Default)]
struct Run {
    length: usize,
    content: usize,
}

impl Run {
    fn put(&mut self, from: &mut BytesMut, to: &mut dyn BodySink) {
        let run = std::mem::take(self);
        if run.length == 0 {
            return;
        }
        match from.get(..run.length) {
            Some(few) if run.length <= FEW => {
                to.put_copy(few, run.content);
                from.advance(run.length);
            }
            _ => to.put_framed(from.split_to(run.length).freeze(), run.content),
        }
    }
}

/// What a read is given first: room for a head, or for most bodies.
const FIRST_READ: usize = 16 * 1024;

/// What it is given once a read has filled that: most of a long body's cost is that of reads and writes, however much they
/// move.
const LONG_READ: usize = 256 * 1024;

/// As much as a tunnel passes on in one go.
const SCRATCH_SIZE: usize = 64 * 1024;

thread_local! {
    /// First reads go here, and only what came is copied to memory of its own: that nothing comes, or little, is the
    /// rule, and a buffer for each would cost more than the copy. What a tunnel brings goes on from here.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_SIZE].into());
}

/// Reads into `buffer`; whether what comes is `long`, so that reads are worth more memory, shows by and by.
pub(crate) fn poll_read_some<R: AsyncRead + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    long: &mut bool,
) -> Poll<io::Result<usize>> {
    if *long {
        if buffer.capacity() - buffer.len() < LONG_READ / 4 {
            buffer.reserve(LONG_READ);
        }
        return poll_read_buf(Pin::new(io), cx, buffer);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut into = ReadBuf::new(scratch.get_mut(..FIRST_READ).unwrap_or_default());
        ready!(Pin::new(io).poll_read(cx, &mut into))?;
        let came = into.filled();
        *long = came.len() == FIRST_READ;
        buffer.extend_from_slice(came);
        Poll::Ready(Ok(came.len()))
    })
}

/// Reads what `buffer` and `io` have for a tunnel, and passes it to `to`; 0 is the end. No memory is taken for what `to`
/// takes at once.
pub(crate) fn poll_pass<R: AsyncRead + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    to: &mut dyn Outlet,
) -> Poll<io::Result<usize>> {
    if !buffer.is_empty() {
        let came = std::mem::take(buffer);
        to.pass(cx, &came)?;
        return Poll::Ready(Ok(came.len()));
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut into = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut into))?;
        let came = into.filled();
        if !came.is_empty() {
            to.pass(cx, came)?;
        }
        Poll::Ready(Ok(came.len()))
    })
}

/// [`Outlet::pass`] of a connection.
pub(crate) fn write_or_queue<W: AsyncWrite + Unpin>(
    io: &mut W,
    cx: &mut Context<'_>,
    queue: &mut OutQueue,
    bytes: &[u8],
) -> io::Result<()> {
    let mut rest = bytes;
    if queue.length == 0
        && let Poll::Ready(written) = Pin::new(&mut *io).poll_write(cx, bytes)
    {
        rest = match written? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes.get(written..).unwrap_or_default(),
        };
        queue.unflushed = true;
    }
    if !rest.is_empty() {
        queue.put_copy(rest, rest.len());
    } else if queue.unflushed {
        queue.unflushed = Pin::new(io).poll_flush(cx)?.is_pending();
    }
    Ok(())
}

/// Writes some of `queue`, and flushes once all of it is written; a peer that takes nothing of something is gone.
pub(crate) fn poll_write_queue<W: AsyncWrite + Unpin>(
    io: &mut W,
    cx: &mut Context<'_>,
    queue: &mut OutQueue,
) -> Poll<io::Result<()>> {
    if queue.length == 0 {
        if queue.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            queue.unflushed = false;
        }
        return Poll::Ready(Ok(()));
    }
    let written = if queue.pieces.is_empty() {
        let written = ready!(Pin::new(io).poll_write(cx, &queue.tail))?;
        queue.advance(written);
        written
    } else {
        ready!(poll_write_buf(Pin::new(io), cx, queue))?
    };
    match written {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        _ => {
            queue.unflushed = true;
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    use router_model::h1::Framing;
    use router_model::h1::chunked::ChunkLimits;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn decoder(framing: Framing) -> BodyDecoder {
        BodyDecoder::new(
            framing,
            ChunkLimits {
                line: 100,
                trailers: 10,
            },
        )
    }

    fn drain(queue: &mut OutQueue) -> Vec<u8> {
        let mut out = Vec::new();
        while queue.has_remaining() {
            let step = queue.chunk().len().min(3);
            out.extend_from_slice(&queue.chunk()[..step]);
            queue.advance(step);
        }
        assert_eq!(queue.queued(), 0);
        out
    }

    #[test]
    fn a_body_is_passed_on_or_stripped() {
        for (framing, body, keep, out, content, rest) in [
            (Framing::Length(3), "abcGET", true, "abc", 3, "GET"),
            (
                Framing::Chunked,
                "2;x\r\nab\r\n1\r\nc\r\n0\r\n\r\nGET",
                true,
                "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
                3,
                "GET",
            ),
            (
                Framing::Chunked,
                "2;x\r\nab\r\n1\r\nc\r\n0\r\nA: b\r\n\r\n",
                false,
                "abc",
                3,
                "",
            ),
        ] {
            let (mut from, mut to, mut count) = (BytesMut::from(body), OutQueue::default(), 0);
            to.begin_body(keep && framing == Framing::Chunked);
            let pumped = pump(&mut decoder(framing), &mut from, &mut to, 1000, &mut count).unwrap();
            assert_eq!((pumped, count), (Pumped::Done, content), "{body:?}");
            assert_eq!(drain(&mut to), out.as_bytes());
            assert_eq!(&from[..], rest.as_bytes());
        }
    }

    #[test]
    fn what_was_queued_last_can_be_taken_back() {
        let mut queue = OutQueue::default();
        for piece in [&b"100"[..], b"head", b"body"] {
            queue.push(Bytes::copy_from_slice(piece));
        }
        queue.truncate(5);
        assert_eq!((queue.queued(), drain(&mut queue)), (5, b"100he".to_vec()));
    }

    #[test]
    fn many_small_pieces_become_few() {
        let mut queue = OutQueue::default();
        for _ in 0..10_000 {
            queue.put_framed(Bytes::from_static(b"1\r\na\r\n"), 1);
        }
        assert_eq!((queue.queued(), queue.unsent_content()), (60_000, 10_000));
        assert!(queue.pieces.len() < 100);
        assert_eq!(drain(&mut queue), b"1\r\na\r\n".repeat(10_000));
    }

    #[test]
    fn endless_trailers_are_not_kept() {
        let line = format!("a: {}\r\n", "x".repeat(90));
        let body = format!("0\r\n{}\r\n", line.repeat(20_000));
        let limits = ChunkLimits {
            line: 100,
            trailers: usize::MAX,
        };
        let mut decoder = BodyDecoder::new(Framing::Chunked, limits);
        let (mut from, mut to, mut count) =
            (BytesMut::from(body.as_bytes()), OutQueue::default(), 0);
        let pumped = pump(&mut decoder, &mut from, &mut to, usize::MAX, &mut count);
        assert_eq!(pumped, Err(BadChunk));
    }

    #[test]
    fn a_full_queue_stops_the_body() {
        let (mut from, mut to, mut count) = (BytesMut::from("0123456789"), OutQueue::default(), 0);
        let mut decoder = decoder(Framing::UntilClose);
        to.push(Bytes::from_static(b"head"));
        assert_eq!(
            pump(&mut decoder, &mut from, &mut to, 20, &mut count).unwrap(),
            Pumped::NeedMore
        );
        from.extend_from_slice(b"0123456789");
        assert_eq!(
            pump(&mut decoder, &mut from, &mut to, 8, &mut count).unwrap(),
            Pumped::Full
        );
    }

    #[tokio::test]
    async fn what_a_peer_does_not_take_at_once_is_queued_and_kept_in_order() {
        let (mut near, mut far) = tokio::io::duplex(8);
        let mut queue = OutQueue::default();
        std::future::poll_fn(|cx| {
            for bytes in ["01", "23456789", "ab"] {
                write_or_queue(&mut near, cx, &mut queue, bytes.as_bytes()).unwrap();
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!((queue.queued(), queue.unsent_content()), (4, 4));
        let mut got = [0; 12];
        tokio::join!(
            async {
                while !queue.is_flushed() {
                    let write = |cx: &mut Context<'_>| poll_write_queue(&mut near, cx, &mut queue);
                    std::future::poll_fn(write).await.unwrap();
                }
            },
            async {
                far.read_exact(&mut got).await.unwrap();
            }
        );
        assert_eq!(&got, b"0123456789ab");
    }

    #[tokio::test]
    async fn a_tunnel_goes_on_with_what_was_read_before_it_began() {
        let (mut from, mut source) = tokio::io::duplex(100);
        let (mut near, mut far) = tokio::io::duplex(100);
        let mut to = Through(&mut near, OutQueue::default());
        let mut buffer = BytesMut::from("early ");
        source.write_all(b"late").await.unwrap();
        drop(source);
        for expected in [6, 4, 0] {
            let pass = |cx: &mut Context<'_>| poll_pass(&mut from, cx, &mut buffer, &mut to);
            assert_eq!(std::future::poll_fn(pass).await.unwrap(), expected);
        }
        drop(near);
        let mut got = String::new();
        far.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "early late");
    }

    struct Through<'a>(&'a mut tokio::io::DuplexStream, OutQueue);

    impl Outlet for Through<'_> {
        fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
            write_or_queue(self.0, cx, &mut self.1, bytes)
        }

        fn sink(&mut self) -> &mut dyn BodySink {
            &mut self.1
        }
    }
}
