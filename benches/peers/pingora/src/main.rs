//! A small proxy on pingora that does for each request what the router does: forwarded headers, a request id, kept connections to the
//! origin, and one access-log line, written in batches.
//!
//! `peer-pingora LISTEN ORIGIN LOG [CERTIFICATE KEY]`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::process::exit;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use pingora_core::Error;
use pingora_core::Result;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// Bytes of log lines that are written at once, and how long a line waits at most.
const BATCH: usize = 64 * 1024;
const LOG_EVERY: Duration = Duration::from_secs(1);

type Log = Arc<Mutex<BufWriter<File>>>;

struct Proxy {
    origin: SocketAddr,
    proto: &'static str,
    port: String,
    log: Log,
}

/// What is remembered of a request until its log line is written.
struct Request {
    id: String,
    started: Instant,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, origin, log, files @ ..] = arguments.as_slice() else {
        eprintln!("peer-pingora LISTEN ORIGIN LOG [CERTIFICATE KEY]");
        exit(64);
    };
    let log = Log::new(Mutex::new(BufWriter::with_capacity(
        BATCH,
        File::create(log).expect("the log can be created"),
    )));
    let batch = Arc::clone(&log);
    flush_in_background(Arc::clone(&log));
    let conf = ServerConf {
        threads: 1,
        // One worker has nobody to steal from, and a current_thread runtime is cheaper.
        work_stealing: false,
        upstream_keepalive_pool_size: 256,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let (_, port) = listen.rsplit_once(':').expect("LISTEN has a port");
    let proxy = Proxy {
        origin: origin.parse().expect("ORIGIN is an address"),
        proto: if files.is_empty() { "http" } else { "https" },
        port: port.to_owned(),
        log,
    };
    let mut service = http_proxy_service(&server.configuration, proxy);
    match files {
        [certificate, key] => {
            let mut settings =
                TlsSettings::intermediate(certificate, key).expect("certificate and key are good");
            settings.enable_h2();
            service.add_tls_with_settings(listen, None, settings);
        }
        _ => service.add_tcp(listen),
    }
    server.add_service(service);
    server.run(RunArgs::default());
    flush(&batch);
}

fn flush_in_background(log: Log) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOG_EVERY);
            flush(&log);
        }
    });
}

fn flush(log: &Log) {
    log.lock()
        .expect("nobody panics with the log")
        .flush()
        .expect("the log can be written");
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request {
            id: format!("{:032x}", fastrand::u128(..)),
            started: Instant::now(),
        }
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Request) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        req: &mut RequestHeader,
        of: &mut Request,
    ) -> Result<()> {
        let client = session
            .client_addr()
            .and_then(|address| address.as_inet())
            .map_or_else(String::new, |address| address.ip().to_string());
        req.append_header("X-Forwarded-For", client)?;
        req.insert_header("X-Forwarded-Proto", self.proto)?;
        req.insert_header("X-Forwarded-Port", self.port.as_str())?;
        req.insert_header("X-Request-Id", of.id.as_str())?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        req.insert_header("X-Request-Start", now.as_millis().to_string())?;
        req.append_header("Via", "1.1 pingora")?;
        Ok(())
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, of: &mut Request) {
        let req = session.req_header();
        let host = match req.headers.get("host") {
            Some(host) => host.to_str().unwrap_or("-"),
            None => req.uri.authority().map_or("-", |name| name.as_str()),
        };
        let client = session.client_addr().map(ToString::to_string);
        let status = session
            .response_written()
            .map_or(0, |res| res.status.as_u16());
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut log = self.log.lock().expect("nobody panics with the log");
        writeln!(
            log,
            "{}.{:03} at={} method={} path=\"{}\" host={host} request_id={} fwd=\"{}\" service={}ms status={status} bytes={}",
            now.as_secs(),
            now.subsec_millis(),
            if error.is_some() { "error" } else { "info" },
            req.method,
            req.uri.path(),
            of.id,
            client.as_deref().unwrap_or("-"),
            of.started.elapsed().as_millis(),
            session.body_bytes_sent(),
        )
        .expect("the log can be written");
    }
}
