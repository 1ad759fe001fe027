//! What the figures were measured with: versions, kernel, processor. Figures without these mean nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::peer::{Peer, Programs};

/// A machine and the programs on it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) commit: String,
    /// Names and versions, peers first.
    pub(crate) programs: Vec<(String, String)>,
    pub(crate) command: String,
}

impl Machine {
    pub(crate) fn look(peers: &[Peer], programs: &Programs) -> Self {
        let mut versions: Vec<(String, String)> = peers
            .iter()
            .map(|peer| {
                let program = peer.program(programs);
                let version = match peer.version_flag() {
                    Some(flag) => first_line(program, &[flag]),
                    None => crate_version(peer.name()),
                };
                (peer.name().to_owned(), version)
            })
            .collect();
        for (name, flag) in [
            ("wrk", "-v"),
            ("h2load", "--version"),
            ("openssl", "version"),
        ] {
            versions.push((name.to_owned(), first_line(Path::new(name), &[flag])));
        }
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, model)| model);
        Self {
            date: first_line(Path::new("date"), &["-u", "+%Y-%m-%d %H:%M UTC"]),
            kernel: first_line(Path::new("uname"), &["-srm"]),
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            commit: first_line(Path::new("git"), &["describe", "--always", "--dirty"]),
            programs: versions,
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        }
    }
}

/// The first line that a program says, wherever it says it; wrk ends with an error after its version.
fn first_line(program: &Path, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return "unknown".to_owned();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("unknown").to_owned()
}

/// What a small peer is built of, as its lock file says.
fn crate_version(peer: &str) -> String {
    let (lock, package) = match peer {
        "pingora" => (
            include_str!("../../peers/pingora/Cargo.lock"),
            "pingora-proxy",
        ),
        _ => (include_str!("../../peers/hyper/Cargo.lock"), "hyper"),
    };
    let version = lock
        .split("[[package]]\n")
        .find_map(|entry| entry.strip_prefix(&format!("name = \"{package}\"\nversion = \"")))
        .and_then(|rest| rest.split('"').next());
    format!("{package} {}", version.unwrap_or("unknown"))
}
