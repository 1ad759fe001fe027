//! The bodies that are sent: something short, a whole document in the pieces that all share, or a stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

use super::gzip::{GzipStream, Packed};
use super::published::Whole;

/// The body of a response.
pub(super) enum Body {
    Short(Option<Bytes>),
    Pieces(Pieces),
    Lines(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    pub(super) fn short(text: impl Into<Bytes>) -> Self {
        Self::Short(Some(text.into()).filter(|text: &Bytes| !text.is_empty()))
    }

    /// A whole document; compressed, if it was packed.
    pub(super) async fn whole(whole: Arc<Whole>, gzip: bool) -> Self {
        let packed = match gzip {
            true => whole.packed().await,
            false => None,
        };
        let left = packed.map_or(whole.length, |packed| packed.len() + ENVELOPE);
        Self::Pieces(Pieces {
            packed: packed.is_some(),
            whole,
            next: 0,
            left: left as u64,
        })
    }

    /// Whether it is compressed.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self, Self::Pieces(Pieces { packed: true, .. }))
    }
}

/// A whole document on its way to one reader.
pub(super) struct Pieces {
    whole: Arc<Whole>,
    packed: bool,
    next: usize,
    left: u64,
}

impl Pieces {
    fn next(&mut self) -> Option<Bytes> {
        let at = self.next;
        self.next += 1;
        if !self.packed {
            return self.whole.pieces.get(at).cloned();
        }
        let packed: &Packed = self.whole.packed_already()?;
        match at.checked_sub(1) {
            None => Some(GzipStream::BEGIN),
            Some(at) if at < packed.pieces.len() => packed.pieces.get(at).cloned(),
            Some(at) if at == packed.pieces.len() => {
                let mut stream = GzipStream::default();
                stream.add(packed);
                Some(stream.end())
            }
            Some(_) => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Short(text) => Poll::Ready(text.take()),
            Self::Pieces(pieces) => {
                let piece = pieces.next();
                pieces.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
                Poll::Ready(piece)
            }
            Self::Lines(lines) => lines.as_mut().poll_next(cx),
        };
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Short(text) => text.is_none(),
            Self::Pieces(pieces) => pieces.left == 0,
            Self::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Short(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Pieces(pieces) => SizeHint::with_exact(pieces.left),
            Self::Lines(_) => SizeHint::default(),
        }
    }
}

/// What gzip puts around a body.
const ENVELOPE: usize = 10 + 13;
