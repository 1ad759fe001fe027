//! Gzip for many readers at once (RFC 1952). Each part of a stream is compressed on its own and only once, ends at a byte,
//! and refers to no other part; so the parts can be put together in any order, for each reader another one, and are one
//! valid gzip stream. What is a reader's own is the checksum of all of them.

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};

/// A part, compressed.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) pieces: Vec<Bytes>,
    /// Of the part before it was compressed.
    crc: Crc,
}

impl Packed {
    /// Compresses what these pieces are together.
    pub(super) fn new<'a>(pieces: impl IntoIterator<Item = &'a Bytes>) -> Self {
        let mut packer = Packer {
            compress: Compress::new(Compression::new(LEVEL), false),
            out: Vec::with_capacity(1024),
            pieces: Vec::new(),
        };
        let mut crc = Crc::new();
        for piece in pieces {
            crc.update(piece);
            packer.pack(piece, FlushCompress::None);
        }
        packer.pack(&[], FlushCompress::Sync);
        packer.out.shrink_to_fit();
        packer.pieces.push(packer.out.into());
        Self {
            pieces: packer.pieces,
            crc,
        }
    }

    /// The same without compression, for what is too short to be worth it: at most 65,535 bytes.
    pub(super) fn stored(text: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(text);
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let mut block = vec![0];
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        block.extend(text);
        Self {
            pieces: vec![block.into()],
            crc,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

struct Packer {
    compress: Compress,
    out: Vec<u8>,
    pieces: Vec<Bytes>,
}

impl Packer {
    fn pack(&mut self, mut input: &[u8], flush: FlushCompress) {
        loop {
            if self.out.len() == self.out.capacity() {
                let next = Vec::with_capacity(PIECE);
                let full = std::mem::replace(&mut self.out, next);
                self.pieces.push(full.into());
            }
            let before = self.compress.total_in();
            // Deflate itself cannot fail; an error would mean that its state is not one.
            let done = self.compress.compress_vec(input, &mut self.out, flush);
            debug_assert!(done.is_ok(), "deflate: {done:?}");
            let taken = usize::try_from(self.compress.total_in() - before).unwrap_or_default();
            input = input.get(taken..).unwrap_or_default();
            // With room left it has given all that it has.
            if input.is_empty() && self.out.len() < self.out.capacity() {
                return;
            }
        }
    }
}

/// One reader's stream.
#[derive(Debug, Default)]
pub(super) struct GzipStream {
    crc: Crc,
}

impl GzipStream {
    /// What it begins with: deflate, no name, no time, from an unknown system.
    pub(super) const BEGIN: Bytes = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);

    /// A part has been sent.
    pub(super) fn add(&mut self, part: &Packed) {
        self.crc.combine(&part.crc);
    }

    /// What it ends with: an empty last block, the checksum and the length.
    pub(super) fn end(&self) -> Bytes {
        let mut end = vec![1, 0, 0, 255, 255];
        end.extend(self.crc.sum().to_le_bytes());
        end.extend(self.crc.amount().to_le_bytes());
        end.into()
    }
}

/// Fast, and still a tenth of the length for what routes look like.
const LEVEL: u32 = 4;
const PIECE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn unpacked(parts: &[&Packed]) -> String {
        let mut stream = GzipStream::default();
        let mut bytes = GzipStream::BEGIN.to_vec();
        for part in parts {
            stream.add(part);
            bytes.extend(part.pieces.concat());
        }
        bytes.extend(stream.end());
        let mut text = String::new();
        GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn parts_make_a_valid_stream_in_any_order() {
        let many: Vec<_> = (0..20_000)
            .map(|number| Bytes::from(format!("piece number {number} ")))
            .collect();
        let long = Packed::new(&many);
        let plain = String::from_utf8(many.concat()).unwrap();
        assert!(long.pieces.len() > 1 && long.len() < plain.len() / 3);
        let short = Packed::new([&Bytes::from_static(b"a short one\n")]);
        let stored = Packed::stored(b"beat\n");
        let empty = Packed::new([]);
        assert_eq!(unpacked(&[]), "");
        assert_eq!(unpacked(&[&empty]), "");
        assert_eq!(unpacked(&[&stored, &short]), "beat\na short one\n");
        assert_eq!(
            unpacked(&[&short, &long, &stored, &short, &empty, &stored]),
            format!("a short one\n{plain}beat\na short one\nbeat\n")
        );
    }

    #[test]
    fn parts_that_just_fill_a_piece_lose_nothing() {
        // Random bytes do not get shorter, so that some of these lengths fill the buffer to its last byte.
        let noise: Vec<u8> = (0..PIECE).map(|_| fastrand::alphanumeric() as u8).collect();
        for length in (900..1100).chain(PIECE - 100..PIECE) {
            let part = Packed::new([&Bytes::copy_from_slice(&noise[..length])]);
            assert_eq!(unpacked(&[&part]).as_bytes(), &noise[..length]);
        }
    }
}
