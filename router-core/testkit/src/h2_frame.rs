//! Frames of HTTP/2 (RFC 9113) as they stand on the wire.

use crate::hpack;

/// DATA.
pub const DATA: u8 = 0x0;
/// HEADERS.
pub const HEADERS: u8 = 0x1;
/// PRIORITY.
pub const PRIORITY: u8 = 0x2;
/// RST_STREAM.
pub const RST_STREAM: u8 = 0x3;
/// SETTINGS.
pub const SETTINGS: u8 = 0x4;
/// PUSH_PROMISE.
pub const PUSH_PROMISE: u8 = 0x5;
/// PING.
pub const PING: u8 = 0x6;
/// GOAWAY.
pub const GOAWAY: u8 = 0x7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 0x8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 0x9;

/// Flag of DATA and HEADERS: the sender's half of the stream ends.
pub const END_STREAM: u8 = 0x1;
/// Flag of SETTINGS and PING: an answer.
pub const ACK: u8 = 0x1;
/// Flag of HEADERS and CONTINUATION: the header block ends.
pub const END_HEADERS: u8 = 0x4;
/// Flag of DATA and HEADERS: a length of padding comes first, the padding last.
pub const PADDED: u8 = 0x8;

/// A frame as a client reads it, CONTINUATION joined to its HEADERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum H2Frame {
    /// Body bytes, without padding.
    Data {
        /// Its stream.
        stream: u32,
        /// The bytes.
        data: Vec<u8>,
        /// END_STREAM.
        end: bool,
    },
    /// A header block: of an interim response, a response, or trailers.
    Headers {
        /// Its stream.
        stream: u32,
        /// Pseudo-fields and fields in order.
        fields: Vec<(String, String)>,
        /// END_STREAM.
        end: bool,
    },
    /// RST_STREAM.
    Reset {
        /// Its stream.
        stream: u32,
        /// The error code.
        code: u32,
    },
    /// SETTINGS.
    Settings {
        /// Whether it only acknowledges.
        ack: bool,
        /// Identifiers and values in order.
        values: Vec<(u16, u32)>,
    },
    /// PING.
    Ping {
        /// Whether it answers one.
        ack: bool,
        /// Its eight bytes.
        payload: Vec<u8>,
    },
    /// GOAWAY.
    GoAway {
        /// The last stream that was or may be processed.
        last: u32,
        /// The error code.
        code: u32,
        /// Debug data.
        debug: String,
    },
    /// WINDOW_UPDATE.
    WindowUpdate {
        /// Its stream, 0 for the connection.
        stream: u32,
        /// By how much.
        by: u32,
    },
    /// Anything else.
    Other {
        /// Its type.
        kind: u8,
        /// Its stream.
        stream: u32,
    },
}

impl H2Frame {
    /// The stream it belongs to, 0 for the connection.
    pub fn stream(&self) -> u32 {
        match self {
            Self::Data { stream, .. }
            | Self::Headers { stream, .. }
            | Self::Reset { stream, .. }
            | Self::WindowUpdate { stream, .. }
            | Self::Other { stream, .. } => *stream,
            Self::Settings { .. } | Self::Ping { .. } | Self::GoAway { .. } => 0,
        }
    }

    pub(crate) fn read(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        let end = flags & END_STREAM != 0;
        match kind {
            DATA => Self::Data {
                stream,
                data: unpadded(flags, payload).to_vec(),
                end,
            },
            HEADERS => Self::Headers {
                stream,
                fields: hpack::decode(unpadded(flags, payload)),
                end,
            },
            RST_STREAM => Self::Reset {
                stream,
                code: number(payload),
            },
            SETTINGS => Self::Settings {
                ack: flags & ACK != 0,
                values: payload
                    .chunks(6)
                    .map(|entry| {
                        (
                            u16::from_be_bytes([entry[0], entry[1]]),
                            number(&entry[2..]),
                        )
                    })
                    .collect(),
            },
            PING => Self::Ping {
                ack: flags & ACK != 0,
                payload: payload.to_vec(),
            },
            GOAWAY => Self::GoAway {
                last: number(payload),
                code: number(&payload[4..]),
                debug: String::from_utf8_lossy(&payload[8..]).into_owned(),
            },
            WINDOW_UPDATE => Self::WindowUpdate {
                stream,
                by: number(payload),
            },
            _ => Self::Other { kind, stream },
        }
    }
}

/// A frame's bytes.
pub fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload that fits");
    assert!(length < 1 << 24, "a payload that fits");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block of literals: any character up to U+00FF goes out as that byte, whatever it does to a field.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    hpack::encode(fields)
}

fn unpadded(flags: u8, payload: &[u8]) -> &[u8] {
    if flags & PADDED == 0 {
        return payload;
    }
    &payload[1..payload.len() - usize::from(payload[0])]
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
