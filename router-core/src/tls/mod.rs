//! TLS towards clients: certificates and which one answers, handshakes, session tickets.

mod session;

pub(crate) use session::TlsSession;
