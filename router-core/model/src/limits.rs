//! Every size and count that the router bounds, with Heroku's figures as defaults. Sizes are bytes; a line is counted
//! without its CRLF.

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
    /// Longest head of a response, all lines together (H25 oversized header).
    pub response_head: usize,
    /// Response bytes held for a client that reads more slowly than its dyno writes.
    pub response_buffer: usize,
    /// Client connections of the whole process; above it H22.
    pub client_connections: usize,
    /// TLS handshakes in progress per worker; above it connections are closed at once.
    pub tls_handshakes: usize,
    /// Kept connections per dyno and worker.
    pub idle_connections_per_dyno: usize,
    /// Request body bytes held before a dyno has been connected to.
    pub request_buffer: usize,
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
            response_head: 1_048_576,
            response_buffer: 1_048_576,
            client_connections: 100_000,
            tls_handshakes: 1000,
            idle_connections_per_dyno: 256,
            request_buffer: 65_536,
        }
    }
}
