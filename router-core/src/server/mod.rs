//! Listening: sockets, workers, client connections, and the drain at the end.

pub(crate) mod connection;
mod h2;
mod h2_guard;
mod handshake;
mod listener;
mod prefixed;
mod proxy_protocol;
mod silent;
mod workers;

pub use listener::{ListenerSettings, StartError, TlsListenerSettings};
pub use workers::{DrainReport, Server, ServerBuilder};
