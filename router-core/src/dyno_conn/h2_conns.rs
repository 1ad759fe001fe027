//! The HTTP/2 connections of one worker to dynos. A request gets a stream of one that has room, or opens another; many
//! requests that come at once open one and wait for it.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use router_model::failure::Failure;
use tokio::sync::watch;

use super::Terms;
use super::h2::{H2Conn, H2Slot};
use crate::clock::Instant;
use crate::dyno::Dyno;

/// Connections, by dyno.
#[derive(Debug, Default)]
pub(crate) struct H2Conns {
    by_dyno: HashMap<u64, OfDyno>,
}

#[derive(Debug)]
struct OfDyno {
    dyno: Arc<Dyno>,
    terms: Terms,
    conns: Vec<H2Conn>,
    dials: Vec<Dial>,
    /// Streams that the next connection will have room for, going by the last.
    room: usize,
}

/// A connection that is being opened.
#[derive(Debug)]
struct Dial {
    outcome: watch::Receiver<Option<Result<(), Failure>>>,
    /// Requests that it is for.
    waiting: usize,
}

/// What a request gets.
pub(crate) enum Answer {
    /// A stream.
    Slot(H2Slot),
    /// The task to open a connection.
    Dial(Dialling),
    /// Somebody else opens one.
    Wait(Waiting),
}

/// The task to open a connection, and to say what came of it. If it is dropped, others who wait take it up.
#[must_use]
pub(crate) struct Dialling {
    dyno: Arc<Dyno>,
    terms: Terms,
    outcome: watch::Sender<Option<Result<(), Failure>>>,
}

/// The wait for a connection that somebody else opens.
#[must_use]
pub(crate) struct Waiting(watch::Receiver<Option<Result<(), Failure>>>);

/// A guess, until there has been a connection.
const ROOM: usize = 100;

impl H2Conns {
    /// What a request to this dyno gets, over a connection that was opened on these terms. `only_new`: it has died on one
    /// that is there.
    pub(crate) fn ask(&mut self, dyno: &Arc<Dyno>, terms: Terms, only_new: bool) -> Answer {
        let of_dyno = self
            .by_dyno
            .entry(dyno.id())
            .and_modify(|of_dyno| of_dyno.only_on(terms))
            .or_insert_with(|| OfDyno::new(dyno, terms));
        of_dyno.conns.retain_mut(|conn| !conn.is_over());
        // The first is filled first, so that the last can fall idle and close.
        let mut usable = of_dyno.conns.iter().filter(|_| !only_new);
        if let Some(slot) = usable.find_map(H2Conn::slot) {
            return Answer::Slot(slot);
        }
        let room = of_dyno.room;
        of_dyno.dials.retain(Dial::is_going_on);
        let others = of_dyno.dials.iter_mut().find(|dial| dial.waiting < room);
        if let Some(dial) = others.filter(|_| !only_new) {
            dial.waiting += 1;
            return Answer::Wait(Waiting(dial.outcome.clone()));
        }
        let (sender, receiver) = watch::channel(None);
        of_dyno.dials.push(Dial {
            outcome: receiver,
            waiting: 1,
        });
        Answer::Dial(Dialling {
            dyno: Arc::clone(dyno),
            terms,
            outcome: sender,
        })
    }

    /// Closes what has been idle for longer than `keep`, and what leads to retired dynos, once it has carried its last.
    /// At most `most` idle ones per dyno are left.
    pub(crate) fn sweep(&mut self, keep: Duration, most: usize, now: Instant) {
        self.by_dyno.retain(|_, of_dyno| {
            if of_dyno.dyno.is_retired() {
                of_dyno.conns.clear();
            }
            let mut idle = 0;
            of_dyno.conns.retain_mut(|conn| {
                let Some(since) = conn.idle_since() else {
                    return !conn.is_over();
                };
                idle += 1;
                idle <= most && since + keep > now && !conn.is_over()
            });
            of_dyno.dials.retain(Dial::is_going_on);
            !of_dyno.conns.is_empty() || !of_dyno.dials.is_empty()
        });
    }

    /// Closes everything, once it has carried its last.
    pub(crate) fn clear(&mut self) {
        self.by_dyno.clear();
    }

    /// How many connections are idle.
    pub(crate) fn idle(&self) -> usize {
        self.by_dyno.values().map(OfDyno::idle).sum()
    }

    /// How many connections to one dyno are idle.
    pub(crate) fn idle_of(&self, dyno: &Dyno) -> usize {
        self.by_dyno.get(&dyno.id()).map_or(0, OfDyno::idle)
    }

    fn put(&mut self, dyno: &Arc<Dyno>, terms: Terms, conn: H2Conn) {
        if dyno.is_retired() {
            return;
        }
        let of_dyno = self
            .by_dyno
            .entry(dyno.id())
            .or_insert_with(|| OfDyno::new(dyno, terms));
        // The app may have taken up others meanwhile.
        if of_dyno.terms == terms {
            of_dyno.room = conn.most_streams();
            of_dyno.conns.push(conn);
        }
    }
}

impl OfDyno {
    fn new(dyno: &Arc<Dyno>, terms: Terms) -> Self {
        Self {
            dyno: Arc::clone(dyno),
            terms,
            conns: Vec::new(),
            dials: Vec::new(),
            room: ROOM,
        }
    }

    fn only_on(&mut self, terms: Terms) {
        if self.terms != terms {
            *self = Self::new(&self.dyno, terms);
        }
    }

    fn idle(&self) -> usize {
        let idle = self.conns.iter();
        idle.filter(|conn| conn.idle_since().is_some()).count()
    }
}

impl Dial {
    fn is_going_on(&self) -> bool {
        // An error: whoever was to say how it went has gone.
        self.outcome.has_changed().is_ok() && self.outcome.borrow().is_none()
    }
}

impl Dialling {
    /// It was opened: a stream of it for whoever opened it, and the rest for those who wait and those who will come.
    pub(crate) fn opened(self, conns: &mut H2Conns, conn: H2Conn) -> Option<H2Slot> {
        let slot = conn.slot();
        conns.put(&self.dyno, self.terms, conn);
        self.outcome.send_replace(Some(Ok(())));
        slot
    }

    /// It could not be opened, and those who wait need not try it too.
    pub(crate) fn failed(self, failure: Failure) {
        self.outcome.send_replace(Some(Err(failure)));
    }
}

impl Waiting {
    /// When it is over, ask again.
    ///
    /// # Errors
    /// Why no connection was opened.
    pub(crate) async fn over(mut self) -> Result<(), Failure> {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.unwrap_or(Ok(())),
            Err(_given_up) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
