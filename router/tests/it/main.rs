//! The `router` binary from outside: real processes, real sockets, free ports, a folder of its own for each test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits by the clock"
)]

mod admin;
mod ask;
mod check;
mod disk;
mod drain;
mod dyno;
mod https;
mod listeners;
mod process;
mod relay;
mod serve;
