//! Requests to the authority: HTTP/1.1 over TLS, each with a time limit and a bound on its answer. One connection is kept
//! for the next request of the same order.

use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::clock::{self, Instant};
use crate::{tasks, tls};

/// A client of the authority. Clones share the kept connection.
#[derive(Clone)]
pub(super) struct AuthorityClient(Arc<Inner>);

struct Inner {
    connector: TlsConnector,
    /// Where connections run.
    tasks: TaskTracker,
    kept: Mutex<Option<Kept>>,
    /// How long the last refusal asked us to wait.
    asked: Mutex<Option<Duration>>,
}

struct Kept {
    uri: Uri,
    sender: SendRequest<Body>,
    since: Instant,
}

type Body = Full<Bytes>;

/// Of one request, connecting included.
const REQUEST: Duration = Duration::from_secs(30);
/// A certificate chain has some thousand bytes.
const LONGEST_ANSWER: usize = 1 << 20;
/// Servers close idle connections after several seconds or more.
const KEPT_FOR: Duration = Duration::from_secs(3);

impl AuthorityClient {
    pub(super) fn new(roots: RootCertStore, tasks: TaskTracker) -> Result<Self, rustls::Error> {
        let config = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(Inner {
            connector: TlsConnector::from(Arc::new(config)),
            tasks,
            kept: Mutex::default(),
            asked: Mutex::default(),
        })))
    }

    /// What the last refusal asked us to wait, once.
    pub(super) fn take_asked(&self) -> Option<Duration> {
        lock(&self.0.asked).take()
    }
}

impl HttpClient for AuthorityClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let exchanged = tokio::time::timeout(REQUEST, inner.exchange(request)).await;
            let response = exchanged
                .unwrap_or_else(|_| Err(format!("no answer within {} s", REQUEST.as_secs()).into()))
                .map_err(|source| {
                    instant_acme::Error::Other(Box::new(Unreachable { host, source }))
                })?;
            Ok(BytesResponse::from(response))
        })
    }
}

impl Inner {
    async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Error> {
        let (head, body) = request.into_parts();
        let uri = head.uri.clone();
        let body = Full::new(body.collect().await?.to_bytes());
        let request = in_origin_form(Request::from_parts(head, body))?;
        let (mut sender, response) = self.send(&uri, request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await?;
        if sender.ready().await.is_ok() {
            let since = clock::now();
            *lock(&self.kept) = Some(Kept { uri, sender, since });
        }
        let refused = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if refused.contains(&head.status) {
            let asked = head.headers.get(RETRY_AFTER);
            *lock(&self.asked) = asked.and_then(|value| retry_after(value, clock::wall()));
        }
        Ok(Response::from_parts(head, Full::new(body.to_bytes())))
    }

    async fn send(
        &self,
        uri: &Uri,
        request: Request<Body>,
    ) -> Result<(SendRequest<Body>, Response<Incoming>), Error> {
        // A kept connection can have been closed meanwhile. To ask again does nothing twice: every request that changes
        // something has a nonce, which is good once (RFC 8555 §6.5).
        if let Some(mut sender) = self.take_kept(uri)
            && let Ok(response) = sender.send_request(request.clone()).await
        {
            return Ok((sender, response));
        }
        let mut sender = self.connect(uri).await?;
        let response = sender.send_request(request).await?;
        Ok((sender, response))
    }

    fn take_kept(&self, uri: &Uri) -> Option<SendRequest<Body>> {
        let kept = lock(&self.kept).take()?;
        let fits = kept.uri.authority() == uri.authority() && clock::now() < kept.since + KEPT_FOR;
        fits.then_some(kept.sender)
    }

    async fn connect(&self, uri: &Uri) -> Result<SendRequest<Body>, Error> {
        if uri.scheme_str() != Some("https") {
            return Err(format!("{uri} is no https URL").into());
        }
        let host = uri.host().unwrap_or_default();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tasks::spawn(&self.tasks, async move {
            // Whoever waits for a response is told the error.
            connection.await.ok();
        });
        Ok(sender)
    }
}

/// As a server wants it: the path in the first line, the host in its field.
fn in_origin_form(mut request: Request<Body>) -> Result<Request<Body>, Error> {
    let uri = request.uri();
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(host)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = path.parse()?;
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = path;
    Ok(request)
}

/// RFC 9110 §10.2.3: seconds or a date.
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = u64::from_str(text) {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    at.duration_since(now).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The authority cannot be talked to.
#[derive(Debug)]
struct Unreachable {
    host: String,
    source: Error,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the authority at {} cannot be reached: ", self.host)?;
        // hyper hides what it knows in the sources.
        let mut error: &dyn std::error::Error = &*self.source;
        write!(f, "{error}")?;
        while let Some(source) = error.source() {
            error = source;
            write!(f, ": {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unreachable {}

#[cfg(test)]
mod tests {
    use router_testkit::{FakeDyno, TestCa};

    use super::*;

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

    /// An authority's endpoint for the test to play, and a client that trusts it.
    async fn endpoint() -> (FakeDyno, AuthorityClient) {
        let ca = TestCa::new("root");
        let dyno = FakeDyno::start_tls(&ca.certificate(&["127.0.0.1"])).await;
        let mut roots = RootCertStore::empty();
        roots.add(ca.der()).unwrap();
        (
            dyno,
            AuthorityClient::new(roots, TaskTracker::new()).unwrap(),
        )
    }

    async fn ask(client: &AuthorityClient, dyno: &FakeDyno) -> Result<String, String> {
        let request = Request::get(format!("https://{}/dir", dyno.address()));
        let response = client
            .request(request.body(BodyWrapper::default()).unwrap())
            .await;
        let mut response = response.map_err(|error| error.to_string())?;
        let body = response.body.into_bytes().await.unwrap();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_one_that_was_closed_is_made_anew() {
        let (dyno, client) = endpoint().await;
        let (answer, mut conn) = tokio::join!(ask(&client, &dyno), async {
            let mut conn = dyno.accept().await;
            let head = conn.read_head().await;
            assert_eq!(head.header("host"), Some(&*dyno.address().to_string()));
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
                .await;
            conn
        });
        assert_eq!(answer.as_deref(), Ok("1"));
        let (answer, ()) = tokio::join!(ask(&client, &dyno), async {
            conn.read_head().await;
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2")
                .await;
        });
        assert_eq!(answer.as_deref(), Ok("2"));
        conn.close().await;
        let (answer, _) = tokio::join!(ask(&client, &dyno), async {
            let mut conn = dyno.accept().await;
            conn.read_head().await;
            let refusal = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 1\r\n\r\n3";
            conn.write(refusal).await;
            conn
        });
        assert_eq!(answer.as_deref(), Ok("3"));
        assert_eq!(client.take_asked(), Some(Duration::from_secs(7)));
        assert_eq!(client.take_asked(), None);
    }

    #[tokio::test]
    async fn answers_are_bounded_and_errors_name_the_authority() {
        let (dyno, client) = endpoint().await;
        let (answer, _) = tokio::join!(ask(&client, &dyno), async {
            let mut conn = dyno.accept().await;
            conn.read_head().await;
            let length = LONGEST_ANSWER + 1;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            conn.write(head + &"x".repeat(length)).await;
            conn
        });
        let error = answer.unwrap_err();
        assert!(
            error.contains("127.0.0.1") && error.contains("limit"),
            "{error}"
        );
        let (stranger, _) = endpoint().await;
        let (answer, _) = tokio::join!(ask(&client, &stranger), stranger.try_accept());
        let error = answer.unwrap_err();
        assert!(
            error.contains("127.0.0.1") && error.contains("certificate"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_authority_that_says_nothing_is_given_up() {
        let (dyno, client) = endpoint().await;
        let (answer, _) = tokio::join!(ask(&client, &dyno), dyno.accept());
        assert!(answer.unwrap_err().contains("no answer within 30 s"));
    }

    #[test]
    fn origin_form() {
        for (uri, path, host) in [
            ("https://ca.test:14000/dir?x=1", "/dir?x=1", "ca.test:14000"),
            ("https://ca.test", "/", "ca.test"),
            ("https://[::1]:443/a", "/a", "[::1]:443"),
        ] {
            let request = Request::get(uri).body(Body::default()).unwrap();
            let request = in_origin_form(request).unwrap();
            assert_eq!(request.uri().to_string(), path);
            assert_eq!(request.headers()[HOST], host);
        }
    }
}
