//! Routes from an HTTP server: streamed if the server can do that, else asked for with requests that it may hold until
//! there is something new, or again and again. The protocol is written down in `router-core/docs/feed.md`. A server that
//! is slow, silent, lying or away costs nothing but the news.

mod acks;
mod message;
mod request;
mod settings;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Uri};
use hyper::body::Incoming;
use router_model::backoff::Backoff;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use super::publish::PassedOn;
use super::{Ack, Feed, FeedError, Position, Update};
use crate::clock::{self, Instant};
use crate::outgoing::{
    self, Caller, Connection, Credentials, ReadError, ReadLimits, Reader, TokenFile,
};
use crate::tasks;
use acks::Acks;
use message::Message;
use request::{Answer, Question, Trouble};
use settings::FeedUrl;

pub(super) use request::{REVISION, SILENT};
pub use settings::{HttpFeedSettings, HttpFeedSettingsError};

/// A feed that asks an HTTP server.
pub struct HttpFeed {
    url: FeedUrl,
    settings: HttpFeedSettings,
    caller: Arc<Caller>,
    tasks: TaskTracker,
    credentials: Credentials,
    token: Option<TokenFile>,
    /// When its file was last looked at while a stream was read.
    token_seen: Instant,
    state: State,
    /// What was given last as a whole or asked for by revision: its revision and entity tag.
    known: Option<(u64, HeaderValue)>,
    /// When the source may be asked again, and how long it is left alone when that fails.
    not_before: Instant,
    backoff: Backoff,
    /// The question before, if its answer was no stream.
    last: Option<Asked>,
    /// The source has streamed, and not answered otherwise since.
    streams: bool,
    /// The source forgot the revision that we have.
    forgotten: bool,
    /// What came last came from a relay that does not hear of its own source.
    second_hand: bool,
    /// The thread may sleep.
    alone: bool,
    acks: Acks,
    /// Held while they are said again, which happens once at a time. How often that has failed in a row.
    renewing: Arc<Mutex<u32>>,
}

enum State {
    Idle,
    /// Behind a pointer, so that a wait that is dropped can be taken up again.
    Asking(Asking, Asked),
    Streaming(Box<Stream>),
}

type Asking = Pin<Box<dyn Future<Output = Result<Answer, Trouble>> + Send>>;

/// What was asked.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// The revision that the router had.
    revision: Option<u64>,
    /// For the whole document, not for what comes after that revision.
    whole: bool,
    /// With the entity tag of that revision.
    tagged: bool,
}

struct Stream {
    lines: Box<Reader<Incoming>>,
    /// A line that was read and not looked at yet, and how the stream was found to have ended.
    line: Option<Bytes>,
    end: Option<Result<(), ReadError>>,
    /// When a change was given last; and until when no more are, because they come in crowds.
    gave: Option<Instant>,
    rests_until: Instant,
    /// The thread rests, too.
    alone: bool,
    since: Instant,
    /// A whole document was asked for and has not come yet.
    owed: bool,
    /// The entity tag of the document that it may begin with.
    tag: Option<HeaderValue>,
    _connection: Connection,
}

impl Stream {
    /// The next message; `None` at the end. Dropping the future loses nothing.
    async fn next(&mut self, patience: Duration) -> Result<Option<Message>, String> {
        self.rest().await;
        if self.line.is_none() && self.end.is_none() {
            let read = self.lines.line().await;
            self.note(read);
        }
        let Some(line) = self.line.clone() else {
            let ended = self.end.take().unwrap_or(Ok(()));
            return match ended {
                Ok(()) => Ok(None),
                Err(error) => Err(format!("ends its stream: {}", outgoing::causes(&error))),
            };
        };
        let message = match self.tag {
            Some(_) => Message::read_with_revision(line).await,
            None => Message::read(line).await,
        };
        self.line = None;
        match message.update {
            Update::Snapshot(_) => self.owed = false,
            // A server that is busy may need some time for a large document.
            Update::Alive { .. } if clock::now() < self.since + patience => {}
            Update::Change(_) | Update::Alive { .. } if self.owed => {
                return Err("streams changes, but was asked for the whole".to_owned());
            }
            Update::Change(_) | Update::Alive { .. } => {}
        }
        Ok(Some(message))
    }

    async fn rest(&self) {
        let left = self.rests_until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return;
        }
        if self.alone {
            std::thread::sleep(left);
        } else {
            tokio::time::sleep(left).await;
        }
    }

    fn note(&mut self, read: Result<Option<Bytes>, ReadError>) {
        match read {
            Ok(Some(line)) => self.line = Some(line),
            Ok(None) => self.end = Some(Ok(())),
            Err(error) => self.end = Some(Err(error)),
        }
    }

    /// The next message, if it is a change that is here already. What was read and is none stays for `next`.
    async fn next_of_crowd(&mut self) -> Option<Message> {
        if self.owed || self.tag.is_some() || self.line.is_some() || self.end.is_some() {
            return None;
        }
        let read = if_here(self.lines.line()).await?;
        self.note(read);
        match Message::change(self.line.take()?) {
            Ok(message) => Some(message),
            Err(line) => {
                self.line = Some(line);
                None
            }
        }
    }

    /// Notes that a change is given. The second one in a moment may be the beginning of a crowd: whatever follows is
    /// gathered, so that a thousand changes in a second wake a hundred times. One that comes alone is never late.
    fn gives_change(&mut self, now: Instant) {
        if self.gave.is_some_and(|gave| now < gave + GATHER) {
            self.rests_until = now + GATHER;
        }
        self.gave = Some(now);
    }
}

/// What a future comes to if nobody outside of this process has to do anything for it. It is asked twice: what has arrived
/// is handed on by the task of the connection, which gets its turn in between.
async fn if_here<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let first = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    if let Poll::Ready(value) = first {
        return Some(value);
    }
    tokio::task::yield_now().await;
    let second = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    match second {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl HttpFeed {
    /// A feed of this source. Nothing is read or asked yet.
    ///
    /// # Errors
    /// [`HttpFeedSettingsError`] if the URL is none.
    pub fn new(settings: HttpFeedSettings) -> Result<Self, HttpFeedSettingsError> {
        let tasks = TaskTracker::new();
        Ok(Self {
            url: FeedUrl::parse(&settings.url)?,
            caller: Arc::new(Caller::new(tasks.clone(), KEPT_FOR)),
            credentials: Credentials::new(settings.ca.clone(), settings.client_certificate.clone()),
            token: settings.token_file.clone().map(TokenFile::new),
            token_seen: clock::now(),
            settings,
            state: State::Idle,
            known: None,
            not_before: clock::now(),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            last: None,
            streams: false,
            forgotten: false,
            second_hand: false,
            alone: false,
            acks: Acks::default(),
            renewing: Arc::default(),
            tasks,
        })
    }

    /// The same, telling the source also of the routers behind this one.
    #[must_use]
    pub fn passing_on(mut self, others: PassedOn) -> Self {
        self.acks = Acks::with(others);
        self
    }

    /// The same, on a runtime whose threads do nothing else: where changes come in crowds, it puts the thread to sleep
    /// between them, and not only itself. Otherwise each of them wakes the thread, if only to be left for later.
    #[must_use]
    pub fn alone_on_its_thread(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Waits for what comes after `position`. Dropping the future loses nothing.
    async fn step(&mut self, position: Position) -> Result<Update, FeedError> {
        loop {
            match &mut self.state {
                State::Idle => self.ask(position)?,
                State::Asking(_, asked) if position.need_whole && !asked.whole => {
                    self.caller.distrust();
                    self.state = State::Idle;
                }
                State::Streaming(stream) if position.need_whole && !stream.owed => {
                    self.caller.distrust();
                    self.state = State::Idle;
                }
                State::Asking(answer, asked) => {
                    let (answer, asked) = (answer.as_mut().await, *asked);
                    self.state = State::Idle;
                    match answer {
                        Err(trouble) => self.troubled(trouble, asked)?,
                        Ok(Answer::Nothing { .. }) if asked.whole && !asked.tagged => {
                            // Whoever has answered so is asked again later, as if it had not answered.
                            let why = "answers 304, but was asked for the document without a tag";
                            self.troubled(Trouble::of(&self.url.shown(), why), asked)?;
                        }
                        Ok(answer) => {
                            if let Some(update) = self.answered(answer, asked) {
                                return Ok(update);
                            }
                        }
                    }
                }
                State::Streaming(stream) => {
                    let since = stream.since;
                    match stream.next(self.settings.document_time).await {
                        Ok(Some(message)) => return Ok(self.streamed(message)),
                        Ok(None) => self.stream_ended(since, None)?,
                        Err(why) => self.stream_ended(since, Some(why))?,
                    }
                }
            }
        }
    }

    /// Says again what the source forgets after a minute.
    fn renew_acks(&mut self, mut failures: OwnedMutexGuard<u32>) {
        let Some(text) = self.acks.say_again() else {
            return;
        };
        match self.question(self.url.acks(), PATIENCE) {
            Ok(question) => tasks::spawn(&self.tasks, async move {
                let told = question.tell(text).await;
                note_renewal(&mut failures, told.err().map(|trouble| trouble.why));
            }),
            Err(error) => note_renewal(&mut failures, Some(error.to_string())),
        }
    }

    /// Begins to ask for what comes after `position`.
    fn ask(&mut self, position: Position) -> Result<(), FeedError> {
        let whole = position.need_whole || self.forgotten || position.revision.is_none();
        let since = position.revision.filter(|_| !whole);
        let known = self.known.as_ref().filter(|_| !self.forgotten);
        let known = known.filter(|(revision, _)| position.revision == Some(*revision));
        let tag = known.map(|(_, tag)| tag.clone());
        self.pace(position.revision);
        let uri = self
            .url
            .routes(since.map(|since| (since, self.settings.wait)));
        let patience = match since {
            Some(_) => self.settings.wait + PATIENCE,
            None => SILENCE,
        };
        let asked = Asked {
            at: clock::now().max(self.not_before),
            revision: position.revision,
            whole,
            tagged: tag.is_some(),
        };
        let question = Question {
            known: tag,
            ..self.question(uri, patience)?
        };
        self.state = State::Asking(Box::pin(question.ask()), asked);
        Ok(())
    }

    /// A server that holds requests until there is news is asked again at once; one that does not, after a while.
    fn pace(&mut self, revision: Option<u64>) {
        let Some(last) = self.last.take() else {
            return;
        };
        let now = clock::now();
        let held = now.saturating_duration_since(last.at) >= self.settings.wait / 2;
        let news = last.revision != revision;
        let pause = if held || news {
            LEAST_PAUSE
        } else {
            around(self.settings.poll)
        };
        self.not_before = self.not_before.max(last.at + pause);
    }

    fn question(&mut self, uri: Uri, patience: Duration) -> Result<Question, FeedError> {
        let shown = self.url.shown();
        let unusable = |why| FeedError(format!("{shown} is not asked: {why}"));
        let token = self.token.as_mut().map(TokenFile::authorization);
        Ok(Question {
            caller: Arc::clone(&self.caller),
            tls: self.credentials.config().map_err(unusable)?,
            uri,
            authorization: token.transpose().map_err(unusable)?,
            known: None,
            at: self.not_before,
            patience,
            limits: ReadLimits {
                longest: self.settings.longest_document,
                silence: SILENCE,
                time: self.settings.document_time,
            },
            shown: self.url.shown(),
        })
    }

    /// What comes of an answer; `None` if the next step is to ask or read on.
    fn answered(&mut self, answer: Answer, asked: Asked) -> Option<Update> {
        self.forgotten = false;
        match answer {
            Answer::Stream {
                connection,
                lines,
                tag,
                second_hand,
            } => {
                self.second_hand = second_hand;
                self.streams = true;
                let now = clock::now();
                self.state = State::Streaming(Box::new(Stream {
                    lines,
                    line: None,
                    end: None,
                    gave: None,
                    rests_until: now,
                    alone: self.alone,
                    since: now,
                    owed: asked.whole,
                    tag,
                    _connection: connection,
                }));
                None
            }
            Answer::Nothing {
                revision,
                second_hand,
            } => {
                self.second_hand = second_hand;
                self.backoff.reset();
                // Where a whole document need not be sent, what comes after it is asked for at once; unless the source
                // says in the same breath that it has an older one, so that the whole is wanted still.
                let older = revision.is_some() && revision < asked.revision;
                self.last = Some(asked).filter(|asked| !asked.whole || older);
                Some(Update::Alive {
                    revision: revision.or(asked.revision),
                })
            }
            Answer::One {
                message,
                tag,
                second_hand,
            } => {
                self.second_hand = second_hand;
                self.backoff.reset();
                self.streams = false;
                self.last = Some(asked);
                self.known = message.revision.zip(tag);
                Some(message.update)
            }
        }
    }

    /// What comes of a message of the stream.
    fn streamed(&mut self, mut message: Message) -> Update {
        let now = clock::now();
        // A relay that streams on hears of its source again.
        self.second_hand &= matches!(message.update, Update::Snapshot(_));
        if let State::Streaming(stream) = &mut self.state {
            match &message.update {
                Update::Snapshot(_) => self.known = message.revision.zip(stream.tag.take()),
                Update::Change(_) => {
                    stream.tag = None;
                    stream.gives_change(now);
                }
                // It stands for no document that was asked for.
                Update::Alive { .. } if stream.owed => {
                    message.update = Update::Alive { revision: None };
                }
                Update::Alive { .. } => {}
            }
        }
        // Who replaces a token wants the old one out of use.
        if let Some(token) = &self.token
            && now >= self.token_seen + LOOK_AT_TOKEN
        {
            self.token_seen = now;
            if token.has_changed() {
                self.leave_stream();
            }
        }
        message.update
    }

    /// The stream has ended, well or not; says whether that is an error.
    fn stream_ended(&mut self, since: Instant, why: Option<String>) -> Result<(), FeedError> {
        let lasted = clock::now().saturating_duration_since(since) >= LASTING;
        if lasted {
            self.backoff.reset();
        }
        self.leave_stream();
        match why {
            None if lasted => Ok(()),
            None => Err("ends its stream at once".to_owned()),
            Some(why) => Err(why),
        }
        .map_err(|why| FeedError(format!("{} {why}", self.url.shown())))
    }

    /// Whatever ends this stream may end those of all other routers, which should not all come back at once.
    fn leave_stream(&mut self) {
        self.state = State::Idle;
        self.not_before = clock::now() + self.backoff.next(fastrand::u32(..));
    }

    /// Notes that the source is to be left alone for a moment.
    fn troubled(&mut self, trouble: Trouble, asked: Asked) -> Result<(), FeedError> {
        if trouble.forgotten && !asked.whole {
            self.forgotten = true;
            return Ok(());
        }
        let pause = self.backoff.next(fastrand::u32(..));
        let asked = trouble.asked_to_wait.map(around);
        self.not_before = clock::now() + asked.map_or(pause, |asked| asked.max(pause));
        Err(FeedError(trouble.why))
    }
}

impl Feed for HttpFeed {
    fn source(&self) -> &'static str {
        "http"
    }

    fn has_heartbeat(&self) -> bool {
        self.streams
    }

    fn is_second_hand(&self) -> bool {
        self.second_hand
    }

    async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
        loop {
            let (due, renewing) = (self.acks.due(), Arc::clone(&self.renewing));
            let due = async {
                due.await;
                renewing.lock_owned().await
            };
            tokio::select! {
                // Cancel-safe, both: a step that is dropped is taken up again.
                update = self.step(position) => return update,
                failures = due => self.renew_acks(failures),
            }
        }
    }

    async fn next_of_crowd(&mut self) -> Option<Bytes> {
        let State::Streaming(stream) = &mut self.state else {
            return None;
        };
        let message = stream.next_of_crowd().await?;
        match self.streamed(message) {
            Update::Change(change) => Some(change),
            Update::Snapshot(_) | Update::Alive { .. } => None,
        }
    }

    async fn acknowledge(&mut self, ack: &Ack) -> Result<(), FeedError> {
        let Some(text) = self.acks.say(ack) else {
            return Ok(());
        };
        let question = self.question(self.url.acks(), PATIENCE)?;
        let heard = question.tell(text).await;
        self.acks
            .said(heard.map_err(|trouble| FeedError(trouble.why))?);
        Ok(())
    }
}

/// A source that does not hear an acknowledgement again forgets it, and somebody may be waiting for it.
fn note_renewal(failures: &mut u32, error: Option<String>) {
    *failures = match error {
        None => 0,
        Some(_) => failures.saturating_add(1),
    };
    // Not a line each time.
    if let Some(error) = error.filter(|_| failures.is_power_of_two()) {
        tracing::warn!(%error, failures, "the source was not told again what is in force");
    }
}

/// A duration, or a fifth more or less: routers that were told the same should not all come at the same time.
fn around(duration: Duration) -> Duration {
    let fifth = duration / 5;
    duration - fifth + fifth.mul_f64(2.0 * fastrand::f64())
}

/// A source that says nothing for so long is not there any more.
const SILENCE: Duration = Duration::from_secs(30);
/// For an answer that need not be waited for; connecting is part of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions if there is always something new.
const LEAST_PAUSE: Duration = Duration::from_millis(200);
/// What follows several changes in a moment is gathered for so long.
const GATHER: Duration = Duration::from_millis(10);
/// A token is looked for that often at most, however much is streamed.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(1);
/// After failures.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A stream that lasted so long and ends does so because its server ends, or limits the time of all streams.
const LASTING: Duration = Duration::from_secs(5);
/// Acknowledgements follow each other within twenty seconds.
const KEPT_FOR: Duration = Duration::from_mins(1);
