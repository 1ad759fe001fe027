//! A response as read over HTTP/2, whichever client read it.

use crate::raw_head::{all, one, text};

/// A response, or as much of it as came before the stream was reset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct H2Response {
    /// The status; 0 when the stream was reset before any.
    pub status: u16,
    /// The fields in order, without `:status`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The trailer fields.
    pub trailers: Vec<(String, String)>,
    /// Interim responses that came before, in order.
    pub informational: Vec<(u16, Vec<(String, String)>)>,
    /// The code of the RST_STREAM that ended it; `None` when it ended as it should.
    pub reset: Option<u32>,
}

impl H2Response {
    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        all(&self.headers, name)
    }

    /// The value of a field that may occur once at most; panics when it occurs twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        one(&self.headers, name)
    }

    /// The value of a trailer field that may occur once at most.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        one(&self.trailers, name)
    }

    /// The body as text, bytes to characters one to one.
    pub fn text(&self) -> String {
        text(&self.body)
    }

    /// Panics when the stream was reset.
    #[must_use]
    pub fn whole(self) -> Self {
        assert_eq!(self.reset, None, "the stream was reset: {self:?}");
        self
    }
}
