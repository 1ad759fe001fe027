//! The bridge between a WebSocket over HTTP/2 (RFC 8441) and the HTTP/1.1 handshake that dynos speak (RFC 6455 §4): the
//! router plays the client of that handshake, so the key and the check of its answer are the router's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::h1::ResponseHead;

/// The `:protocol`, and the token of the Upgrade field.
pub const PROTOCOL: &str = "websocket";

/// A `Sec-WebSocket-Key` of sixteen random bytes.
pub fn key(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

/// Whether a dyno's 101 answers the handshake with `key` (RFC 6455 §4.1).
pub fn is_answer(head: &ResponseHead, key: &str) -> bool {
    let accept = head.fields().named(b"sec-websocket-accept");
    accept == Some(accept_of(key).as_bytes())
}

fn accept_of(key: &str) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut digest = Sha1::new();
    digest.update(key.as_bytes());
    digest.update(GUID);
    STANDARD.encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_6455() {
        assert_eq!(
            accept_of("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert_eq!(key([0; 16]), "AAAAAAAAAAAAAAAAAAAAAA==");
    }
}
