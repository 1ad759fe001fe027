//! HTTP requests of the router's own: to an ACME authority, to a control plane. How a connection is made and kept, whom
//! it trusts, and how an answer is read within limits. What is asked, and how long that may take, is the asker's business.

mod credentials;
mod reader;
mod token;

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, InvalidHeaderValue};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write as HyperWrite};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::clock::{self, Instant};
use crate::{socket, tasks};

pub(crate) use credentials::{Credentials, read_roots, system_roots};
pub(crate) use reader::{ReadError, ReadLimits, Reader};
pub(crate) use token::TokenFile;

/// Makes requests. It keeps one idle connection, for the next request to the same host.
pub(crate) struct Caller {
    /// Where connections run.
    tasks: TaskTracker,
    keep_for: Duration,
    /// Guards the one connection. Nothing is awaited under it.
    kept: Mutex<Option<Kept>>,
}

/// A connection to one host, on which one request at a time is made.
pub(crate) struct Connection {
    to: Destination,
    sender: SendRequest<Full<Bytes>>,
}

struct Kept {
    connection: Connection,
    since: Instant,
}

/// What a connection can be used for.
struct Destination {
    scheme: Scheme,
    authority: Authority,
    /// Other credentials are another destination.
    tls: Arc<ClientConfig>,
}

impl Caller {
    /// Connections run as tasks of `tasks`; an idle one is used again for as long as `keep_for`.
    pub(crate) fn new(tasks: TaskTracker, keep_for: Duration) -> Self {
        Self {
            tasks,
            keep_for,
            kept: Mutex::default(),
        }
    }

    /// Sends a request for an absolute URL and waits for the head of the answer, as long as it takes. What fails on a
    /// kept connection is sent again on a new one: only requests that may be made twice are made through this.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        tls: &Arc<ClientConfig>,
    ) -> Result<(Connection, Response<Incoming>), CallError> {
        let to = Destination::of(request.uri(), tls)?;
        let request = in_origin_form(request)?;
        // A kept connection can have been closed meanwhile.
        if let Some(mut connection) = self.take_kept(&to)
            && let Ok(response) = connection.sender.send_request(request.clone()).await
        {
            return Ok((connection, response));
        }
        let connected = tokio::time::timeout(CONNECT, self.connect(&to)).await;
        let sender = connected.map_err(|_| CallError::Slow {
            to: to.authority.clone(),
        })??;
        let mut connection = Connection { to, sender };
        let response = connection.sender.send_request(request).await?;
        Ok((connection, response))
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) async fn keep(&self, mut connection: Connection) {
        if connection.sender.ready().await.is_ok() {
            let since = clock::now();
            *self.lock() = Some(Kept { connection, since });
        }
    }

    /// Has the next request made on a new connection: there is reason to believe that nobody answers on the old one.
    pub(crate) fn distrust(&self) {
        *self.lock() = None;
    }

    fn take_kept(&self, to: &Destination) -> Option<Connection> {
        let kept = self.lock().take()?;
        let fits = kept.connection.to.is(to) && clock::now() < kept.since + self.keep_for;
        fits.then_some(kept.connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, to: &Destination) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let host = to.authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let secure = to.scheme == Scheme::HTTPS;
        let port = to.authority.port_u16();
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        let failed = |source| CallError::Connect {
            to: to.authority.clone(),
            source,
        };
        let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
        socket::tune(&stream);
        socket::notice_death(&stream);
        if !secure {
            return self.shake_hands(TokioIo::new(stream)).await;
        }
        let name = ServerName::try_from(host.to_owned())?;
        let connector = TlsConnector::from(Arc::clone(&to.tls));
        let stream = connector.connect(name, stream).await.map_err(failed)?;
        self.shake_hands(TokioIo::new(stream)).await
    }

    async fn shake_hands(
        &self,
        io: impl Read + HyperWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MOST_BUFFERED)
            .max_headers(MOST_HEADERS)
            .handshake(io)
            .await?;
        tasks::spawn(&self.tasks, async move {
            // Whoever waits for a response is told the error.
            connection.await.ok();
        });
        Ok(sender)
    }
}

impl Destination {
    fn of(uri: &Uri, tls: &Arc<ClientConfig>) -> Result<Self, CallError> {
        let scheme = uri.scheme().filter(|scheme| KNOWN.contains(scheme));
        let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else {
            return Err(CallError::Url(uri.to_string()));
        };
        Ok(Self {
            scheme: scheme.clone(),
            authority: authority.clone(),
            tls: Arc::clone(tls),
        })
    }

    fn is(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.authority == other.authority
            && Arc::ptr_eq(&self.tls, &other.tls)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{0} is no http or https URL")]
    Url(String),
    #[error("cannot connect to {to}")]
    Connect {
        to: Authority,
        #[source]
        source: io::Error,
    },
    #[error("no connection to {to} within {seconds} s", seconds = CONNECT.as_secs())]
    Slow { to: Authority },
    #[error("no certificate can be for this host")]
    Name(#[from] InvalidDnsNameError),
    #[error("the URL makes no request")]
    Request(#[from] http::Error),
    #[error("the URL makes no request")]
    Host(#[from] InvalidHeaderValue),
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
}

/// An error with all its causes: libraries hide what they know in them.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            write!(text, ": {cause}").ok();
        }
    }
    text
}

/// What a Retry-After asks (RFC 9110 §10.2.3): seconds or a date.
pub(crate) fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = u64::from_str(text) {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    at.duration_since(now).ok()
}

/// As a server wants it: the path in the first line, the host in its field.
fn in_origin_form(mut request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>, CallError> {
    let uri = request.uri();
    let host = uri.authority().map_or("", |authority| {
        let authority = authority.as_str();
        // A user name is nothing for a Host (RFC 9110 §7.2).
        authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host)
    });
    let host = HeaderValue::from_str(host)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = path.parse().map_err(http::Error::from)?;
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = path;
    Ok(request)
}

/// To find the host's address, connect to it and shake hands.
const CONNECT: Duration = Duration::from_secs(10);
const KNOWN: [Scheme; 2] = [Scheme::HTTP, Scheme::HTTPS];
/// Of a response's head, and of what is read ahead of its body.
const MOST_BUFFERED: usize = 64 * 1024;
const MOST_HEADERS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_form() {
        for (uri, path, host) in [
            ("https://ca.test:14000/dir?x=1", "/dir?x=1", "ca.test:14000"),
            ("https://ca.test", "/", "ca.test"),
            ("https://[::1]:443/a", "/a", "[::1]:443"),
            ("http://user@ca.test/a", "/a", "ca.test"),
        ] {
            let request = Request::get(uri).body(Full::default()).unwrap();
            let request = in_origin_form(request).unwrap();
            assert_eq!(request.uri().to_string(), path);
            assert_eq!(request.headers()[HOST], host);
        }
    }

    #[test]
    fn how_long_to_wait() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", None),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(
                retry_after(&value, now),
                expected.map(Duration::from_secs),
                "{value:?}"
            );
        }
    }

    #[test]
    fn causes_are_said_once() {
        let error = io::Error::other(io::Error::other("refused"));
        let error = CallError::Connect {
            to: Authority::from_static("a.test:1"),
            source: error,
        };
        assert_eq!(causes(&error), "cannot connect to a.test:1: refused");
    }
}
