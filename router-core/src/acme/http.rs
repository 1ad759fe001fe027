//! Requests to the authority: HTTP/1.1 over TLS, each with a time limit and a bound on its answer. One connection is kept
//! for the next request of the same order.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::uri::Scheme;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use tokio_util::task::TaskTracker;

use crate::outgoing::{self, Caller};
use crate::{clock, tls};

/// A client of the authority. Clones share the kept connection.
#[derive(Clone)]
pub(super) struct AuthorityClient(Arc<Inner>);

struct Inner {
    tls: Arc<ClientConfig>,
    caller: Caller,
    /// How long the last refusal asked us to wait.
    asked: Mutex<Option<Duration>>,
}

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
            tls: Arc::new(config),
            caller: Caller::new(tasks, KEPT_FOR),
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
        if head.uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(format!("{} is no https URL", head.uri).into());
        }
        let body = Full::new(body.collect().await?.to_bytes());
        // Sent again if a kept connection was closed: that does nothing twice, for every request that changes something
        // has a nonce, which is good once (RFC 8555 §6.5).
        let request = Request::from_parts(head, body);
        let (connection, response) = self.caller.send(request, &self.tls).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await?;
        self.caller.keep(connection).await;
        let refused = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if refused.contains(&head.status) {
            let asked = head.headers.get(RETRY_AFTER);
            *lock(&self.asked) =
                asked.and_then(|value| outgoing::retry_after(value, clock::wall()));
        }
        Ok(Response::from_parts(head, Full::new(body.to_bytes())))
    }
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
        let why = outgoing::causes(&*self.source);
        write!(f, "the authority at {} cannot be reached: {why}", self.host)
    }
}

impl std::error::Error for Unreachable {}

#[cfg(test)]
mod tests {
    use router_testkit::{FakeDyno, TestCa};

    use super::*;

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
}
