//! The bodies that are sent: something short, a whole document in the pieces that all share, or a stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
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
        if !self.packed {
            let (block, taken) = gather(self.whole.pieces.get(at..)?)?;
            self.next += taken;
            return Some(block);
        }
        self.next += 1;
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

/// The first of these pieces, together with those after it if they are small: sending a few large ones is much less work
/// than sending many small ones. Also says how many these are. `None` if there are none.
pub(super) fn gather(pieces: &[Bytes]) -> Option<(Bytes, usize)> {
    let mut length = 0;
    let fits = pieces.iter().take_while(|piece| {
        length += piece.len();
        length <= BLOCK
    });
    let taken = fits.count();
    if taken < 2 {
        return Some((pieces.first()?.clone(), 1));
    }
    let mut block = BytesMut::with_capacity(length.min(BLOCK));
    for piece in pieces.iter().take(taken) {
        block.extend_from_slice(piece);
    }
    Some((block.freeze(), taken))
}

/// Bytes that are copied to be sent together: more than that is no faster, and each reader may have so many.
const BLOCK: usize = 16 * 1024;
/// What gzip puts around a body.
const ENVELOPE: usize = 10 + 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_sent_together_and_large_ones_as_they_are() {
        let piece = |length: usize| Bytes::from(vec![b'x'; length]);
        let pieces = [1, 2, BLOCK - 3, 1, BLOCK, 1, BLOCK + 1, 3].map(piece);
        let (mut rest, mut lengths) = (&pieces[..], Vec::new());
        while let Some((block, taken)) = gather(rest) {
            lengths.push((block.len(), taken));
            rest = &rest[taken..];
        }
        let wanted = [
            (BLOCK, 3),
            (1, 1),
            (BLOCK, 1),
            (1, 1),
            (BLOCK + 1, 1),
            (3, 1),
        ];
        assert_eq!(lengths, wanted);
        let (alone, _) = gather(&pieces[4..]).unwrap();
        assert_eq!(alone.as_ptr(), pieces[4].as_ptr());
    }
}
