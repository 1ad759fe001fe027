//! Every size and count that the router bounds, with Heroku's figures as defaults where there are any. Sizes are bytes;
//! a line is counted without its CRLF.

use std::time::Duration;

/// The router's limits on what clients, dynos and it itself may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight per web dyno; times the number of web dynos it is the app's limit (H11).
    pub concurrent_requests_per_dyno: u32,
    /// Dynos tried for one request before giving up.
    pub connect_attempts: u32,
    /// For how long a dyno that could not be connected to is left alone.
    pub quarantine: Duration,
    /// Longest request line.
    pub request_line: usize,
    /// Longest line of a request header.
    pub request_header_line: usize,
    /// Longest name of a request header.
    pub request_header_name: usize,
    /// Most header lines of a request, `Host` included.
    pub request_headers: usize,
    /// Longest head of a request, all lines together: a client must not fill our memory with many long ones.
    pub request_head: usize,
    /// Longest status line of a dyno (H25 oversized status line).
    pub response_status_line: usize,
    /// Longest line of a response header (H25 oversized header).
    pub response_header_line: usize,
    /// Longest `Set-Cookie` line of a response (H25 oversized cookie).
    pub response_cookie_line: usize,
    /// Most header lines of a response (H25 oversized header).
    pub response_headers: usize,
    /// Longest head of a response, all lines together (H25 oversized header).
    pub response_head: usize,
    /// Response bytes held for a client that reads more slowly than its dyno writes.
    pub response_buffer: usize,
    /// Client connections of the whole process; above it H22.
    pub client_connections: usize,
    /// TLS handshakes in progress per worker; above it a connection is closed when it says hello. Connections that have
    /// not said hello (or sent their PROXY header) yet may be eight times as many per listener and worker; above it the
    /// oldest of them is closed.
    pub tls_handshakes: usize,
    /// Kept connections per dyno and worker.
    pub idle_connections_per_dyno: usize,
    /// Request body bytes held before a dyno has been connected to.
    pub request_buffer: usize,
    /// What an HTTP/2 connection of a client may use.
    pub http2: Http2Limits,
}

/// What a client may use of the router on one HTTP/2 connection, all of it said to the client or counted: a protocol with
/// so many ways to make the other side work has no safe defaults. Budgets are per connection and
/// [`Http2Limits::PERIOD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Limits {
    /// Streams at once (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub streams: u32,
    /// Bytes of a header list, 32 more for each field (SETTINGS_MAX_HEADER_LIST_SIZE, RFC 9113 §6.5.2).
    pub header_list: u32,
    /// Bytes that a client may send on a stream before the router has passed them on (SETTINGS_INITIAL_WINDOW_SIZE).
    pub stream_window: u32,
    /// The same for a connection.
    pub connection_window: u32,
    /// Streams that a client may reset (CVE-2023-44487).
    pub resets: u32,
    /// PING frames.
    pub pings: u32,
    /// SETTINGS frames.
    pub settings: u32,
    /// DATA, HEADERS and CONTINUATION frames that carry nothing and end nothing; and, apart from them, frames that only
    /// keep house (WINDOW_UPDATE, PRIORITY), beyond those that the traffic explains.
    pub empty_frames: u32,
}

impl Http2Limits {
    /// The time that budgets are for.
    pub const PERIOD: Duration = Duration::from_secs(10);
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            streams: 128,
            header_list: 65_536,
            stream_window: 262_144,
            connection_window: 1_048_576,
            resets: 200,
            pings: 100,
            settings: 100,
            empty_frames: 200,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent_requests_per_dyno: 200,
            connect_attempts: 10,
            quarantine: Duration::from_secs(5),
            request_line: 8192,
            request_header_line: 8192,
            request_header_name: 1000,
            request_headers: 1000,
            request_head: 1_048_576,
            response_status_line: 8192,
            response_header_line: 524_288,
            response_cookie_line: 8192,
            response_headers: 10_000,
            response_head: 1_048_576,
            response_buffer: 1_048_576,
            client_connections: 100_000,
            tls_handshakes: 1000,
            idle_connections_per_dyno: 256,
            request_buffer: 65_536,
            http2: Http2Limits::default(),
        }
    }
}
