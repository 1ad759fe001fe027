//! A `router` process, so that its memory is not mixed with that of its clients and dynos.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// Long waits, so that what is idle stays; and room for as many WebSockets of one dyno as are wanted.
const CONFIG: &str = "
[[listener]]
address = \"127.0.0.1:0\"
[admin]
address = \"127.0.0.1:0\"
[feed]
path = \"routes.json\"
[timeouts]
client_idle = \"1h\"
idle = \"1h\"
[limits]
concurrent_requests_per_dyno = 1000000
";

/// An address that a router has said it listens on.
#[derive(Debug, Clone, Copy)]
pub struct Listening {
    /// Whether operators call there, not clients.
    pub admin: bool,
    /// The address.
    pub address: SocketAddr,
}

/// Starts the binary with the `router.toml` of a folder. `heard` is given each of its diagnostics, to the last, so that
/// it never waits for us.
pub fn spawn(
    binary: &Path,
    folder: &Path,
    mut heard: impl FnMut(&str) + Send + 'static,
) -> (Child, mpsc::Receiver<Listening>) {
    let mut child = Command::new(std::path::absolute(binary).unwrap())
        .args(["serve", "--config", "router.toml"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the router binary starts");
    let (sender, listening) = mpsc::channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            heard(&line);
            if let Some((before, address)) = line.split_once("listening on ") {
                let (admin, address) = (before.ends_with("admin "), address.parse().unwrap());
                sender.send(Listening { admin, address }).ok();
            }
        }
    });
    (child, listening)
}

/// A running router; killed when dropped.
#[derive(Debug)]
pub struct RouterProcess {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl RouterProcess {
    /// Starts the binary and waits until it listens.
    pub fn start(binary: &Path, document: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("router.toml"), CONFIG).unwrap();
        std::fs::write(folder.path().join("routes.json"), document).unwrap();
        let (child, listening) = spawn(binary, folder.path(), |_| ());
        let address = listening
            .iter()
            .find_map(|on| (!on.admin).then_some(on.address))
            .expect("the router listens");
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// Where clients call.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its resident memory in bytes.
    pub fn rss(&self) -> u64 {
        rss(&self.child.id().to_string())
    }

    /// Its resident memory once that has stood still for three seconds.
    pub fn settled_rss(&self) -> u64 {
        let mut seen = [0; 6];
        loop {
            seen.rotate_left(1);
            seen[5] = self.rss();
            if seen.iter().all(|rss| *rss == seen[0]) {
                return seen[5];
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for RouterProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The resident memory in bytes of a process, by ID or `self`.
pub fn rss(process: &str) -> u64 {
    status_bytes(process, "VmRSS:")
}

/// The most memory that a process ever had.
pub fn peak(process: &str) -> u64 {
    status_bytes(process, "VmHWM:")
}

fn status_bytes(process: &str, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .expect("a line of this name");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}

/// The processor time of a process so far.
pub fn cpu(process: &str) -> Duration {
    const TICKS_A_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
}

/// Threads of this process: all there are, by their name.
fn threads() -> Vec<(String, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| {
            let path = task.ok()?.path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?;
            let id = path.file_name()?.to_str()?.to_owned();
            Some((name.trim().to_owned(), id))
        })
        .collect()
}

/// Keeps the threads with these names on the first core, and all others, as well as those that they start later, on the
/// second one. Says whether it could.
pub fn pin_apart(names: &[&str]) -> bool {
    let threads = threads();
    let pinned = threads.iter().filter(|(name, id)| {
        let first = names.iter().any(|wanted| name.starts_with(wanted));
        let core = if first { "0" } else { "1" };
        let set = Command::new("taskset").args(["-cp", core, id]).output();
        set.is_ok_and(|set| set.status.success())
    });
    pinned.count() == threads.len()
}
