//! A dyno that answers when it is told to.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::process::PATIENCE;

/// A listening dyno.
pub(crate) struct Dyno {
    pub(crate) address: SocketAddr,
    requests: Receiver<Held>,
}

/// A request that a dyno got and has not answered yet.
pub(crate) struct Held {
    stream: TcpStream,
    /// Its head, in lower case.
    pub(crate) head: String,
}

impl Dyno {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (request, requests) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head = lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .map(|line| line.to_ascii_lowercase() + "\n")
                    .collect();
                if request.send(Held { stream, head }).is_err() {
                    return;
                }
            }
        });
        Self { address, requests }
    }

    /// The next request that arrives.
    pub(crate) fn request(&self) -> Held {
        self.requests
            .recv_timeout(PATIENCE)
            .expect("no request arrived at the dyno")
    }

    /// A route document with one app whose only web dyno this is.
    pub(crate) fn routes(&self, revision: u64) -> String {
        let app = serde_json::json!({
            "name": "shop",
            "domains": ["shop.example.com", "*.shop.example.com"],
            "dynos": [{"name": "web.1", "address": self.address, "state": "up"}],
        });
        serde_json::json!({"format": 1, "revision": revision, "apps": [app]}).to_string()
    }
}

impl Held {
    pub(crate) fn answer(mut self) {
        self.stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            .unwrap();
    }
}
