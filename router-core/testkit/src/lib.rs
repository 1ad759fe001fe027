//! What tests need on both sides of the router: certificates, raw dynos and raw clients that see every byte, a strict
//! parser of the log line, and a builder of route documents. Nothing in here knows the router's own types, so that unit
//! tests of any crate can use it. Every wait ends at [`DEADLINE`] with a panic that shows what had arrived until then.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test support: a surprise must end the test at once, and dynos are tasks of the test's own runtime"
)]

mod black_hole;
mod client;
mod dyno_listener;
mod eventually;
mod fake_dyno;
mod h2_body;
mod h2_client;
mod h2_dyno;
pub mod h2_frame;
mod h2_response;
mod hpack;
mod io;
mod log_record;
mod log_sink;
mod raw_h2;
mod raw_head;
mod route_document;
mod serving_dyno;
mod test_ca;
mod tls_dialer;
mod wire;

pub use black_hole::{BlackHole, ReservedAddress, refused_address};
pub use client::{RawClient, RawResponse};
pub use eventually::eventually;
pub use fake_dyno::{DynoConn, FakeDyno};
pub use h2_client::{H2Client, H2Stream};
pub use h2_dyno::{H2Call, H2Dyno, ServingH2Dyno};
pub use h2_frame::H2Frame;
pub use h2_response::H2Response;
pub use log_record::LogRecord;
pub use log_sink::LogSink;
pub use raw_h2::RawH2;
pub use raw_head::RawHead;
pub use route_document::{AppDoc, RouteDoc};
pub use serving_dyno::ServingDyno;
pub use test_ca::{TestCa, TestCertificate};
pub use tls_dialer::{TlsDialer, TlsFacts};
pub use wire::{Chunked, Ending};

/// How long any wait of the testkit lasts before it panics: long enough for a loaded machine, short enough for a person.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
