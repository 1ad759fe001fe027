//! The `router` binary: the HTTP edge router of a self-hosted platform. Everything that a library user would want is in
//! `router-core`; here are its command line, configuration, access log, metrics and admin endpoint.

mod access_log;
mod admin;
mod certificates;
mod cli;
mod config;
mod metrics;
mod observer;
mod run;
mod signals;
mod trace;

use std::process::ExitCode;

/// The system allocator keeps what many short-lived buffers on many threads leave behind; jemalloc gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::main()
}
