//! What a dyno connection runs over: TCP, or TLS over it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connection to a dyno, as bytes.
#[derive(Debug)]
pub(crate) enum DynoStream {
    /// In the clear.
    Tcp(TcpStream),
    /// Encrypted (`dyno_tls`).
    Tls(Box<TlsStream<TcpStream>>),
}

impl DynoStream {
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "http",
            Self::Tls(_) => "https",
        }
    }

    /// Whether no byte waits to be read, and no close.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0u8; 1];
        self.nothing_decrypted() && would_block(self.tcp().try_read(&mut byte))
    }

    /// [`DynoStream::is_quiet`] by the system's word of this moment, which costs a call: tokio has seen only what its
    /// last turn brought.
    pub(crate) fn is_quiet_now(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        self.nothing_decrypted() && would_block(SockRef::from(self.tcp()).peek(&mut byte))
    }

    fn nothing_decrypted(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Tls(stream) => stream.get_ref().1.wants_read(),
        }
    }
}

fn would_block<T>(read: io::Result<T>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for DynoStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for DynoStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
