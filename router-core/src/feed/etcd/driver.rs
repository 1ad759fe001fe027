//! The feed's task: lists the store at one revision, watches it from the next one on, and proves every few seconds that
//! the quorum still answers. It owns the position in the store; the feed only takes what it tells.

use std::time::Duration;

use router_model::backoff::Backoff;
use tokio::sync::{Notify, mpsc, watch};

use super::acks::Acks;
use super::client::{Client, Fault, RANGE, cancelled, read_line, wipe};
use super::gateway::{Base64, RangeAnswer, RangeRequest};
use super::keys::Layout;
use super::store::{Known, Listing, Pending};
use crate::clock::{self, Instant};
use crate::feed::{Ack, Update};
use crate::outgoing::{self, ReadError};

/// What the router wants.
#[derive(Debug, Clone, Default)]
pub(super) struct Want {
    /// The revision in force, as it was told.
    pub(super) in_force: Option<u64>,
    /// Grows each time that the whole is wanted.
    pub(super) wholes: u64,
    /// What was told last is not in force, so that changes from there on are of no use.
    pub(super) refused: bool,
    /// What to put into the store, and its number.
    pub(super) ack: Option<(u64, Ack)>,
}

/// What the feed is told.
pub(super) enum Told {
    /// With the revision that it leads to.
    Update(Update, u64),
    Alive,
    /// What is wrong with what was told last.
    Wrong(String),
}

pub(super) struct Driver {
    pub(super) layout: Layout,
    pub(super) client: Client,
    pub(super) wants: watch::Receiver<Want>,
    pub(super) told: mpsc::Sender<Told>,
    /// Why nothing is told; none as soon as that has passed.
    pub(super) trouble: watch::Sender<Option<String>>,
    pub(super) acks: Acks,
    pub(super) heartbeat: Duration,
    pub(super) known: Known,
    /// Of the store's revisions, the one that all that was told leads to.
    pub(super) given: Option<u64>,
    /// Of the store's revisions, the last one that holds nothing new.
    pub(super) seen: u64,
    /// Of [`Want::wholes`], the last that was seen to.
    pub(super) served: u64,
    /// Nothing is listed before for the sake of a router that does not take what it is told.
    pub(super) list_again: Option<Instant>,
}

/// Why a watch is left.
enum After {
    /// To list everything.
    List,
    /// Nothing was heard of it, so that another takes its place.
    Silence,
}

impl Driver {
    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let since = clock::now();
            let Err(fault) = self.session().await else {
                return;
            };
            if clock::now() >= since + LASTING {
                backoff.reset();
            }
            self.trouble.send_replace(Some(self.in_words(&fault)));
            self.client.turn();
            tokio::time::sleep(backoff.next(fastrand::u32(..))).await;
        }
    }

    /// One endpoint for as long as it is good; ends well only if nobody wants to hear any more.
    async fn session(&mut self) -> Result<(), Fault> {
        self.check_age().await?;
        while !self.told.is_closed() {
            if self.given.is_none() || self.wants.borrow().wholes != self.served {
                self.list().await?;
            }
            match self.follow().await {
                Ok(After::Silence) => {}
                Ok(After::List) | Err(Fault::Compacted) => self.given = None,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Whether the store is the one that was listed. One that was wiped, or restored from a backup, must not be watched
    /// from a revision on that it has yet to come to.
    async fn check_age(&mut self) -> Result<(), Fault> {
        let head = self.client.head(&self.layout).await?;
        if head.meta.revision_base != self.known.base() || head.revision < self.seen {
            self.given = None;
        }
        Ok(())
    }

    /// Tells the whole, at one revision.
    async fn list(&mut self) -> Result<(), Fault> {
        let Want {
            wholes, in_force, ..
        } = *self.wants.borrow_and_update();
        let began = clock::now();
        let mut listing = self.read_all().await;
        for _ in 0..MOST_LISTINGS {
            if !matches!(listing, Err(Fault::Compacted)) {
                break;
            }
            listing = self.read_all().await;
        }
        let listing = listing?;
        let revision = listing.revision.unwrap_or_default();
        let (document, known) = listing.finish(in_force);
        let told = known.told(revision);
        self.known = known;
        (self.given, self.seen) = (Some(revision), revision);
        self.served = wholes;
        let now = clock::now();
        let pause = LIST_PAUSE.max(now.saturating_duration_since(began) * 10);
        self.list_again = Some(now + pause);
        let update = Told::Update(Update::Snapshot(document), told);
        // If nobody hears it, nobody misses it.
        self.told.send(update).await.ok();
        if let Some(in_force) = in_force.filter(|in_force| told < *in_force) {
            let fault = Fault::WentBack {
                told,
                in_force,
                meta: String::from_utf8_lossy(&self.layout.meta()).into_owned(),
            };
            let wrong = Told::Wrong(self.in_words(&fault));
            self.told.send(wrong).await.ok();
        }
        Ok(())
    }

    fn in_words(&self, fault: &Fault) -> String {
        let endpoint = self.client.endpoint();
        format!("etcd at {endpoint}: {}", outgoing::causes(fault))
    }

    async fn read_all(&self) -> Result<Listing, Fault> {
        let mut listing = Listing::new(&self.layout);
        let mut limit = PAGE;
        loop {
            let request = RangeRequest {
                key: Base64(&listing.next),
                range_end: Some(Base64(&self.layout.end())),
                limit,
                revision: listing.revision.unwrap_or_default(),
            };
            let mut page = match self.client.call(RANGE, &request, LONGEST_PAGE).await {
                Err(Fault::Read(ReadError::TooLong(_))) if limit > 1 => {
                    limit = (limit / 8).max(1);
                    continue;
                }
                Err(Fault::Refused { reason, .. }) if reason.contains("compacted") => {
                    return Err(Fault::Compacted);
                }
                other => other?,
            };
            let answer: RangeAnswer<'_> =
                serde_json::from_slice(&page).map_err(|error| Fault::Strange {
                    path: RANGE,
                    why: error.to_string(),
                })?;
            let more = listing.add(&self.layout, &answer)?;
            drop(answer);
            wipe(&mut page);
            if !more {
                return Ok(listing);
            }
        }
    }

    /// Tells changes as they come.
    async fn follow(&mut self) -> Result<After, Fault> {
        let mut watch = self.client.watch(&self.layout, self.seen + 1).await?;
        self.trouble.send_replace(None);
        self.told.try_send(Told::Alive).ok();
        let beats = Notify::new();
        let beating = beat(
            &self.client,
            &self.layout,
            &mut self.acks,
            self.wants.clone(),
            self.heartbeat,
            &beats,
        );
        tokio::pin!(beating);
        let mut wants = self.wants.clone();
        let mut pending = Pending::default();
        loop {
            let (wholes, refused) = {
                let want = wants.borrow_and_update();
                (want.wholes, want.refused)
            };
            if wholes != self.served {
                return Ok(After::List);
            }
            // What is in force is not what the next change starts from. Something new may be what mends it, but must not
            // have everything listed each time.
            let news = pending.any();
            let list_again = self.list_again.filter(|_| !pending.meta);
            let list_again = list_again.unwrap_or_else(clock::now);
            tokio::select! {
                // Cancel-safe, all: a line that is not whole stays in its reader, a place in the channel is only lost.
                fault = &mut beating => return Err(fault),
                line = watch.lines.line(), if pending.size < MOST_PENDING => match line {
                    Ok(Some(mut line)) => {
                        let base = self.known.base();
                        let told = take(&self.layout, &mut self.known, &mut pending, &line);
                        wipe(&mut line);
                        let progress = told?;
                        if self.known.base() != base {
                            return Ok(After::List);
                        }
                        if !pending.any() {
                            self.seen = self.seen.max(progress).max(pending.revision);
                        }
                    }
                    Ok(None) => return Err(Fault::Ended),
                    Err(ReadError::Silent(_)) => return Ok(After::Silence),
                    Err(error) => return Err(error.into()),
                },
                place = self.told.reserve(), if news && !refused => {
                    let Ok(place) = place else { return Ok(After::Silence) };
                    let from = self.given.unwrap_or_default();
                    let pending = std::mem::take(&mut pending);
                    self.seen = pending.revision;
                    self.given = Some(self.seen);
                    let told = self.known.told(self.seen);
                    place.send(Told::Update(Update::Change(pending.change(&self.known, from)), told));
                }
                () = beats.notified(), if !news => {
                    // If something else is waiting to be heard, that is a sign of life as well.
                    self.told.try_send(Told::Alive).ok();
                }
                wanted = wants.changed() => if wanted.is_err() {
                    return Ok(After::Silence);
                },
                () = tokio::time::sleep_until(list_again), if news && refused => return Ok(After::List),
            }
        }
    }
}

/// Takes what a line tells; gives the revision up to which nothing else has happened, if it says so.
fn take(
    layout: &Layout,
    known: &mut Known,
    pending: &mut Pending,
    line: &[u8],
) -> Result<u64, Fault> {
    let answer = read_line(line)?;
    if answer.canceled {
        return Err(cancelled(&answer));
    }
    pending.add(layout, known, &answer)?;
    let progress = answer.events.is_empty() && !answer.created;
    Ok(if progress { answer.header.revision } else { 0 })
}

/// Asks the quorum every few seconds, and puts acknowledgements. Ends with the first heartbeat that fails.
async fn beat(
    client: &Client,
    layout: &Layout,
    acks: &mut Acks,
    mut wants: watch::Receiver<Want>,
    period: Duration,
    beats: &Notify,
) -> Fault {
    let mut next = clock::now() + around(period);
    loop {
        let ack = wants.borrow_and_update().ack.clone();
        if let Some((number, ack)) = ack {
            acks.tell(client, layout, number, &ack).await;
        }
        tokio::select! {
            // Cancel-safe, both.
            () = tokio::time::sleep_until(next) => {
                next = clock::now() + around(period);
                match client.head(layout).await {
                    Ok(_) => beats.notify_one(),
                    Err(fault) => return fault,
                }
            }
            wanted = wants.changed() => if wanted.is_err() {
                std::future::pending::<()>().await;
            },
        }
    }
}

/// A duration, or a tenth less: a fleet should not ask in the same moment.
fn around(period: Duration) -> Duration {
    period.mul_f64(0.9 + 0.1 * fastrand::f64())
}

/// Keys of a page.
const PAGE: u32 = 2000;
/// Bytes of one. A value has at most a megabyte and a half, unless etcd was told otherwise.
const LONGEST_PAGE: usize = 64 << 20;
/// Bytes of values that wait to be told; with more, nothing is read.
const MOST_PENDING: usize = 64 << 20;
/// How often a listing begins again because what it reads was compacted meanwhile.
const MOST_LISTINGS: usize = 3;
/// Between two listings for the sake of a router that does not take what it is told, or ten times what one takes.
const LIST_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// An endpoint that was good for so long counts as good.
const LASTING: Duration = Duration::from_secs(5);
