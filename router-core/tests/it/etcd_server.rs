//! A real etcd for tests: Debian's `etcd-server` (`scripts/setup.sh --tests` installs it) on free ports with a folder of
//! its own, and gates that can be shut or made a black hole to stand in front of it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use router_testkit::{AppDoc, DEADLINE, RawClient, TestCertificate};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What the keys of these tests begin with.
pub(crate) const PREFIX: &str = "/router/test";

/// A running etcd, alone in its cluster. It ends when this is dropped, in a panic too.
pub(crate) struct EtcdServer {
    folder: TempDir,
    ports: Ports,
    options: Options,
    process: Option<Process>,
}

/// What a test may change about its etcd.
#[derive(Clone, Default)]
pub(crate) struct Options {
    /// A TLS endpoint beside the plain one: its certificate, and the PEM of whom clients' certificates must be of.
    pub(crate) tls: Option<(TestCertificate, String)>,
}

#[derive(Clone, Copy)]
struct Ports {
    client: SocketAddr,
    tls: SocketAddr,
    peer: SocketAddr,
}

impl EtcdServer {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let mut server = Self {
            folder: tempfile::tempdir().expect("a folder"),
            ports: Ports::free(),
            options,
            process: None,
        };
        // Free ports can be somebody else's by the time that etcd takes them.
        for _ in 0..10 {
            if server.run().await {
                return server;
            }
            server.ports = Ports::free();
        }
        panic!("etcd found no free port");
    }

    /// Where clients call.
    pub(crate) fn address(&self) -> SocketAddr {
        self.ports.client
    }

    /// Where clients call by TLS.
    pub(crate) fn tls_address(&self) -> SocketAddr {
        self.ports.tls
    }

    /// Ends it like a power failure, if it runs.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again at the same addresses, with what it had written.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        assert!(self.run().await, "etcd does not start again");
    }

    /// Starts it again without anything.
    pub(crate) async fn wipe(&mut self) {
        self.kill();
        self.folder = tempfile::tempdir().expect("a folder");
        self.restart().await;
    }

    /// Has it stand still: it takes connections, and says nothing on them.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Has it go on.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("it runs");
        let id = process.0.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    async fn run(&mut self) -> bool {
        let Ports { client, tls, peer } = self.ports;
        let mut command = Command::new("etcd");
        let mut urls = format!("http://{client}");
        if let Some((certificate, ca)) = &self.options.tls {
            for (flag, name, text) in [
                ("--cert-file", "server.crt", certificate.chain_pem()),
                ("--key-file", "server.key", certificate.key_pem()),
                ("--trusted-ca-file", "clients.crt", ca),
            ] {
                let path = self.folder.path().join(name);
                std::fs::write(&path, text).expect("write");
                command.arg(flag).arg(path);
            }
            command.arg("--client-cert-auth");
            urls += &format!(",https://{tls}");
        }
        let child = command
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args([
                "--listen-client-urls",
                &urls,
                "--advertise-client-urls",
                &urls,
            ])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster", &format!("default=http://{peer}")])
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!(
                "these tests need etcd, and it cannot be started ({error}): run scripts/setup.sh --tests, or \
                 apt-get install etcd-server"
            )
        });
        self.process = Process::ready(child, client).await;
        self.process.is_some()
    }

    /// Puts a value; gives the store's revision.
    pub(crate) async fn put(&self, key: &str, value: &str) -> u64 {
        self.transaction(&[(key, Some(value))]).await
    }

    /// Puts an app.
    pub(crate) async fn put_app(&self, name: &str, app: &AppDoc) -> u64 {
        self.put(&format!("apps/{name}"), &app.to_json().to_string())
            .await
    }

    /// Takes a key away.
    pub(crate) async fn delete(&self, key: &str) -> u64 {
        self.transaction(&[(key, None)]).await
    }

    /// Puts and takes away several keys at once.
    pub(crate) async fn transaction(&self, changes: &[(&str, Option<&str>)]) -> u64 {
        let operations: Vec<Value> = changes
            .iter()
            .map(|(key, value)| {
                let key = at(key);
                match value {
                    Some(value) => {
                        json!({"request_put": {"key": key, "value": STANDARD.encode(value)}})
                    }
                    None => json!({"request_delete_range": {"key": key}}),
                }
            })
            .collect();
        let answer = self.call("kv/txn", json!({"success": operations})).await;
        revision(&answer)
    }

    /// Takes every key of the tests' away, at once.
    pub(crate) async fn delete_all(&self) -> u64 {
        let end = STANDARD.encode(format!("{PREFIX}0"));
        let answer = self
            .call("kv/deleterange", json!({"key": at(""), "range_end": end}))
            .await;
        revision(&answer)
    }

    /// What stands at a key, and with which lease.
    pub(crate) async fn get(&self, key: &str) -> Option<(String, u64)> {
        let answer = self.call("kv/range", json!({"key": at(key)})).await;
        let kv = answer.pointer("/kvs/0")?;
        let value = STANDARD.decode(kv["value"].as_str()?).expect("Base64");
        let lease = kv["lease"]
            .as_str()
            .map_or(0, |id| id.parse().expect("a number"));
        Some((String::from_utf8(value).expect("text"), lease))
    }

    /// Forgets everything older than the newest revision.
    pub(crate) async fn compact(&self) -> u64 {
        let newest = revision(&self.call("kv/range", json!({"key": at("")})).await);
        self.call(
            "kv/compaction",
            json!({"revision": newest, "physical": true}),
        )
        .await;
        newest
    }

    /// Makes a request of the JSON gateway, which must be good.
    pub(crate) async fn call(&self, path: &str, request: Value) -> Value {
        self.call_with("", path, request).await
    }

    /// The same with a token.
    pub(crate) async fn call_with(&self, token: &str, path: &str, request: Value) -> Value {
        let (body, address) = (request.to_string(), self.address());
        let mut client = RawClient::connect(address).await;
        let length = body.len();
        let authorization = match token {
            "" => String::new(),
            token => format!("Authorization: {token}\r\n"),
        };
        let request = format!(
            "POST /v3/{path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n{authorization}Content-Length: {length}\r\n\r\n{body}"
        );
        let response = client.exchange(request).await;
        let text = response.text();
        assert_eq!(response.status, 200, "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

fn at(key: &str) -> String {
    STANDARD.encode(format!("{PREFIX}/{key}"))
}

fn revision(answer: &Value) -> u64 {
    let revision = answer["header"]["revision"].as_str().expect("a revision");
    revision.parse().expect("a number")
}

impl Ports {
    fn free() -> Self {
        let taken = [(); 3].map(|()| StdListener::bind("127.0.0.1:0").expect("a free port"));
        let [client, tls, peer] = taken.map(|port| port.local_addr().expect("its address"));
        Self { client, tls, peer }
    }
}

struct Process(Child);

impl Process {
    /// Waits until it answers; `None` when it ended instead.
    async fn ready(mut child: Child, address: SocketAddr) -> Option<Self> {
        let output = child.stderr.take().expect("a pipe");
        let mut process = Self(child);
        // Reads until the process ends, so that it never waits for us.
        std::thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).count());
        // It is a program of its own, that syncs its files before it answers: a loaded machine takes its time over that.
        let deadline = Instant::now() + 6 * DEADLINE;
        while process.0.try_wait().expect("its state").is_none() {
            if healthy(address).await {
                return Some(process);
            }
            assert!(Instant::now() < deadline, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

async fn healthy(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(1), asked).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.contains("\"true\"")))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A relay of connections to one address.
pub(crate) struct Gate {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: Arc<Mutex<usize>>,
    task: AbortHandle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections are closed, old ones and new ones.
    Shut,
    /// Connections are taken and kept, and nothing comes through.
    BlackHole,
}

impl Gate {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (mode, follow) = watch::channel(Mode::Open);
        let accepted = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&accepted);
        Self {
            address: listener.local_addr().expect("its address"),
            mode,
            accepted,
            task: tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    *counted.lock().unwrap() += 1;
                    tokio::spawn(relay(client, address, follow.clone()));
                }
            })
            .abort_handle(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }

    pub(crate) fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }

    pub(crate) fn shut(&self) {
        self.mode.send_replace(Mode::Shut);
    }

    /// What is open now stays a black hole for good.
    pub(crate) fn swallow(&self) {
        self.mode.send_replace(Mode::BlackHole);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
        self.shut();
    }
}

async fn relay(mut client: TcpStream, to: SocketAddr, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Open
        && let Ok(mut server) = TcpStream::connect(to).await
    {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
            _ = mode.wait_for(|mode| *mode != Mode::Open) => {}
        }
    }
    mode.wait_for(|mode| *mode == Mode::Shut).await.ok();
}
