//! A `router` process, so that its memory is not mixed with that of its clients and dynos.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tempfile::TempDir;

/// One listener, with TLS or without; long waits, so that what is idle stays; room for as many WebSockets of one dyno as are
/// wanted.
pub fn config(tls: bool) -> String {
    let protocol = if tls { "https" } else { "http" };
    format!(
        "
[[listener]]
address = \"127.0.0.1:0\"
protocol = \"{protocol}\"
[admin]
address = \"127.0.0.1:0\"
[feed]
path = \"routes/routes.json\"
[timeouts]
client_idle = \"1h\"
idle = \"1h\"
[limits]
concurrent_requests_per_dyno = 1000000
"
    )
}

/// A command that runs the binary from whatever folder.
pub fn binary_command(binary: &Path) -> Command {
    Command::new(std::path::absolute(binary).unwrap())
}

/// An address that a router has said it listens on.
#[derive(Debug, Clone, Copy)]
pub struct Listening {
    /// Whether operators call there, not clients.
    pub admin: bool,
    /// The address.
    pub address: SocketAddr,
}

/// Starts a command that runs the binary, with the `router.toml` of a folder. `heard` is given each of its diagnostics, to the
/// last, so that it never waits for us.
pub fn spawn(
    mut command: Command,
    folder: &Path,
    mut heard: impl FnMut(&str) + Send + 'static,
) -> (Child, mpsc::Receiver<Listening>) {
    let mut child = command
        .args(["serve", "--config", "router.toml"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
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
    folder: TempDir,
}

impl RouterProcess {
    /// Starts the binary and waits until it listens.
    pub fn start(binary: &Path, document: &[u8]) -> Self {
        Self::launch(binary_command(binary), &config(false), document)
    }

    /// Starts a command that runs the binary with the arguments it is given, as a tool that looks at it does, and waits
    /// until it listens.
    pub fn launch(command: Command, config: &str, document: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("router.toml"), config).unwrap();
        // The folder of the routes is watched: what the log or a tool writes beside them would wake up the watcher all the time.
        let routes = folder.path().join("routes");
        std::fs::create_dir(&routes).unwrap();
        std::fs::write(routes.join("routes.json"), document).unwrap();
        // Guards what the process has said, for a start that goes wrong; nothing waits under it.
        let said = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&said);
        let (child, listening) = spawn(command, folder.path(), move |line| {
            *heard.lock().unwrap() += &format!("{line}\n");
        });
        let address = listening
            .iter()
            .find_map(|on| (!on.admin).then_some(on.address));
        Self {
            child,
            address: address
                .unwrap_or_else(|| panic!("no router listens: {}", said.lock().unwrap())),
            folder,
        }
    }

    /// Lets it end by itself, which has to go well, and reads the files that it or its tool has written, if their names begin so.
    pub fn stop(mut self, prefix: &str) -> BTreeMap<String, String> {
        assert!(self.signal("-TERM"), "the router has ended before");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the router ended with {status}");
        let files = std::fs::read_dir(self.folder.path()).unwrap();
        let written = files.filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let text = name
                .starts_with(prefix)
                .then(|| std::fs::read_to_string(self.folder.path().join(&name)).unwrap())?;
            Some((name, text))
        });
        written.collect()
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

    /// Sends the router a signal and says whether it was there. A tool that runs it as a process of its own has left that
    /// one's ID in `router.pid`.
    fn signal(&self, signal: &str) -> bool {
        let own = self.child.id().to_string();
        let pid = std::fs::read_to_string(self.folder.path().join("router.pid")).unwrap_or(own);
        let kill = Command::new("kill").args([signal, pid.trim()]).output();
        kill.is_ok_and(|kill| kill.status.success())
    }
}

impl Drop for RouterProcess {
    fn drop(&mut self) {
        // Killing a tool may leave the router alone.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("-KILL");
        }
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
