//! A client connection under TLS, after its handshake.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream as Inner;

/// The connection. When it is dropped in an orderly way it says so to the client (`close_notify`, RFC 8446 §6.1), as
/// far as the socket takes it at once.
#[derive(Debug)]
pub(crate) struct TlsStream {
    /// Large, and passed from hand to hand.
    inner: Box<Inner<TcpStream>>,
    /// It ends with an error: then nothing may make it look whole.
    broken: AtomicBool,
    closed: bool,
}

impl TlsStream {
    pub(super) fn new(inner: Inner<TcpStream>) -> Self {
        Self {
            inner: Box::new(inner),
            broken: AtomicBool::new(false),
            closed: false,
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.inner.get_ref().0
    }

    /// Ready when a read may give something: decrypted bytes or an end that wait here, or bytes in the socket.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (socket, session) = self.inner.get_ref();
        // It wants no more as long as it has something to give.
        if !session.wants_read() {
            return Poll::Ready(());
        }
        socket.poll_read_ready(cx).map(|_| ())
    }

    /// Whether it ends without `close_notify`.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.closed = true;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        if self.closed || *self.broken.get_mut() {
            return;
        }
        let (socket, session) = self.inner.get_mut();
        session.send_close_notify();
        while session.wants_write() {
            match session.write_tls(&mut AtOnce(socket)) {
                Ok(1..) => {}
                // A client that takes nothing now is told by the end of the connection itself.
                Ok(0) | Err(_) => return,
            }
        }
    }
}

/// Writes what the socket takes without waiting.
struct AtOnce<'a>(&'a TcpStream);

impl Write for AtOnce<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
