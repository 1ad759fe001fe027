//! Opens a connection to a dyno within its deadline, and says as a fact why that failed.

use std::net::SocketAddr;

use router_model::failure::Failure;
use tokio::net::TcpStream;

use crate::clock::Instant;
use crate::socket;

/// Connects to `address`.
///
/// # Errors
/// [`Failure::ConnectTimeout`] (H19) when nothing came of it until `deadline`, [`Failure::Platform`] (H99) when this
/// machine is out of something, and [`Failure::ConnectRefused`] (H21) for any other reason.
pub(crate) async fn dial(address: SocketAddr, deadline: Instant) -> Result<TcpStream, Failure> {
    match tokio::time::timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            socket::tune(&stream);
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
            Err(Failure::ConnectTimeout)
        }
        Ok(Err(error)) if is_our_own(&error) => {
            tracing::error!(%address, %error, "this machine cannot connect to dynos");
            Err(Failure::Platform)
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "cannot connect to dyno");
            Err(Failure::ConnectRefused)
        }
        Err(_elapsed) => Err(Failure::ConnectTimeout),
    }
}

/// Whether the reason lies with this machine (descriptors, ports, memory, a firewall): the dyno is not to be blamed and
/// quarantined for it.
fn is_our_own(error: &std::io::Error) -> bool {
    const EPERM: i32 = 1;
    const ENOMEM: i32 = 12;
    const EACCES: i32 = 13;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const EADDRNOTAVAIL: i32 = 99;
    const ENOBUFS: i32 = 105;
    let ours = [
        EPERM,
        ENOMEM,
        EACCES,
        ENFILE,
        EMFILE,
        EADDRNOTAVAIL,
        ENOBUFS,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| ours.contains(&code))
}
