//! What is in force on the routers that read here, as they say it themselves. A router that says nothing for a minute is
//! forgotten, so that one that is gone for good keeps no deploy waiting.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use router_model::snapshot::Rejection;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::Instant;
use crate::feed::Ack;

/// The acknowledgements of the last minute.
#[derive(Debug)]
pub(super) struct Acks {
    /// By the router's id. Guards the map; nothing is awaited under it.
    routers: Mutex<HashMap<String, Known>>,
    /// Moves when something new was said.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Known {
    ack: Ack,
    heard: Instant,
}

/// What those who wait for all routers are told.
#[derive(Debug, Serialize)]
pub(super) struct AcksView {
    /// The revision that is published.
    pub(super) revision: Option<u64>,
    /// Whether there are routers, and all of them have at least the revision that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reached: Option<bool>,
    pub(super) routers: Vec<RouterView>,
}

/// One router.
#[derive(Debug, Serialize)]
pub(super) struct RouterView {
    #[serde(flatten)]
    ack: Ack,
    /// Since it was last heard of.
    age_seconds: f64,
}

impl Acks {
    pub(super) fn new() -> Self {
        Self {
            routers: Mutex::default(),
            news: watch::Sender::new(0),
        }
    }

    /// Takes down what a router, or a relay for several, has said.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn put(&self, text: &[u8], now: Instant) -> Result<(), String> {
        let said: Said = serde_json::from_slice(text).map_err(|_| EXPECTED.to_owned())?;
        let said = match said {
            Said::One(ack) => vec![ack],
            Said::Several(acks) => acks,
        };
        let good = |said: &SaidAck| (1..=LONGEST_ID).contains(&said.router.len());
        if let Some(bad) = said.iter().find(|ack| !good(ack)) {
            let length = bad.router.len();
            return Err(format!(
                "router: an id of {length} bytes, must have 1 to {LONGEST_ID}"
            ));
        }
        let mut routers = self.lock(now);
        let mut news = false;
        for ack in said.into_iter().map(SaidAck::into_ack) {
            if routers.len() >= MOST_ROUTERS && !routers.contains_key(&ack.router) {
                return Err(format!("there are {MOST_ROUTERS} routers already"));
            }
            let known = Known { ack, heard: now };
            let key = known.ack.router.clone();
            let ack = known.ack.clone();
            let before = routers.insert(key, known);
            news |= before.is_none_or(|before| before.ack != ack);
        }
        drop(routers);
        if news {
            self.news
                .send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(())
    }

    /// Moves when something new was said.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// All of them, to be told further on.
    pub(super) fn all(&self, now: Instant) -> Vec<Ack> {
        let routers = self.lock(now);
        let mut acks: Vec<_> = routers.values().map(|known| known.ack.clone()).collect();
        acks.sort_by(|one, other| one.router.cmp(&other.router));
        acks
    }

    /// How many routers there are, and the lowest revision that one of them has.
    pub(super) fn lowest(&self, now: Instant) -> (usize, Option<u64>) {
        let routers = self.lock(now);
        let revisions = routers.values().map(|known| known.ack.revision);
        (routers.len(), revisions.min())
    }

    /// How things stand, and whether all have at least some revision.
    pub(super) fn view(
        &self,
        revision: Option<u64>,
        at_least: Option<u64>,
        now: Instant,
    ) -> AcksView {
        let routers = self.lock(now);
        let mut views: Vec<_> = routers
            .values()
            .map(|known| RouterView {
                ack: known.ack.clone(),
                age_seconds: now.saturating_duration_since(known.heard).as_secs_f64(),
            })
            .collect();
        views.sort_by(|one, other| one.ack.router.cmp(&other.ack.router));
        let reached = at_least
            .map(|least| !views.is_empty() && views.iter().all(|view| view.ack.revision >= least));
        AcksView {
            revision,
            reached,
            routers: views,
        }
    }

    /// The routers that were heard of lately.
    fn lock(&self, now: Instant) -> MutexGuard<'_, HashMap<String, Known>> {
        let mut routers = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
        routers.retain(|_, known| now < known.heard + FORGOTTEN_AFTER);
        routers
    }
}

/// What the body of an acknowledgement says.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    One(SaidAck),
    Several(Vec<SaidAck>),
}

#[derive(Deserialize)]
struct SaidAck {
    router: String,
    revision: u64,
    #[serde(default)]
    rejected: Vec<SaidRejection>,
    rejected_count: Option<usize>,
}

#[derive(Deserialize)]
struct SaidRejection {
    app: String,
    reason: String,
}

impl SaidAck {
    fn into_ack(self) -> Ack {
        let count = self.rejected.len();
        let rejected = self.rejected.into_iter().take(MOST_REJECTIONS);
        Ack {
            rejected_count: self.rejected_count.unwrap_or(count),
            router: self.router,
            revision: self.revision,
            rejected: rejected
                .map(|SaidRejection { app, reason }| Rejection { app, reason })
                .collect(),
        }
    }
}

/// Routers say it every twenty seconds.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);
const EXPECTED: &str = "expected {\"router\": \"ID\", \"revision\": NUMBER, \"rejected\": [{\"app\", \"reason\"}]}, or an array of these";
const LONGEST_ID: usize = 255;
const MOST_ROUTERS: usize = 100_000;
/// Of one router; the first ones are enough to see what is wrong.
const MOST_REJECTIONS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn said(acks: &Acks, text: &str, now: Instant) -> Result<(), String> {
        acks.put(text.as_bytes(), now)
    }

    #[tokio::test]
    async fn what_routers_say_is_known_for_a_minute() {
        let (acks, start) = (Acks::new(), clock::now());
        let mut news = acks.news();
        assert_eq!(acks.lowest(start), (0, None));
        assert_eq!(acks.view(Some(7), Some(0), start).reached, Some(false));
        said(&acks, r#"{"router":"a","revision":7}"#, start).unwrap();
        assert!(news.has_changed().unwrap());
        news.mark_unchanged();
        said(&acks, r#"{"router":"a","revision":7,"new":1}"#, start).unwrap();
        assert!(!news.has_changed().unwrap());
        let later = start + Duration::from_secs(50);
        let several = r#"[{"router":"b","revision":9,"rejected":[{"app":"x","reason":"y"}]},{"router":"c","revision":8}]"#;
        said(&acks, several, later).unwrap();
        assert_eq!(acks.lowest(later), (3, Some(7)));
        assert_eq!(acks.view(Some(9), Some(8), later).reached, Some(false));
        let view = acks.view(Some(9), Some(7), later);
        assert_eq!(
            serde_json::to_string(&view).unwrap(),
            r#"{"revision":9,"reached":true,"routers":[{"router":"a","revision":7,"rejected":[],"rejected_count":0,"age_seconds":50.0},{"router":"b","revision":9,"rejected":[{"app":"x","reason":"y"}],"rejected_count":1,"age_seconds":0.0},{"router":"c","revision":8,"rejected":[],"rejected_count":0,"age_seconds":0.0}]}"#
        );
        let much_later = start + Duration::from_secs(61);
        assert_eq!(acks.lowest(much_later), (2, Some(8)));
        assert_eq!(acks.view(None, Some(8), much_later).reached, Some(true));
        let names: Vec<_> = acks
            .all(much_later)
            .into_iter()
            .map(|ack| ack.router)
            .collect();
        assert_eq!(names, ["b", "c"]);
    }

    #[test]
    fn what_is_no_acknowledgement_is_refused() {
        let (acks, now) = (Acks::new(), clock::now());
        let long = format!(r#"{{"router":"{}","revision":7}}"#, "x".repeat(256));
        for (text, wanted) in [
            ("", "expected"),
            ("7", "expected"),
            (r#"{"router":"a"}"#, "expected"),
            (r#"{"router":"a","revision":-1}"#, "expected"),
            (
                r#"[{"router":"a","revision":1},{"router":"","revision":1}]"#,
                "0 bytes",
            ),
            (&long, "256 bytes"),
        ] {
            let error = said(&acks, text, now).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert_eq!(acks.lowest(now), (0, None));
        said(&acks, "[]", now).unwrap();
    }
}
