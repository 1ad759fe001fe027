//! Turns a verdict into the answer that a client gets: status, page, and whether its connection can go on. Router-made
//! answers carry neither `Via` nor `X-Request-Id` (spec §3.2).

use bytes::Bytes;
use router_model::app::App;
use router_model::failure::Failure;
use router_model::forward;
use router_model::pages;
use router_model::verdict;

use crate::client::{Client, Reply};
use crate::worker::Worker;

/// What was queued for the client.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Body bytes.
    pub(crate) bytes: u64,
}

/// Queues the answer that `failure` calls for; `None` when nothing is to be sent. `app` decides about custom pages.
pub(crate) fn failure(
    worker: &Worker,
    client: &mut impl Client,
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
    let mut fields = vec![
        ("Content-Type", page.content_type),
        ("Cache-Control", pages::CACHE_CONTROL),
    ];
    if failure == Failure::MethodNotAllowed {
        fields.push((
            "Allow",
            "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE",
        ));
    }
    Some(reply(
        worker, client, status, &fields, page.body, to_head, keep_alive,
    ))
}

/// Queues the permanent way to the https address of the same path, method and body kept (RFC 9110 §15.4.9).
pub(crate) fn redirect_to_https(
    worker: &Worker,
    client: &mut impl Client,
    host: &str,
    target: &[u8],
    to_head: bool,
    keep_alive: bool,
) -> Answer {
    let path = String::from_utf8_lossy(forward::path_of(target));
    let location = format!("https://{host}{path}");
    let fields = [("Location", location.as_str())];
    reply(
        worker,
        client,
        308,
        &fields,
        Bytes::new(),
        to_head,
        keep_alive,
    )
}

/// Queues the answer to an ACME server that checks who owns a domain (RFC 8555 §8.3).
pub(crate) fn challenge(
    worker: &Worker,
    client: &mut impl Client,
    key_authorization: &str,
    to_head: bool,
    keep_alive: bool,
) -> Answer {
    let fields = [("Content-Type", "application/octet-stream")];
    let body = Bytes::copy_from_slice(key_authorization.as_bytes());
    reply(worker, client, 200, &fields, body, to_head, keep_alive)
}

fn reply(
    worker: &Worker,
    client: &mut impl Client,
    status: u16,
    fields: &[(&str, &str)],
    body: Bytes,
    to_head: bool,
    keep_alive: bool,
) -> Answer {
    let bytes = if to_head { 0 } else { body.len() as u64 };
    worker.with_date(|date| {
        client.put_reply(&Reply {
            status,
            server: &worker.shared.name,
            date,
            fields,
            body,
            to_head,
            keep_alive,
        });
    });
    Answer { status, bytes }
}
