//! Bytes that nobody takes. A peer that keeps its connection open and reads nothing would pin what is queued for it for
//! ever; HTTP/1 exchanges have a timer of their own, HTTP/2 connections have this one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::clock::{self, Instant};

/// A connection whose writes fail ([`io::ErrorKind::TimedOut`]) once its peer has taken nothing for too long.
#[derive(Debug)]
pub(crate) struct Stall<IO> {
    io: IO,
    limit: Duration,
    /// A write has been waiting, and since when it may not any more.
    write_by: Option<Instant>,
    /// The same for a flush. A write can succeed meanwhile, into the buffer of the layer below.
    flush_by: Option<Instant>,
    /// Made when first needed: most connections never wait.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<IO> Stall<IO> {
    pub(crate) fn new(io: IO, limit: Duration) -> Self {
        Self {
            io,
            limit,
            write_by: None,
            flush_by: None,
            sleep: None,
        }
    }

    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Some(deadline) = [self.write_by, self.flush_by].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer takes nothing",
        )))
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() {
            self.write_by = self.write_by.or_else(|| Some(clock::now() + self.limit));
            return self.poll_stalled(cx);
        }
        self.write_by = None;
        written
    }

    fn flushed(
        &mut self,
        cx: &mut Context<'_>,
        flushed: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if flushed.is_pending() {
            self.flush_by = self.flush_by.or_else(|| Some(clock::now() + self.limit));
            return self.poll_stalled(cx);
        }
        self.flush_by = None;
        flushed
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Stall<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Stall<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.flushed(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = Pin::new(&mut self.io).poll_shutdown(cx);
        self.flushed(cx, shut_down)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(55);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_after_the_limit() {
        let (ours, _theirs) = tokio::io::duplex(10);
        let mut stall = Stall::new(ours, LIMIT);
        stall.write_all(&[0; 10]).await.unwrap();
        tokio::time::advance(LIMIT * 10).await;
        let began = clock::now();
        let error = stall.write_all(&[0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!((clock::now() - began).as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_byte_now_and_then_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut stall = Stall::new(ours, LIMIT);
        let taking = async {
            for _ in 0..30 {
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
                theirs.read_u8().await.unwrap();
            }
            tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
        };
        let (written, ()) = tokio::join!(stall.write_all(&[0; 40]), taking);
        written.unwrap();
        assert_eq!(
            stall.write(&[0]).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }

    /// Takes writes, and never flushes.
    struct Swallow;

    impl AsyncWrite for Swallow {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_that_never_ends_is_given_up_whatever_is_written_meanwhile() {
        let mut stall = Stall::new(Swallow, LIMIT);
        let began = clock::now();
        let error = loop {
            stall.write_all(&[0; 10]).await.unwrap();
            let flush = tokio::time::timeout(LIMIT / 5, stall.flush()).await;
            if let Ok(flushed) = flush {
                break flushed.unwrap_err();
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!((clock::now() - began).as_secs(), LIMIT.as_secs());
        assert_eq!(
            stall.shutdown().await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }
}
