//! Opens a connection to a dyno within its deadline, and says as a fact why that failed.

use std::net::SocketAddr;
use std::time::Duration;

use router_model::failure::Failure;
use tokio::net::TcpStream;

/// Connects to `address`.
///
/// # Errors
/// [`Failure::ConnectTimeout`] (H19) when nothing came of it within `limit`, [`Failure::ConnectRefused`] (H21) for any other reason.
pub(crate) async fn dial(address: SocketAddr, limit: Duration) -> Result<TcpStream, Failure> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Small writes must not wait for acknowledgements; a system that refuses the option still works.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%address, %error, "cannot set TCP_NODELAY");
            }
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
            Err(Failure::ConnectTimeout)
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "cannot connect to dyno");
            Err(Failure::ConnectRefused)
        }
        Err(_elapsed) => Err(Failure::ConnectTimeout),
    }
}
