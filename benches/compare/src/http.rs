//! As much of HTTP/1.1 and RFC 6455 as the origin and the drivers need: where a head ends, what it says, and two frames.

/// The host that every request asks for.
pub(crate) const HOST: &str = "shop.test";

/// Bytes of a WebSocket message.
pub(crate) const MESSAGE: usize = 128;

/// The key of every handshake, and what belongs to it (RFC 6455 §1.3 has them as its example).
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame of a client, masked, and one of a server: head and message.
pub(crate) const CLIENT_FRAME: usize = 8 + MESSAGE;
pub(crate) const SERVER_FRAME: usize = 4 + MESSAGE;

/// Where the head that begins here ends, if all of it is there.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The value of a header; its name is given in lower case.
pub(crate) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The length of the body as `Content-Length` says it.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    header(head, "content-length")?.parse().ok()
}

/// The status of a response.
pub(crate) fn status(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

/// A request without a body.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: compare\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}

/// A WebSocket handshake.
pub(crate) fn handshake() -> Vec<u8> {
    format!(
        "GET /echo HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    .into_bytes()
}

/// One binary message of a client, with a mask.
pub(crate) fn client_frame() -> [u8; CLIENT_FRAME] {
    let mut frame = [0; CLIENT_FRAME];
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let message = message();
    for (at, byte) in frame.iter_mut().enumerate() {
        *byte = match at {
            0 => 0x82,
            1 => 0x80 | 126,
            2 => 0,
            3 => MESSAGE as u8,
            4..8 => mask.get(at - 4).copied().unwrap_or_default(),
            _ => {
                let key = mask.get((at - 8) % 4).copied().unwrap_or_default();
                key ^ message.get(at - 8).copied().unwrap_or_default()
            }
        };
    }
    frame
}

/// What a server answers to a frame of [`client_frame`]'s shape; nothing, if it has another one.
pub(crate) fn echo(frame: &[u8]) -> Option<[u8; SERVER_FRAME]> {
    let (head, masked) = frame.split_at_checked(8)?;
    let [0x82, 0xfe, 0, length, mask @ ..] = head else {
        return None;
    };
    if usize::from(*length) != MESSAGE || masked.len() != MESSAGE {
        return None;
    }
    let mut answer = [0; SERVER_FRAME];
    let (head, message) = answer.split_at_mut(4);
    head.copy_from_slice(&[0x82, 126, 0, MESSAGE as u8]);
    for ((byte, masked), key) in message.iter_mut().zip(masked).zip(mask.iter().cycle()) {
        *byte = masked ^ key;
    }
    Some(answer)
}

fn message() -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    for (at, byte) in message.iter_mut().enumerate() {
        *byte = at as u8;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_carries_the_message_without_its_mask() {
        let answer = echo(&client_frame()).unwrap();
        assert_eq!(answer[..4], [0x82, 126, 0, 128]);
        assert_eq!(answer[4..], message());
        assert_eq!(echo(&client_frame()[1..]), None);
    }

    #[test]
    fn heads_are_found_and_read() {
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let end = head_end(response).unwrap();
        assert_eq!(&response[end..], b"ok");
        assert_eq!(status(response), Some(200));
        assert_eq!(content_length(&response[..end]), Some(2));
        assert_eq!(head_end(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
