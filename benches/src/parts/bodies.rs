//! The walk over 16 KiB of a body, as the pump between the two sides asks for it: with a length, in chunks of 1 KiB, in
//! chunks of 16 bytes.

use std::hint::black_box;

use router_core::model::h1::chunked::ChunkLimits;
use router_core::model::h1::{BodyDecoder, Framing, Piece, Step};

use super::Part;

const BODY: usize = 16 * 1024;

pub(super) fn all() -> Vec<Part> {
    [
        ("body/length", Framing::Length(BODY as u64), 0),
        ("body/chunks-of-1024", Framing::Chunked, 1024),
        ("body/chunks-of-16", Framing::Chunked, 16),
    ]
    .map(|(name, framing, chunk)| Part::new(name, move || walk(framing, chunk)).bytes(BODY))
    .into()
}

fn walk(framing: Framing, chunk: usize) -> impl FnMut() {
    let body = if chunk == 0 {
        vec![b'x'; BODY]
    } else {
        let piece = format!("{chunk:x}\r\n{}\r\n", "x".repeat(chunk));
        (piece.repeat(BODY / chunk) + "0\r\n\r\n").into_bytes()
    };
    let limits = ChunkLimits {
        line: 1000,
        trailers: 100,
    };
    move || {
        let mut decoder = BodyDecoder::new(framing, limits);
        let (mut left, mut content) = (black_box(&*body), 0);
        while let Step::Take { piece, len } = decoder.step(left).unwrap() {
            if piece == Piece::Data {
                content += len;
            }
            left = left.split_at(len).1;
        }
        assert_eq!(content, BODY);
    }
}
