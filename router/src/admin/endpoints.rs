//! What the admin endpoint answers, path by path.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use router_core::acme::{AcmeHandle, AcmeStatus};
use router_core::feed::{FeedStatus, PublishHandle, PublishStats};
use router_core::{AppView, Explanation};
use serde::Serialize;

use super::{State, query};
use crate::certificates;

/// The answer to one request.
pub(super) fn answer<B>(state: &State, request: &Request<B>) -> Response<Full<Bytes>> {
    if *request.method() == Method::POST && request.uri().path() == CONFIRM {
        return confirm(state, request);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = error(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are answered here",
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "serving\n"),
        "/readyz" => readiness(state),
        "/metrics" => respond(
            StatusCode::OK,
            METRICS,
            state.metrics.render(&state.present()),
        ),
        "/v1/feed" => json(
            StatusCode::OK,
            &WholeFeed {
                feed: state.feed.status(),
                relay: state.relay.get().map(PublishHandle::stats),
            },
        ),
        "/v1/routes" => json(
            StatusCode::OK,
            &Routes {
                apps: state.router.apps(),
                feed: Feed::of(state.feed.status()),
            },
        ),
        "/v1/certificates" => json(StatusCode::OK, &AllCertificates::of(state)),
        "/v1/explain" => explain(state, request.uri().query().unwrap_or_default()),
        path => match path.strip_prefix("/v1/apps/").map(query::decode) {
            Some(name) => state.router.app(&name).map_or_else(
                || error(StatusCode::NOT_FOUND, &format!("there is no app {name:?}")),
                |app| json(StatusCode::OK, &app),
            ),
            None => error(StatusCode::NOT_FOUND, "there is nothing at this path"),
        },
    }
}

fn readiness(state: &State) -> Response<Full<Bytes>> {
    if state.is_draining() {
        text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if !state.router.table().is_loaded() {
        text(StatusCode::SERVICE_UNAVAILABLE, "no routes yet\n")
    } else if !state.is_listening() {
        text(StatusCode::SERVICE_UNAVAILABLE, "not listening yet\n")
    } else {
        text(StatusCode::OK, "ready\n")
    }
}

/// Believes a document that is withheld. A page in somebody's browser can send a request of this method here too, but not
/// with this content type, unless it is allowed to.
fn confirm<B>(state: &State, request: &Request<B>) -> Response<Full<Bytes>> {
    if request.headers().get(CONTENT_TYPE) != Some(&JSON) {
        let wanted = "the request must say Content-Type: application/json";
        return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, wanted);
    }
    let query = request.uri().query().unwrap_or_default();
    let revision = query::parameter(query, "revision").and_then(|text| text.parse().ok());
    let Some(revision) = revision else {
        return error(
            StatusCode::BAD_REQUEST,
            "the parameter revision is missing or no number: /v1/feed/confirm?revision=REVISION",
        );
    };
    if state.feed.confirm(revision) {
        tracing::warn!(revision, "an operator has confirmed what was withheld");
        json(StatusCode::OK, &state.feed.status())
    } else {
        error(
            StatusCode::CONFLICT,
            "no document of this revision is withheld; /v1/feed says which is",
        )
    }
}

fn explain(state: &State, query: &str) -> Response<Full<Bytes>> {
    let Some(host) = query::parameter(query, "host").filter(|host| !host.is_empty()) else {
        return error(
            StatusCode::BAD_REQUEST,
            "the parameter host is missing or empty: /v1/explain?host=HOST&path=PATH",
        );
    };
    let path = query::parameter(query, "path").filter(|path| !path.is_empty());
    let explanation = state.router.explain(&host, path.as_deref().unwrap_or("/"));
    // That nobody has the host is an answer too: `"routed": false`.
    json(
        StatusCode::OK,
        &Explained {
            explanation,
            feed: Feed::of(state.feed.status()),
        },
    )
}

/// An explanation, and how old the routes are that it is drawn from.
#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    feed: Feed,
}

/// The route table as applied.
#[derive(Serialize)]
struct Routes {
    apps: Vec<AppView>,
    feed: Feed,
}

/// Every certificate that may answer a client, and what cannot.
#[derive(Serialize)]
struct AllCertificates {
    certificates: Vec<certificates::View>,
    rejected: Vec<certificates::Rejected>,
    /// What is ordered; left out without `[acme]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    acme: Option<AcmeStatus>,
}

impl AllCertificates {
    fn of(state: &State) -> Self {
        let of_document = state.feed.rejected_certificates().into_iter();
        let of_document = of_document.map(|rejection| certificates::Rejected {
            origin: "document",
            place: rejection.app,
            reason: rejection.reason,
        });
        let mut rejected = state.certificates.rejected();
        rejected.extend(of_document);
        Self {
            certificates: state.certificates.views(&state.router),
            rejected,
            acme: state.acme.get().map(AcmeHandle::status),
        }
    }
}

/// All that there is to say of the feed.
#[derive(Serialize)]
struct WholeFeed {
    #[serde(flatten)]
    feed: FeedStatus,
    /// Whom it is passed on to; left out by those that are no relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<PublishStats>,
}

/// The part of the feed's state that says how far to trust an answer.
#[derive(Serialize)]
struct Feed {
    revision: Option<u64>,
    age_seconds: Option<f64>,
    stale: bool,
}

impl Feed {
    fn of(status: FeedStatus) -> Self {
        Self {
            revision: status.revision,
            age_seconds: status.age_seconds,
            stale: status.stale,
        }
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            respond(status, JSON, body)
        }
        Err(problem) => {
            tracing::error!(error = %problem, "an admin answer cannot be written as JSON");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer cannot be written as JSON\n",
            )
        }
    }
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": message }))
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, TEXT, body.as_bytes().to_vec())
}

fn respond(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const CONFIRM: &str = "/v1/feed/confirm";
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
