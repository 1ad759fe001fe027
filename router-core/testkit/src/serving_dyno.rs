//! A dyno that serves by itself, as a well-behaved app server with kept connections does, and counts what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;

use crate::dyno_listener::DynoListener;
use crate::raw_head::RawHead;
use crate::wire::{Read, Wire};

/// Dropping it stops listening and cuts its connections.
pub struct ServingDyno {
    address: SocketAddr,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
}

impl ServingDyno {
    pub(crate) fn new(
        listener: DynoListener,
        answer: impl Fn(&RawHead, &[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let (address, counts) = (listener.address(), Arc::new(Counts::default()));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&counts), Arc::new(answer)));
        Self {
            address,
            counts,
            accepting,
        }
    }

    /// The address for the route document.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Requests read so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }
}

impl Drop for ServingDyno {
    fn drop(&mut self) {
        // The connections' tasks live in a set inside this task and are cut with it.
        self.accepting.abort();
    }
}

async fn accept<A>(listener: DynoListener, counts: Arc<Counts>, answer: Arc<A>)
where
    A: Fn(&RawHead, &[u8]) -> Vec<u8> + Send + Sync + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.listener.accept().await {
        counts.connections.fetch_add(1, Ordering::SeqCst);
        counts.open.fetch_add(1, Ordering::SeqCst);
        let (counts, answer) = (Arc::clone(&counts), Arc::clone(&answer));
        let handshake = listener.handshake(stream);
        connections.spawn(async move {
            // A connection ends however the router ends it; only the test knows whether that was right.
            if let Ok(io) = handshake.await {
                drop(serve(Wire::over(io), &counts, &*answer).await);
            }
            counts.open.fetch_sub(1, Ordering::SeqCst);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(
    mut wire: Wire,
    counts: &Counts,
    answer: &(impl Fn(&RawHead, &[u8]) -> Vec<u8> + ?Sized),
) -> Read<()> {
    loop {
        let head = wire.head().await?;
        counts.requests.fetch_add(1, Ordering::SeqCst);
        let body = match head.header("transfer-encoding") {
            Some(_) => wire.chunked().await?.body(),
            None => {
                let length = head
                    .header("content-length")
                    .map_or(0, |value| value.parse().expect("content-length"));
                wire.exactly(length).await?
            }
        };
        let response = answer(&head, &body);
        if !wire.try_write(&response).await {
            return Ok(());
        }
        if ends_connection(&response) {
            wire.close().await;
            return Ok(());
        }
    }
}

fn ends_connection(response: &[u8]) -> bool {
    let head = response
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map_or(response, |end| &response[..end]);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.contains("\r\nconnection: close")
}
