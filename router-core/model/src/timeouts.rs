//! Every wait that the router bounds, with Heroku's figures as defaults. Plain values: what a wait means and what
//! happens when it ends is said by whoever waits.

use std::time::Duration;

/// The router's time limits. An app may override `first_byte` and `idle` in its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// One attempt to connect to a dyno (H19 when the attempts are used up).
    pub connect: Duration,
    /// All attempts and all waiting for a dyno together, from the arrival of the request (H19, H20, H34).
    pub connect_total: Duration,
    /// From the last byte of the request to the first byte of the response (H12).
    pub first_byte: Duration,
    /// Rolling: between two reads or writes of a body or a tunnel (H15, H28).
    pub idle: Duration,
    /// One absolute deadline for a whole TLS handshake.
    pub tls_handshake: Duration,
    /// One absolute deadline for a whole request head.
    pub client_header: Duration,
    /// A kept client connection between two requests.
    pub client_idle: Duration,
    /// A kept dyno connection between two requests.
    pub dyno_idle: Duration,
    /// The PROXY protocol's header, where one is required.
    pub proxy_header: Duration,
    /// For the requests in flight at shutdown, then they are cut (H24).
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            connect_total: Duration::from_secs(75),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(55),
            tls_handshake: Duration::from_secs(10),
            client_header: Duration::from_secs(60),
            client_idle: Duration::from_secs(60),
            dyno_idle: Duration::from_secs(90),
            proxy_header: Duration::from_secs(3),
            drain: Duration::from_secs(30),
        }
    }
}
