//! What the source is told of what is in force here, and on the routers behind this one. It forgets after a minute, so that
//! it is told again.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::{self, Instant};
use crate::feed::Ack;
use crate::feed::publish::PassedOn;

/// What the source is told.
#[derive(Default)]
pub(super) struct Acks {
    /// Our own, the last one.
    own: Option<Ack>,
    others: Option<PassedOn>,
    /// What the others' news stood at when they were passed on last.
    passed_on: u64,
    said_at: Option<Instant>,
    /// The source takes no acknowledgements; until then it is not asked again whether it does.
    deaf_until: Option<Instant>,
}

impl Acks {
    /// Those of the routers behind this one, too.
    pub(super) fn with(others: PassedOn) -> Self {
        Self {
            others: Some(others),
            ..Self::default()
        }
    }

    /// What to say of this; nothing, if the source does not listen.
    pub(super) fn say(&mut self, ack: &Ack) -> Option<Bytes> {
        self.own = Some(ack.clone());
        self.text()
    }

    /// It was said. The source listens, or does not.
    pub(super) fn said(&mut self, heard: bool) {
        let now = clock::now();
        self.said_at = heard.then_some(now);
        self.deaf_until = (!heard).then(|| now + DEAF);
    }

    /// Waits until it is time to say it again, or until there is something new of others. Never comes before it was said
    /// for the first time.
    pub(super) fn due(&self) -> impl Future<Output = ()> + Send + use<> {
        let (said_at, passed_on) = (self.said_at, self.passed_on);
        let news = self.others.as_ref().map(PassedOn::news);
        async move {
            let Some(said_at) = said_at else {
                return std::future::pending().await;
            };
            let again = tokio::time::sleep_until(said_at + AGAIN);
            let Some(mut news) = news else {
                return again.await;
            };
            let soon = async {
                tokio::time::sleep_until(said_at + AT_MOST_EVERY).await;
                // The other end lives as long as this one.
                drop(news.wait_for(|now| *now != passed_on).await);
            };
            tokio::select! {
                () = again => {}
                () = soon => {}
            }
        }
    }

    /// What to say again.
    pub(super) fn say_again(&mut self) -> Option<Bytes> {
        self.said_at = Some(clock::now());
        self.text()
    }

    fn text(&mut self) -> Option<Bytes> {
        if self.deaf_until.is_some_and(|until| clock::now() < until) {
            return None;
        }
        let own = self.own.as_ref()?;
        let text = match &self.others {
            None => serde_json::to_vec(own),
            Some(others) => {
                self.passed_on = *others.news().borrow();
                let mut acks = others.acks();
                acks.insert(0, own.clone());
                serde_json::to_vec(&acks)
            }
        };
        text.ok().map(Bytes::from)
    }
}

/// The source forgets after a minute.
const AGAIN: Duration = Duration::from_secs(20);
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// How long a source is believed that it takes no acknowledgements.
const DEAF: Duration = Duration::from_mins(10);
