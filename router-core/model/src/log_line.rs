//! The log line of one exchange and its two printed forms.

use std::time::{Duration, SystemTime};

use crate::failure::Failure;

/// The facts of one finished exchange of a known app. `method`, `path`, `host` and `forwarded_for` are bytes as they came
/// from the network.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    /// When the exchange ended; the line's time stamp.
    pub ended: SystemTime,
    /// The app; not printed in the Heroku form, whose log is the app's own.
    pub app: &'a str,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// The method as received.
    pub method: &'a [u8],
    /// The path with its query, as received.
    pub path: &'a [u8],
    /// The `Host` as received.
    pub host: &'a [u8],
    /// The request ID that the dyno got.
    pub request_id: &'a str,
    /// The `X-Forwarded-For` that the dyno got.
    pub forwarded_for: &'a [u8],
    /// The dyno that was tried last, if any.
    pub dyno: Option<&'a str>,
    /// How long the last connection attempt took; zero on a kept connection.
    pub connect: Option<Duration>,
    /// How long the dyno and the client took; the lifetime of a tunnel.
    pub service: Option<Duration>,
    /// The status sent to the client; `None` if none was (H24).
    pub status: Option<u16>,
    /// Body bytes sent to the client, pages of the router included.
    pub bytes: u64,
    /// What the client spoke.
    pub protocol: Protocol,
    /// The TLS version (`tls1.3`) of the client's connection; `None` in the clear.
    pub tls: Option<&'a str>,
}

/// The protocol of the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}
