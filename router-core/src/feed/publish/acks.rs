//! What is in force on the routers that read here, as they say it themselves. A router that says nothing for a minute is
//! forgotten, so that one that is gone for good keeps no deploy waiting. However much is said, only so much is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use router_model::snapshot::Rejection;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use super::PassedOn;
use crate::clock::{self, Instant};
use crate::feed::Ack;

/// The acknowledgements of the last minute.
#[derive(Debug)]
pub(super) struct Acks {
    /// By the router's id. Guards the map; nothing is awaited under it.
    routers: Mutex<HashMap<String, Known>>,
    /// Moves when something new was said.
    news: watch::Sender<u64>,
    /// Held for a long body, while it comes and is read.
    pub(super) long_bodies: Semaphore,
}

#[derive(Debug)]
struct Known {
    ack: Arc<Ack>,
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
    ack: Arc<Ack>,
    /// Since it was last heard of.
    age_seconds: f64,
}

impl Acks {
    /// One may be so long.
    pub(super) const LONGEST_ONE: usize = 1 << 20;
    /// An array of them may be so long.
    pub(super) const LONGEST_SEVERAL: usize = 4 << 20;
    /// There may be any number of bodies that are not longer.
    pub(super) const SHORT: usize = 64 << 10;

    pub(super) fn new() -> Self {
        Self {
            routers: Mutex::default(),
            news: watch::Sender::new(0),
            long_bodies: Semaphore::new(LONG_BODIES),
        }
    }

    /// Takes down what a router, or a relay for several, has said.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn put(&self, text: &[u8], now: Instant) -> Result<(), String> {
        let said = read(text)?;
        let mut routers = self.lock(now);
        let (mut news, mut full) = (false, false);
        for said in said {
            let Some(heard) = said.heard(now) else {
                continue;
            };
            let ack = said.into_ack();
            if routers.len() >= MOST_ROUTERS && !routers.contains_key(&ack.router) {
                full = true;
                continue;
            }
            news |= take(&mut routers, ack, heard);
        }
        drop(routers);
        if news {
            self.news
                .send_modify(|count| *count = count.wrapping_add(1));
        }
        match full {
            true => Err(format!("there are {MOST_ROUTERS} routers already")),
            false => Ok(()),
        }
    }

    /// Moves when something new was said.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// All of them, to be told further on.
    pub(super) fn all(&self, now: Instant) -> Vec<Ack> {
        let acks: Vec<_> = {
            let routers = self.lock(now);
            routers
                .values()
                .map(|known| Arc::clone(&known.ack))
                .collect()
        };
        let mut acks: Vec<_> = acks.iter().map(|ack| Ack::clone(ack)).collect();
        acks.sort_by(|one, other| one.router.cmp(&other.router));
        acks
    }

    /// For how long each router was not heard of, in seconds.
    fn ages(&self, now: Instant) -> HashMap<String, f64> {
        let routers = self.lock(now);
        let ages = routers
            .iter()
            .map(|(id, known)| (id.clone(), known.age(now)));
        ages.collect()
    }

    /// How many routers there are, and the lowest revision that one of them has.
    pub(super) fn lowest(&self, now: Instant) -> (usize, Option<u64>) {
        let routers = self.lock(now);
        let revisions = routers.values().map(|known| known.ack.revision);
        (routers.len(), revisions.min())
    }

    /// Whether there are routers, and all have at least some revision, while `revision` is published. One may be
    /// ahead of what is published here, after a restart with an old cache; that does not make it published.
    pub(super) fn reached(&self, revision: Option<u64>, at_least: u64, now: Instant) -> bool {
        let (_, lowest) = self.lowest(now);
        let lowest = lowest.map(|lowest| lowest.min(revision.unwrap_or(0)));
        lowest.is_some_and(|lowest| lowest >= at_least)
    }

    /// How things stand, and whether all have at least some revision.
    pub(super) fn view(
        &self,
        revision: Option<u64>,
        at_least: Option<u64>,
        now: Instant,
    ) -> AcksView {
        let reached = at_least.map(|least| self.reached(revision, least, now));
        let routers = self
            .lock(now)
            .values()
            .map(|known| known.view(now))
            .collect();
        let mut view = AcksView {
            revision,
            reached,
            routers,
        };
        let by_id = |one: &RouterView, other: &RouterView| one.ack.router.cmp(&other.ack.router);
        view.routers.sort_by(by_id);
        view
    }

    /// The routers that were heard of lately.
    fn lock(&self, now: Instant) -> MutexGuard<'_, HashMap<String, Known>> {
        let mut routers = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
        routers.retain(|_, known| now < known.heard + FORGOTTEN_AFTER);
        routers
    }
}

impl Known {
    fn view(&self, now: Instant) -> RouterView {
        RouterView {
            ack: Arc::clone(&self.ack),
            age_seconds: self.age(now),
        }
    }

    fn age(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.heard).as_secs_f64()
    }
}

impl PassedOn {
    /// For how long each router behind this one was not heard of, in seconds.
    pub(in crate::feed) fn ages(&self) -> HashMap<String, f64> {
        self.0.acks.ages(clock::now())
    }
}

/// Takes one down, unless something younger is known, which may have come another way; whether it says something new.
fn take(routers: &mut HashMap<String, Known>, ack: Ack, heard: Instant) -> bool {
    if let Some(known) = routers.get_mut(&ack.router) {
        if heard < known.heard {
            return false;
        }
        known.heard = heard;
        let new = *known.ack != ack;
        if new {
            known.ack = Arc::new(ack);
        }
        return new;
    }
    let (router, ack) = (ack.router.clone(), Arc::new(ack));
    routers.insert(router, Known { ack, heard });
    true
}

/// Reads a body. What is wrong is looked for before anything is taken down.
fn read(text: &[u8]) -> Result<Vec<SaidAck>, String> {
    // Not left to serde: it would first put together a copy that can be anything.
    let said = match text.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(text),
        Some(b'{') if text.len() > Acks::LONGEST_ONE => {
            let longest = Acks::LONGEST_ONE;
            return Err(format!("more than {longest} bytes for one router"));
        }
        _ => serde_json::from_slice(text).map(|one: SaidAck| vec![one]),
    };
    let said = said.map_err(|_| EXPECTED.to_owned())?;
    said.iter().try_for_each(SaidAck::check)?;
    Ok(said)
}

#[derive(Deserialize)]
struct SaidAck {
    router: String,
    revision: u64,
    #[serde(default)]
    rejected: Vec<SaidRejection>,
    rejected_count: Option<usize>,
    /// Of a relay: since it heard it.
    #[serde(default)]
    age_seconds: f64,
}

#[derive(Deserialize)]
struct SaidRejection {
    app: String,
    reason: String,
}

impl SaidAck {
    fn check(&self) -> Result<(), String> {
        let length = self.router.len();
        if !(1..=LONGEST_ID).contains(&length) {
            return Err(format!(
                "router: an id of {length} bytes, must have 1 to {LONGEST_ID}"
            ));
        }
        // It is shown, and passed on to others who show it.
        match self.router.chars().any(char::is_control) {
            true => Err("router: an id with control characters".to_owned()),
            false => Ok(()),
        }
    }

    /// When the router said it to whoever heard it first; `None` if that is too long ago. Were it always now, relays that
    /// read from each other would keep a router for ever that is gone.
    fn heard(&self, now: Instant) -> Option<Instant> {
        let age = Duration::try_from_secs_f64(self.age_seconds.max(0.0)).ok()?;
        let heard = now.checked_sub(age)?;
        (age < FORGOTTEN_AFTER).then_some(heard)
    }

    fn into_ack(self) -> Ack {
        let count = self.rejected.len();
        let rejected = self.rejected.into_iter().take(MOST_REJECTIONS);
        Ack {
            rejected_count: self.rejected_count.unwrap_or(count),
            router: self.router,
            revision: self.revision,
            rejected: rejected
                .map(|SaidRejection { app, reason }| Rejection {
                    app: cut(app, LONGEST_NAME),
                    reason: cut(reason, LONGEST_REASON),
                })
                .collect(),
        }
    }
}

/// The beginning of a text, which keeps no more memory than that.
fn cut(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest));
        text.push('…');
    }
    text.shrink_to_fit();
    text
}

/// Routers say it every twenty seconds.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);
const EXPECTED: &str = "expected {\"router\": \"ID\", \"revision\": NUMBER, \"rejected\": [{\"app\", \"reason\"}]}, or an array of these";
const LONGEST_ID: usize = 200;
const MOST_ROUTERS: usize = 10_000;
/// Of one router; the first ones are enough to see what is wrong.
const MOST_REJECTIONS: usize = 20;
const LONGEST_NAME: usize = 200;
const LONGEST_REASON: usize = 1000;
const LONG_BODIES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(acks.view(Some(8), Some(8), much_later).reached, Some(true));
        for published in [None, Some(7)] {
            let view = acks.view(published, Some(8), much_later);
            assert_eq!((view.reached, view.routers.len()), (Some(false), 2));
        }
        let names: Vec<_> = acks
            .all(much_later)
            .into_iter()
            .map(|ack| ack.router)
            .collect();
        assert_eq!(names, ["b", "c"]);
    }

    #[test]
    fn what_was_passed_on_is_as_old_as_it_was() {
        let (acks, start) = (Acks::new(), clock::now());
        let aged = |revision: u64, age: f64| {
            format!(r#"[{{"router":"a","revision":{revision},"age_seconds":{age:?}}}]"#)
        };
        said(&acks, &aged(5, 50.0), start).unwrap();
        assert_eq!(acks.lowest(start), (1, Some(5)));
        assert!((acks.ages(start)["a"] - 50.0).abs() < 0.001);
        // A younger one replaces it, an older one does not come back, whatever way it takes.
        said(&acks, &aged(7, 10.0), start).unwrap();
        said(&acks, &aged(6, 11.0), start).unwrap();
        assert_eq!(acks.lowest(start), (1, Some(7)));
        said(&acks, r#"{"router":"a","revision":4}"#, start).unwrap();
        assert_eq!(acks.lowest(start), (1, Some(4)));
        for age in [60.0, 1e300] {
            said(&acks, &aged(9, age).replace("\"a\"", "\"gone\""), start).unwrap();
        }
        assert_eq!(acks.lowest(start).0, 1);
        // Relays that tell each other of a router that is gone forget it all the same.
        let (one, other) = (Acks::new(), Acks::new());
        said(&one, &aged(5, 0.0), start).unwrap();
        for seconds in [20, 40, 59] {
            let now = start + Duration::from_secs(seconds);
            said(&other, &aged(5, one.ages(now)["a"]), now).unwrap();
            said(&one, &aged(5, other.ages(now)["a"]), now).unwrap();
        }
        let end = start + Duration::from_secs(61);
        assert_eq!((one.lowest(end).0, other.lowest(end).0), (0, 0));
    }

    #[test]
    fn what_is_no_acknowledgement_is_refused() {
        let (acks, now) = (Acks::new(), clock::now());
        let long = format!(r#"{{"router":"{}","revision":7}}"#, "x".repeat(201));
        let bulky = format!(
            r#"{{"router":"a","revision":7,"x":"{}"}}"#,
            "x".repeat(Acks::LONGEST_ONE)
        );
        for (text, wanted) in [
            ("", "expected"),
            ("7", "expected"),
            (r#"{"router":"a"}"#, "expected"),
            (r#"{"router":"a","revision":-1}"#, "expected"),
            (
                r#"[{"router":"a","revision":1},{"router":"","revision":1}]"#,
                "0 bytes",
            ),
            (&long, "201 bytes"),
            (
                "{\"router\":\"a\\nb\",\"revision\":1}",
                "control characters",
            ),
            (&bulky, "more than"),
        ] {
            let error = said(&acks, text, now).unwrap_err();
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
        assert_eq!(acks.lowest(now), (0, None));
        said(&acks, "[]", now).unwrap();
    }

    #[test]
    fn only_so_much_is_kept() {
        let (acks, now) = (Acks::new(), clock::now());
        let rejections =
            vec![serde_json::json!({"app": "ä".repeat(500), "reason": "ä".repeat(5000)}); 1000];
        let text = serde_json::json!({"router": "a", "revision": 7, "rejected": rejections[..50]});
        said(&acks, &text.to_string(), now).unwrap();
        let kept = acks.all(now).remove(0);
        assert_eq!((kept.rejected.len(), kept.rejected_count), (20, 50));
        let rejection = &kept.rejected[0];
        assert_eq!(
            (
                rejection.app.chars().count(),
                rejection.reason.chars().count()
            ),
            (101, 501)
        );
        let many: Vec<_> = (0..MOST_ROUTERS)
            .map(|id| serde_json::json!({"router": format!("r{id}"), "revision": 7}))
            .collect();
        let error = said(&acks, &serde_json::to_string(&many).unwrap(), now).unwrap_err();
        assert!(error.contains("10000 routers already"), "{error}");
        assert_eq!(acks.lowest(now), (MOST_ROUTERS, Some(7)));
        // Those that are known may go on.
        said(&acks, r#"{"router":"a","revision":8}"#, now).unwrap();
    }
}
