//! Worker threads: each has a runtime of its own, its own listening sockets, and every connection that they accept. And
//! the drain that ends them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::listener::{self, ListenerSettings, StartError, Terms};
use crate::clock;
use crate::router::Router;
use crate::tasks;
use crate::worker::Worker;

/// A router that listens.
#[derive(Debug)]
pub struct Server {
    router: Router,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    /// Each worker holds a sender until its last connection has ended.
    ended: mpsc::Receiver<()>,
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Requests that were in flight when the drain began and finished.
    pub finished: u64,
    /// Requests that had to be cut at its end (H24).
    pub cut: u64,
}

/// Builds a [`Server`].
#[derive(Debug)]
#[must_use]
pub struct ServerBuilder {
    router: Router,
    listeners: Vec<ListenerSettings>,
}

impl ServerBuilder {
    /// Listens on one more address.
    pub fn listener(mut self, settings: ListenerSettings) -> Self {
        self.listeners.push(settings);
        self
    }

    /// Binds every address and starts the workers, as many as the router was built for.
    ///
    /// # Errors
    /// [`StartError`] when an address cannot be had or a thread cannot be started.
    pub fn start(self) -> Result<Server, StartError> {
        let workers = self.router.workers();
        let mut addresses = Vec::new();
        let mut sockets: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
        for settings in self.listeners {
            let bound = listener::bind(&settings, workers.len())?;
            let address = bound.first().and_then(|socket| socket.local_addr().ok());
            addresses.extend(address);
            let terms = Arc::new(Terms::new(settings, address));
            for (of_worker, socket) in sockets.iter_mut().zip(bound) {
                of_worker.push((Arc::clone(&terms), socket));
            }
        }
        let (sender, ended) = mpsc::channel(1);
        let address = addresses
            .first()
            .copied()
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        let mut threads = Vec::new();
        for (worker, sockets) in workers.iter().zip(sockets) {
            let thread = start_worker(Arc::clone(worker), sockets, sender.clone());
            threads.push(thread.map_err(|source| StartError { address, source })?);
        }
        Ok(Server {
            router: self.router,
            addresses,
            threads,
            ended,
        })
    }
}

impl Server {
    /// Starts to build one.
    pub fn builder(router: Router) -> ServerBuilder {
        ServerBuilder {
            router,
            listeners: Vec::new(),
        }
    }

    /// The addresses that it listens on, in the order they were given, with the ports that were taken.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Stops accepting, closes idle connections, lets requests in flight finish within `window`, and cuts the rest.
    pub async fn drain(mut self, window: Duration) -> DrainReport {
        let in_flight = self.router.stats().requests_in_flight;
        let cut_before = self.router.cut_count();
        self.router.begin_drain(window);
        if tokio::time::timeout(window, self.ended.recv())
            .await
            .is_err()
        {
            self.router.cut();
            // Every connection task is dropped at its next turn; nothing can hold this up.
            let _: Option<()> = self.ended.recv().await;
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        let cut = self.router.cut_count() - cut_before;
        DrainReport {
            finished: in_flight.saturating_sub(cut),
            cut,
        }
    }
}

fn start_worker(
    worker: Arc<Worker>,
    sockets: Vec<(Arc<Terms>, std::net::TcpListener)>,
    ended: mpsc::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(format!("worker-{}", worker.index))
        .spawn(move || {
            runtime.block_on(run(worker, sockets));
            drop(ended);
        })
}

async fn run(worker: Arc<Worker>, sockets: Vec<(Arc<Terms>, std::net::TcpListener)>) {
    let tasks = TaskTracker::new();
    for (terms, socket) in sockets {
        match TcpListener::from_std(socket) {
            Ok(listener) => tasks::spawn(
                &tasks,
                listener::accept(Arc::clone(&worker), listener, terms, tasks.clone()),
            ),
            Err(error) => tracing::error!(%error, "cannot register a listening socket"),
        }
    }
    let mut tidy = tokio::time::interval(Worker::TIDY_EVERY);
    loop {
        tokio::select! {
            // Cancel-safe, both.
            _ = tidy.tick() => {
                worker.tidy();
                worker.shared.tls.tickets().rotate(clock::now());
            }
            () = worker.drain.cancelled() => break,
        }
    }
    tasks.close();
    tasks.wait().await;
    end_dyno_conns(&worker).await;
}

/// Nobody needs connections to dynos any more; most take leave at once, and none can hold up the end.
async fn end_dyno_conns(worker: &Worker) {
    const AT_MOST: Duration = Duration::from_millis(500);
    worker.close_kept();
    worker.dyno_tasks.close();
    let ended = tokio::time::timeout(AT_MOST, worker.dyno_tasks.wait()).await;
    if ended.is_err() {
        tracing::debug!("connections to dynos are cut");
    }
}
