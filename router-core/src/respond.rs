//! Turns a verdict into the answer that a client gets: status, page, and whether its connection can go on. Router-made
//! answers carry neither `Via` nor `X-Request-Id` (spec §3.2).

use bytes::{Bytes, BytesMut};
use router_model::app::App;
use router_model::failure::Failure;
use router_model::pages;
use router_model::verdict;

use crate::client::{Client, Transport};
use crate::worker::Worker;

/// What was queued for the client.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Body bytes.
    pub(crate) bytes: u64,
}

/// Queues the answer that `failure` calls for; `None` when nothing is to be sent. `app` decides about custom pages.
pub(crate) fn failure<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    failure: Failure,
    app: Option<&App>,
    to_head: bool,
    keep_alive: bool,
) -> Option<Answer> {
    let verdict = verdict::of(failure);
    let status = verdict.status?;
    let urls = app.map(|app| {
        (
            app.settings.error_page_url.as_deref(),
            app.settings.maintenance_page_url.as_deref(),
        )
    });
    let custom = urls.and_then(|(error, maintenance)| verdict.page.custom_url(error, maintenance));
    let page = pages::render(verdict.page, failure, custom)?;
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error");
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let allow = if failure == Failure::MethodNotAllowed {
        "Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE\r\n"
    } else {
        ""
    };
    let head = worker.with_date(|date| {
        format!(
            "HTTP/1.1 {status} {reason}\r\nConnection: {connection}\r\nServer: {}\r\nDate: {date}\r\nContent-Length: {}\r\nContent-Type: {}\r\nCache-Control: {}\r\n{allow}\r\n",
            worker.shared.name,
            page.body.len(),
            page.content_type,
            pages::CACHE_CONTROL,
        )
    });
    client.out.push(Bytes::from(head));
    let bytes = if to_head { 0 } else { page.body.len() as u64 };
    if !to_head {
        client.out.push(page.body);
    }
    Some(Answer { status, bytes })
}

/// Queues the router's own 100.
pub(crate) fn continue_now<IO: Transport>(client: &mut Client<IO>) {
    client
        .out
        .push(BytesMut::from(router_model::forward::CONTINUE).freeze());
}
