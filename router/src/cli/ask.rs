//! Asking a running router through its admin endpoint.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::{FAILURE, USAGE};
use crate::config::{self, Config};

/// Where the running router is found.
#[derive(Debug, clap::Args)]
pub(super) struct RunningRouter {
    /// The configuration file of the running router, for its admin address
    #[arg(long, value_name = "FILE", env = "ROUTER_CONFIG")]
    config: Option<PathBuf>,
    /// The admin address of the running router
    #[arg(long, value_name = "ADDRESS", env = "ROUTER_ADMIN")]
    admin: Option<SocketAddr>,
}

/// An answer of a running router.
#[derive(Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// The answer as it came.
    pub(super) text: String,
    /// The answer as JSON.
    pub(super) json: Value,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The configuration file that should tell the address is bad.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// Nobody is there, or something other than a router.
    #[error("the router cannot be reached at {address}: {why}")]
    Unreachable {
        /// Where it was looked for.
        address: SocketAddr,
        /// What went wrong.
        why: String,
    },
}

impl AskError {
    /// What the process ends with.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(USAGE),
            Self::Unreachable { .. } => FAILURE,
        }
    }
}

impl RunningRouter {
    /// Asks for a path of the admin endpoint.
    pub(super) fn ask(&self, path: &str) -> Result<Answer, AskError> {
        let address = self.address()?;
        runtime(address)?.block_on(ask(address, path))
    }

    /// Asks until the answer is `good`, be it that the router is not there yet; gives the last answer or error after
    /// so long.
    pub(super) fn ask_until(
        &self,
        path: &str,
        good: impl Fn(&Answer) -> bool,
        patience: Duration,
    ) -> Result<Answer, AskError> {
        let address = self.address()?;
        let why = format!("no answer within {patience:?}");
        let mut last = Err(AskError::Unreachable { address, why });
        let asking = async {
            loop {
                last = ask(address, path).await;
                if last.as_ref().is_ok_and(&good) {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        // Whether it was in time, can be seen from the answer. One is always waited for.
        let patience = patience.max(ONE_ANSWER);
        drop(runtime(address)?.block_on(async { tokio::time::timeout(patience, asking).await }));
        last
    }

    fn address(&self) -> Result<SocketAddr, AskError> {
        if let Some(address) = self.admin {
            return Ok(address);
        }
        let Some(file) = &self.config else {
            return Ok(Config::default().admin);
        };
        let loaded = config::load(file);
        let problems = loaded.problems();
        if problems.is_empty() {
            Ok(loaded.config.admin)
        } else {
            Err(AskError::Config(problems))
        }
    }
}

fn runtime(address: SocketAddr) -> Result<Runtime, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(|error| AskError::Unreachable {
        address,
        why: error.to_string(),
    })
}

async fn ask(address: SocketAddr, path: &str) -> Result<Answer, AskError> {
    let unreachable = |why: String| AskError::Unreachable { address, why };
    let (status, body) = tokio::time::timeout(PATIENCE, get(address, path))
        .await
        .map_err(|_| unreachable(format!("no answer within {PATIENCE:?}")))?
        .map_err(|error| unreachable(error.to_string()))?;
    let json = serde_json::from_slice(&body)
        .map_err(|_| unreachable(format!("no JSON in the answer (status {status})")))?;
    Ok(Answer {
        status,
        text: String::from_utf8_lossy(&body).into_owned(),
        json,
    })
}

/// Why one exchange with the admin endpoint failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum ExchangeError {
    Io(#[from] std::io::Error),
    Http(#[from] http::Error),
    Hyper(#[from] hyper::Error),
    Body(Box<dyn std::error::Error + Send + Sync>),
}

async fn get(address: SocketAddr, path: &str) -> Result<(u16, Bytes), ExchangeError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(ExchangeError::Body)?.to_bytes();
        drop(sender);
        Ok((status, body))
    };
    // The connection ends by itself once the sender is gone.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

const PATIENCE: Duration = Duration::from_secs(10);
/// A router that answers at once gets to do so.
const ONE_ANSWER: Duration = Duration::from_secs(1);
/// The routes of a million domains are far less.
const LONGEST: usize = 1 << 30;
/// Between two questions of somebody who waits.
const AGAIN: Duration = Duration::from_millis(50);
