//! Reads the PROXY header in front of a connection, and not a byte beyond it: what follows may be a TLS handshake.

use std::io;

use router_model::proxy_header::{Header, HeaderError, Proxied};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHeader {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the connection ended within the PROXY header")]
    Truncated,
    #[error("too many connections without a PROXY header came after it")]
    TooMany,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Proxied, NoHeader> {
    let mut header = Header::default();
    let mut buffer = [0; 256];
    loop {
        let there = stream.peek(&mut buffer).await?;
        let there = buffer.get(..there).unwrap_or_default();
        if there.is_empty() {
            return Err(NoHeader::Truncated);
        }
        let own = header.own(there)?;
        // They are there already.
        let own = buffer.get_mut(..own).unwrap_or_default();
        stream.read_exact(own).await?;
        if let Some(proxied) = header.push(own)? {
            return Ok(proxied);
        }
    }
}
