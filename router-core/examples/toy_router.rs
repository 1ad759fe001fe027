//! A whole router in a few lines: static routes, a log line per request, a drain on Ctrl-C. Run it with
//! `cargo run -p router-core --example toy_router -- 127.0.0.1:8080 shop.test=127.0.0.1:5001,127.0.0.1:5002`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use router_core::model::log_line::LogLine;
use router_core::model::snapshot;
use router_core::server::{ListenerSettings, Server};
use router_core::{Observer, Router};

/// Prints each log line.
struct Print;

impl Observer for Print {
    fn request(&self, _worker: usize, line: &LogLine<'_>) {
        let mut text = Vec::new();
        line.write_heroku(&mut text);
        eprint!("{}", String::from_utf8_lossy(&text));
    }
}

/// `shop.test=127.0.0.1:5001,127.0.0.1:5002` as an app of the route document.
fn app(route: &str) -> Result<serde_json::Value, String> {
    let (domain, addresses) = route
        .split_once('=')
        .ok_or("a route is DOMAIN=ADDRESS[,ADDRESS…]")?;
    let dynos: Vec<_> = addresses
        .split(',')
        .zip(1..)
        .map(|(address, n)| serde_json::json!({"name": format!("web.{n}"), "address": address, "state": "up"}))
        .collect();
    Ok(serde_json::json!({"name": domain, "domains": [domain], "dynos": dynos}))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments
        .next()
        .ok_or("usage: toy_router ADDRESS ROUTE…")?
        .parse()?;
    let apps = arguments
        .map(|route| app(&route))
        .collect::<Result<Vec<_>, _>>()?;
    let document = serde_json::json!({"format": 1, "revision": 1, "apps": apps}).to_string();

    let router = Router::builder()
        .name("toy")
        .observer(Arc::new(Print))
        .build()?;
    let applied = router
        .table()
        .apply(&snapshot::parse(document.as_bytes())?)?;
    for rejection in applied.rejected {
        eprintln!("{}: {}", rejection.app, rejection.reason);
    }
    let server = Server::builder(router)
        .listener(ListenerSettings::http(address))
        .start()?;
    eprintln!("listening on {:?}; Ctrl-C ends it", server.addresses());
    tokio::signal::ctrl_c().await?;
    let report = server.drain(Duration::from_secs(30)).await;
    eprintln!("{} requests finished, {} cut", report.finished, report.cut);
    Ok(())
}
