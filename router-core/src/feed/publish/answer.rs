//! What is answered to one request. The protocol is written down in `router-core/docs/feed.md`.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE,
    ETAG, IF_NONE_MATCH, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use super::acks::Acks;
use super::body::Body;
use super::history::Change;
use super::published::Published;
use super::shared::Shared;
use super::subscriber::{Begin, Subscriber};
use super::tokens::Tokens;
use crate::clock::{self, Instant};
use crate::feed::http::{REVISION, SILENT};
use crate::tasks;

/// Who answers.
pub(super) struct Answering {
    pub(super) shared: Arc<Shared>,
    pub(super) tokens: Option<Tokens>,
}

type Answer = Response<Body>;
/// An answer, too, but not the one that was asked for.
type Refusal = Box<Answer>;

impl Answering {
    /// The answer to a request; errors are answers, too.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let mut answer = self.find(request).await.unwrap_or_else(|refusal| *refusal);
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(
            VARY,
            HeaderValue::from_static("Accept, Accept-Encoding, Authorization"),
        );
        if self.shared.is_silent() {
            headers.insert(SILENT, HeaderValue::from_static("1"));
        }
        if let Some(revision) = self.shared.published().revision {
            let name = HeaderName::from_static(REVISION);
            headers.entry(name).or_insert_with(|| revision.into());
        }
        answer
    }

    async fn find(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let path = request.uri().path();
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        match path {
            "/healthz" if reading => return Ok(text(StatusCode::OK, "publishing\n")),
            "/readyz" if reading => return Ok(self.readiness()),
            _ => {}
        }
        let routes = &*self.shared.settings.path;
        let acks = path
            .strip_prefix(routes.trim_end_matches('/'))
            .is_some_and(|rest| rest == "/acks");
        if path != routes && !acks {
            let message = format!("there is nothing here; the routes are at {routes}");
            return Err(refusal(StatusCode::NOT_FOUND, &message));
        }
        if let Some(tokens) = &self.tokens
            && !tokens.accept(request.headers().get(AUTHORIZATION))
        {
            self.shared.stats.unauthorized.add(1);
            return Err(unauthorized());
        }
        match (request.method(), acks) {
            (&Method::GET | &Method::HEAD, false) => self.routes(&request).await,
            (&Method::GET | &Method::HEAD, true) => self.acks(&request).await,
            (&Method::POST, true) => self.acknowledged(request).await,
            (_, true) => Err(not_allowed("GET, HEAD, POST")),
            (_, false) => Err(not_allowed("GET, HEAD")),
        }
    }

    fn readiness(&self) -> Answer {
        match self.shared.published().revision {
            Some(_) => text(StatusCode::OK, "ready\n"),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "no routes yet\n"),
        }
    }

    async fn routes(&self, request: &Request<Incoming>) -> Result<Answer, Refusal> {
        let asked = Asked::of(request)?;
        if self.shared.published().revision.is_none() {
            let mut refusal = refusal(StatusCode::SERVICE_UNAVAILABLE, "there are no routes yet");
            refusal.headers_mut().insert(RETRY_AFTER, 1.into());
            return Err(refusal);
        }
        let wants_stream = asked.streams && *request.method() == Method::GET;
        match wants_stream {
            true => self.stream(asked).await,
            false => self.document(asked).await,
        }
    }

    /// All of it, as it comes.
    async fn stream(&self, asked: Asked) -> Result<Answer, Refusal> {
        let shared = &self.shared;
        let first = {
            let published = shared.published();
            match asked.since {
                None if asked.has(published.tag()) => return Ok(not_modified(published.tag())),
                None => None,
                Some(since) => asked.first_change(&published, since),
            }
        };
        self.make_room()?;
        let counted = shared.stats.subscribers.enter();
        let (begin, tag) = match first {
            Some(number) => (Begin::Change(number), None),
            None => {
                let whole = shared.whole(true).await.ok_or_else(|| Box::new(broken()))?;
                let tag = whole.tag.clone();
                (Begin::Whole(whole), Some(tag))
            }
        };
        let subscriber = Subscriber::new(shared, begin, asked.gzip, counted);
        let lines = Body::Lines(Box::pin(subscriber.into_stream()));
        Ok(respond(lines, NDJSON, tag.as_ref(), asked.gzip))
    }

    /// One document or change, when there is one.
    async fn document(&self, asked: Asked) -> Result<Answer, Refusal> {
        let shared = &self.shared;
        let mut news = shared.news();
        let mut waiting = None;
        loop {
            news.mark_unchanged();
            match self.look(&asked) {
                Found::Whole => {
                    let whole = shared
                        .whole(false)
                        .await
                        .ok_or_else(|| Box::new(broken()))?;
                    shared.stats.wholes_sent.add(1);
                    let (tag, revision) = (whole.tag.clone(), whole.revision);
                    let body = Body::whole(whole, asked.gzip).await;
                    let packed = body.is_packed();
                    let mut answer = respond(body, JSON, Some(&tag), packed);
                    let name = HeaderName::from_static(REVISION);
                    answer.headers_mut().insert(name, revision.into());
                    return Ok(answer);
                }
                Found::Change(change, tag) => {
                    let body = Body::short(change.line().clone());
                    return Ok(respond(body, JSON, tag.as_ref(), false));
                }
                Found::Nothing(tag) => {
                    let until = asked.until.filter(|until| clock::now() < *until);
                    let Some(until) = until else {
                        return Ok(not_modified(tag.as_ref()));
                    };
                    if waiting.is_none() {
                        self.make_room()?;
                        waiting = Some(shared.stats.waiting.enter());
                    }
                    tokio::select! {
                        // Cancel-safe, all: what is waited for stays there.
                        _ = news.changed() => {}
                        () = tokio::time::sleep_until(until) => {}
                        () = shared.stop.cancelled() => return Ok(not_modified(tag.as_ref())),
                    }
                }
            }
        }
    }

    fn look(&self, asked: &Asked) -> Found {
        let published = self.shared.published();
        let tag = published.tag().cloned();
        if asked.has(tag.as_ref()) {
            return Found::Nothing(tag);
        }
        let Some(since) = asked.since else {
            return Found::Whole;
        };
        let Some(number) = asked.first_change(&published, since) else {
            return Found::Whole;
        };
        match published.history.merged_from(number) {
            Some(change) => Found::Change(change, tag),
            None => Found::Nothing(tag),
        }
    }

    /// Waiting must leave room for those who only ask.
    fn make_room(&self) -> Result<(), Refusal> {
        let stats = &self.shared.stats;
        let most = self.shared.settings.connections / 10 * 9;
        let held = stats.subscribers.count() + stats.waiting.count();
        if held < most.max(1) as u64 {
            return Ok(());
        }
        stats.turned_away.add(1);
        let mut refusal = refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "there are too many readers",
        );
        refusal.headers_mut().insert(RETRY_AFTER, 5.into());
        Err(refusal)
    }

    async fn acknowledged(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let longest = Acks::LONGEST_SEVERAL;
        let acks = &self.shared.acks;
        let length = hyper::body::Body::size_hint(request.body()).exact();
        let is_short = length.is_some_and(|length| length <= Acks::SHORT as u64);
        let read = async {
            // A permit that is waited for in vain is as good as a body that does not come.
            let permit = match is_short {
                true => None,
                false => acks.long_bodies.acquire().await.ok(),
            };
            let body = Limited::new(request.into_body(), longest).collect();
            (body.await, permit)
        };
        let Ok((body, permit)) = tokio::time::timeout(PATIENCE, read).await else {
            let why = "the body did not come";
            return Err(refusal(StatusCode::REQUEST_TIMEOUT, why));
        };
        let body = match body {
            Err(failed) if failed.is::<LengthLimitError>() => {
                let message = format!("more than {longest} bytes");
                return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, &message));
            }
            Err(failed) => return Err(refusal(StatusCode::BAD_REQUEST, &failed.to_string())),
            Ok(body) => body.to_bytes(),
        };
        let put = if is_short {
            acks.put(&body, clock::now())
        } else {
            let shared = Arc::clone(&self.shared);
            let put = tasks::blocking(move || shared.acks.put(&body, clock::now())).await;
            put.ok_or_else(|| Box::new(broken()))?
        };
        drop(permit);
        put.map_err(|wrong| refusal(StatusCode::BAD_REQUEST, &wrong))?;
        let mut answer = Response::new(Body::short(Bytes::new()));
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Ok(answer)
    }

    async fn acks(&self, request: &Request<Incoming>) -> Result<Answer, Refusal> {
        let query = Query::of(request);
        let at_least = query.number("at_least")?;
        let until = query.wait(self.shared.settings.longest_wait)?;
        let mut news = self.shared.acks.news();
        let mut published = self.shared.news();
        let mut waiting = None;
        while let (Some(least), Some(until)) = (at_least, until) {
            news.mark_unchanged();
            let now = clock::now();
            published.mark_unchanged();
            let revision = self.shared.published().revision;
            if now >= until || self.shared.acks.reached(revision, least, now) {
                break;
            }
            if waiting.is_none() {
                self.make_room()?;
                waiting = Some(self.shared.stats.waiting.enter());
            }
            // Routers that are gone are forgotten without anybody saying anything.
            let soon = until.min(now + LOOK_AGAIN);
            tokio::select! {
                // Cancel-safe, all: what is waited for stays there.
                _ = news.changed() => {}
                _ = published.changed() => {}
                () = tokio::time::sleep_until(soon) => {}
                () = self.shared.stop.cancelled() => break,
            }
        }
        let shared = Arc::clone(&self.shared);
        let answer = tasks::blocking(move || {
            let revision = shared.published().revision;
            let view = shared.acks.view(revision, at_least, clock::now());
            let status = match view.reached {
                Some(false) => StatusCode::GATEWAY_TIMEOUT,
                Some(true) | None => StatusCode::OK,
            };
            json(status, &view)
        });
        answer.await.ok_or_else(|| Box::new(broken()))
    }
}

/// What there is for somebody who asks.
enum Found {
    Whole,
    Change(Arc<Change>, Option<HeaderValue>),
    Nothing(Option<HeaderValue>),
}

/// What a reader asks for.
struct Asked {
    since: Option<u64>,
    /// May be held until then.
    until: Option<Instant>,
    /// Entity tags of what the reader has.
    tags: Option<HeaderValue>,
    streams: bool,
    gzip: bool,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Result<Self, Refusal> {
        let query = Query::of(request);
        let headers = request.headers();
        Ok(Self {
            since: query.number("since")?,
            until: query.wait(Duration::from_mins(1))?,
            tags: headers.get(IF_NONE_MATCH).cloned(),
            streams: accepts(headers, &ACCEPT, "application/x-ndjson"),
            gzip: accepts(headers, &ACCEPT_ENCODING, "gzip"),
        })
    }

    /// The number of the first change that the reader needs who says that he is at this revision; `None` if he needs the
    /// whole.
    fn first_change(&self, published: &Published, since: u64) -> Option<u64> {
        if self.has(published.tag()) {
            return Some(published.history.end());
        }
        // The same revision with another tag is another document.
        let other = published.revision == Some(since) && self.tags.is_some();
        published.history.after(since).filter(|_| !other)
    }

    /// Whether the reader has what this tag stands for.
    fn has(&self, tag: Option<&HeaderValue>) -> bool {
        let (Some(tags), Some(tag)) = (&self.tags, tag) else {
            return false;
        };
        let tags = tags.as_bytes().split(|byte| *byte == b',');
        let mut tags = tags.map(|tag| tag.trim_ascii());
        // RFC 9110 §13.1.2: compared as weak ones.
        tags.any(|own| own.strip_prefix(b"W/").unwrap_or(own) == tag.as_bytes())
    }
}

/// Whether a list of what is acceptable has this, and not with `q=0`.
fn accepts(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    let entries = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut entries = entries.map(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let is_it = parts
            .next()
            .is_some_and(|what| what.eq_ignore_ascii_case(wanted));
        let refused = parts
            .filter_map(|part| part.strip_prefix("q="))
            .any(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0));
        is_it && !refused
    });
    entries.any(|accepted| accepted)
}

/// The parameters of a request; the last of several with one name.
struct Query<'r>(HashMap<&'r str, &'r str>);

impl<'r> Query<'r> {
    fn of<B>(request: &'r Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self(
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .collect(),
        )
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        let number = u64::from_str(value).map(Some);
        number.map_err(|_| {
            let wrong = format!("{key}: {value:?} must be a whole number that is not negative");
            refusal(StatusCode::BAD_REQUEST, &wrong)
        })
    }

    /// Until when the request may be held: `wait=30s`, or `wait=30`.
    fn wait(&self, longest: Duration) -> Result<Option<Instant>, Refusal> {
        let Some(value) = self.0.get("wait") else {
            return Ok(None);
        };
        let seconds = u64::from_str(value).map(Duration::from_secs);
        let wait = seconds.or_else(|_| humantime::parse_duration(value));
        let wait = wait.map_err(|_| {
            let wrong = format!("wait: {value:?} must be a duration such as 30s");
            refusal(StatusCode::BAD_REQUEST, &wrong)
        })?;
        Ok(Some(clock::now() + wait.min(longest)))
    }
}

fn respond(body: Body, kind: HeaderValue, tag: Option<&HeaderValue>, gzip: bool) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(tag) = tag {
        headers.insert(ETAG, tag.clone());
    }
    answer
}

fn not_modified(tag: Option<&HeaderValue>) -> Answer {
    let mut answer = Response::new(Body::short(Bytes::new()));
    *answer.status_mut() = StatusCode::NOT_MODIFIED;
    if let Some(tag) = tag {
        answer.headers_mut().insert(ETAG, tag.clone());
    }
    answer
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let Ok(mut body) = serde_json::to_vec(value) else {
        return broken();
    };
    body.push(b'\n');
    let mut answer = respond(Body::short(body), JSON, None, false);
    *answer.status_mut() = status;
    answer
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut answer = respond(Body::short(text), kind, None, false);
    *answer.status_mut() = status;
    answer
}

fn refusal(status: StatusCode, message: &str) -> Refusal {
    Box::new(json(status, &serde_json::json!({ "error": message })))
}

fn not_allowed(allowed: &'static str) -> Refusal {
    let message = format!("only {allowed} are answered here");
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, &message);
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn unauthorized() -> Refusal {
    let message = "a bearer token is needed that is known here";
    let mut answer = refusal(StatusCode::UNAUTHORIZED, message);
    let challenge = HeaderValue::from_static("Bearer");
    answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    answer
}

/// Only a bug of ours can do this.
fn broken() -> Answer {
    text(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the answer cannot be put together\n",
    )
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// For the body of an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
