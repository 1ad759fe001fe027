//! Who the client is: by its connection, and by what trusted proxies before the router say.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::h1::field::list_elements;
use crate::h1::{FieldId, Fields};

/// The value of `X-Forwarded-For`: what the client sent, all lines joined in order, then the client's own address. Only
/// what proxies have sent takes an allocation.
#[derive(Clone)]
pub struct ForwardedFor(Repr);

#[derive(Clone)]
enum Repr {
    /// The address alone, as long as `length` says.
    Alone { text: [u8; LONGEST], length: u8 },
    /// What came through proxies.
    Chain(Vec<u8>),
}

/// Room for a few hops.
const TYPICAL_CHAIN: usize = 128;

/// The longest text of an address: eight groups of an IPv6 address.
const LONGEST: usize = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".len();

impl ForwardedFor {
    /// The list for a request with these fields, of the client at this address.
    #[must_use]
    pub fn of(fields: &Fields, client: Option<IpAddr>) -> Self {
        let alone = Self::alone(client);
        if fields.first(FieldId::XForwardedFor).is_none() {
            return alone;
        }
        let mut chain = Vec::with_capacity(TYPICAL_CHAIN);
        for value in fields
            .values(FieldId::XForwardedFor)
            .chain([alone.as_bytes()])
            .filter(|value| !value.is_empty())
        {
            if !chain.is_empty() {
                chain.extend_from_slice(b", ");
            }
            chain.extend_from_slice(value);
        }
        Self(Repr::Chain(chain))
    }

    fn alone(client: Option<IpAddr>) -> Self {
        let mut text = [0; LONGEST];
        let length = match client.map(|client| client.to_canonical()) {
            None => 0,
            Some(IpAddr::V4(client)) => write_v4(client.octets(), &mut text),
            Some(IpAddr::V6(client)) => {
                let mut rest = text.as_mut_slice();
                // There is room for the longest of them.
                write!(rest, "{client}").ok();
                LONGEST - rest.len()
            }
        };
        let length = length as u8;
        Self(Repr::Alone { text, length })
    }

    /// As sent to the dyno and logged; empty when nobody knows where the request comes from.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Alone { text, length } => text.get(..usize::from(*length)).unwrap_or_default(),
            Repr::Chain(chain) => chain,
        }
    }
}

/// Writes an IPv4 address and says how long it is. `Display` takes more than ten times as long, and every request has an
/// address.
fn write_v4(octets: [u8; 4], text: &mut [u8]) -> usize {
    let room = text.len();
    let mut slots = text.iter_mut();
    let mut put = |byte| {
        if let Some(slot) = slots.next() {
            *slot = byte;
        }
    };
    for (index, octet) in octets.into_iter().enumerate() {
        if index > 0 {
            put(b'.');
        }
        if octet >= 100 {
            put(b'0' + octet / 100);
        }
        if octet >= 10 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
    }
    room - slots.len()
}

/// What a trusted proxy in front of the router says about the client, where it says it in a way that can be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Believed<'a> {
    /// `X-Forwarded-Proto`.
    pub proto: Option<&'static str>,
    /// `X-Forwarded-Port`.
    pub port: Option<u16>,
    /// `X-Request-Start`, as sent: milliseconds, or nginx's `t=` and seconds.
    pub request_start: Option<&'a [u8]>,
}

impl<'a> Believed<'a> {
    /// Reads the fields of a request that came through a trusted proxy. With several lines of one name the last is the
    /// nearest proxy's.
    pub fn of(fields: &'a Fields) -> Self {
        let last = |id| fields.values(id).flat_map(list_elements).last();
        let proto = last(FieldId::XForwardedProto);
        let is =
            |wanted: &str| proto.is_some_and(|value| value.eq_ignore_ascii_case(wanted.as_bytes()));
        let start = last(FieldId::XRequestStart).filter(|value| {
            let digits = value.strip_prefix(b"t=").unwrap_or(value);
            (1..=20).contains(&digits.len()) && is_decimal(digits)
        });
        Self {
            proto: [
                ("https", "https"),
                ("wss", "https"),
                ("http", "http"),
                ("ws", "http"),
            ]
            .into_iter()
            .find_map(|(said, proto)| is(said).then_some(proto)),
            port: last(FieldId::XForwardedPort).and_then(|port| {
                let digits = port.iter().all(u8::is_ascii_digit);
                std::str::from_utf8(port)
                    .ok()?
                    .parse()
                    .ok()
                    .filter(|_| digits)
            }),
            request_start: start,
        }
    }
}

/// Digits with at most one point among them.
fn is_decimal(text: &[u8]) -> bool {
    let points = text.iter().filter(|byte| **byte == b'.').count();
    points <= 1
        && text
            .iter()
            .all(|byte| byte.is_ascii_digit() || *byte == b'.')
}

/// Who the client is when proxies that are trusted stand before the router: the right-most address of
/// `X-Forwarded-For` that is none of theirs.
pub fn client_address(
    fields: &Fields,
    peer: Option<IpAddr>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut client = peer?.to_canonical();
    if !is_trusted(client) {
        return Some(client);
    }
    let lines: Vec<_> = fields.values(FieldId::XForwardedFor).collect();
    let hops = lines
        .iter()
        .rev()
        .flat_map(|line| list_elements(line).collect::<Vec<_>>().into_iter().rev());
    for hop in hops {
        let hop = std::str::from_utf8(hop).ok().and_then(hop_address);
        match hop {
            Some(hop) if is_trusted(client) => client = hop.to_canonical(),
            _ => break,
        }
    }
    Some(client)
}

/// One hop of `X-Forwarded-For`; some proxies write the port too.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let with_port = || Some(hop.parse::<SocketAddr>().ok()?.ip());
    hop.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alone(client: IpAddr) -> String {
        let list = ForwardedFor::of(&Fields::default(), Some(client));
        String::from_utf8(list.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn every_octet_is_written_in_every_place() {
        for octet in 0..=u8::MAX {
            for place in 0..4 {
                let mut octets = [7, 80, 255, 100];
                octets[place] = octet;
                let client = IpAddr::from(octets);
                assert_eq!(alone(client), client.to_string());
            }
        }
        let longest: IpAddr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert_eq!(alone(longest), longest.to_string());
        assert_eq!(ForwardedFor::of(&Fields::default(), None).as_bytes(), b"");
    }

    proptest! {
        #[test]
        fn an_address_is_written_as_usual(client: IpAddr) {
            prop_assert_eq!(alone(client), client.to_canonical().to_string());
        }
    }
}
