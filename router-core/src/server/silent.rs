//! Connections that have not said yet what they are: no PROXY header, or no ClientHello, where one is wanted. They cost
//! little, so there may be many, and who has been silent for longest makes room: whoever opens sockets and says nothing
//! then closes mostly their own, and nobody who speaks is turned away.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The silent connections of one listening socket.
pub(super) struct SilentOnes {
    most: usize,
    /// Never held across an await.
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// Each sender is dropped when its connection has to go.
    by_age: BTreeMap<u64, oneshot::Sender<Infallible>>,
}

impl SilentOnes {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: Mutex::default(),
        })
    }

    /// One more; if that is too many, the oldest is pushed out.
    pub(super) fn enter(self: &Arc<Self>) -> Silent {
        let (stays, pushed_out) = oneshot::channel();
        let mut open = self.open();
        let id = open.next;
        open.next += 1;
        open.by_age.insert(id, stays);
        if open.by_age.len() > self.most {
            open.by_age.pop_first();
        }
        drop(open);
        Silent {
            ones: Arc::clone(self),
            id,
            pushed_out,
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's silence; dropped when it has spoken.
#[must_use]
pub(super) struct Silent {
    ones: Arc<SilentOnes>,
    id: u64,
    pushed_out: oneshot::Receiver<Infallible>,
}

impl Silent {
    /// Ends when the connection has to make room for younger ones.
    pub(super) async fn pushed_out(&mut self) {
        let Err(_dropped) = (&mut self.pushed_out).await;
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.ones.open().by_age.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_silent_one_makes_room() {
        let gone = |silent: &mut Silent| {
            silent.pushed_out.try_recv() == Err(oneshot::error::TryRecvError::Closed)
        };
        let ones = SilentOnes::new(2);
        let (mut first, mut second) = (ones.enter(), ones.enter());
        assert!(!gone(&mut first));
        let mut third = ones.enter();
        assert!(gone(&mut first) && !gone(&mut second) && !gone(&mut third));
        // Whoever speaks makes room too.
        drop(second);
        let fourth = ones.enter();
        assert!(!gone(&mut third));
        drop((first, fourth));
        let _fifth = ones.enter();
        assert!(!gone(&mut third));
        drop(third);
        assert_eq!(ones.open().by_age.len(), 1);
    }
}
