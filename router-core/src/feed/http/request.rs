//! One question to the source and its answer: a document, a change, nothing new, or a stream of all these.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    LOCATION, RETRY_AFTER, USER_AGENT,
};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls::ClientConfig;

use super::message::Message;
use crate::clock::{self, Instant};
use crate::outgoing::{self, CallError, Caller, Connection, ReadError, ReadLimits, Reader};

/// What is needed to ask.
pub(super) struct Question {
    pub(super) caller: Arc<Caller>,
    pub(super) tls: Arc<ClientConfig>,
    /// The source, for messages.
    pub(super) shown: String,
    pub(super) uri: Uri,
    pub(super) authorization: Option<HeaderValue>,
    /// The entity tag of what the router has.
    pub(super) known: Option<HeaderValue>,
    /// Not before then.
    pub(super) at: Instant,
    /// For the head of the answer.
    pub(super) patience: Duration,
    pub(super) limits: ReadLimits,
}

/// What came.
pub(super) enum Answer {
    One {
        message: Message,
        tag: Option<HeaderValue>,
        /// A relay says it that does not hear of its own source.
        second_hand: bool,
    },
    /// The source has nothing newer than this, if it said so.
    Nothing {
        revision: Option<u64>,
        second_hand: bool,
    },
    /// All of it, as it comes.
    Stream {
        /// Held for as long.
        connection: Connection,
        lines: Box<Reader<Incoming>>,
        /// Of the document that it may begin with.
        tag: Option<HeaderValue>,
        second_hand: bool,
    },
}

/// Why nothing came.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) why: String,
    /// How long the source wants to be left alone.
    pub(super) asked_to_wait: Option<Duration>,
    /// The source does not know the revision that we have any more.
    pub(super) forgotten: bool,
}

impl Question {
    /// Asks for routes.
    pub(super) async fn ask(self) -> Result<Answer, Trouble> {
        tokio::time::sleep_until(self.at).await;
        let mut request = self.request(Method::GET, Bytes::new())?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, ACCEPTED);
        headers.insert(ACCEPT_ENCODING, GZIP);
        if let Some(known) = &self.known {
            headers.insert(IF_NONE_MATCH, known.clone());
        }
        let (connection, head, body) = self.send(request).await?;
        let second_hand = head.headers.contains_key(SILENT);
        match head.status {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => {
                self.caller.keep(connection).await;
                let revision = revision(&head.headers);
                return Ok(Answer::Nothing {
                    revision,
                    second_hand,
                });
            }
            _ => return Err(self.refused(&head, body).await),
        }
        let kind = essence(&head.headers);
        if kind.eq_ignore_ascii_case("text/html") {
            return Err(self.trouble("answers with a web page (text/html), not with routes"));
        }
        let reader = self.reader(&head.headers, body)?;
        if STREAMS
            .iter()
            .any(|stream| kind.eq_ignore_ascii_case(stream))
        {
            return Ok(Answer::Stream {
                connection,
                lines: Box::new(reader),
                tag: head.headers.get(ETAG).cloned(),
                second_hand,
            });
        }
        let text = self.whole(reader).await?;
        self.caller.keep(connection).await;
        Ok(Answer::One {
            message: Message::read_with_revision(text).await,
            tag: head.headers.get(ETAG).cloned(),
            second_hand,
        })
    }

    /// Tells the source something; whether it wanted to know. Does not take longer than an answer may take, whatever the
    /// source does.
    pub(super) async fn tell(self, what: Bytes) -> Result<bool, Trouble> {
        let told = tokio::time::timeout(self.patience, self.tell_all(what)).await;
        told.unwrap_or_else(|_| Err(self.too_late()))
    }

    async fn tell_all(&self, what: Bytes) -> Result<bool, Trouble> {
        let mut request = self.request(Method::POST, what)?;
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        let (connection, head, body) = self.send(request).await?;
        match head.status {
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => Ok(false),
            status if status.is_success() => {
                // Its words are of no interest: they are read for the connection to be of use again.
                let words = Reader::new(&head.headers, body, a_moment(NO_WORDS));
                if let Ok(mut words) = words
                    && words.whole().await.is_ok()
                {
                    self.caller.keep(connection).await;
                }
                Ok(true)
            }
            _ => Err(self.refused(&head, body).await),
        }
    }

    fn request(&self, method: Method, body: Bytes) -> Result<Request<Full<Bytes>>, Trouble> {
        let request = Request::builder().method(method).uri(self.uri.clone());
        let mut request = request
            .header(USER_AGENT, concat!("router/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| self.trouble(error.to_string()))?;
        if let Some(authorization) = &self.authorization {
            request
                .headers_mut()
                .insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Connection, Parts, Incoming), Trouble> {
        let sent = self.caller.send(request, &self.tls);
        let sent = tokio::time::timeout(self.patience, sent).await;
        let sent = sent.map_err(|_| self.too_late())?;
        let (connection, response) = sent.map_err(|error| self.unreachable(&error))?;
        let (head, body) = response.into_parts();
        Ok((connection, head, body))
    }

    fn reader(&self, headers: &HeaderMap, body: Incoming) -> Result<Reader<Incoming>, Trouble> {
        let length = headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let longest = self.limits.longest;
        if length.is_some_and(|length| length > longest) {
            return Err(self.unread(&ReadError::TooLong(longest)));
        }
        Reader::new(headers, body, self.limits).map_err(|error| self.unread(&error))
    }

    async fn whole(&self, mut reader: Reader<Incoming>) -> Result<Bytes, Trouble> {
        reader.whole().await.map_err(|error| self.unread(&error))
    }

    /// An answer that is none, with the source's own words as far as they are short.
    async fn refused(&self, head: &Parts, body: Incoming) -> Trouble {
        let status = head.status;
        if status.is_redirection() {
            let to = head.headers.get(LOCATION).map(|to| to.as_bytes());
            let to = to.unwrap_or(b"nowhere");
            let to = String::from_utf8_lossy(to.get(..FEW_WORDS).unwrap_or(to))
                .escape_debug()
                .to_string();
            return self.trouble(format!(
                "redirects ({status}) to {to}; redirects are not followed, name the final URL"
            ));
        }
        let words = match Reader::new(&head.headers, body, a_moment(FEW_WORDS)) {
            Ok(mut reader) => reader.whole().await.unwrap_or_default(),
            Err(_) => Bytes::new(),
        };
        let words = String::from_utf8_lossy(&words);
        let words = words.trim();
        let asked_to_wait = head.headers.get(RETRY_AFTER);
        let asked_to_wait =
            asked_to_wait.and_then(|value| outgoing::retry_after(value, clock::wall()));
        let why = match words {
            "" => format!("answers {status}"),
            words => format!("answers {status}: {}", words.escape_debug()),
        };
        Trouble {
            asked_to_wait: asked_to_wait.map(|wait| wait.min(LONGEST_WAIT)),
            forgotten: status == StatusCode::GONE,
            ..self.trouble(why)
        }
    }

    fn too_late(&self) -> Trouble {
        let seconds = self.patience.as_secs();
        self.trouble(format!("has not answered within {seconds} s"))
    }

    fn unreachable(&self, error: &CallError) -> Trouble {
        self.trouble(format!("cannot be asked: {}", outgoing::causes(error)))
    }

    fn unread(&self, error: &ReadError) -> Trouble {
        self.trouble(format!(
            "gave an answer that cannot be read: {}",
            outgoing::causes(error)
        ))
    }

    fn trouble(&self, why: impl std::fmt::Display) -> Trouble {
        Trouble::of(&self.shown, why)
    }
}

impl Trouble {
    /// What is wrong with that source.
    pub(super) fn of(source: &str, why: impl std::fmt::Display) -> Self {
        Self {
            why: format!("{source} {why}"),
            asked_to_wait: None,
            forgotten: false,
        }
    }
}

/// For what is not waited for.
fn a_moment(longest: usize) -> ReadLimits {
    ReadLimits {
        longest,
        silence: Duration::from_secs(1),
        time: Duration::from_secs(1),
    }
}

/// The media type, without its parameters.
fn essence(headers: &HeaderMap) -> &str {
    let kind = headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim()
}

/// What the source says is its revision.
fn revision(headers: &HeaderMap) -> Option<u64> {
    headers.get(REVISION)?.to_str().ok()?.parse().ok()
}

/// On each answer of a source that says at which revision it is.
pub(in crate::feed) const REVISION: &str = "feed-revision";
/// On each answer of a relay that does not hear of its own source.
pub(in crate::feed) const SILENT: &str = "feed-silent";
const ACCEPTED: HeaderValue =
    HeaderValue::from_static("application/x-ndjson, application/json;q=0.9, */*;q=0.1");
const STREAMS: [&str; 3] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
];
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Of an error page, in bytes; a longer one is not shown. Of an address, a longer one is cut.
const FEW_WORDS: usize = 300;
/// Of an answer to an acknowledgement, in bytes; for a longer one, the connection is given up.
const NO_WORDS: usize = 4096;
/// A source cannot make a router wait longer.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
