//! The one timer of a client connection or stream.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::Sleep;

use crate::clock::{self, Instant};

/// Deadlines mostly move later, so the timer is set again only when it would fire too late; when it fires too early it
/// looks at the deadline anew.
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Whom it will wake: as long as that is the same, an armed timer need not be asked.
    armed_for: Option<Waker>,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep_until(clock::now())),
            armed_for: None,
        }
    }

    /// Ready once `deadline` has passed.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.sleep.is_elapsed() || self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
        } else if let Some(waker) = &self.armed_for
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        self.armed_for = None;
        loop {
            if self.sleep.as_mut().poll(cx).is_pending() {
                self.armed_for = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // It may have been set off by another thread since this turn began.
            if clock::this_moment() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}
