//! The command line: one file per command. Flags beat the environment, which beats the configuration file.

mod ask;
mod check;
mod explain;
mod relay;
mod routes;
mod serve;
mod table;
mod unknown_keys;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// An HTTP edge router: sends requests and WebSockets to the web dynos of apps.
#[derive(Debug, Parser)]
#[command(name = "router", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Routes until SIGTERM or SIGINT, then drains. Exits with 0 after a clean drain, 3 if requests had to be cut
    Serve(serve::Serve),
    /// Reads the routes and passes them on to other routers, which then need not ask the source themselves. Ends at SIGTERM or SIGINT
    Relay(relay::Relay),
    /// Says everything that is wrong with a configuration and its route document. Exits with 0 if good, 64 if bad
    Check(check::Check),
    /// Asks a running router where a request would go, and why. Exits with 0 if routed, 2 if not
    Explain(explain::Explain),
    /// Shows the routes of a running router, or waits until it has a revision. Exits with 2 if it has not in time, 3 if the app waited for was rejected
    Routes(routes::Routes),
}

/// The configuration file, for the commands that cannot do without.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "ROUTER_CONFIG")]
    config: PathBuf,
}

/// What the commands take that run until they are told to end.
#[derive(Debug, clap::Args)]
struct Life {
    #[command(flatten)]
    config: ConfigFile,
    /// Where operators call, instead of what the file says
    #[arg(long, value_name = "ADDRESS", env = "ROUTER_ADMIN")]
    admin: Option<SocketAddr>,
    /// Diagnostics to print: error, warn, info, debug, trace, or directives as in RUST_LOG
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Runs the command that the process was started with.
pub(crate) fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.command,
        Err(error) => {
            // Nothing is left to tell the user if even this cannot be printed.
            drop(error.print());
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match command {
        None => {
            print(&Arguments::command().render_help().to_string());
            ExitCode::SUCCESS
        }
        Some(Command::Serve(command)) => command.run(),
        Some(Command::Relay(command)) => command.run(),
        Some(Command::Check(command)) => command.run(),
        Some(Command::Explain(command)) => command.run(),
        Some(Command::Routes(command)) => command.run(),
    }
}

/// Prints an answer. A reader that went away (`router routes | head`) is no error.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Prints a complaint, one line each.
fn complain(lines: impl IntoIterator<Item = impl AsRef<str>>) {
    let mut out = io::stderr().lock();
    for line in lines {
        drop(writeln!(out, "{}", line.as_ref()));
    }
}

/// Something failed while running.
const FAILURE: ExitCode = ExitCode::FAILURE;
/// The command line, the configuration or the route document is bad.
const USAGE: u8 = 64;
