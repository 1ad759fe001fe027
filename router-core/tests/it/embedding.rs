//! The router inside another server: a layer that takes known hosts, a service of its own, and the same log lines.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use axum::middleware::{self, Next};
use router_core::service::ClientAddress;
use router_testkit::{FakeDyno, RawClient};
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::world::{
    World, assert_failed, assert_failed_at, assert_served, get, ok, post_chunked_head, shop,
};

/// An axum application on a free port with the router in front of it, as the example does it.
struct Embedded {
    world: World,
    dyno: FakeDyno,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Embedded {
    async fn start() -> Self {
        let world = World::start();
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().web(1, dyno.address())]);
        let application = axum::Router::new()
            .fallback(|| async { "axum answers" })
            .layer(world.router.layer())
            .layer(middleware::from_fn(tell_address));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = application.into_make_service_with_connect_info::<SocketAddr>();
        let serving = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Self {
            world,
            dyno,
            address,
            serving,
        }
    }

    async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    async fn finish(self) {
        self.serving.abort();
        self.world.finish().await;
    }
}

async fn tell_address(
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    mut request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    request.extensions_mut().insert(ClientAddress(client));
    next.run(request).await
}

#[tokio::test]
async fn known_hosts_go_to_dynos_and_all_others_to_the_application() {
    let embedded = Embedded::start().await;
    let mut client = embedded.client().await;
    let response = client
        .exchange("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
        .await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "axum answers")
    );
    client.send(get("/path?q=1")).await;
    let (_conn, head) = embedded
        .dyno
        .accept_and_answer(ok("the dyno answers"))
        .await;
    assert_eq!(
        (head.target(), head.header("host")),
        ("/path?q=1", Some("shop.test"))
    );
    assert_eq!(head.header("x-forwarded-for"), Some("127.0.0.1"));
    let response = client.read_response().await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "the dyno answers")
    );
    assert_eq!(response.header("via"), Some("1.1 router"));
    let record = embedded.world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(
        (record.fwd(), record.path(), record.bytes()),
        ("127.0.0.1", "/path?q=1", 16)
    );
    let response = client
        .exchange("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
        .await;
    assert_eq!(response.text(), "axum answers", "on the same connection");
    embedded.finish().await;
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let embedded = Embedded::start().await;
    let mut client = embedded.client().await;
    client
        .send(post_chunked_head("/upload") + "3\r\nabc\r\n")
        .await;
    let mut conn = embedded.dyno.accept().await;
    assert_eq!(
        conn.read_head().await.header("transfer-encoding"),
        Some("chunked")
    );
    assert_eq!(conn.read_exact(8).await, b"3\r\nabc\r\n");
    client.send("2\r\nde\r\n0\r\n\r\n").await;
    assert_eq!(conn.read_chunked_raw().await.body(), b"de");
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    assert!(client.read_head().await.start_line().ends_with("200 OK"));
    assert_eq!(client.read_exact(8).await, b"3\r\none\r\n");
    conn.write("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(client.read_exact(13).await, b"3\r\ntwo\r\n0\r\n\r\n");
    assert_served(&embedded.world.log.next().await, "web.1", 200);
    embedded.finish().await;
}

#[tokio::test]
async fn failures_have_their_pages_and_log_lines() {
    let embedded = Embedded::start().await;
    let mut client = embedded.client().await;
    client.send(get("/")).await;
    let mut conn = embedded.dyno.accept().await;
    conn.read_head().await;
    conn.close().await;
    let response = client.read_response().await;
    assert_eq!(response.status, 503);
    assert!(response.text().contains("<title>Application Error</title>"));
    let record = embedded.world.log.next().await;
    assert_failed_at(&record, "web.1", "H13", 503);
    assert_eq!(record.bytes(), response.body.len() as u64);

    embedded.world.apply(&[shop().field("maintenance", true)]);
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_failed(&embedded.world.log.next().await, "H80", 503);
    embedded.finish().await;
}

#[tokio::test]
async fn a_truncated_response_is_seen_as_truncated() {
    let embedded = Embedded::start().await;
    let mut client = embedded.client().await;
    client.send(get("/")).await;
    let (conn, _) = embedded
        .dyno
        .accept_and_answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
        .await;
    conn.close().await;
    assert_eq!(client.read_broken_response().await.status, 200);
    assert_failed_at(&embedded.world.log.next().await, "web.1", "H18", 200);
    embedded.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let embedded = Embedded::start().await;
    let mut client = embedded.client().await;
    client.send(get("/")).await;
    let mut conn = embedded.dyno.accept().await;
    conn.read_head().await;
    client.close().await;
    conn.expect_end().await;
    assert_failed_at(&embedded.world.log.next().await, "web.1", "H27", 499);
    embedded.finish().await;
}

#[tokio::test]
async fn an_upgrade_tunnels_through_the_embedding_server() {
    let embedded = Embedded::start().await;
    let mut client = embedded.client().await;
    client
        .send(
            "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
        )
        .await;
    let (mut conn, head) = embedded
        .dyno
        .accept_and_answer(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
        )
        .await;
    assert_eq!(head.header("upgrade"), Some("chat"));
    let response = client.read_response().await;
    assert_eq!(
        (response.status, response.header("upgrade")),
        (101, Some("chat"))
    );
    client.send("up").await;
    assert_eq!(conn.read_exact(2).await, b"up");
    conn.write("down").await;
    assert_eq!(client.read_exact(4).await, b"down");
    client.close().await;
    conn.expect_end().await;
    let record = embedded.world.log.next().await;
    assert_served(&record, "web.1", 101);
    assert_eq!(record.bytes(), 4);
    embedded.finish().await;
}

#[tokio::test]
async fn the_service_alone_answers_unknown_hosts_itself() {
    let world = World::start();
    let dyno = FakeDyno::respond_with(|_| ok("x").into_bytes()).await;
    world.apply(&[shop().web(1, dyno.address())]);
    for (host, status) in [("shop.test", 200), ("other.test", 404)] {
        let request = http::Request::get("/")
            .header("host", host)
            .body(axum::body::Body::empty())
            .unwrap();
        let response = world.router.service().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{host}");
        let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 10_000)
            .await
            .unwrap();
        if status == 200 {
            assert_eq!(&body[..], b"x");
        }
    }
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.fwd(), "", "nobody said who the client is");
    world.finish().await;
}
