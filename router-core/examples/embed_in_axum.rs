//! The router inside somebody else's server: requests for known hosts go to dynos, all others to an axum application.
//! Run it with `cargo run -p router-core --example embed_in_axum -- 127.0.0.1:8080 routes.json`.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use axum::middleware::{self, Next};
use axum::routing::get;
use router_core::Router;
use router_core::feed::{self, FeedOptions, FileFeed};
use router_core::service::ClientAddress;

/// axum knows the client's address; the router is told of it here.
async fn tell_address(
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    mut request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    request.extensions_mut().insert(ClientAddress(client));
    next.run(request).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments
        .next()
        .ok_or("usage: embed_in_axum ADDRESS ROUTE_FILE")?
        .parse()?;
    let routes = arguments
        .next()
        .ok_or("usage: embed_in_axum ADDRESS ROUTE_FILE")?;

    let router = Router::builder().name("axum-edge").build()?;
    let feed = feed::start(&router, FileFeed::new(routes), FeedOptions::default());
    let application = axum::Router::new()
        .route(
            "/",
            get(|| async { "This host is no app of the router; axum answers.\n" }),
        )
        .fallback(|| async {
            (
                http::StatusCode::NOT_FOUND,
                "axum does not know this path either.\n",
            )
        })
        .layer(router.layer())
        .layer(middleware::from_fn(tell_address));

    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    axum::serve(
        listener,
        application.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
    .await?;
    feed.stop().await;
    Ok(())
}
