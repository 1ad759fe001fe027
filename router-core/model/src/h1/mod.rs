//! The HTTP/1 codec as pure functions over bytes: heads, chunked bodies, framing (RFC 9112). It knows what the bytes
//! are and whether they are well formed; whether a well-formed message is welcome is `admission`'s and `response`'s
//! business. ADR 0008 says why we have a codec of our own.

pub mod body;
pub(crate) mod bytes;
pub mod chunked;
pub mod field;
pub mod head;

pub use body::{BodyDecoder, Framing};
pub use chunked::{Piece, Step};
pub use field::{Field, FieldId, Fields};
pub use head::{HeadError, HeadLimits, HeadParser, RequestHead, ResponseHead, Version};
