//! The proxies: how each is told to do the same work. Forwarded headers, a request id, kept connections to the origin, one worker, and
//! one access-log line for each request in `access.log`, written in batches where the proxy can.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::process::Signal;
use serde::Serialize;
use serde_json::json;

use crate::failed::{Context, Result};
use crate::http::HOST;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    Router,
    Nginx,
    Haproxy,
    Envoy,
    Pingora,
    /// A bare proxy on hyper, without a log: the floor.
    Hyper,
}

/// Where the programs are.
#[derive(Debug, clap::Args)]
pub(crate) struct Programs {
    #[arg(long, default_value = "target/release/router")]
    pub(crate) router: PathBuf,
    #[arg(long, default_value = "/usr/sbin/nginx")]
    pub(crate) nginx: PathBuf,
    #[arg(long, default_value = "/usr/sbin/haproxy")]
    pub(crate) haproxy: PathBuf,
    #[arg(long, default_value = "target/compare/envoy")]
    pub(crate) envoy: PathBuf,
    #[arg(long, default_value = "target/peers/pingora/release/peer-pingora")]
    pub(crate) pingora: PathBuf,
    #[arg(long, default_value = "target/peers/hyper/release/peer-hyper")]
    pub(crate) hyper: PathBuf,
}

/// How a proxy is set up for one measurement.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) listen: SocketAddr,
    pub(crate) origin: SocketAddr,
    pub(crate) tls: bool,
    pub(crate) threads: usize,
    /// The router only: apps in its route table, the one that is asked for included.
    pub(crate) apps: usize,
    /// How many of them are asked for.
    pub(crate) asked: usize,
    /// The router only: its routes come from a feed at this URL instead of from a file.
    pub(crate) feed: Option<String>,
}

impl Peer {
    pub(crate) const ALL: [Self; 6] = [
        Self::Router,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::Pingora,
        Self::Hyper,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Pingora => "pingora",
            Self::Hyper => "hyper",
        }
    }

    pub(crate) fn program(self, programs: &Programs) -> &Path {
        match self {
            Self::Router => &programs.router,
            Self::Nginx => &programs.nginx,
            Self::Haproxy => &programs.haproxy,
            Self::Envoy => &programs.envoy,
            Self::Pingora => &programs.pingora,
            Self::Hyper => &programs.hyper,
        }
    }

    /// What the program is asked for its version with; the small ones are known by what they are built of.
    pub(crate) fn version_flag(self) -> Option<&'static str> {
        match self {
            Self::Router | Self::Envoy => Some("--version"),
            Self::Nginx | Self::Haproxy => Some("-v"),
            Self::Pingora | Self::Hyper => None,
        }
    }

    /// The file in its folder that its access log goes to.
    pub(crate) fn log(self) -> Option<&'static str> {
        match self {
            // HAProxy can only write to a file through its standard output.
            Self::Haproxy => Some("haproxy.stdout"),
            Self::Hyper => None,
            Self::Router | Self::Nginx | Self::Envoy | Self::Pingora => Some("access.log"),
        }
    }

    /// The signal upon which it writes out its log and ends, without waiting for clients.
    pub(crate) fn end_signal(self) -> Signal {
        match self {
            Self::Haproxy => Signal::USR1,
            Self::Pingora | Self::Router | Self::Nginx | Self::Envoy | Self::Hyper => Signal::TERM,
        }
    }

    /// Writes its configuration into the folder, where certificate and key are already, and says how it is started.
    pub(crate) fn prepare(
        self,
        setup: &Setup,
        programs: &Programs,
        folder: &Path,
    ) -> Result<Vec<String>> {
        let (file, text) = match self {
            Self::Router => {
                // A folder of its own: the router watches it, and a log that grows beside the document would wake it up.
                fs::create_dir_all(folder.join("routes"))?;
                fs::write(folder.join("routes/routes.json"), routes(setup))?;
                ("router.toml", router(setup))
            }
            Self::Nginx => ("nginx.conf", nginx(setup, folder)),
            Self::Haproxy => ("haproxy.cfg", haproxy(setup)),
            Self::Envoy => ("envoy.json", envoy(setup)),
            Self::Pingora | Self::Hyper => ("", String::new()),
        };
        let program = self.program(programs);
        let mut command = vec![
            program
                .canonicalize()
                .context(|| format!("{} is not here: {}", self.name(), program.display()))?
                .display()
                .to_string(),
        ];
        let arguments: Vec<String> = match self {
            Self::Router => ["serve", "--config", file].map(str::to_owned).into(),
            Self::Nginx => vec![
                "-p".into(),
                folder.display().to_string(),
                "-c".into(),
                file.into(),
            ],
            Self::Haproxy => ["-db", "-f", file].map(str::to_owned).into(),
            Self::Envoy => [
                "-c",
                file,
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "error",
            ]
            .map(str::to_owned)
            .into(),
            Self::Pingora | Self::Hyper => {
                let mut arguments = vec![setup.listen.to_string(), setup.origin.to_string()];
                arguments.extend(self.log().map(str::to_owned));
                if setup.tls {
                    arguments.extend(["cert.pem", "key.pem"].map(str::to_owned));
                }
                arguments
            }
        };
        command.extend(arguments);
        if !file.is_empty() {
            fs::write(folder.join(file), text)?;
        }
        Ok(command)
    }
}

/// A route document: the app that is asked for, and as many others as are wanted.
pub(crate) fn routes(setup: &Setup) -> String {
    let origin = setup.origin;
    let app = |name: &str, host: &str| {
        format!(
            "{{\"name\":\"{name}\",\"domains\":[\"{host}\"],\"dynos\":[{{\"name\":\"web.1\",\"address\":\"{origin}\",\"state\":\"up\"}}]}}"
        )
    };
    let mut apps = vec![app("shop", HOST)];
    apps.extend((1..setup.apps).map(|nth| app(&format!("app-{nth}"), &host(nth))));
    format!(
        "{{\"format\":1,\"revision\":1,\"apps\":[{}]}}",
        apps.join(",")
    )
}

/// The domain of one of many apps.
pub(crate) fn host(nth: usize) -> String {
    format!("app-{nth}.example.com")
}

fn router(setup: &Setup) -> String {
    let Setup {
        listen,
        tls,
        threads,
        ..
    } = setup;
    let (protocol, files) = if *tls {
        (
            "https",
            "certificate = \"cert.pem\"\nprivate_key = \"key.pem\"\n",
        )
    } else {
        ("http", "")
    };
    let feed = match &setup.feed {
        None => "path = \"routes/routes.json\"".to_owned(),
        Some(url) => format!("source = \"http\"\nurl = \"{url}\""),
    };
    let ip = listen.ip();
    // The limit is the smallest difference from the defaults: all connections of the idle scenarios go to one dyno.
    format!(
        "[[listener]]\naddress = \"{listen}\"\nprotocol = \"{protocol}\"\n{files}[admin]\naddress = \"{ip}:0\"\n[feed]\n{feed}\n[access_log]\ntarget = \"access.log\"\n[limits]\nconcurrent_requests_per_dyno = 1000000\n[workers]\nthreads = {threads}\n[timeouts]\ndrain = \"1ms\"\n"
    )
}

fn nginx(setup: &Setup, folder: &Path) -> String {
    let Setup {
        listen,
        origin,
        tls,
        threads,
        ..
    } = setup;
    let tls = if *tls { " ssl http2" } else { "" };
    let files = if tls.is_empty() {
        ""
    } else {
        "ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.2 TLSv1.3;"
    };
    let user = if rustix::process::getuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let folder = folder.display();
    format!(
        r#"{user} daemon off; worker_processes {threads}; pid {folder}/nginx.pid; error_log {folder}/nginx.error.log; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
  log_format work '$msec at=info method=$request_method path="$request_uri" host=$host request_id=$request_id fwd="$proxy_add_x_forwarded_for" connect=$upstream_connect_time service=$request_time status=$status bytes=$body_bytes_sent protocol=$server_protocol';
  access_log {folder}/access.log work buffer=64k flush=1s;
  keepalive_requests 1000000000; http2_max_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
  map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
  upstream origin {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}
  {files}
  server {{ listen {listen}{tls} backlog=4096;
    location / {{ proxy_pass http://origin; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Request-Id $request_id;
      proxy_set_header X-Request-Start $msec; proxy_set_header Via "1.1 nginx"; proxy_read_timeout 1h; }} }}
}}
"#
    )
}

fn haproxy(setup: &Setup) -> String {
    let Setup {
        listen,
        origin,
        tls,
        threads,
        ..
    } = setup;
    let (bind, proto) = if *tls {
        (" ssl crt both.pem alpn h2,http/1.1", "https")
    } else {
        ("", "http")
    };
    let port = listen.port();
    format!(
        "global\n  nbthread {threads}\n  maxconn 8000\n  maxpipes 500\n  hard-stop-after 100ms\n  log stdout format raw local0\ndefaults\n  mode http\n  option httplog\n  option splice-request\n  option splice-response\n  log global\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n  timeout connect 5s\n  http-reuse always\nfrontend clients\n  bind {listen}{bind} backlog 4096\n  option forwardfor\n  unique-id-format %[uuid]\n  http-request set-header X-Forwarded-Proto {proto}\n  http-request set-header X-Forwarded-Port {port}\n  http-request set-header X-Request-Id %[unique-id]\n  http-request set-header X-Request-Start %[date(0,ms)]\n  http-request add-header Via \"1.1 haproxy\"\n  default_backend origin\nbackend origin\n  server origin {origin} maxconn 8000\n"
    )
}

fn envoy(setup: &Setup) -> String {
    let address = |socket: SocketAddr| json!({"socket_address": {"address": socket.ip().to_string(), "port_value": socket.port()}});
    let port = setup.listen.port().to_string();
    let header = |name: &str, value: &str| json!({"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "codec_type": "AUTO",
        "use_remote_address": true,
        "via": "1.1 envoy",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "request_headers_to_add": [
                header("x-forwarded-port", &port),
                header("x-request-start", "%START_TIME(%s%3f)%"),
            ],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}],
        }]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "access.log",
            "log_format": {"text_format_source": {"inline_string": "%START_TIME% at=info method=%REQ(:METHOD)% path=\"%REQ(:PATH)%\" host=%REQ(:AUTHORITY)% request_id=%REQ(X-REQUEST-ID)% fwd=\"%REQ(X-FORWARDED-FOR)%\" service=%DURATION% status=%RESPONSE_CODE% bytes=%BYTES_SENT% protocol=%PROTOCOL%\n"}},
        }}],
    });
    let mut chain = json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
    if let (true, Some(chain)) = (setup.tls, chain.as_object_mut()) {
        let tls = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{"certificate_chain": {"filename": "cert.pem"}, "private_key": {"filename": "key.pem"}}],
            },
        }});
        chain.insert("transport_socket".to_owned(), tls);
    }
    let many = 1_000_000;
    json!({
        "static_resources": {
            "listeners": [{"name": "clients", "address": address(setup.listen), "tcp_backlog_size": 4096, "filter_chains": [chain]}],
            "clusters": [{
                "name": "origin", "type": "STATIC", "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [{"max_connections": many, "max_pending_requests": many, "max_requests": many}]},
                "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(setup.origin)}}]}]},
            }],
        },
    })
    .to_string()
}
