//! HTTP/2 as the model sees it (RFC 9113): the h2 library owns frames, HPACK and flow control; here its messages become
//! the same heads as those of HTTP/1, so that every rule about heads is written once. Field sections come out of that
//! library in lower case, free of CR, LF and NUL, and without connection-specific fields.

mod head;
pub mod meter;
pub mod websocket;

pub use head::{request_head, response_head, trailer_map, trailers};
