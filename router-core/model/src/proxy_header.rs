//! The header of the PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): who is at the other end, told by
//! a load balancer that connects in the client's place. Strict, for what it says is believed; and it says of every byte
//! whether it is the header's own, because what follows may be a TLS handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header says of a connection; `None` where it leaves the socket's own addresses in force (`UNKNOWN`, `LOCAL`,
/// UNIX sockets).
pub type Proxied = Option<Addresses>;

/// Both ends of the client's connection to the load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client called.
    pub destination: SocketAddr,
}

/// Why a connection does not begin with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else came.
    #[error("it does not begin with a PROXY header")]
    Missing,
    /// It begins like one.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// More than 107 bytes of version 1, or more than 4 KiB of version 2.
    #[error("the PROXY header is too long")]
    TooLong,
}

/// A header as far as it has come.
#[derive(Debug, Default)]
pub struct Header {
    bytes: Vec<u8>,
}

/// `PROXY TCP6`, two addresses and ports in full, and CRLF.
const LONGEST_V1: usize = 107;
const GREETING_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length of the rest.
const FIXED_V2: usize = 16;
/// Addresses and extensions; a chain of load balancers adds a few hundred bytes.
const LONGEST_REST_V2: usize = 4096;

impl Header {
    /// How many of the bytes that are there belong to the header; at least one.
    pub fn own(&self, there: &[u8]) -> Result<usize, HeaderError> {
        match self.bytes.first().or_else(|| there.first()) {
            Some(b'P') => {
                let line = there.iter().position(|byte| *byte == b'\n');
                let own = line.map_or(there.len(), |at| at + 1);
                if self.bytes.len() + own > LONGEST_V1 {
                    return Err(HeaderError::TooLong);
                }
                Ok(own)
            }
            Some(b'\r') => Ok(there.len().min(self.length_v2() - self.bytes.len())),
            Some(_) | None => Err(HeaderError::Missing),
        }
    }

    /// Takes bytes of its own; gives what the header says once it is whole.
    pub fn push(&mut self, own: &[u8]) -> Result<Option<Proxied>, HeaderError> {
        self.bytes.extend_from_slice(own);
        let start = match self.bytes.first() {
            Some(b'P') => GREETING_V1,
            _ => SIGNATURE_V2,
        };
        let common = self.bytes.len().min(start.len());
        if self.bytes.get(..common) != start.get(..common) {
            return Err(HeaderError::Missing);
        }
        if start == GREETING_V1 {
            let whole = self.bytes.ends_with(b"\n");
            return whole.then(|| parse_v1(&self.bytes)).transpose();
        }
        if self.bytes.len() < FIXED_V2 {
            return Ok(None);
        }
        let length = self.length_v2();
        if length > FIXED_V2 + LONGEST_REST_V2 {
            return Err(HeaderError::TooLong);
        }
        let whole = self.bytes.len() == length;
        whole.then(|| parse_v2(&self.bytes)).transpose()
    }

    /// As far as is known: of the part whose length is fixed, or of all.
    fn length_v2(&self) -> usize {
        let rest = self.bytes.get(FIXED_V2 - 2..FIXED_V2);
        let rest = rest.and_then(|rest| rest.first_chunk());
        FIXED_V2 + rest.map_or(0, |rest| usize::from(u16::from_be_bytes(*rest)))
    }
}

fn parse_v1(header: &[u8]) -> Result<Proxied, HeaderError> {
    let line = header
        .strip_prefix(GREETING_V1)
        .and_then(|line| line.strip_suffix(b"\r\n"));
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(HeaderError::Malformed)?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(None);
    }
    let addresses = match line.split_once(' ') {
        Some(("TCP4", rest)) => addresses_v1::<Ipv4Addr>(rest),
        Some(("TCP6", rest)) => addresses_v1::<Ipv6Addr>(rest),
        _ => None,
    };
    addresses.map(Some).ok_or(HeaderError::Malformed)
}

fn addresses_v1<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Option<Addresses> {
    let mut fields = text.split(' ');
    let mut address = || fields.next()?.parse::<A>().ok().map(Into::into);
    let (source, destination) = (address()?, address()?);
    let (source_port, destination_port) = (port(fields.next()?)?, port(fields.next()?)?);
    if fields.next().is_some() {
        return None;
    }
    Some(Addresses::new(
        (source, source_port),
        (destination, destination_port),
    ))
}

/// Digits only, and one way to write each number.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let shortest = text == "0" || !text.starts_with('0');
    (plain && shortest).then(|| text.parse().ok()).flatten()
}

fn parse_v2(header: &[u8]) -> Result<Proxied, HeaderError> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const UNIX_ADDRESSES: usize = 216;
    let malformed = HeaderError::Malformed;
    let (fixed, rest) = header.split_at_checked(FIXED_V2).ok_or(malformed)?;
    let (command, family) = match fixed.get(SIGNATURE_V2.len()..) {
        Some([command, family, ..]) => (*command, *family),
        _ => return Err(HeaderError::Malformed),
    };
    let (addresses, extensions) = match (command, family) {
        // A health check of the load balancer's own; whatever follows is to be ignored.
        (LOCAL, _) => return Ok(None),
        (PROXY, 0x00) => return Ok(None),
        (PROXY, 0x11) => addresses_v2::<4>(rest),
        (PROXY, 0x21) => addresses_v2::<16>(rest),
        (PROXY, 0x31) => rest.get(UNIX_ADDRESSES..).map(|rest| (None, rest)),
        // Datagrams do not come over TCP.
        _ => None,
    }
    .ok_or(HeaderError::Malformed)?;
    skip_extensions(extensions)?;
    Ok(addresses)
}

fn addresses_v2<const N: usize>(rest: &[u8]) -> Option<(Proxied, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = rest.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, rest) = rest.split_first_chunk::<2>()?;
    let addresses = Addresses::new(
        (IpAddr::from(*source), u16::from_be_bytes(*source_port)),
        (
            IpAddr::from(*destination),
            u16::from_be_bytes(*destination_port),
        ),
    );
    Some((Some(addresses), rest))
}

/// Each is a type, a length and so many bytes. None of them means anything here, but a header whose parts do not add up
/// is not to be believed in the others.
fn skip_extensions(mut rest: &[u8]) -> Result<(), HeaderError> {
    while let Some((_, after)) = rest.split_first() {
        let skipped = after.split_first_chunk::<2>().and_then(|(length, after)| {
            let length = usize::from(u16::from_be_bytes(*length));
            after.get(length..)
        });
        rest = skipped.ok_or(HeaderError::Malformed)?;
    }
    Ok(())
}

impl Addresses {
    /// An IPv4 client of a load balancer that listens on IPv6 is still an IPv4 client.
    fn new(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let end = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
        Self {
            source: end(source),
            destination: end(destination),
        }
    }
}

#[cfg(test)]
mod tests;
