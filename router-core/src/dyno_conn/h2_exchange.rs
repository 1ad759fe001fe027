//! One exchange on an HTTP/2 connection to a dyno: a stream of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use router_model::admission::Admitted;
use router_model::failure::Failure;
use router_model::forward::{self, RequestFields};
use router_model::h1::{Framing, HeadLimits, RequestHead, ResponseHead};
use router_model::{h2 as messages, response};

use super::h2::{H2Slot, is_unprocessed};
use crate::queue::{BodySink, Pumped};
use crate::stream::{StreamIn, StreamOut};

/// A request that is on its way to a dyno, and the response to it.
pub(crate) struct H2Exchange {
    slot: H2Slot,
    limits: HeadLimits,
    pub(super) out: StreamOut,
    state: State,
    heads: VecDeque<ResponseHead>,
    /// The dyno has said that it did not look at the request.
    refused: bool,
}

enum State {
    /// The request could not be sent.
    Unsent(Option<h2::Error>),
    Waiting(ResponseFuture, SendStream<Bytes>),
    Answered(StreamIn, SendStream<Bytes>),
}

impl H2Exchange {
    pub(crate) fn new(slot: H2Slot, limits: HeadLimits) -> Self {
        Self {
            slot,
            limits,
            out: StreamOut::default(),
            state: State::Unsent(None),
            heads: VecDeque::new(),
            refused: false,
        }
    }

    pub(super) fn reused(&self) -> bool {
        self.slot.is_reused()
    }

    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Sends the head; if that fails, reading says so.
    pub(super) fn put_head(
        &mut self,
        head: &RequestHead,
        admitted: &Admitted<'_>,
        ours: &RequestFields<'_>,
    ) {
        let whole = !admitted.framing.has_body();
        let sent = match forward::h2_request(head, admitted, ours, self.slot.scheme()) {
            Some(request) => self.slot.send(request, whole),
            None => Err(Reason::PROTOCOL_ERROR.into()),
        };
        if whole {
            self.out.end_is_sent();
        }
        self.state = match sent {
            Ok((response, stream)) => State::Waiting(response, stream),
            Err(error) => State::Unsent(Some(error)),
        };
    }

    pub(super) fn is_head_out(&self) -> bool {
        !matches!(self.state, State::Unsent(_))
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_flushed()
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        match &mut self.state {
            State::Unsent(_) => Poll::Ready(Err(Reason::REFUSED_STREAM.into())),
            State::Waiting(_, stream) | State::Answered(_, stream) => {
                self.out.poll_send(stream, cx)
            }
        }
    }

    /// Receives heads, then the body. What it gives are the failures of the dyno.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let read = match &mut self.state {
            State::Unsent(error) => {
                self.refused = true;
                let error = error.take();
                return Poll::Ready(Err(error.map_or(Failure::ClosedWithoutResponse, |error| {
                    failure(&error, false)
                })));
            }
            State::Answered(body, _) => ready!(body.poll_read(cx)),
            State::Waiting(..) => ready!(self.poll_head(cx))?,
        };
        Poll::Ready(read.map_err(|error| failure(&error, true)))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Result<(), h2::Error>, Failure>> {
        let State::Waiting(response, _) = &mut self.state else {
            return Poll::Pending;
        };
        if let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            let head =
                messages::response_head(interim.status(), interim.headers(), false, &self.limits);
            self.heads.push_back(head.map_err(response::head_failure)?);
            return Poll::Ready(Ok(Ok(())));
        }
        match ready!(Pin::new(response).poll(cx)) {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                let body = StreamIn::new(body);
                let head = messages::response_head(
                    parts.status,
                    &parts.headers,
                    body.is_ended(),
                    &self.limits,
                );
                self.heads.push_back(head.map_err(response::head_failure)?);
                let waiting = std::mem::replace(&mut self.state, State::Unsent(None));
                if let State::Waiting(_, stream) = waiting {
                    self.state = State::Answered(body, stream);
                }
                Poll::Ready(Ok(Ok(())))
            }
            Err(error) => {
                self.refused = is_unprocessed(&error);
                Poll::Ready(Err(failure(&error, false)))
            }
        }
    }

    /// The final head has been taken. What has no body by its status or its request's method has none, whatever the dyno
    /// sends on its stream: to an HTTP/1 client that would be another response.
    pub(super) fn begin_body(&mut self, framing: Framing) {
        if let State::Answered(body, _) = &mut self.state {
            body.begin(framing);
        }
    }

    pub(super) fn take_head(&mut self) -> Option<ResponseHead> {
        self.heads.pop_front()
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.heads.is_empty()
            || matches!(&self.state, State::Answered(body, _) if body.has_unread())
    }

    pub(super) fn pump_body(
        &mut self,
        to: &mut dyn BodySink,
        room: usize,
        content: &mut u64,
    ) -> Pumped {
        match &mut self.state {
            State::Answered(body, _) => body.pump(to, room, content),
            State::Unsent(_) | State::Waiting(..) => Pumped::NeedMore,
        }
    }
}

/// What an error of a dyno's stream means. The end of its connection is what it is in HTTP/1; a stream that ends alone
/// is a broken one, whoever broke it.
fn failure(error: &h2::Error, answered: bool) -> Failure {
    match (error.is_reset(), answered) {
        (true, _) => Failure::DynoStreamBroken,
        (false, false) => Failure::ClosedWithoutResponse,
        (false, true) => Failure::DynoInterrupted,
    }
}
