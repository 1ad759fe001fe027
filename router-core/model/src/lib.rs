//! The pure model of the router: what a request, an app, a failure and a log line are, and every decision that needs no
//! socket. This crate reads no clock, opens no socket, spawns nothing and holds no global; `now`, random bytes and
//! addresses are arguments.

pub mod acme_schedule;
pub mod admission;
pub mod affinity;
pub mod app;
pub mod backoff;
pub mod change;
pub mod cursor;
mod decimal;
pub mod diff;
pub mod failure;
pub mod forward;
pub mod h1;
pub mod h2;
pub mod hostname;
pub mod limits;
pub mod log_line;
pub mod pages;
pub mod proxy_header;
pub mod request_id;
pub mod response;
pub mod retry;
mod runs;
pub mod settings;
pub mod snapshot;
pub mod timeouts;
pub mod tls_version;
pub mod verdict;
