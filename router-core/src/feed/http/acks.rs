//! What the source is told of what is in force here, and on the routers behind this one. It forgets after a minute, so that
//! it is told again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

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
    /// There are more of them than are said at a time; those after this one come next.
    said_until: Option<String>,
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
        let is_part = self.said_until.is_some();
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
                drop(news.wait_for(|now| is_part || *now != passed_on).await);
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
        let Some(others) = &self.others else {
            return serde_json::to_vec(own).ok().map(Bytes::from);
        };
        if self.said_until.is_none() {
            self.passed_on = *others.news().borrow();
        }
        let after = self.said_until.take();
        // The ages first: one that is new since is left for the next time, and none is said to be younger than it is.
        let ages = others.ages();
        let (text, said_until) = part(own, &others.acks(), &ages, after.as_deref())?;
        self.said_until = said_until;
        Some(text)
    }
}

/// What a router behind this one said, and for how long it has said nothing since.
#[derive(Serialize)]
struct Aged<'a> {
    #[serde(flatten)]
    ack: &'a Ack,
    age_seconds: f64,
}

/// Our own, and some of the others after one of them; and up to where, if there are more.
fn part(
    own: &Ack,
    others: &[Ack],
    ages: &HashMap<String, f64>,
    after: Option<&str>,
) -> Option<(Bytes, Option<String>)> {
    let mut text = vec![b'['];
    serde_json::to_writer(&mut text, own).ok()?;
    // Relays that read from each other hear of themselves.
    let is_due =
        |ack: &&Ack| ack.router != own.router && after.is_none_or(|after| *ack.router > *after);
    let mut said_until = None;
    let mut count = 1;
    for ack in others.iter().filter(is_due) {
        let Some(&age_seconds) = ages.get(&ack.router) else {
            continue;
        };
        if count == MOST_AT_ONCE || count > 1 && text.len() > LONG {
            text.push(b']');
            return Some((text.into(), said_until));
        }
        text.push(b',');
        serde_json::to_writer(&mut text, &Aged { ack, age_seconds }).ok()?;
        said_until = Some(ack.router.clone());
        count += 1;
    }
    text.push(b']');
    Some((text.into(), None))
}

/// The source forgets after a minute.
const AGAIN: Duration = Duration::from_secs(20);
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// How long a source is believed that it takes no acknowledgements.
const DEAF: Duration = Duration::from_mins(10);
/// Many thousands are said in parts, so that neither side has much to do at a time.
const MOST_AT_ONCE: usize = 500;
/// A part with so many bytes gets no more. The source takes four times as much.
const LONG: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(router: String) -> Ack {
        Ack {
            router,
            revision: 7,
            rejected: Vec::new(),
            rejected_count: 0,
        }
    }

    fn ages(acks: &[Ack]) -> HashMap<String, f64> {
        acks.iter().map(|ack| (ack.router.clone(), 7.5)).collect()
    }

    #[test]
    fn others_are_told_of_with_their_age_and_oneself_only_once() {
        let (own, new) = (ack("b".to_owned()), ack("c".to_owned()));
        let others = [ack("a".to_owned()), own.clone(), new];
        let (text, _) = part(&own, &others, &ages(&others[..2]), None).unwrap();
        let said: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
        let said: Vec<_> = said
            .iter()
            .map(|ack| (&ack["router"], &ack["age_seconds"]))
            .collect();
        assert_eq!(
            said,
            [
                (&"b".into(), &serde_json::Value::Null),
                (&"a".into(), &7.5.into())
            ]
        );
    }

    #[test]
    fn many_routers_are_told_of_in_parts() {
        let own = ack("own".to_owned());
        let others: Vec<_> = (0..1200).map(|id| ack(format!("r{id:04}"))).collect();
        let (mut after, mut seen, mut parts) = (None, Vec::new(), 0);
        loop {
            let (text, until) = part(&own, &others, &ages(&others), after.as_deref()).unwrap();
            let said: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
            assert!(said.len() <= MOST_AT_ONCE && said[0]["router"] == "own");
            let ids = said[1..].iter().map(|ack| ack["router"].clone());
            seen.extend(ids);
            parts += 1;
            after = until;
            if after.is_none() {
                break;
            }
        }
        let wanted: Vec<_> = others.iter().map(|ack| ack.router.clone()).collect();
        assert_eq!(
            (seen, parts),
            (wanted.into_iter().map(Into::into).collect(), 3)
        );
        // Bulky ones fill a part sooner.
        let bulky: Vec<_> = (0..3)
            .map(|id| ack(format!("{id}{}", "x".repeat(LONG))))
            .collect();
        let (text, until) = part(&own, &bulky, &ages(&bulky), None).unwrap();
        assert!(text.len() < 2 * LONG && until.as_ref() == Some(&bulky[0].router));
    }
}
