//! Listening: sockets, workers, client connections, and the drain at the end.

pub(crate) mod connection;
mod listener;
mod workers;

pub use listener::{ListenerSettings, StartError, TlsListenerSettings};
pub use workers::{DrainReport, Server, ServerBuilder};
