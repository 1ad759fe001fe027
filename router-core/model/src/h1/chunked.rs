//! Walks over a chunked body (RFC 9112 §7.1) and says what each run of bytes is, so that the caller can pass the
//! framing on as it came, count the data, or strip the framing for an HTTP/1.0 client. Chunk extensions and unwelcome
//! trailers are marked as dropped.

use super::field::FieldId;
use super::head::parse_field;

/// What a run of body bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Chunk sizes and line ends: passed on where the other side is chunked too.
    Framing,
    /// One trailer line with its line end.
    Trailer,
    /// Content.
    Data,
    /// Passed on to nobody: chunk extensions, forbidden trailers.
    Dropped,
}

/// The decoder's next move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next `len` bytes are one piece; take them and call again.
    Take {
        /// What they are.
        piece: Piece,
        /// How many, at least one.
        len: usize,
    },
    /// More bytes are needed.
    NeedMore,
    /// The body has ended; what follows belongs to the next message.
    Done,
}

/// The body breaks the chunked coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked coding is broken")]
pub struct BadChunk;

/// Limits of a chunked body's lines, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct ChunkLimits {
    /// One trailer line, and the extensions of one chunk.
    pub line: usize,
    /// Number of trailer lines.
    pub trailers: usize,
}

/// The state of one chunked body.
#[derive(Debug, Clone)]
pub struct ChunkedDecoder {
    state: State,
    limits: ChunkLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { digits: u8, size: u64 },
    Extension { size: u64, length: usize },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataEnd,
    DataLineFeed,
    Trailer { count: usize },
    Done,
}

/// Sixteen hex digits fill a u64; leading zeros count, so that a size line has a bound.
const MOST_DIGITS: u8 = 16;

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            state: State::Size { digits: 0, size: 0 },
            limits,
        }
    }

    /// What the first bytes of `buffer` are.
    ///
    /// # Errors
    /// [`BadChunk`] at the first byte that breaks the coding.
    pub fn step(&mut self, buffer: &[u8]) -> Result<Step, BadChunk> {
        if self.state == State::Done {
            return Ok(Step::Done);
        }
        let Some(first) = buffer.first() else {
            return Ok(Step::NeedMore);
        };
        match self.state {
            State::Size { .. } => self.size_line(buffer),
            State::Extension { size, length } => self.extension(buffer, size, length),
            State::SizeLineFeed { size } => {
                self.state = if size == 0 {
                    State::Trailer { count: 0 }
                } else {
                    State::Data { left: size }
                };
                expect(*first, b'\n')
            }
            State::Data { left } => {
                let len = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let left = left - len as u64;
                self.state = if left == 0 {
                    State::DataEnd
                } else {
                    State::Data { left }
                };
                Ok(Step::Take {
                    piece: Piece::Data,
                    len,
                })
            }
            State::DataEnd => {
                self.state = State::DataLineFeed;
                expect(*first, b'\r')
            }
            State::DataLineFeed => {
                self.state = State::Size { digits: 0, size: 0 };
                expect(*first, b'\n')
            }
            State::Trailer { count } => self.trailer(buffer, count),
            State::Done => Ok(Step::Done),
        }
    }

    /// Hex digits up to the CR or the first extension.
    fn size_line(&mut self, buffer: &[u8]) -> Result<Step, BadChunk> {
        let State::Size {
            mut digits,
            mut size,
        } = self.state
        else {
            return Err(BadChunk);
        };
        let mut len = 0;
        for byte in buffer {
            let Some(digit) = (*byte as char).to_digit(16) else {
                if digits == 0 {
                    return Err(BadChunk);
                }
                return match byte {
                    b'\r' => {
                        self.state = State::SizeLineFeed { size };
                        Ok(Step::Take {
                            piece: Piece::Framing,
                            len: len + 1,
                        })
                    }
                    b';' => {
                        self.state = State::Extension { size, length: 0 };
                        // With no digit in this run there is nothing to pass on, and the extension is taken at once.
                        if len == 0 {
                            self.extension(buffer, size, 0)
                        } else {
                            Ok(Step::Take {
                                piece: Piece::Framing,
                                len,
                            })
                        }
                    }
                    _ => Err(BadChunk),
                };
            };
            digits += 1;
            if digits > MOST_DIGITS {
                return Err(BadChunk);
            }
            size = size << 4 | u64::from(digit);
            len += 1;
        }
        self.state = State::Size { digits, size };
        Ok(Step::Take {
            piece: Piece::Framing,
            len,
        })
    }

    /// Everything up to the CR is dropped; a bare LF or another control byte ends the exchange.
    fn extension(&mut self, buffer: &[u8], size: u64, length: usize) -> Result<Step, BadChunk> {
        let run = buffer
            .iter()
            .take_while(|byte| **byte >= b' ' && **byte != 0x7f || **byte == b'\t')
            .count();
        if length + run > self.limits.line {
            return Err(BadChunk);
        }
        if run > 0 {
            self.state = State::Extension {
                size,
                length: length + run,
            };
            return Ok(Step::Take {
                piece: Piece::Dropped,
                len: run,
            });
        }
        self.state = State::SizeLineFeed { size };
        expect(buffer.first().copied().unwrap_or_default(), b'\r')
    }

    /// A whole trailer line, or the empty line that ends the body.
    fn trailer(&mut self, buffer: &[u8], count: usize) -> Result<Step, BadChunk> {
        let Some(newline) = memchr::memchr(b'\n', buffer) else {
            let over = buffer.len() > self.limits.line.saturating_add(1);
            return if over {
                Err(BadChunk)
            } else {
                Ok(Step::NeedMore)
            };
        };
        let line = buffer
            .get(..newline)
            .and_then(|line| line.strip_suffix(b"\r"))
            .ok_or(BadChunk)?;
        let len = newline + 1;
        if line.is_empty() {
            self.state = State::Done;
            return Ok(Step::Take {
                piece: Piece::Framing,
                len,
            });
        }
        if line.len() > self.limits.line || count >= self.limits.trailers {
            return Err(BadChunk);
        }
        let field = parse_field(line).map_err(|_| BadChunk)?;
        self.state = State::Trailer { count: count + 1 };
        let piece = if FieldId::allowed_in_trailer(field.id) {
            Piece::Trailer
        } else {
            Piece::Dropped
        };
        Ok(Step::Take { piece, len })
    }
}

fn expect(seen: u8, wanted: u8) -> Result<Step, BadChunk> {
    if seen == wanted {
        Ok(Step::Take {
            piece: Piece::Framing,
            len: 1,
        })
    } else {
        Err(BadChunk)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Walked {
        data: Vec<u8>,
        framing: Vec<u8>,
        passed: Vec<u8>,
        rest: usize,
        done: bool,
    }

    fn walk(body: &[u8], piece_size: usize) -> Result<Walked, BadChunk> {
        let mut decoder = ChunkedDecoder::new(ChunkLimits {
            line: 64,
            trailers: 3,
        });
        let mut walked = Walked {
            data: vec![],
            framing: vec![],
            passed: vec![],
            rest: 0,
            done: false,
        };
        let (mut at, mut end) = (0, 0);
        loop {
            match decoder.step(&body[at..end])? {
                Step::Take { piece, len } => {
                    let bytes = &body[at..at + len];
                    match piece {
                        Piece::Data => walked.data.extend_from_slice(bytes),
                        Piece::Framing | Piece::Trailer => walked.framing.extend_from_slice(bytes),
                        Piece::Dropped => {}
                    }
                    if piece != Piece::Dropped {
                        walked.passed.extend_from_slice(bytes);
                    }
                    at += len;
                }
                Step::NeedMore if end < body.len() => end = (end + piece_size).min(body.len()),
                Step::NeedMore => break,
                Step::Done => {
                    walked.done = true;
                    break;
                }
            }
        }
        walked.rest = body.len() - at;
        Ok(walked)
    }

    #[test]
    fn bodies_are_walked_whatever_the_pieces() {
        for (body, data, passed, rest) in [
            ("0\r\n\r\n", "", "0\r\n\r\n", 0),
            (
                "3\r\nabc\r\n0\r\n\r\nGET",
                "abc",
                "3\r\nabc\r\n0\r\n\r\n",
                3,
            ),
            (
                "3;x=\"y\"\r\nabc\r\n0;z\r\n\r\n",
                "abc",
                "3\r\nabc\r\n0\r\n\r\n",
                0,
            ),
            (
                "00A\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
                "0123456789",
                "00A\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
                0,
            ),
            (
                "0\r\nContent-Length: 5\r\nX_Request_Id: 1\r\nA: b\r\n\r\n",
                "",
                "0\r\nA: b\r\n\r\n",
                0,
            ),
        ] {
            for size in [1, 2, 3, 7, 100] {
                let walked = walk(body.as_bytes(), size).unwrap();
                assert_eq!(walked.data, data.as_bytes(), "{body:?} by {size}");
                assert_eq!(walked.passed, passed.as_bytes(), "{body:?} by {size}");
                assert!(walked.done);
                if size == 100 {
                    assert_eq!(walked.rest, rest);
                }
            }
        }
    }

    #[test]
    fn broken_bodies_are_refused() {
        for body in [
            "\r\n",
            "x\r\n",
            "3 \r\nabc\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "-1\r\n",
            "0x3\r\n",
            "+3\r\n",
            "11111111111111111\r\n",
            "00000000000000001\r\n",
            "3;\n",
            "0\r\nbad trailer\r\n\r\n",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\nabc\r\n0\r\n\r\n",
            "3;\x01\r\n",
            "0\r\n A: b\r\n\r\n",
        ] {
            for size in [1, 100] {
                assert!(walk(body.as_bytes(), size).is_err(), "{body:?} by {size}");
            }
        }
        assert!(
            walk(format!("3;{}\r\n", "x".repeat(65)).as_bytes(), 9).is_err(),
            "extension over the limit"
        );
        assert!(
            walk(format!("0\r\nA: {}", "x".repeat(65)).as_bytes(), 9).is_err(),
            "trailer over the limit"
        );
        assert!(
            walk(b"0\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n", 9).is_err(),
            "too many trailers"
        );
    }

    #[test]
    fn the_end_is_not_seen_before_the_final_empty_line() {
        for body in ["3\r\nabc\r\n0\r\n", "3\r\nabc\r\n0\r\n\r", "3\r\nab", ""] {
            assert!(!walk(body.as_bytes(), 100).unwrap().done, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_or_stall(body in proptest::collection::vec(any::<u8>(), 0..200), size in 1usize..9) {
            drop(walk(&body, size));
        }

        #[test]
        fn any_chunking_gives_the_content_back(chunks in proptest::collection::vec("[a-z]{1,20}", 0..8), size in 1usize..40) {
            let mut body = String::new();
            for chunk in &chunks {
                body.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
            }
            body.push_str("0\r\n\r\n");
            let walked = walk(body.as_bytes(), size).unwrap();
            prop_assert!(walked.done);
            prop_assert_eq!(walked.data, chunks.concat().into_bytes());
            prop_assert_eq!(walked.passed, body.into_bytes());
        }
    }
}
