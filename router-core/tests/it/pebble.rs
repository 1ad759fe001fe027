//! An ACME authority for tests: Debian's pebble (`scripts/setup.sh` installs it) on free ports, in front of it a gate that
//! can be shut, and a DNS server that sends every name to 127.0.0.1 unless told otherwise.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use router_core::acme::{AcmeSettings, Retries};
use router_core::model::backoff::Backoff;
use router_testkit::{DEADLINE, RawClient, TestCa, TlsDialer};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

/// A running authority. It proves names by asking for their challenges at one port of 127.0.0.1.
pub(crate) struct Pebble {
    process: Process,
    /// What the gate leads to; nothing while it is shut.
    behind: Arc<Mutex<Option<SocketAddr>>>,
    gate: SocketAddr,
    management: SocketAddr,
    /// Trusted for pebble's own endpoints, which is not what it issues from.
    ca: TestCa,
    folder: TempDir,
    dns: Arc<Dns>,
    config: Config,
    tasks: Vec<AbortHandle>,
}

/// What a test may change about its authority.
#[derive(Clone)]
pub(crate) struct Config {
    /// Where challenges are asked for.
    pub(crate) http_port: u16,
    /// How long certificates are valid.
    pub(crate) lifetime: Duration,
}

impl Pebble {
    /// An authority that looks for challenges at this port.
    pub(crate) async fn start(http_port: u16) -> Self {
        Self::with(Config {
            http_port,
            lifetime: Duration::from_hours(90 * 24),
        })
        .await
    }

    /// An authority with other settings.
    pub(crate) async fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = TestCa::new("whom pebble's endpoint is trusted by");
        let certificate = ca.certificate(&["localhost", "127.0.0.1"]);
        for (name, text) in [
            ("root.pem", ca.pem().as_str()),
            ("endpoint.crt", certificate.chain_pem()),
            ("endpoint.key", certificate.key_pem()),
        ] {
            std::fs::write(folder.path().join(name), text).expect("write");
        }
        let (dns, serving) = Dns::start().await;
        let behind = Arc::new(Mutex::new(None));
        let (gate, gating) = gate(Arc::clone(&behind)).await;
        let (process, address, management) = Process::start(&folder, &config, &dns).await;
        *behind.lock().unwrap() = Some(address);
        Self {
            process,
            behind,
            gate,
            management,
            ca,
            folder,
            dns,
            config,
            tasks: vec![serving, gating],
        }
    }

    /// How a router is told of it: quick to try again, on demand.
    pub(crate) fn settings(&self, folder: &TempDir) -> AcmeSettings {
        let quick = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        AcmeSettings {
            directory: format!("https://{}/dir", self.gate),
            root: Some(self.root()),
            on_demand: true,
            accept_terms: true,
            retries: Retries {
                domain: quick,
                authority: quick,
            },
            ..AcmeSettings::new(folder.path().join("acme"))
        }
    }

    /// Whom its endpoint is trusted by.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// Nobody reaches it any more.
    pub(crate) fn shut(&self) {
        *self.behind.lock().unwrap() = None;
    }

    /// A new process with an empty memory takes its place.
    pub(crate) async fn forget_everything(&mut self) {
        let (process, address, management) =
            Process::start(&self.folder, &self.config, &self.dns).await;
        self.process = process;
        self.management = management;
        *self.behind.lock().unwrap() = Some(address);
    }

    /// It is reached again after [`Pebble::shut`].
    pub(crate) fn open(&self) {
        *self.behind.lock().unwrap() = Some(self.process.address);
    }

    /// This name leads nowhere from now on.
    pub(crate) fn mislead(&self, name: &str) {
        self.dns.nowhere.lock().unwrap().insert(name.to_owned());
    }

    /// All names lead to the router again.
    pub(crate) fn lead_right(&self) {
        self.dns.nowhere.lock().unwrap().clear();
    }

    /// The root of what it issues, PEM.
    pub(crate) async fn issuer(&self) -> String {
        let dialer = TlsDialer::trusting(&self.ca, "localhost").alpn(&["http/1.1"]);
        let mut client = RawClient::connect_tls(self.management, &dialer).await;
        let request = "GET /roots/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let response = client.exchange(request).await;
        assert_eq!(response.status, 200);
        response.text()
    }

    /// How many lines of its log have this in them.
    pub(crate) fn said(&self, words: &str) -> usize {
        let log = self.process.log.lock().unwrap();
        log.iter().filter(|line| line.contains(words)).count()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if std::thread::panicking() {
            let log = self.process.log.lock().unwrap();
            eprintln!("pebble said:\n{}", log.join("\n"));
        }
    }
}

/// The process; it ends when this is dropped, in a panic too.
struct Process {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Free ports can be somebody else's by the time that pebble takes them, so this may take several attempts.
    async fn start(folder: &TempDir, config: &Config, dns: &Dns) -> (Self, SocketAddr, SocketAddr) {
        for _ in 0..10 {
            let [address, management, unused] = free_addresses();
            let path = folder.path().join("pebble.json");
            let settings = json!({"pebble": {
                "listenAddress": address.to_string(),
                "managementListenAddress": management.to_string(),
                "certificate": folder.path().join("endpoint.crt"),
                "privateKey": folder.path().join("endpoint.key"),
                "httpPort": config.http_port,
                "tlsPort": unused.port(),
                "ocspResponderURL": "",
                "externalAccountBindingRequired": false,
                "certificateValidityPeriod": config.lifetime.as_secs(),
            }});
            std::fs::write(&path, settings.to_string()).expect("write");
            let child = Command::new("pebble")
                .arg("-config")
                .arg(&path)
                .arg("-dnsserver")
                .arg(dns.address.to_string())
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_WFE_NONCEREJECT", "0")
                .env("PEBBLE_AUTHZREUSE", "0")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let child = child.unwrap_or_else(|error| {
                panic!(
                    "these tests need the ACME server pebble, and it cannot be started ({error}): run \
                     scripts/setup.sh, or apt-get install pebble"
                )
            });
            if let Some(process) = Self::listening(child, address).await {
                return (process, address, management);
            }
        }
        panic!("pebble found no free port");
    }

    /// Waits until it listens; `None` when it ended instead.
    async fn listening(mut child: Child, address: SocketAddr) -> Option<Self> {
        let output = child.stdout.take().expect("a pipe");
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut process = Self {
            child,
            address,
            log: Arc::clone(&log),
        };
        // Reads until the process ends, so that it never waits for us.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                log.lock().unwrap().push(line);
            }
        });
        let deadline = Instant::now() + DEADLINE;
        while process.child.try_wait().expect("its state").is_none() {
            if TcpStream::connect(address).await.is_ok() {
                return Some(process);
            }
            assert!(Instant::now() < deadline, "pebble does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_addresses() -> [SocketAddr; 3] {
    let taken = [(); 3].map(|()| StdListener::bind("127.0.0.1:0").expect("a free port"));
    taken.map(|listener| listener.local_addr().expect("its address"))
}

/// Relays connections to wherever it leads at the moment; hangs up when that is nowhere.
async fn gate(behind: Arc<Mutex<Option<SocketAddr>>>) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let task = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = *behind.lock().unwrap();
            let Some(to) = to else { continue };
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (address, task.abort_handle())
}

/// Answers questions for addresses.
struct Dns {
    address: SocketAddr,
    /// Names that have no address.
    nowhere: Mutex<HashSet<String>>,
}

impl Dns {
    async fn start() -> (Arc<Self>, AbortHandle) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let dns = Arc::new(Self {
            address: socket.local_addr().expect("its address"),
            nowhere: Mutex::default(),
        });
        let serving = Arc::clone(&dns);
        let task = tokio::spawn(async move {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                if let Some(answer) = serving.answer(&question[..length]) {
                    socket.send_to(&answer, from).await.ok();
                }
            }
        });
        (dns, task.abort_handle())
    }

    /// RFC 1035 §4: the question again, and for type A the address.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        const HEADER: usize = 12;
        let (mut name, mut at) = (Vec::new(), HEADER);
        loop {
            let length = usize::from(*question.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            name.push(String::from_utf8_lossy(question.get(at..at + length)?).to_lowercase());
            at += length;
        }
        let is_a = question.get(at..at + 4)? == [0, 1, 0, 1];
        let known = !self.nowhere.lock().unwrap().contains(&name.join("."));
        let count = u8::from(is_a && known);
        let mut answer = question.get(..2)?.to_vec();
        // A recursive server's answer without error; one question, so many answers, nothing else.
        answer.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
        answer.extend(question.get(HEADER..at + 4)?);
        if count == 1 {
            // The name of the question, A, IN, a second, four bytes.
            answer.extend([
                0xc0,
                HEADER as u8,
                0,
                1,
                0,
                1,
                0,
                0,
                0,
                1,
                0,
                4,
                127,
                0,
                0,
                1,
            ]);
        }
        Some(answer)
    }
}
