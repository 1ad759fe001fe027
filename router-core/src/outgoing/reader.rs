//! Reads the body of an answer, within limits: of length, after decompression too, and of silence. What was read stays
//! here when a wait for more is dropped.

use std::io::{self, Write};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use zeroize::Zeroize;

use crate::clock::{self, Instant};

/// A body that is being read.
pub(crate) struct Reader<B = Incoming> {
    body: B,
    gunzip: Option<Gunzip>,
    /// What has come and was not taken yet; no line ends before `searched`.
    buffer: BytesMut,
    searched: usize,
    ended: bool,
    limits: ReadLimits,
    heard: Instant,
    /// When the first byte of what is in the buffer came.
    began: Option<Instant>,
}

/// How much is read, and how long is waited for more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadLimits {
    /// Of a line, or of a body read as a whole, in bytes.
    pub(crate) longest: usize,
    /// Without a byte for so long, the connection is dead.
    pub(crate) silence: Duration,
    /// For one line or whole body, from its first byte to its last.
    pub(crate) time: Duration,
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    /// Reads the body of an answer with this head.
    ///
    /// # Errors
    /// [`ReadError::Encoding`] if it is compressed in a way that was not asked for.
    pub(crate) fn new(headers: &HeaderMap, body: B, limits: ReadLimits) -> Result<Self, ReadError> {
        let gunzip = match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"" | b"identity") => None,
            Some(coding) if coding.eq_ignore_ascii_case(b"gzip") => Some(Gunzip::new()),
            Some(coding) => {
                let coding = String::from_utf8_lossy(coding).into_owned();
                return Err(ReadError::Encoding(coding));
            }
        };
        Ok(Self {
            body,
            gunzip,
            buffer: BytesMut::new(),
            searched: 0,
            ended: false,
            limits,
            heard: clock::now(),
            began: None,
        })
    }

    /// The whole body.
    pub(crate) async fn whole(&mut self) -> Result<Bytes, ReadError> {
        while self.more().await? {
            if self.buffer.len() > self.limits.longest {
                return Err(ReadError::TooLong(self.limits.longest));
            }
        }
        Ok(std::mem::take(&mut self.buffer).freeze())
    }

    /// The next line that is not empty, without its end; `None` after the last. Dropping the future loses nothing.
    pub(crate) async fn line(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let new = self.buffer.get(self.searched..).unwrap_or_default();
            match memchr::memchr(b'\n', new) {
                Some(at) => {
                    let end = self.searched + at;
                    self.searched = 0;
                    let line = self.take(end);
                    self.began = (!self.buffer.is_empty()).then_some(self.heard);
                    if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                        return Ok(Some(line));
                    }
                }
                None if self.buffer.len() > self.limits.longest => {
                    return Err(ReadError::TooLong(self.limits.longest));
                }
                None => {
                    self.searched = self.buffer.len();
                    if !self.more().await? {
                        // What has no end was cut off.
                        return if self.buffer.is_empty() {
                            Ok(None)
                        } else {
                            Err(ReadError::Cut)
                        };
                    }
                }
            }
        }
    }

    /// The line before the end of line at `end`, in memory that nobody else uses, so that it can be wiped: lines may hold
    /// private keys.
    fn take(&mut self, end: usize) -> Bytes {
        let rest = self.buffer.len() - end - 1;
        if rest > end {
            let line = self.buffer.get_mut(..end).unwrap_or_default();
            let taken = Bytes::copy_from_slice(line);
            line.zeroize();
            self.buffer.advance(end + 1);
            return taken;
        }
        let rest = BytesMut::from(self.buffer.get(end + 1..).unwrap_or_default());
        let mut taken = std::mem::replace(&mut self.buffer, rest);
        taken.truncate(end);
        taken.freeze()
    }

    /// Waits for more bytes; false if there are none to come.
    async fn more(&mut self) -> Result<bool, ReadError> {
        if self.ended {
            return Ok(false);
        }
        // What one piece becomes is bounded by its length, even if it was made to explode.
        let mut decoded = false;
        while !decoded {
            let silent = self.heard + self.limits.silence;
            let slow = self.began.map(|began| began + self.limits.time);
            let by = slow.map_or(silent, |slow| slow.min(silent));
            let frame = tokio::time::timeout_at(by, self.body.frame()).await;
            let frame = frame.map_err(|_| match slow {
                Some(slow) if slow < silent => ReadError::Slow(self.limits.time),
                _ => ReadError::Silent(self.limits.silence),
            })?;
            self.heard = clock::now();
            match frame {
                None => {
                    self.ended = true;
                    if let Some(gunzip) = &mut self.gunzip {
                        gunzip.finish()?;
                        decoded = gunzip.take_into(&mut self.buffer);
                    }
                    return Ok(decoded);
                }
                Some(Err(error)) => return Err(ReadError::Body(error.into())),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.began = self.began.or(Some(self.heard));
                    decoded = self.decode(&data)?;
                }
            }
        }
        Ok(true)
    }

    fn decode(&mut self, data: &[u8]) -> Result<bool, ReadError> {
        let Some(gunzip) = &mut self.gunzip else {
            self.buffer.extend_from_slice(data);
            return Ok(!data.is_empty());
        };
        let mut decoded = false;
        for piece in data.chunks(PIECE) {
            gunzip.write(piece)?;
            decoded |= gunzip.take_into(&mut self.buffer);
            // A whole document, a line, or some lines and the beginning of one. Many short lines in one piece are few
            // bytes.
            if self.buffer.len() > self.limits.longest.saturating_add(SLACK) {
                return Err(ReadError::TooLong(self.limits.longest));
            }
        }
        Ok(decoded)
    }
}

impl<B> Drop for Reader<B> {
    fn drop(&mut self) {
        self.buffer.as_mut().zeroize();
    }
}

/// Why an answer cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("nothing came for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("it has not come to its end within {} s", .0.as_secs())]
    Slow(Duration),
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    #[error("it is compressed as {0:?}, only gzip was asked for")]
    Encoding(String),
    #[error("it is no gzip")]
    Gzip(#[from] io::Error),
    #[error("it ends within a line")]
    Cut,
    #[error("the connection failed")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Decompresses as bytes come.
struct Gunzip(MultiGzDecoder<Vec<u8>>);

impl Gunzip {
    fn new() -> Self {
        Self(MultiGzDecoder::new(Vec::new()))
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)?;
        self.0.flush()
    }

    /// The end has come; an error if it is too early.
    fn finish(&mut self) -> io::Result<()> {
        self.0.try_finish()
    }

    /// What has been decompressed; whether that was anything.
    fn take_into(&mut self, buffer: &mut BytesMut) -> bool {
        let decoded = self.0.get_mut();
        let any = !decoded.is_empty();
        buffer.extend_from_slice(decoded);
        decoded.zeroize();
        any
    }
}

/// Nothing becomes more than a thousand times as long when it is decompressed, so that this bounds what a piece does.
const PIECE: usize = 4096;
const SLACK: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::{StreamExt, stream};
    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    const LIMITS: ReadLimits = ReadLimits {
        longest: 1000,
        silence: Duration::from_secs(30),
        time: Duration::from_secs(60),
    };

    fn body(pieces: &[&[u8]]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        StreamBody::new(stream::iter(pieces))
    }

    fn encoded(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding))])
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    async fn lines(headers: &HeaderMap, pieces: &[&[u8]]) -> (Vec<String>, String) {
        let mut reader = Reader::new(headers, body(pieces), LIMITS).unwrap();
        let mut lines = Vec::new();
        loop {
            match reader.line().await {
                Ok(Some(line)) => lines.push(String::from_utf8(line.to_vec()).unwrap()),
                Ok(None) => return (lines, String::new()),
                Err(error) => return (lines, error.to_string()),
            }
        }
    }

    #[tokio::test]
    async fn lines_come_whole_however_they_were_cut() {
        let text = b"{\"a\":1}\n\n{}\r\n \n{\"longer\":\"line\"}\n";
        let wanted = ["{\"a\":1}", "{}\r", "{\"longer\":\"line\"}"];
        let packed = gzip(text);
        for size in 1..text.len() {
            let pieces: Vec<_> = text.chunks(size).collect();
            let (lines, error) = lines(&HeaderMap::new(), &pieces).await;
            assert_eq!((&lines[..], &*error), (&wanted.map(str::to_owned)[..], ""));
        }
        for size in 1..packed.len() {
            let pieces: Vec<_> = packed.chunks(size).collect();
            let (lines, error) = lines(&encoded("gzip"), &pieces).await;
            assert_eq!((&lines[..], &*error), (&wanted.map(str::to_owned)[..], ""));
        }
    }

    #[tokio::test]
    async fn several_gzip_members_are_one_text() {
        let members = [gzip(b"one\ntw"), gzip(b""), gzip(b"o\n")].concat();
        let (lines, error) = lines(&encoded("GZIP"), &[&members]).await;
        assert_eq!((lines.join(","), &*error), ("one,two".into(), ""));
    }

    #[tokio::test]
    async fn what_cannot_be_read_says_why() {
        let long = vec![b'x'; 1001];
        let bomb = gzip(&vec![b' '; 100 << 20]);
        let whole = gzip(b"a line that goes on\n");
        let cut = &whole[..whole.len() - 9];
        let flipped: Vec<u8> = whole.iter().map(|byte| byte ^ 1).collect();
        for (coding, sent, wanted) in [
            ("identity", &b"one\ntw"[..], "it ends within a line"),
            ("identity", &long, "it is longer than 1000 bytes"),
            ("gzip", &bomb, "it is longer than 1000 bytes"),
            ("gzip", cut, "it is no gzip"),
            ("gzip", &flipped, "it is no gzip"),
            ("gzip", b"plain\n", "it is no gzip"),
        ] {
            let (_, error) = lines(&encoded(coding), &[sent]).await;
            assert_eq!(error, wanted);
            let mut reader = Reader::new(&encoded(coding), body(&[sent]), LIMITS).unwrap();
            let whole = reader.whole().await;
            let error = whole
                .err()
                .map_or_else(String::new, |error| error.to_string());
            assert!(
                error == wanted || wanted.contains("line") && error.is_empty(),
                "{error}"
            );
        }
        let refused = Reader::new(&encoded("br"), body(&[]), LIMITS)
            .err()
            .unwrap();
        assert_eq!(
            refused.to_string(),
            "it is compressed as \"br\", only gzip was asked for"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_across_waits_that_are_dropped() {
        let once = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(
            b"one\n",
        )))]);
        let silent = StreamBody::new(once.chain(stream::pending()));
        let mut reader = Reader::new(&HeaderMap::new(), silent, LIMITS).unwrap();
        assert_eq!(reader.line().await.unwrap().unwrap(), "one");
        for _ in 0..2 {
            let wait = tokio::time::timeout(Duration::from_secs(14), reader.line());
            assert!(wait.await.is_err());
        }
        let wait = tokio::time::timeout(Duration::from_secs(14), reader.line());
        let error = wait.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "nothing came for 30 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_trickles_in_is_given_up() {
        let trickle = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(25)).await;
            Some((
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))),
                (),
            ))
        });
        let trickle = StreamBody::new(Box::pin(trickle));
        let mut reader = Reader::new(&HeaderMap::new(), trickle, LIMITS).unwrap();
        let began = clock::now();
        let error = reader.line().await.unwrap_err();
        assert_eq!(error.to_string(), "it has not come to its end within 60 s");
        assert_eq!((clock::now() - began).as_secs(), 25 + 60);
    }
}
