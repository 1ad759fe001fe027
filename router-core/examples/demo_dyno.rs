//! A web dyno to try the router with: `demo_dyno web.1` listens on a free port (or `demo_dyno web.1 5001` on that one),
//! prints its address as the first line, and answers everything with a small page that tells what reached it. Also
//! `/slow?s=N`, `/stream`, `/bytes?n=N`, and a WebSocket echo on `/ws`. A dyno of any other process type complains
//! loudly about being called.

#![allow(
    clippy::print_stdout,
    reason = "the address is printed for whoever started the dyno"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "an app owns its tasks; it is no part of the router"
)]

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use axum::http::{Response, StatusCode};
use axum::response::{Html, IntoResponse as _};
use futures_util::stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "web.1".to_owned());
    let port = arguments
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or(0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(
        listener,
        Router::new().fallback(answer).with_state(Arc::from(name)),
    )
    .await
}

async fn answer(State(dyno): State<Arc<str>>, request: Request) -> Response<Body> {
    if !dyno.starts_with("web.") {
        eprintln!(
            "\n!!!! {dyno} WAS CALLED: {} {} !!!!\nOnly web dynos may ever get a request.\n",
            request.method(),
            request.uri()
        );
        return (
            StatusCode::INTERNAL_SERVER_ERROR,
            "only web dynos may ever get a request\n",
        )
            .into_response();
    }
    match request.uri().path() {
        "/slow" => {
            let seconds = number(&request, "s", 5).min(MOST_SECONDS);
            sleep(Duration::from_secs(seconds)).await;
            format!("{dyno} took {seconds} s\n").into_response()
        }
        "/stream" => lines(&dyno),
        "/bytes" => zeros(number(&request, "n", 1 << 20)),
        "/ws" => web_socket(&dyno, request),
        _ => page(&dyno, request).await,
    }
}

/// The value of a number in the query.
fn number(request: &Request, name: &str, default: u64) -> u64 {
    let pairs = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| *key == name)
        .find_map(|(_, value)| value.parse().ok())
        .unwrap_or(default)
}

/// Chunked, a line per second.
fn lines(dyno: &Arc<str>) -> Response<Body> {
    const LINES: u32 = 10;
    let dyno = Arc::clone(dyno);
    let lines = stream::unfold(1, move |count| {
        let dyno = Arc::clone(&dyno);
        async move {
            if count > LINES {
                return None;
            }
            if count > 1 {
                sleep(Duration::from_secs(1)).await;
            }
            Some((
                Ok::<_, io::Error>(format!("line {count} of {LINES} from {dyno}\n")),
                count + 1,
            ))
        }
    });
    Body::from_stream(lines).into_response()
}

/// So many bytes with their length said before.
fn zeros(length: u64) -> Response<Body> {
    static BLOCK: [u8; 1 << 16] = [0; 1 << 16];
    let blocks = stream::unfold(length, |left| async move {
        let block = BLOCK.get(..usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK.len()))?;
        let left = left - block.len() as u64;
        (!block.is_empty()).then(|| (Ok::<_, io::Error>(Bytes::from_static(block)), left))
    });
    let headers = [
        (CONTENT_LENGTH, length.to_string()),
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
    ];
    (headers, Body::from_stream(blocks)).into_response()
}

/// The handshake of RFC 6455 §4.2.2, then every message back.
fn web_socket(dyno: &Arc<str>, mut request: Request) -> Response<Body> {
    let key = request
        .headers()
        .get(SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()));
    let (Some(accept), Some(upgrade)) = (key, request.extensions_mut().remove::<OnUpgrade>())
    else {
        return (
            StatusCode::UPGRADE_REQUIRED,
            [(UPGRADE, "websocket")],
            "this path speaks WebSocket\n",
        )
            .into_response();
    };
    tokio::spawn(echo(Arc::clone(dyno), upgrade));
    let headers = [
        (CONNECTION, "Upgrade"),
        (UPGRADE, "websocket"),
        (SEC_WEBSOCKET_ACCEPT, &accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn echo(dyno: Arc<str>, upgrade: OnUpgrade) {
    use futures_util::{SinkExt as _, StreamExt as _};
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let reply = match message.to_text() {
            Ok(text) if message.is_text() => format!("{dyno} heard: {text}").into(),
            _ if message.is_binary() => message,
            // Pings are answered and a close is returned by the library.
            _ => continue,
        };
        if socket.send(reply).await.is_err() {
            return;
        }
    }
}

/// Who answered, and what reached it.
async fn page(dyno: &str, request: Request) -> Response<Body> {
    let mut seen = format!(
        "{} {} {:?}\n",
        request.method(),
        request.uri(),
        request.version()
    );
    for (name, value) in request.headers() {
        seen += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let chunked = request.body().size_hint().exact().is_none();
    let body = axum::body::to_bytes(request.into_body(), LARGEST_BODY).await;
    let body = match body {
        Ok(body) if body.is_empty() => String::new(),
        Ok(body) => format!(
            "\n{} bytes of body{}\n",
            body.len(),
            if chunked { ", chunked" } else { "" }
        ),
        Err(error) => format!("\nthe body was cut off: {error}\n"),
    };
    let seen = (seen + &body).replace('&', "&amp;").replace('<', "&lt;");
    Html(PAGE.replace("{dyno}", dyno).replace("{seen}", &seen)).into_response()
}

const MOST_SECONDS: u64 = 600;
const LARGEST_BODY: usize = 64 << 20;
const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8"><title>{dyno}</title>
<h1>Hello from {dyno}</h1>
<p>This is what reached the dyno:</p>
<pre>
{seen}</pre>
<p>Try <a href="/slow?s=3">/slow?s=3</a>, <a href="/stream">/stream</a>, <a href="/bytes?n=1000000">/bytes?n=1000000</a>,
or a WebSocket: <input id="text" placeholder="say something"> <output id="reply"></output></p>
<script>
const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
socket.onmessage = message => reply.textContent = message.data;
text.onchange = () => socket.send(text.value);
</script>
"#;
