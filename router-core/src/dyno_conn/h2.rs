//! HTTP/2 connections to dynos.

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};

/// The right to one stream of a connection.
pub(crate) struct H2Slot {
    sender: SendRequest<Bytes>,
}

impl H2Slot {
    pub(crate) fn send(
        &mut self,
        request: http::Request<()>,
        whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.send_request(request, whole)
    }
}
