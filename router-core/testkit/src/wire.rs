//! One side of a connection with everything that was read on it: the ground under raw clients and fake dynos. Keeps
//! bytes that were read but not asked for, so that no test loses a byte between two reads.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::DEADLINE;
use crate::io::Io;
use crate::raw_head::{RawHead, header_lines, text};

/// How the other side ended its half of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An orderly FIN.
    Closed,
    /// A reset.
    Reset,
    /// A FIN in the middle of TLS, without its closing alert: what a cut looks like to a TLS client.
    Truncated,
}

/// A chunked body as it stood on the wire and as it decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunked {
    /// Every byte, from the first chunk size to the empty line after the trailers.
    pub raw: Vec<u8>,
    /// The data of each chunk but the last, empty one.
    pub chunks: Vec<Vec<u8>>,
    /// The trailer fields, in order.
    pub trailers: Vec<(String, String)>,
}

impl Chunked {
    /// The data of all chunks.
    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }
}

/// Why a read could not deliver what was asked for.
#[derive(Debug)]
pub(crate) enum Short {
    Ended(Ending),
    Malformed(String),
}

pub(crate) type Read<T> = Result<T, Short>;

pub(crate) struct Wire {
    io: Io,
    unread: Vec<u8>,
    seen: Vec<u8>,
    ended: Option<Ending>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self::over(Io::Plain(stream))
    }

    pub(crate) fn over(io: Io) -> Self {
        io.tcp().set_nodelay(true).expect("TCP_NODELAY");
        Self {
            io,
            unread: Vec::new(),
            seen: Vec::new(),
            ended: None,
        }
    }

    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    /// The connection itself, as long as nothing was read on it and it carries no TLS.
    pub(crate) fn into_tcp(self) -> TcpStream {
        assert!(self.seen.is_empty(), "read already: {}", self.read_so_far());
        match self.io {
            Io::Plain(stream) => stream,
            Io::Tls(_) => panic!("TLS inside TLS"),
        }
    }

    /// Takes the bytes read since the last call, as they came.
    pub(crate) fn take_seen(&mut self) -> Vec<u8> {
        let unread = self.unread.len();
        let taken = self.seen.len() - unread;
        self.seen.drain(..taken).collect()
    }

    /// The value of a read; panics with what arrived on a timeout or a short read.
    pub(crate) fn expect<T>(&self, what: &str, read: Option<Read<T>>) -> T {
        match read {
            Some(Ok(value)) => value,
            Some(Err(short)) => panic!("while reading {what}: {short:?}; {}", self.read_so_far()),
            None => panic!("no {what} within {DEADLINE:?}; {}", self.read_so_far()),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let written = within(DEADLINE, write(&mut self.io, bytes)).await;
        match written {
            Some(Ok(())) => {}
            Some(Err(error)) => panic!(
                "writing {} bytes: {error}; {}",
                bytes.len(),
                self.read_so_far()
            ),
            None => panic!("{} bytes not taken within {DEADLINE:?}", bytes.len()),
        }
    }

    /// Writes as much as the other side takes before it ends the connection; true when it took all.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> bool {
        within(DEADLINE, write(&mut self.io, bytes))
            .await
            .is_some_and(|written| written.is_ok())
    }

    /// [`Wire::try_write`] that takes in what arrives meanwhile, for peers that answer before they read on.
    pub(crate) async fn write_while_reading(&mut self, bytes: &[u8]) -> bool {
        let (mut reader, mut writer) = tokio::io::split(&mut self.io);
        let (mut received, mut ended) = (Vec::new(), None);
        let writing = async {
            writer.write_all(bytes).await?;
            writer.flush().await
        };
        let reading = async {
            while ended.is_none() {
                ended = ending(&reader.read_buf(&mut received).await);
            }
            std::future::pending::<()>().await;
        };
        let written = within(DEADLINE, async {
            tokio::select! {
                biased;
                written = writing => written,
                () = reading => unreachable!("reading never ends"),
            }
        })
        .await;
        self.unread.extend_from_slice(&received);
        self.seen.extend_from_slice(&received);
        self.ended = self.ended.or(ended);
        written.is_some_and(|written| written.is_ok())
    }

    pub(crate) async fn head(&mut self) -> Read<RawHead> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                return Ok(RawHead::parse(&self.take(end + 4)));
            }
            self.fill().await?;
        }
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Read<Vec<u8>> {
        while self.unread.len() < count {
            self.fill().await?;
        }
        Ok(self.take(count))
    }

    /// Whatever has arrived, at least one byte.
    pub(crate) async fn some(&mut self) -> Read<Vec<u8>> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        let all = self.unread.len();
        Ok(self.take(all))
    }

    pub(crate) async fn chunked(&mut self) -> Read<Chunked> {
        let mut raw = Vec::new();
        let mut chunks = Vec::new();
        loop {
            let line = self.line(&mut raw).await?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| Short::Malformed(format!("chunk size {line:?}")))?;
            if size == 0 {
                break;
            }
            let data = self.exactly(size + 2).await?;
            raw.extend_from_slice(&data);
            if !data.ends_with(b"\r\n") {
                return Err(Short::Malformed(format!(
                    "no CRLF after chunk {:?}",
                    text(&data)
                )));
            }
            chunks.push(data[..size].to_vec());
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line(&mut raw).await?;
            if line.is_empty() {
                return Ok(Chunked {
                    raw,
                    chunks,
                    trailers,
                });
            }
            trailers.extend(header_lines(std::iter::once(line.as_str()), &line));
        }
    }

    /// Reads to the end of the connection: the bytes left, and how it ended.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, Ending) {
        let ending = loop {
            match self.fill().await {
                Ok(()) => {}
                Err(Short::Ended(ending)) => break ending,
                Err(Short::Malformed(why)) => unreachable!("filling parses nothing: {why}"),
            }
        };
        let all = self.unread.len();
        (self.take(all), ending)
    }

    /// Whether the other side has neither ended the connection nor sent anything unread, as far as the kernel knows now.
    /// Over TLS: once something was read, as the server's session tickets count as sent too.
    pub(crate) fn is_quiet_and_open(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = SockRef::from(self.io.tcp()).peek(&mut byte);
        self.ended.is_none()
            && self.unread.is_empty()
            && matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// FIN (over TLS after its closing alert), keeping the reading side.
    pub(crate) async fn half_close(&mut self) {
        // The other side may be gone already; then there is nothing left to end.
        drop(self.io.shutdown().await);
    }

    /// FIN and close. What lies unread is read first: closing over unread bytes would send a reset instead.
    pub(crate) async fn close(mut self) {
        self.half_close().await;
        let mut scrap = [0; 4096];
        while matches!(self.io.tcp().try_read(&mut scrap), Ok(count) if count > 0) {}
    }

    /// RST.
    pub(crate) fn reset(self) {
        SockRef::from(self.io.tcp())
            .set_linger(Some(Duration::ZERO))
            .expect("SO_LINGER");
    }

    fn read_so_far(&self) -> String {
        const SHOWN: usize = 2000;
        let skipped = self.seen.len().saturating_sub(SHOWN);
        format!(
            "read so far ({} bytes, the last): {:?}",
            self.seen.len(),
            text(&self.seen[skipped..])
        )
    }

    async fn line(&mut self, raw: &mut Vec<u8>) -> Read<String> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line = self.take(end + 2);
                raw.extend_from_slice(&line);
                return Ok(text(&line[..end]));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Read<()> {
        if let Some(ending) = self.ended {
            return Err(Short::Ended(ending));
        }
        let mut buffer = vec![0; 64 * 1024];
        let read = self.io.read(&mut buffer).await;
        self.ended = ending(&read);
        if let Some(ending) = self.ended {
            return Err(Short::Ended(ending));
        }
        let read = &buffer[..read.unwrap_or_default()];
        self.unread.extend_from_slice(read);
        self.seen.extend_from_slice(read);
        Ok(())
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.unread.drain(..count).collect()
    }
}

/// The end of the connection that a read met, if it met one.
fn ending(read: &io::Result<usize>) -> Option<Ending> {
    match read {
        Ok(0) => Some(Ending::Closed),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(Ending::Reset),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(Ending::Truncated),
        Err(error) => panic!("reading: {error}"),
    }
}

/// Writes all, past the buffers of TLS.
async fn write(io: &mut Io, bytes: &[u8]) -> io::Result<()> {
    io.write_all(bytes).await?;
    io.flush().await
}

/// The future's value, or nothing when the time is over.
pub(crate) async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, future).await.ok()
}

/// [`within`] for reads, at the common deadline.
pub(crate) async fn in_time<T>(read: impl Future<Output = Read<T>>) -> Option<Read<T>> {
    within(DEADLINE, read).await
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
