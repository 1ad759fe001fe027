//! One reader of the stream: a whole document unless it has one, then each change, and a heartbeat when there is none. It
//! takes what it can when it can; the others do not notice. Who has fallen so far behind that changes are forgotten gets
//! the whole again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::body::gather;
use super::gzip::{GzipStream, Packed};
use super::history::Change;
use super::published::Whole;
use super::shared::Shared;
use super::stats::Counted;
use crate::clock::{self, Instant};

/// A stream for one reader.
pub(super) struct Subscriber {
    shared: Arc<Shared>,
    gzip: Option<GzipStream>,
    next: Next,
    /// Not sent yet.
    pieces: VecDeque<Bytes>,
    news: watch::Receiver<u64>,
    said: Instant,
    _counted: Counted,
}

/// What a reader needs next.
enum Next {
    /// The whole, which may be one that is there already.
    Whole(Option<Arc<Whole>>),
    /// The rest of the whole, from this piece on, within some time.
    Rest(Arc<Whole>, usize, Instant),
    /// The change with this number.
    Change(u64),
    /// Only what ends a stream.
    End,
    Nothing,
}

/// Where a reader begins.
pub(super) enum Begin {
    Whole(Arc<Whole>),
    Change(u64),
}

impl Subscriber {
    pub(super) fn new(shared: &Arc<Shared>, begin: Begin, gzip: bool, counted: Counted) -> Self {
        let mut pieces = VecDeque::new();
        if gzip {
            pieces.push_back(GzipStream::BEGIN);
        }
        Self {
            news: shared.news(),
            gzip: gzip.then(GzipStream::default),
            next: match begin {
                Begin::Whole(whole) => Next::Whole(Some(whole)),
                Begin::Change(number) => Next::Change(number),
            },
            pieces,
            // The first heartbeat comes at once if there is nothing else to say.
            said: clock::now() - shared.settings.heartbeat,
            shared: Arc::clone(shared),
            _counted: counted,
        }
    }

    /// The stream itself.
    pub(super) fn into_stream(self) -> impl Stream<Item = Bytes> + Send {
        stream::unfold(self, async |mut subscriber| {
            let piece = subscriber.piece().await?;
            Some((piece, subscriber))
        })
    }

    async fn piece(&mut self) -> Option<Bytes> {
        loop {
            if let Some((block, taken)) = gather(self.pieces.make_contiguous()) {
                self.pieces.drain(..taken);
                return Some(block);
            }
            let next = std::mem::replace(&mut self.next, Next::Nothing);
            self.next = match next {
                Next::Whole(whole) => self.begin_whole(whole).await,
                Next::Rest(whole, at, by) => self.go_on(whole, at, by),
                Next::Change(number) => self.changes(number).await,
                Next::End => {
                    self.pieces.extend(self.gzip.take().map(|gzip| gzip.end()));
                    Next::Nothing
                }
                Next::Nothing => return None,
            };
        }
    }

    async fn begin_whole(&mut self, whole: Option<Arc<Whole>>) -> Next {
        let whole = match whole {
            Some(whole) => whole,
            None => match self.shared.whole(true).await {
                Some(whole) => whole,
                None => return Next::End,
            },
        };
        if let Some(gzip) = &mut self.gzip {
            let Some(packed) = whole.packed().await else {
                return Next::End;
            };
            gzip.add(packed);
        }
        self.shared.stats.wholes_sent.add(1);
        Next::Rest(whole, 0, clock::now() + self.shared.settings.document_time)
    }

    fn go_on(&mut self, whole: Arc<Whole>, at: usize, by: Instant) -> Next {
        let pieces = match self.gzip {
            Some(_) => whole.packed_already().map(|packed| &packed.pieces),
            None => Some(&whole.pieces),
        };
        let rest = pieces.and_then(|pieces| pieces.get(at..));
        match rest.and_then(gather) {
            // Whoever takes it so slowly keeps apps in memory that nobody else has any more.
            Some(_) if clock::now() > by => Next::Nothing,
            Some((block, taken)) => {
                self.pieces.push_back(block);
                Next::Rest(whole, at + taken, by)
            }
            None => {
                self.said = clock::now();
                Next::Change(whole.next)
            }
        }
    }

    async fn changes(&mut self, number: u64) -> Next {
        // Before looking, so that what comes after looking is news.
        self.news.mark_unchanged();
        match self.shared.changes(number, AT_ONCE) {
            None => {
                self.shared.stats.behind.add(1);
                Next::Whole(None)
            }
            Some((changes, revision)) if changes.is_empty() => self.wait(number, revision).await,
            Some((changes, _)) => {
                let next = number + changes.len() as u64;
                for change in &changes {
                    self.say(change);
                }
                self.said = clock::now();
                Next::Change(next)
            }
        }
    }

    fn say(&mut self, change: &Change) {
        match &mut self.gzip {
            None => self.pieces.push_back(change.line().clone()),
            Some(gzip) => {
                let packed = change.packed();
                gzip.add(packed);
                self.pieces.extend(packed.pieces.iter().cloned());
            }
        }
    }

    /// Waits for the change with this number. The reader has everything up to this revision; a newer one in a heartbeat,
    /// before its change, would look to him like a loss.
    async fn wait(&mut self, number: u64, revision: u64) -> Next {
        let heartbeat = self.said + self.shared.settings.heartbeat;
        tokio::select! {
            // Cancel-safe, all: what is waited for stays there.
            _ = self.news.changed() => Next::Change(number),
            () = tokio::time::sleep_until(heartbeat) => {
                self.said = clock::now();
                let line = self.shared.heartbeat(revision);
                match &mut self.gzip {
                    None => self.pieces.push_back(line),
                    Some(gzip) => {
                        let packed = Packed::stored(&line);
                        gzip.add(&packed);
                        self.pieces.extend(packed.pieces);
                    }
                }
                Next::Change(number)
            }
            () = self.shared.stop.cancelled() => Next::End,
        }
    }
}

/// Changes that are handed to one reader at a time.
const AT_ONCE: usize = 64;
