//! The feed simulated: a control plane that edits, wipes and takes back, a wire that loses, repeats and reorders, a disk
//! that fills up, a router that crashes. Every step of every run is compared with what the rules say, and everything
//! comes from one seed: `SEED=… cargo test` runs that one alone, `SEEDS=…` so many.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use router_model::app::App;
use router_model::diff::TableView;
use router_model::hostname::Domain;
use serde_json::{Value, json};

use super::super::cache::Cache;
use super::super::disk::Disk;
use super::super::intake::{Intake, Outcome};
use super::super::saver::{self, Job};
use super::super::status::Board;
use super::super::{FeedOptions, Update, restart};
use crate::clock::{self, Instant};
use crate::router::Router;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const DOMAINS: [&str; 9] = [
    "r.test", "s.test", "t.test", "u.test", "v.test", "w.test", "*.w.test", "x.w.test", "y.test",
];

/// What the control plane says of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doc {
    Good {
        domains: Vec<&'static str>,
        version: u32,
    },
    Bad {
        version: u32,
    },
}

type State = BTreeMap<&'static str, Doc>;

/// One revision of the control plane.
#[derive(Debug, Clone)]
struct Revision {
    number: u64,
    state: State,
    allow_shrink: bool,
}

/// An update on its way, and what it says.
#[derive(Debug, Clone)]
struct Message {
    update: Update,
    says: Says,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Says {
    Whole {
        revision: u64,
        allow_shrink: bool,
    },
    Change {
        from: u64,
        to: u64,
        allow_shrink: bool,
    },
    Alive(Option<u64>),
    Rubbish,
}

/// A table as it can be seen from outside.
#[derive(Debug, Clone, Default, PartialEq)]
struct View {
    apps: BTreeMap<String, App>,
    holders: BTreeMap<String, String>,
}

/// Files in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    files: BTreeMap<PathBuf, Vec<u8>>,
    full: bool,
    /// So many steps until the power goes.
    fuse: Option<usize>,
}

impl Held {
    /// Whether a step can be made; how much of it, in thousandths, if the power goes while it is made.
    fn step(&mut self) -> Result<Option<usize>, io::Error> {
        match &mut self.fuse {
            Some(0) => return Err(io::Error::other("no power")),
            Some(left) => *left -= 1,
            None => {}
        }
        if self.fuse == Some(0) {
            return Ok(Some(500));
        }
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(None)
    }
}

fn part(content: &[u8], thousandths: Option<usize>) -> &[u8] {
    &content[..content.len() * thousandths.unwrap_or(1000) / 1000]
}

impl Disk for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let held = self.0.lock().unwrap();
        let file = held.files.get(path).cloned();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut held = self.0.lock().unwrap();
        let cut = held.step()?;
        let content = part(content, cut).to_vec();
        held.files.insert(path.to_owned(), content);
        cut.map_or(Ok(()), |_| Err(io::Error::other("no power")))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut held = self.0.lock().unwrap();
        let cut = held.step()?;
        if cut.is_none() {
            let file = held.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            held.files.insert(to.to_owned(), file);
        }
        cut.map_or(Ok(()), |_| Err(io::Error::other("no power")))
    }

    fn append(&self, path: &Path, length: u64, content: &[u8]) -> io::Result<()> {
        let mut held = self.0.lock().unwrap();
        let cut = held.step()?;
        let file = held.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
        file.truncate(length as usize);
        file.extend_from_slice(part(content, cut));
        cut.map_or(Ok(()), |_| Err(io::Error::other("no power")))
    }
}

/// One life of the router.
struct Life {
    router: Router,
    intake: Intake,
    board: Arc<Board>,
    cache: Cache<Memory>,
}

impl Life {
    fn begin(disk: &Memory, options: &FeedOptions) -> Self {
        let router = Router::builder().workers(1).build().unwrap();
        let mut intake = Intake::new(&router, PathBuf::new(), options);
        let board = Board::new("simulated", "router", true, Duration::from_secs(1));
        let mut cache = Cache::on(disk.clone(), Path::new("routes.json"));
        restart::from_cache(&mut cache, &mut intake, &board);
        Self {
            router,
            intake,
            board,
            cache,
        }
    }

    fn revision(&self) -> Option<u64> {
        self.intake.position().revision
    }

    fn view(&self) -> View {
        let table = self.router.table();
        let routes = table.routes();
        let apps = routes
            .iter()
            .map(|route| (route.app.name.to_string(), App::clone(&route.app)));
        let domains = DOMAINS.iter().map(|domain| Domain::parse(domain).unwrap());
        let holders = domains.filter_map(|domain| {
            let holder = TableView::holder(table, domain.key())?;
            Some((domain.to_string(), holder.to_string()))
        });
        let view = View {
            apps: apps.collect(),
            holders: holders.collect(),
        };
        assert_eq!(table.app_count(), view.apps.len());
        assert_eq!(table.domain_count(), view.holders.len());
        view
    }
}

struct Simulation {
    random: fastrand::Rng,
    now: Instant,
    options: FeedOptions,
    history: Vec<Revision>,
    /// Changes from before are not to be had any more.
    compacted: u64,
    versions: u32,
    wire: Vec<Message>,
    disk: Memory,
    life: Life,
    /// What the table was at each revision that was accepted; more than one thing if somebody had the router go back.
    accepted: BTreeMap<u64, Vec<View>>,
    /// The newest revision that the source was told of, and the table at that time.
    acknowledged: Option<(u64, View)>,
    confirmed: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let options = FeedOptions {
            shrink_share: [0.25, 0.4, 1.0][random.usize(..3)],
            shrink_persists: random.bool().then_some(Duration::from_secs(100)),
            ..FeedOptions::default()
        };
        let disk = Memory::default();
        let life = Life::begin(&disk, &options);
        Self {
            random,
            now: clock::now(),
            options,
            history: vec![Revision {
                number: 1,
                state: State::new(),
                allow_shrink: false,
            }],
            compacted: 0,
            versions: 0,
            wire: Vec::new(),
            disk,
            life,
            accepted: BTreeMap::new(),
            acknowledged: None,
            confirmed: false,
        }
    }

    fn newest(&self) -> &Revision {
        self.history.last().unwrap()
    }

    fn at(&self, number: u64) -> Option<&Revision> {
        self.history
            .iter()
            .rev()
            .find(|revision| revision.number == number)
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..25 => self.edit(),
            25..27 => self.publish(State::new(), false),
            27..28 => self.publish(State::new(), true),
            28..31 => self.take_back(),
            31..33 => self.compacted = self.newest().number,
            33..63 => self.answer(),
            63..66 => self.send_something_old(),
            66..68 => self.send_rubbish(),
            68..70 => self.send_alive(),
            70..90 => self.deliver(),
            90..92 => self.now += Duration::from_secs(self.random.u64(1..90)),
            92..94 => self.disk.0.lock().unwrap().full ^= true,
            94..95 => self.disk.0.lock().unwrap().fuse = Some(self.random.usize(1..5)),
            95..98 => self.restart(),
            98..99 => self.confirm(),
            _ => self.wire.clear(),
        }
    }

    fn edit(&mut self) {
        let mut state = self.newest().state.clone();
        for _ in 0..self.random.usize(1..4) {
            let name = self.random.choice(NAMES).unwrap();
            self.versions += 1;
            let version = self.versions;
            match self.random.u32(..10) {
                0 => drop(state.remove(name)),
                1 => drop(state.insert(name, Doc::Bad { version })),
                _ => {
                    let mut domains = DOMAINS.to_vec();
                    self.random.shuffle(&mut domains);
                    domains.truncate(self.random.usize(..4));
                    state.insert(name, Doc::Good { domains, version });
                }
            }
        }
        let allow_shrink = self.random.u32(..4) == 0;
        self.publish(state, allow_shrink);
    }

    fn publish(&mut self, state: State, allow_shrink: bool) {
        let number = self.newest().number + self.random.u64(1..4);
        self.history.push(Revision {
            number,
            state,
            allow_shrink,
        });
    }

    /// An earlier state under a new revision.
    fn take_back(&mut self) {
        let old = self.random.choice(&self.history).unwrap().state.clone();
        let allow_shrink = self.random.bool();
        self.publish(old, allow_shrink);
    }

    fn whole(&self, revision: &Revision) -> Message {
        let apps: Vec<Value> = revision
            .state
            .iter()
            .map(|(name, doc)| written(name, doc))
            .collect();
        let document = json!({"format": 1, "revision": revision.number, "allow_shrink": revision.allow_shrink, "apps": apps});
        Message {
            update: Update::Snapshot(document.to_string().into()),
            says: Says::Whole {
                revision: revision.number,
                allow_shrink: revision.allow_shrink,
            },
        }
    }

    fn change(&self, from: u64, to: u64) -> Option<Message> {
        let (old, new) = (self.at(from)?, self.at(to)?);
        let put = new
            .state
            .iter()
            .filter(|(name, doc)| old.state.get(*name) != Some(doc));
        let put = put.map(|(name, doc)| json!({"app": written(name, doc)}));
        let gone = old
            .state
            .keys()
            .filter(|name| !new.state.contains_key(*name));
        let gone = gone.map(|name| json!({"remove": name}));
        let changes: Vec<Value> = put.chain(gone).collect();
        let between = self
            .history
            .iter()
            .filter(|revision| (from + 1..=to).contains(&revision.number));
        let allow_shrink = between.fold(false, |any, revision| any | revision.allow_shrink);
        let change =
            json!({"from": from, "to": to, "allow_shrink": allow_shrink, "changes": changes});
        Some(Message {
            update: Update::Change(change.to_string().into()),
            says: Says::Change {
                from,
                to,
                allow_shrink,
            },
        })
    }

    /// What a good source has to say to the router.
    fn reply(&mut self) -> Message {
        let position = self.life.intake.position();
        let newest = self.newest().number;
        let known = position
            .revision
            .filter(|known| *known >= self.compacted && !position.need_whole);
        match known {
            Some(known) if known == newest => Message {
                update: Update::Alive {
                    revision: Some(newest),
                },
                says: Says::Alive(Some(newest)),
            },
            Some(known) => {
                let later: Vec<u64> = self
                    .history
                    .iter()
                    .map(|revision| revision.number)
                    .filter(|number| *number > known)
                    .collect();
                let to = self.random.choice(later).unwrap_or(newest);
                self.change(known, to)
                    .unwrap_or_else(|| self.whole(self.newest()))
            }
            None => self.whole(self.newest()),
        }
    }

    fn answer(&mut self) {
        let message = self.reply();
        // Lost, sent once or sent twice.
        for _ in 0..self.random.usize(..3) {
            self.wire.push(message.clone());
        }
    }

    fn send_something_old(&mut self) {
        let one = self.random.choice(&self.history).unwrap().clone();
        let other = self.random.choice(&self.history).unwrap().number;
        let message = match self.change(one.number.min(other), one.number.max(other)) {
            Some(change) if one.number != other => change,
            _ => self.whole(&one),
        };
        self.wire.push(message);
    }

    fn send_rubbish(&mut self) {
        let cut = |text: &Bytes| text.slice(..text.len() / 2);
        let update = match self.whole(self.newest()).update {
            Update::Snapshot(text) if self.random.bool() => Update::Snapshot(cut(&text)),
            Update::Snapshot(text) => Update::Change(text),
            other => other,
        };
        self.wire.push(Message {
            update,
            says: Says::Rubbish,
        });
    }

    fn send_alive(&mut self) {
        let revision = self
            .random
            .bool()
            .then(|| self.random.choice(&self.history).unwrap().number);
        self.wire.push(Message {
            update: Update::Alive { revision },
            says: Says::Alive(revision),
        });
    }

    /// In any order.
    fn deliver(&mut self) {
        if !self.wire.is_empty() {
            let place = if self.random.bool() {
                0
            } else {
                self.random.usize(..self.wire.len())
            };
            let message = self.wire.remove(place);
            self.take(&message);
        }
    }

    fn take(&mut self, message: &Message) {
        let (before, at) = (self.life.view(), self.life.revision());
        let mut outcome = self.life.intake.take(&message.update, self.now);
        self.life
            .board
            .outcome(&mut outcome, &self.life.intake, self.now);
        self.check(message, &outcome, &before, at);
        if let Outcome::Applied(in_force) = &outcome {
            let views = self.accepted.entry(in_force.revision).or_default();
            views.push(self.life.view());
            self.confirmed = false;
            if at.is_some_and(|at| at > in_force.revision) {
                // Somebody has said that it shall be so.
                self.acknowledged = None;
            }
            self.save(message);
        }
    }

    fn save(&mut self, message: &Message) {
        let revision = self.life.revision().unwrap();
        let job = match &message.update {
            Update::Snapshot(text) => {
                Job::Document(text.clone(), revision, self.life.intake.kept())
            }
            Update::Change(text) => Job::Changes(vec![text.clone()], revision),
            Update::Alive { .. } => return,
        };
        match saver::write(&mut self.life.cache, &[job]) {
            Ok(saved) => {
                assert_eq!(saved, revision);
                self.acknowledged = Some((revision, self.life.view()));
            }
            Err(_) if self.disk.0.lock().unwrap().fuse == Some(0) => self.restart(),
            Err(_) => {
                assert!(self.life.cache.needs_whole());
                // As the runner does, once in a while.
                if self.random.bool() {
                    self.life.intake.want_whole();
                }
            }
        }
    }

    fn restart(&mut self) {
        self.disk.0.lock().unwrap().fuse = None;
        self.wire.clear();
        self.confirmed = false;
        self.life = Life::begin(&self.disk, &self.options);
        let (revision, view) = (self.life.revision(), self.life.view());
        match &self.acknowledged {
            Some((told, _)) if revision < Some(*told) => {
                panic!("{revision:?} is older than {told}")
            }
            Some((told, expected)) if revision == Some(*told) => assert_eq!(view, *expected),
            _ => {
                let views = revision.map_or_else(Vec::new, |at| self.accepted[&at].clone());
                assert!(
                    views.contains(&view) || revision.is_none(),
                    "{revision:?}: {view:?}"
                );
            }
        }
        self.check_rejections();
    }

    fn confirm(&mut self) {
        let withheld = self
            .life
            .intake
            .withheld()
            .map(|withheld| withheld.revision);
        if let Some(revision) = withheld {
            self.life.intake.confirm(revision);
            self.life.intake.want_whole();
            self.confirmed = true;
        }
    }

    /// What the rules say of one update.
    fn check(&self, message: &Message, outcome: &Outcome, before: &View, at: Option<u64>) {
        let after = self.life.view();
        let revision = self.life.revision();
        if !matches!(outcome, Outcome::Applied(_)) {
            assert_eq!((&after, revision), (before, at), "{outcome:?}");
        }
        match (&message.says, outcome) {
            (Says::Rubbish, Outcome::Refused { shrinks: false, .. } | Outcome::RefusedAgain) => {}
            (Says::Alive(theirs), _) => self.check_alive(*theirs, outcome, at),
            (Says::Whole { revision, .. }, Outcome::Current) => assert_eq!(Some(*revision), at),
            (Says::Whole { .. }, Outcome::RefusedAgain) => {}
            (Says::Whole { revision, .. }, Outcome::Refused { shrinks: false, .. }) => {
                assert!(
                    Some(*revision) < at,
                    "only an old one is no good: {outcome:?}"
                );
            }
            (Says::Change { to, .. }, Outcome::Nothing) => assert!(Some(*to) <= at),
            (Says::Change { from, .. }, Outcome::Gap) => assert_ne!(Some(*from), at),
            (
                Says::Whole {
                    revision: to,
                    allow_shrink,
                },
                Outcome::Applied(_),
            ) => {
                assert!(
                    Some(*to) >= at || self.confirmed,
                    "a revision never goes backwards"
                );
                self.check_applied(*to, *allow_shrink, before, &after);
            }
            (
                Says::Change {
                    from,
                    to,
                    allow_shrink,
                },
                Outcome::Applied(_),
            ) => {
                assert!(at.is_some_and(|at| (*from..*to).contains(&at)), "{at:?}");
                self.check_applied(*to, *allow_shrink, before, &after);
            }
            (
                Says::Whole {
                    revision: to,
                    allow_shrink,
                }
                | Says::Change {
                    to, allow_shrink, ..
                },
                Outcome::Refused { shrinks: true, .. },
            ) => {
                assert!(!allow_shrink, "{outcome:?}");
                let state = &self.at(*to).unwrap().state;
                let lost = before
                    .holders
                    .keys()
                    .any(|domain| !is_claimed(domain, state, before));
                let left = state.iter().any(|(name, doc)| match doc {
                    Doc::Good { .. } => true,
                    Doc::Bad { .. } => before.apps.contains_key(*name),
                });
                assert!(lost || !left, "nothing would be lost: {outcome:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    fn check_alive(&self, theirs: Option<u64>, outcome: &Outcome, at: Option<u64>) {
        match (theirs, at) {
            (Some(theirs), Some(at)) if theirs > at => {
                assert!(matches!(outcome, Outcome::Gap));
                assert!(self.life.intake.position().need_whole);
            }
            (Some(theirs), Some(at)) if theirs == at => {
                assert!(matches!(outcome, Outcome::Current));
            }
            _ => assert!(matches!(outcome, Outcome::Nothing)),
        }
    }

    fn check_applied(&self, revision: u64, allow_shrink: bool, before: &View, after: &View) {
        assert_eq!(self.life.revision(), Some(revision));
        let state = &self.at(revision).unwrap().state;
        check_table(state, before, after);
        self.check_rejections();
        let lost = before
            .holders
            .keys()
            .filter(|domain| !after.holders.contains_key(*domain));
        let allowed = (before.holders.len() as f64 * self.options.shrink_share) as usize;
        if !allow_shrink && !self.confirmed && self.options.shrink_persists.is_none() {
            assert!(lost.count() <= allowed, "the guard has slept");
        }
        if !allow_shrink && !self.confirmed {
            assert!(
                !after.apps.is_empty() || before.apps.is_empty(),
                "the empty set"
            );
        }
    }

    /// Whoever is bad is told of, and whoever did not get a domain, and nobody else.
    fn check_rejections(&self) {
        let Some(revision) = self.life.revision() else {
            return;
        };
        let view = self.life.view();
        let state = &self.at(revision).unwrap().state;
        let bad = state.iter().filter(|(name, doc)| match doc {
            Doc::Bad { .. } => true,
            Doc::Good { domains, .. } => view
                .apps
                .get(**name)
                .is_none_or(|app| app.domains.len() < domains.len()),
        });
        let expected: Vec<String> = bad.map(|(name, _)| (*name).to_owned()).collect();
        let mut told: Vec<String> = self
            .life
            .board
            .status()
            .rejected
            .into_iter()
            .map(|rejection| rejection.app)
            .collect();
        told.sort();
        assert_eq!(told, expected);
    }

    /// Nothing is lost any more: the router gets where the control plane is.
    fn converge(&mut self) {
        self.wire.clear();
        let mut held = self.disk.0.lock().unwrap();
        (held.full, held.fuse) = (false, None);
        drop(held);
        for _ in 0..20 {
            let newest = self.newest().number;
            let position = self.life.intake.position();
            if position.revision == Some(newest)
                && !position.need_whole
                && !self.life.cache.needs_whole()
            {
                break;
            }
            if position.revision == Some(newest) && self.life.cache.needs_whole() {
                self.life.intake.want_whole();
            }
            let message = self.reply();
            self.take(&message);
            if matches!(message.update, Update::Snapshot(_))
                && self.life.cache.needs_whole()
                && self.life.revision() == Some(newest)
            {
                self.save(&message);
            }
            self.confirm();
        }
        let newest = self.newest().clone();
        assert_eq!(self.life.revision(), Some(newest.number));
        self.restart();
        assert_eq!(self.life.revision(), Some(newest.number));
        check_table(&newest.state, &self.life.view(), &self.life.view());
    }
}

fn written(name: &str, doc: &Doc) -> Value {
    match doc {
        // The version makes each differ from all others.
        Doc::Good { domains, version } => {
            json!({"name": name, "domains": domains, "formation": {"web": version},
            "dynos": [{"name": "web.1", "address": "10.0.0.1:5000", "state": "up"}]})
        }
        Doc::Bad { version } => json!({"name": name, "domains": version, "dynos": []}),
    }
}

/// Whether somebody claims a domain in a state: a good app, or a bad one that has it already.
fn is_claimed(domain: &str, state: &State, before: &View) -> bool {
    state.keys().any(|name| claims(name, domain, state, before))
}

fn claims(name: &str, domain: &str, state: &State, before: &View) -> bool {
    match state.get(name) {
        Some(Doc::Good { domains, .. }) => domains.contains(&domain),
        Some(Doc::Bad { .. }) => before
            .holders
            .get(domain)
            .is_some_and(|holder| holder == name),
        None => false,
    }
}

/// The table after an update: what the state says, given what was there before.
fn check_table(state: &State, before: &View, after: &View) {
    for name in after.apps.keys() {
        assert!(state.contains_key(name.as_str()), "{name} is gone");
    }
    for (domain, holder) in &after.holders {
        assert!(
            claims(holder, domain, state, before),
            "{holder} does not claim {domain}"
        );
    }
    for domain in DOMAINS
        .iter()
        .filter(|domain| is_claimed(domain, state, before))
    {
        let holder = after.holders.get(*domain);
        assert!(holder.is_some(), "{domain} is claimed");
        let old = before
            .holders
            .get(*domain)
            .filter(|old| claims(old, domain, state, before));
        assert!(
            old.is_none() || old == holder,
            "{domain} stays with {old:?}"
        );
    }
    for (name, doc) in state {
        let (was, is) = (before.apps.get(*name), after.apps.get(*name));
        match doc {
            Doc::Bad { .. } => assert_eq!(is, was, "{name} is bad, and stays as it was"),
            Doc::Good { domains, version } => {
                let app = is.unwrap_or_else(|| panic!("{name} is good"));
                assert_eq!(app.web_quantity(), *version, "the version of {name}");
                let held = domains.iter().filter(|domain| {
                    after
                        .holders
                        .get(**domain)
                        .is_some_and(|holder| holder == name)
                });
                let has: Vec<_> = app.domains.iter().map(Domain::as_str).collect();
                assert_eq!(
                    has,
                    held.copied().collect::<Vec<_>>(),
                    "the domains of {name}"
                );
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "which runs, is said from outside"
)]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_the_table_is_the_newest_accepted_state() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(1000),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut simulation = Simulation::new(seed);
            for _ in 0..120 {
                simulation.step();
            }
            simulation.converge();
        });
        assert!(run.is_ok(), "SEED={seed}");
    }
}
