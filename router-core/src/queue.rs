//! Bytes on their way out, in pieces as they came, so that a head and a body read from two sockets leave in one write.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use router_model::h1::chunked::BadChunk;
use router_model::h1::{BodyDecoder, Piece, Step};

/// Pieces to be written.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    pieces: VecDeque<Queued>,
    length: usize,
}

#[derive(Debug)]
struct Queued {
    bytes: Bytes,
    /// How many of them are content, not framing.
    content: usize,
}

impl OutQueue {
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.push_body(piece, 0);
    }

    fn push_body(&mut self, bytes: Bytes, content: usize) {
        if !bytes.is_empty() {
            self.length += bytes.len();
            self.pieces.push_back(Queued { bytes, content });
        }
    }

    /// How much content is still queued; within the first piece, framing counts as sent first.
    pub(crate) fn unsent_content(&self) -> usize {
        self.pieces
            .iter()
            .map(|piece| piece.content.min(piece.bytes.len()))
            .sum()
    }

    /// Takes back what was queued last, until `length` bytes are left.
    pub(crate) fn truncate(&mut self, length: usize) {
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

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Buf for OutQueue {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece.bytes)
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, piece) in out.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(&piece.bytes);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count.min(self.length);
        while count > 0 {
            let Some(front) = self.pieces.front_mut() else {
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

/// Moves body bytes from `from` to `to` until `to` holds `room` bytes. `keep_framing`: pass chunk sizes and trailers on
/// as they came. Adds to `content` the bytes that are content.
pub(crate) fn pump(
    decoder: &mut BodyDecoder,
    from: &mut BytesMut,
    to: &mut OutQueue,
    room: usize,
    keep_framing: bool,
    content: &mut u64,
) -> Result<Pumped, BadChunk> {
    // Bytes at the front of `from` that are understood and go out in one piece.
    let mut run = 0;
    let mut run_content = 0;
    loop {
        if to.len() + run >= room {
            to.push_body(from.split_to(run).freeze(), run_content);
            return Ok(Pumped::Full);
        }
        match decoder.step(from.get(run..).unwrap_or_default()) {
            Ok(Step::Take { piece, len }) => {
                let pass = match piece {
                    Piece::Data => {
                        *content += len as u64;
                        run_content += len;
                        true
                    }
                    Piece::Framing | Piece::Trailer => keep_framing,
                    Piece::Dropped => false,
                };
                if pass {
                    run += len;
                } else {
                    to.push_body(
                        from.split_to(run).freeze(),
                        std::mem::take(&mut run_content),
                    );
                    run = 0;
                    from.advance(len);
                }
            }
            Ok(step) => {
                to.push_body(from.split_to(run).freeze(), run_content);
                return Ok(if step == Step::Done {
                    Pumped::Done
                } else {
                    Pumped::NeedMore
                });
            }
            Err(error) => {
                to.push_body(from.split_to(run).freeze(), run_content);
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use router_model::h1::Framing;
    use router_model::h1::chunked::ChunkLimits;

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
        assert_eq!(queue.len(), 0);
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
            let pumped = pump(
                &mut decoder(framing),
                &mut from,
                &mut to,
                1000,
                keep,
                &mut count,
            )
            .unwrap();
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
        assert_eq!((queue.len(), drain(&mut queue)), (5, b"100he".to_vec()));
    }

    #[test]
    fn a_full_queue_stops_the_body() {
        let (mut from, mut to, mut count) = (BytesMut::from("0123456789"), OutQueue::default(), 0);
        let mut decoder = decoder(Framing::UntilClose);
        to.push(Bytes::from_static(b"head"));
        assert_eq!(
            pump(&mut decoder, &mut from, &mut to, 20, true, &mut count).unwrap(),
            Pumped::NeedMore
        );
        from.extend_from_slice(b"0123456789");
        assert_eq!(
            pump(&mut decoder, &mut from, &mut to, 8, true, &mut count).unwrap(),
            Pumped::Full
        );
    }
}
