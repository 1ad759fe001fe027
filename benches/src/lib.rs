//! What the benches share: the parts of the hot path, large route documents, a small dyno, a client that waits, and a
//! `router` process whose memory can be read. Everything here uses the public API, as a user of the library would.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench: a surprise must end it at once, and reading clocks is its purpose"
)]

pub mod client;
pub mod control;
pub mod dyno;
pub mod load;
pub mod parts;
pub mod process;
pub mod routes;

/// The allocator of the `router` binary, so that its costs here are its costs there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Criterion as all benches use it: quick enough that all of them are run, with the command line's wishes on top.
pub fn criterion() -> criterion::Criterion {
    criterion::Criterion::default()
        .warm_up_time(std::time::Duration::from_secs(1))
        .measurement_time(std::time::Duration::from_secs(3))
        .configure_from_args()
}
