//! The whole path over in-memory pipes, as an embedder has it (`Router::service`, ADR 0005): a request that goes in and its
//! response that comes out, and a WebSocket message through an upgraded connection of the embedder's own server. The
//! client's side touches no socket. The dyno's side is TCP on loopback all the same, for dynos have addresses and nothing
//! else; and hyper's client and server on the embedder's side are part of the figure. In counts, the dyno is not: it has a
//! thread of its own.

use std::convert::Infallible;
use std::hint::black_box;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use router_core::Router;
use router_testkit::{AppDoc, RouteDoc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use tower_service::Service;

use super::Part;
use crate::client::{self, MESSAGE};
use crate::dyno::{self, BODY};
use crate::routes::{self, HOST};

pub(super) fn all() -> Vec<Part> {
    vec![
        Part::new("pipe/request", request),
        Part::new("pipe/websocket-message", message),
    ]
}

fn embedded() -> (Runtime, Router) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let app = AppDoc::new("shop").domain(HOST).web(1, dyno::start());
    let router = routes::router(&RouteDoc::new(1, &[app]).to_bytes());
    (runtime, router)
}

fn request() -> impl FnMut() {
    let (runtime, router) = embedded();
    let mut service = router.service();
    move || {
        runtime.block_on(async {
            let request = http::Request::get("/items?page=2").header("host", HOST);
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = service.call(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(black_box(&*body), BODY);
        });
    }
}

fn message() -> impl FnMut() {
    let (runtime, router) = embedded();
    let mut client = runtime.block_on(upgraded(router));
    let mut echo = MESSAGE.to_vec();
    move || {
        runtime.block_on(async {
            client.write_all(black_box(&MESSAGE)).await.unwrap();
            client.read_exact(&mut echo).await.unwrap();
        });
        assert_eq!(echo, MESSAGE);
    }
}

/// A WebSocket to a server that has nothing but the router in it.
async fn upgraded(router: Router) -> DuplexStream {
    let (mut client, theirs) = tokio::io::duplex(64 * 1024);
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let answer = router.service().call(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap()) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
    tokio::spawn(connection.with_upgrades());
    let handshake = client::handshake(HOST);
    client.write_all(handshake.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
    client
}
