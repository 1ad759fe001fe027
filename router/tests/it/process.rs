//! A `router` process in a temporary folder, and raw HTTP to talk to it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Long enough for a loaded machine; only a failing test ever waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a configuration.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// A folder whose `router.toml` listens on free ports, reads `routes.json`, and says `more`.
    pub(crate) fn new(more: &str) -> Self {
        Self::with_config(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [feed]\npath = \"routes.json\"\n[workers]\nthreads = 2\n{more}"
        ))
    }

    pub(crate) fn with_config(config: &str) -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(place.path("router.toml"), config).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file into place the way that operators are told to.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// Runs the binary to its end in this folder.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(&[], arguments)
    }

    /// Runs the binary to its end in this folder, with more environment variables.
    pub(crate) fn run_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        command(self.folder.path(), env!("CARGO_BIN_EXE_router"))
            .envs(environment.iter().copied())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs `router serve` until it listens.
    pub(crate) fn serve(&self) -> Running {
        self.start("serve")
    }

    /// The same, with a limit on the length of files in kilobytes: writing more is an error, as on a full disk.
    pub(crate) fn serve_with_files_up_to(&self, kilobytes: u32) -> Running {
        let blocks = kilobytes * 2;
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let mut shell = command(self.folder.path(), "sh");
        shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_router")]);
        Self::wait_for_addresses(shell.args(["serve", "--config", "router.toml"]))
    }

    /// Runs `router relay` until it listens; [`Running::client`] is where routers call then.
    pub(crate) fn relay(&self) -> Running {
        self.start("relay")
    }

    fn start(&self, what: &str) -> Running {
        let mut router = command(self.folder.path(), env!("CARGO_BIN_EXE_router"));
        Self::wait_for_addresses(router.args([what, "--config", "router.toml"]))
    }

    fn wait_for_addresses(command: &mut Command) -> Running {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Standard error is read no faster than the test asks for lines, as by a log collector that hangs.
        let (line, lines) = sync_channel(1);
        let stderr = child.stderr.take().unwrap();
        thread::spawn(move || {
            BufReader::new(stderr)
                .lines()
                .map_while(Result::ok)
                .take_while(|text| line.send(text.clone()).is_ok())
                .count()
        });
        let mut running = Running {
            child,
            lines,
            client: unset(),
            admin: unset(),
        };
        while running.client == unset() || running.admin == unset() {
            let text = running.line();
            if let Some((_, address)) = text.split_once("admin listening on ") {
                running.admin = address.parse().unwrap();
            } else if let Some((_, address)) = text
                .split_once("listening on ")
                .or_else(|| text.split_once("relaying on "))
            {
                running.client = address.parse().unwrap();
            }
        }
        running
    }
}

/// Environment variables of whoever runs the tests are none of the tests' business.
fn command(folder: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    for name in [
        "ROUTER_CONFIG",
        "ROUTER_ADMIN",
        "ROUTER_AFFINITY_KEY",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

fn unset() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

/// A running router; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    /// Where clients call.
    pub(crate) client: SocketAddr,
    /// Where operators call.
    pub(crate) admin: SocketAddr,
}

impl Running {
    /// The next line of standard error.
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("the router said nothing more")
    }

    /// Waits for a line of standard error that contains a text.
    pub(crate) fn wait_for_line(&self, text: &str) {
        while !self.line().contains(text) {}
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the end; gives exit code and standard output.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut out = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        (self.child.wait().unwrap().code(), out)
    }

    /// Waits until a revision is in force and the feed tells so.
    pub(crate) fn wait_for_revision(&self, revision: u64) {
        eventually("the revision", || {
            get(self.admin, "admin", "/v1/feed").json()["revision"] == revision
        });
        assert_eq!(get(self.admin, "admin", "/readyz").status, 200);
    }

    /// Waits until an admin path answers with a status.
    pub(crate) fn wait_until(&self, path: &str, status: u16) {
        eventually(path, || get(self.admin, "admin", path).status == status);
    }
}

/// Asks again and again until something is so.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: waited in vain");
        thread::yield_now();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A response, read to the end of its connection.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    send(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    )
    .finish()
}

/// A request that is on its way.
pub(crate) struct Pending(TcpStream);

pub(crate) fn send(address: SocketAddr, request: &str) -> Pending {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    Pending(stream)
}

impl Pending {
    pub(crate) fn finish(mut self) -> Response {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no response head in {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Response {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }
}
