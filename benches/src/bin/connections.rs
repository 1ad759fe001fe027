//! What an idle connection costs a router: `connections ROUTER [N]`. Opens N keep-alive connections, each of which has had one answer, then in a
//! router of its own N WebSockets, each of which has had a message echoed. Kernel memory is not counted. Needs 2 N file descriptors here and there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "it measures and prints"
)]

use std::path::Path;

use router_benches::client::Client;
use router_benches::process::RouterProcess;
use router_benches::{dyno, routes};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let binary = arguments.next().expect("usage: connections ROUTER [N]");
    let count = arguments
        .next()
        .map_or(5000, |text| text.parse().expect("a number of connections"));
    let host = routes::host(0, 0);
    let document = routes::document(1, 1, 0, dyno::start());
    for (what, upgrade) in [("keep-alive connection", false), ("WebSocket", true)] {
        let router = RouterProcess::start(Path::new(&binary), &document);
        let open = || {
            let mut client = Client::connect(router.address(), &host).unwrap();
            if upgrade {
                client.upgrade(&host);
            } else {
                client.send();
                client.receive();
            }
            client
        };
        let _first = open();
        let before = router.settled_rss();
        let _open: Vec<Client> = (0..count).map(|_| open()).collect();
        let after = router.settled_rss();
        println!(
            "{count} idle {what}s: {} kB before, {} kB with them, {} bytes each",
            before / 1024,
            after / 1024,
            after.saturating_sub(before) / count
        );
    }
}
