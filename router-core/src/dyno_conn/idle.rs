//! Kept dyno connections of one worker: the youngest is used first, so that the rest can grow old and close.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;

use super::{H1Conn, Terms};
use crate::clock::Instant;
use crate::dyno::Dyno;

/// Kept connections, by dyno.
#[derive(Debug, Default)]
pub(crate) struct IdleConns {
    by_dyno: HashMap<u64, OfDyno>,
    count: usize,
}

#[derive(Debug)]
struct OfDyno {
    dyno: Arc<Dyno>,
    #[expect(
        clippy::vec_box,
        reason = "a connection goes from hand to hand without being copied"
    )]
    conns: Vec<Box<H1Conn>>,
}

impl IdleConns {
    /// A usable connection to `dyno` that was opened on these terms. With `max_idle`, for a request that cannot be sent again, one that has been idle
    /// for longer is left alone, and the system is asked whether it still stands.
    pub(crate) fn take(
        &mut self,
        dyno: &Dyno,
        terms: Terms,
        max_idle: Option<Duration>,
        now: Instant,
    ) -> Option<Box<H1Conn>> {
        let kept = self.by_dyno.get_mut(&dyno.id())?;
        while let Some(conn) = kept.conns.pop() {
            if conn.terms != terms {
                self.count -= 1;
                continue;
            }
            let too_old =
                max_idle.is_some_and(|max| now.saturating_duration_since(conn.idle_since) > max);
            if too_old {
                // All others have been idle for longer still.
                kept.conns.push(conn);
                return None;
            }
            self.count -= 1;
            let quiet =
                conn.stream.is_quiet() && (max_idle.is_none() || conn.stream.is_quiet_now());
            if quiet && conn.idle_until > now {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection for at most `keep`, unless `most` are kept already or the dyno gets no requests any more.
    pub(crate) fn put(
        &mut self,
        dyno: &Arc<Dyno>,
        mut conn: Box<H1Conn>,
        keep: Duration,
        most: usize,
        now: Instant,
    ) {
        if dyno.is_retired() {
            return;
        }
        let kept = self.by_dyno.entry(dyno.id()).or_insert_with(|| OfDyno {
            dyno: Arc::clone(dyno),
            conns: Vec::new(),
        });
        if kept.conns.len() >= most {
            return;
        }
        conn.rest(now, now + keep);
        kept.conns.push(conn);
        self.count += 1;
    }

    /// Closes what is too old, closed by its dyno, or of a retired dyno.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.by_dyno.retain(|_, kept| {
            if kept.dyno.is_retired() {
                return false;
            }
            kept.conns
                .retain(|conn| conn.idle_until > now && conn.stream.is_quiet());
            !kept.conns.is_empty()
        });
        self.count = self.by_dyno.values().map(|kept| kept.conns.len()).sum();
    }

    /// Closes everything.
    pub(crate) fn clear(&mut self) {
        self.by_dyno.clear();
        self.count = 0;
    }

    /// How many connections are kept.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// How many connections to one dyno are kept.
    pub(crate) fn of_dyno(&self, dyno: &Dyno) -> usize {
        self.by_dyno
            .get(&dyno.id())
            .map_or(0, |kept| kept.conns.len())
    }
}
