//! How a message body ends (RFC 9112 §6), and the walk over its bytes.

use super::chunked::{BadChunk, ChunkLimits, ChunkedDecoder, Piece, Step};

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The connection's end (responses only).
    UntilClose,
}

impl Framing {
    /// Whether any body byte is to come.
    pub fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// The walk over one body.
#[derive(Debug, Clone)]
pub enum BodyDecoder {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunked.
    Chunked(ChunkedDecoder),
    /// Ends with the connection.
    UntilClose,
}

impl BodyDecoder {
    /// The decoder for a framing.
    pub fn new(framing: Framing, limits: ChunkLimits) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkedDecoder::new(limits)),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// What the first bytes of `buffer` are.
    ///
    /// # Errors
    /// [`BadChunk`] when a chunked body is broken.
    pub fn step(&mut self, buffer: &[u8]) -> Result<Step, BadChunk> {
        match self {
            Self::Length(0) => Ok(Step::Done),
            Self::Length(left) => {
                let len = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                *left -= len as u64;
                Ok(data(len))
            }
            Self::Chunked(decoder) => decoder.step(buffer),
            Self::UntilClose => Ok(data(buffer.len())),
        }
    }

    /// Whether the end of the connection is a good end of this body.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }
}

fn data(len: usize) -> Step {
    if len == 0 {
        Step::NeedMore
    } else {
        Step::Take {
            piece: Piece::Data,
            len,
        }
    }
}
