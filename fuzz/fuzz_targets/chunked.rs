//! Chunked bodies: however the bytes arrive, the same content comes out and the body ends at the same byte; and what is passed on
//! is itself a chunked body of the same content in which nothing is left to drop. The first byte is the size of the drips.

#![no_main]

use libfuzzer_sys::fuzz_target;
use router_model::h1::chunked::{BadChunk, ChunkLimits, ChunkedDecoder};
use router_model::h1::{Piece, Step};

#[derive(Debug, Default, PartialEq, Eq)]
struct Walked {
    data: Vec<u8>,
    passed_on: Vec<u8>,
    dropped: usize,
    length: usize,
    done: bool,
}

fuzz_target!(|input: &[u8]| {
    let Some((drip, body)) = input.split_first() else {
        return;
    };
    let whole = walk(body, body.len().max(1));
    let dripped = walk(body, usize::from(*drip).max(1));
    assert_eq!(whole, dripped);
    let Ok(walked) = whole else { return };
    assert_eq!(walked.length, walked.passed_on.len() + walked.dropped);
    if walked.done {
        let again = walk(&walked.passed_on, walked.passed_on.len())
            .expect("what is passed on is well formed");
        assert_eq!(
            (again.done, again.dropped, again.length),
            (true, 0, walked.passed_on.len())
        );
        assert_eq!(again.data, walked.data);
    }
});

fn walk(body: &[u8], drip: usize) -> Result<Walked, BadChunk> {
    let mut decoder = ChunkedDecoder::new(ChunkLimits {
        line: 32,
        trailers: 3,
    });
    let (mut walked, mut end) = (Walked::default(), 0);
    loop {
        match decoder.step(&body[walked.length..end])? {
            Step::Take { piece, len } => {
                assert!(len > 0, "a step that takes nothing would go on for ever");
                let bytes = &body[walked.length..walked.length + len];
                walked.length += len;
                match piece {
                    Piece::Data => walked.data.extend_from_slice(bytes),
                    Piece::Framing | Piece::Trailer => {}
                    Piece::Dropped => walked.dropped += len,
                }
                if piece != Piece::Dropped {
                    walked.passed_on.extend_from_slice(bytes);
                }
            }
            Step::NeedMore if end == body.len() => return Ok(walked),
            Step::NeedMore => end = (end + drip).min(body.len()),
            Step::Done => {
                walked.done = true;
                return Ok(walked);
            }
        }
    }
}
