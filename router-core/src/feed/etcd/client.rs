//! Requests to one member of the cluster at a time, by HTTP. Each has a limit of time and its answer one of length.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;
use zeroize::{Zeroize, Zeroizing};

use super::gateway::{
    Authenticate, Base64, RangeAnswer, RangeRequest, Token, WatchAnswer, WatchCreate, WatchRequest,
    refusal,
};
use super::keys::Layout;
use super::store::{Meta, Unread};
use crate::outgoing::{CallError, Caller, Connection, Credentials, ReadError, ReadLimits, Reader};

/// A client of the cluster.
pub(super) struct Client {
    caller: Caller,
    /// URLs without a path.
    endpoints: Vec<String>,
    /// The one that is asked.
    current: usize,
    user: Option<User>,
    /// Guards what was read of the files. Nothing is awaited under it.
    credentials: Mutex<Credentials>,
    /// Guards the token of the user, if there is one. Nothing is awaited under it.
    token: Mutex<Option<HeaderValue>>,
    limits: Limits,
}

/// Who the router is to etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    /// Read again whenever a token is asked for.
    pub(super) password_file: PathBuf,
}

/// How long and how much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From connecting to the answer's head.
    pub(super) answer: Duration,
    /// Without a word from a watch; the same for a piece of any other answer.
    pub(super) silence: Duration,
}

/// What came of a read of the quorum's.
pub(super) struct Head {
    pub(super) revision: u64,
    pub(super) meta: Meta,
}

/// A watch that has begun.
pub(super) struct Watch {
    pub(super) lines: Reader<Incoming>,
    _connection: Connection,
}

impl Client {
    /// Routers begin with an endpoint each by chance.
    pub(super) fn new(
        endpoints: Vec<String>,
        user: Option<User>,
        credentials: Credentials,
        limits: Limits,
    ) -> Self {
        Self {
            caller: Caller::new(TaskTracker::new(), KEPT_FOR),
            current: fastrand::usize(..endpoints.len().max(1)),
            endpoints,
            user,
            credentials: Mutex::new(credentials),
            token: Mutex::default(),
            limits,
        }
    }

    /// The next endpoint is asked from now on.
    pub(super) fn turn(&mut self) {
        self.current = (self.current + 1) % self.endpoints.len().max(1);
    }

    /// The endpoint that is asked.
    pub(super) fn endpoint(&self) -> &str {
        self.endpoints.get(self.current).map_or("", String::as_str)
    }

    /// Asks for what concerns all routes, and the store's revision. Only a member that the quorum listens to can answer.
    pub(super) async fn head(&self, layout: &Layout) -> Result<Head, Fault> {
        let answer = self.read_key(&layout.meta()).await?;
        let answer: RangeAnswer<'_> = read(RANGE, &answer)?;
        let meta = match answer.kvs.first() {
            Some(kv) => Meta::read(&kv.value().map_err(|_| Unread)?),
            None => Meta::default(),
        };
        Ok(Head {
            revision: answer.header.revision,
            meta,
        })
    }

    /// Whether there is such a key.
    pub(super) async fn holds(&self, key: &[u8]) -> Result<bool, Fault> {
        let answer = self.read_key(key).await?;
        let answer: RangeAnswer<'_> = read(RANGE, &answer)?;
        Ok(!answer.kvs.is_empty())
    }

    async fn read_key(&self, key: &[u8]) -> Result<Bytes, Fault> {
        let request = RangeRequest {
            key: Base64(key),
            range_end: None,
            limit: 1,
            revision: 0,
        };
        self.call(RANGE, &request, LONGEST_ANSWER).await
    }

    /// Begins to watch everything that routes are made of, from a revision on.
    pub(super) async fn watch(&self, layout: &Layout, from: u64) -> Result<Watch, Fault> {
        let request = WatchRequest {
            create_request: WatchCreate {
                key: Base64(&layout.first()),
                range_end: Base64(&layout.end()),
                start_revision: from,
                progress_notify: true,
            },
        };
        let opening = async {
            let (connection, response) = self.answered(WATCH, &request).await?;
            let mut lines = self.reader(response, LONGEST_LINE, self.limits.silence)?;
            // The first line says whether there is a watch.
            let line = lines.line().await?.ok_or(Fault::Ended)?;
            let first = read_line(&line)?;
            if !first.canceled {
                return Ok(Watch {
                    lines,
                    _connection: connection,
                });
            }
            Err(cancelled(&first))
        };
        self.in_time(opening).await
    }

    /// Makes a request whose answer has one line or none.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        path: &'static str,
        request: &impl Serialize,
    ) -> Result<T, Fault> {
        let answer = self.call(path, request, LONGEST_ANSWER).await?;
        read(path, &answer)
    }

    /// Makes a request, which may be made twice, and reads the whole answer.
    pub(super) async fn call(
        &self,
        path: &'static str,
        request: &impl Serialize,
        longest: usize,
    ) -> Result<Bytes, Fault> {
        let (connection, response) = self.in_time(self.answered(path, request)).await?;
        let mut reader = self.reader(response, longest, self.limits.answer)?;
        let answer = reader.whole().await?;
        self.caller.keep(connection).await;
        Ok(answer)
    }

    /// The good answer to a request. A token that is no good any more is renewed.
    async fn answered(
        &self,
        path: &'static str,
        request: &impl Serialize,
    ) -> Result<(Connection, Response<Incoming>), Fault> {
        let fresh = self.lock(&self.token).is_none();
        match self.answered_once(path, request).await {
            Err(Fault::Refused { reason, .. }) if !fresh && is_about_token(&reason) => {
                *self.lock(&self.token) = None;
                self.answered_once(path, request).await
            }
            other => other,
        }
    }

    async fn answered_once(
        &self,
        path: &'static str,
        request: &impl Serialize,
    ) -> Result<(Connection, Response<Incoming>), Fault> {
        let token = self.authorization().await?;
        self.send(path, request, token).await
    }

    async fn authorization(&self) -> Result<Option<HeaderValue>, Fault> {
        let Some(user) = &self.user else {
            return Ok(None);
        };
        if let Some(token) = self.lock(&self.token).clone() {
            return Ok(Some(token));
        }
        let password = read_password(user)?;
        let request = Authenticate {
            name: &user.name,
            password: &password,
        };
        let (connection, response) = match self.send(AUTHENTICATE, &request, None).await {
            // Whoever enables it does so once there are users, and routers may know theirs by then.
            Err(Fault::Refused { reason, .. }) if reason.contains("not enabled") => {
                return Ok(None);
            }
            other => other?,
        };
        let mut reader = self.reader(response, LONGEST_ANSWER, self.limits.answer)?;
        let mut answer = reader.whole().await?;
        let token: Token = read(AUTHENTICATE, &answer)?;
        wipe(&mut answer);
        self.caller.keep(connection).await;
        let text = Zeroizing::new(token.token);
        let strange = |_| Fault::Strange {
            path: AUTHENTICATE,
            why: "a token that no header can hold".to_owned(),
        };
        let mut token = HeaderValue::from_str(&text).map_err(strange)?;
        token.set_sensitive(true);
        *self.lock(&self.token) = Some(token.clone());
        Ok(Some(token))
    }

    async fn send(
        &self,
        path: &'static str,
        request: &impl Serialize,
        token: Option<HeaderValue>,
    ) -> Result<(Connection, Response<Incoming>), Fault> {
        let strange = |why| Fault::Strange { path, why };
        let body = serde_json::to_vec(request).map_err(|error| strange(error.to_string()))?;
        let mut builder = Request::post(format!("{}{path}", self.endpoint()))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            builder = builder.header(AUTHORIZATION, token);
        }
        let request = builder
            .body(Full::from(body))
            .map_err(|error| strange(error.to_string()))?;
        let tls = self.lock(&self.credentials).config();
        let tls = tls.map_err(Fault::Unusable)?;
        let (connection, response) = self.caller.send(request, &tls).await?;
        if response.status() == StatusCode::OK {
            return Ok((connection, response));
        }
        let status = response.status();
        let mut reader = self.reader(response, LONGEST_ANSWER, self.limits.answer)?;
        let answer = reader.whole().await?;
        self.caller.keep(connection).await;
        Err(Fault::Refused {
            path,
            status,
            reason: refusal(&answer),
        })
    }

    fn reader(
        &self,
        response: Response<Incoming>,
        longest: usize,
        silence: Duration,
    ) -> Result<Reader<Incoming>, Fault> {
        let (head, body) = response.into_parts();
        let limits = ReadLimits {
            longest,
            silence,
            time: WHOLE_ANSWER,
        };
        Ok(Reader::new(&head.headers, body, limits)?)
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let limit = self.limits.answer;
        let answered = tokio::time::timeout(limit, asked).await;
        answered.unwrap_or(Err(Fault::Late(limit)))
    }

    fn lock<'m, T>(&self, mutex: &'m Mutex<T>) -> MutexGuard<'m, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_password(user: &User) -> Result<Zeroizing<String>, Fault> {
    let text = std::fs::read_to_string(&user.password_file).map(Zeroizing::new);
    let path = user.password_file.display();
    let text = text.map_err(|error| Fault::Unusable(format!("{path} cannot be read: {error}")))?;
    Ok(Zeroizing::new(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

fn read<'a, T: serde::Deserialize<'a>>(path: &'static str, answer: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(answer).map_err(|error| Fault::Strange {
        path,
        why: error.to_string(),
    })
}

/// Reads a line of a watch.
pub(super) fn read_line(line: &[u8]) -> Result<WatchAnswer<'_>, Fault> {
    let line: super::gateway::Streamed<WatchAnswer<'_>> = read(WATCH, line)?;
    match (line.result, line.error) {
        (Some(answer), None) => Ok(answer),
        (_, Some(error)) => Err(Fault::Refused {
            path: WATCH,
            status: StatusCode::OK,
            reason: error.message,
        }),
        (None, None) => Err(Fault::Strange {
            path: WATCH,
            why: "a line without a result".to_owned(),
        }),
    }
}

/// Why there is no watch any more.
pub(super) fn cancelled(answer: &WatchAnswer<'_>) -> Fault {
    if answer.compact_revision > 0 {
        return Fault::Compacted;
    }
    Fault::Refused {
        path: WATCH,
        status: StatusCode::OK,
        reason: answer.cancel_reason.to_string(),
    }
}

/// Whether a request was refused for its token, which a new one would mend.
fn is_about_token(reason: &str) -> bool {
    [
        "invalid auth token",
        "user name is empty",
        "revision of auth store is old",
        "auth: revision in header is old",
    ]
    .iter()
    .any(|known| reason.contains(known))
}

/// Leaves no private key or token in memory that was given back, as far as nobody else has it.
pub(super) fn wipe(answer: &mut Bytes) {
    if let Ok(mut bytes) = std::mem::take(answer).try_into_mut() {
        bytes.as_mut().zeroize();
    }
}

/// Why a member of the cluster is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("its answer cannot be read")]
    Read(#[from] ReadError),
    #[error("it ends its watch")]
    Ended,
    #[error("{path} is refused: {reason} (status {})", .status.as_u16())]
    Refused {
        path: &'static str,
        status: StatusCode,
        reason: String,
    },
    #[error("{path} is answered by something that etcd does not say: {why}")]
    Strange { path: &'static str, why: String },
    #[error("it says {0}")]
    Unread(#[from] Unread),
    /// What was asked for is not kept any more.
    #[error("the revisions asked for are compacted")]
    Compacted,
    /// A file that cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// Whether it is to be believed all the same is for people to say.
    #[error(
        "its newest revision is {told}, but {in_force} is in force: the store was wiped, or restored from an older backup. \
         The routes stay as they are; {{\"revision_base\": {in_force}}} at {meta} has the store believed again"
    )]
    WentBack {
        told: u64,
        in_force: u64,
        meta: String,
    },
}

pub(super) const RANGE: &str = "/v3/kv/range";
pub(super) const PUT: &str = "/v3/kv/put";
pub(super) const GRANT: &str = "/v3/lease/grant";
pub(super) const KEEP_ALIVE: &str = "/v3/lease/keepalive";
const WATCH: &str = "/v3/watch";
const AUTHENTICATE: &str = "/v3/auth/authenticate";

/// Requests follow each other within the heartbeat.
const KEPT_FOR: Duration = Duration::from_secs(20);
const LONGEST_ANSWER: usize = 4 << 20;
/// Of what one watch tells at once: etcd gathers up to a thousand revisions for one that is late.
const LONGEST_LINE: usize = 256 << 20;
/// From its first byte to its last.
const WHOLE_ANSWER: Duration = Duration::from_mins(1);
