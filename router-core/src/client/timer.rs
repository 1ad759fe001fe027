//! The timer of a client connection or stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::Sleep;

use crate::clock::{self, Instant};

/// Deadlines mostly move later, so the timer is set again only when it would fire too late; when it fires too early it
/// looks at the deadline anew.
pub(crate) struct Timer {
    /// None until there is a deadline: one that is set for now first wakes the whole worker.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it will wake: as long as that is the same, an armed timer need not be asked.
    armed_for: Option<Waker>,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self {
            sleep: None,
            armed_for: None,
        }
    }

    /// Ready once `deadline` has passed.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let new = || Box::pin(tokio::time::sleep_until(deadline));
        let sleep = self.sleep.get_or_insert_with(new);
        if sleep.is_elapsed() || sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        } else if let Some(waker) = &self.armed_for
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        self.armed_for = None;
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                self.armed_for = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // It may have been set off by another thread since this turn began.
            if clock::this_moment() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }

    /// Waits until `deadline`. Dropping the future loses nothing.
    pub(crate) async fn until(&mut self, deadline: Instant) {
        poll_fn(|cx| self.poll_until(cx, deadline)).await;
    }
}
