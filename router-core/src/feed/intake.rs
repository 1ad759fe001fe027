//! What becomes of an update: judged by revision, validated, guarded, applied app by app. No waiting, no timers, and no
//! file but those that documents name; `now` is an argument. So the same code runs in the simulation.

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{self, Digest, SHA256};
use router_model::app::App;
use router_model::change;
use router_model::cursor::{ChangeJudgement, FeedCursor, Judgement};
use router_model::diff::{Guard, Plan, Refusal};
use router_model::snapshot::{self, CertificateEntry, Rejection, Snapshot};
use serde_json::{Value, json};

use super::certificates::{DocumentCertificates, Next};
use super::status::Withheld;
use super::{Accepted, FeedOptions, Position, Tap, Update};
use crate::clock::Instant;
use crate::router::Router;
use crate::table::{Applied, Wanted};

/// The part of a running feed that changes routes.
pub(super) struct Intake {
    router: Router,
    /// Who wants to know what comes into force.
    tap: Option<Box<dyn Tap>>,
    /// Where file names in documents start from.
    folder: PathBuf,
    certificates: DocumentCertificates,
    cursor: FeedCursor,
    guard: Guard,
    /// Of the document in force, to know it again; none after a change. The document itself may hold private keys, and
    /// is not kept.
    in_force: Option<Digest>,
    /// The apps that were kept when that document came.
    kept: Vec<Arc<str>>,
    /// Of the document that was refused last: reading it again would come to the same.
    refused: Option<Digest>,
    /// What was refused only because it is not to be believed.
    withheld: Option<Withheld>,
    /// The revision from which on the source is to be believed once, as somebody has said.
    confirmed: Option<u64>,
    need_whole: bool,
}

/// What became of an update.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is in force.
    Applied(InForce),
    /// It is what is in force.
    Current,
    /// Nothing to be learned from it: a heartbeat, or a change that is in force already.
    Nothing,
    /// Something before it is missing.
    Gap,
    /// It is not applied.
    Refused {
        /// Why not.
        reason: String,
        /// The guard did it.
        shrinks: bool,
    },
    /// It was refused before and is refused again, without another look.
    RefusedAgain,
}

/// What has just come into force.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) revision: u64,
    pub(super) applied: Applied,
    /// A document and not a change.
    pub(super) whole: bool,
}

/// Why an update is not applied.
enum Refused {
    Wrong(String),
    Older(String),
    Guarded(Refusal),
}

/// Whether the guard and the order of revisions have a say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    No,
    /// It was in force before, or somebody has confirmed it.
    Yes,
}

impl Intake {
    pub(super) fn new(router: &Router, folder: PathBuf, options: &FeedOptions) -> Self {
        Self {
            tap: None,
            certificates: DocumentCertificates::new(Arc::clone(router.certificates())),
            router: router.clone(),
            folder,
            cursor: FeedCursor::new(),
            guard: Guard::new(options.shrink_share, options.shrink_persists),
            in_force: None,
            kept: Vec::new(),
            refused: None,
            withheld: None,
            confirmed: None,
            need_whole: false,
        }
    }

    /// Tells of everything that comes into force from now on.
    pub(super) fn tapped_by(mut self, tap: Option<Box<dyn Tap>>) -> Self {
        self.tap = tap;
        self
    }

    pub(super) fn position(&self) -> Position {
        Position {
            revision: self.cursor.revision(),
            need_whole: self.need_whole,
        }
    }

    /// Asks for the whole document from now on, until one comes.
    pub(super) fn want_whole(&mut self) {
        self.need_whole = true;
    }

    /// What waits for somebody's word.
    pub(super) fn withheld(&self) -> Option<&Withheld> {
        self.withheld.as_ref()
    }

    /// Believes the source the next time, if it is this revision or a newer one.
    pub(super) fn confirm(&mut self, revision: u64) {
        self.confirmed = Some(revision);
        self.refused = None;
    }

    /// When an update that was refused may be judged otherwise.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.guard.again_at().map(Instant::from_std)
    }

    /// Does with an update what is to be done with it.
    pub(super) fn take(&mut self, update: &Update, now: Instant) -> Outcome {
        match update {
            Update::Snapshot(document) => self.document(document, now),
            Update::Change(change) => self.change(change, now),
            Update::Alive { revision } => self.alive(*revision),
        }
    }

    /// Puts the last good document in force, after the apps that were kept when it came.
    pub(super) fn document_of_cache(
        &mut self,
        document: &[u8],
        kept: &[Value],
        now: Instant,
    ) -> Result<InForce, String> {
        let digest = digest::digest(&SHA256, document);
        let snapshot = parse(document).map_err(|refused| refused.to_string())?;
        self.keep(kept, now);
        let in_force = self.put_in_force(document, snapshot, digest, Trust::Yes, now);
        in_force.map_err(|refused| refused.to_string())
    }

    fn keep(&mut self, kept: &[Value], now: Instant) {
        if kept.is_empty() {
            return;
        }
        let entries: Vec<_> = kept.iter().map(|app| json!({"app": app})).collect();
        let text = json!({"from": 0, "to": 1, "changes": entries}).to_string();
        let change = change::parse(text.as_bytes()).map_err(|error| error.to_string());
        let made = change.and_then(|parsed| {
            let made = self.apply(Wanted::Change(&parsed), None, Trust::Yes, now);
            made.map_err(|refusal| refusal.to_string())?;
            self.tell(Accepted::Change {
                text: text.as_bytes(),
                parsed: &parsed,
                shrinks: false,
            });
            Ok(())
        });
        if let Err(error) = made {
            tracing::warn!(%error, "apps of an earlier document cannot be read");
        }
    }

    /// The apps that were kept when the document in force came.
    pub(super) fn kept(&self) -> Vec<Arc<App>> {
        let routes = self
            .kept
            .iter()
            .filter_map(|name| self.router.table().app(name));
        routes.map(|route| Arc::clone(&route.app)).collect()
    }

    /// Makes one of the changes that came after that document.
    pub(super) fn change_of_cache(
        &mut self,
        change: &[u8],
        now: Instant,
    ) -> Result<Outcome, String> {
        let outcome = self.make(change, Trust::Yes, now);
        outcome.map_err(|refused| refused.to_string())
    }

    fn document(&mut self, document: &[u8], now: Instant) -> Outcome {
        self.need_whole = false;
        let digest = digest::digest(&SHA256, document);
        let is = |known: &Option<Digest>| {
            let known = known.as_ref();
            known.is_some_and(|known| known.as_ref() == digest.as_ref())
        };
        if is(&self.in_force) {
            self.nothing_refused();
            return Outcome::Current;
        }
        let decided = self.again_at().is_none_or(|again| now < again);
        if is(&self.refused) && decided && self.confirmed.is_none() {
            return Outcome::RefusedAgain;
        }
        let put = parse(document)
            .and_then(|snapshot| self.put_in_force(document, snapshot, digest, Trust::No, now));
        match put {
            Ok(in_force) => {
                self.nothing_refused();
                Outcome::Applied(in_force)
            }
            Err(refused) => {
                self.refused = Some(digest);
                refused.into()
            }
        }
    }

    fn change(&mut self, change: &[u8], now: Instant) -> Outcome {
        match self.make(change, Trust::No, now) {
            Ok(outcome) => {
                self.need_whole |= matches!(outcome, Outcome::Gap);
                outcome
            }
            // Whatever is wrong with the change, the source may be able to say it in another way.
            Err(refused) => {
                self.need_whole = true;
                refused.into()
            }
        }
    }

    fn alive(&mut self, revision: Option<u64>) -> Outcome {
        let (Some(theirs), Some(ours)) = (revision, self.cursor.revision()) else {
            return Outcome::Nothing;
        };
        if theirs > ours {
            self.need_whole = true;
            return Outcome::Gap;
        }
        if theirs < ours {
            return Outcome::Nothing;
        }
        self.need_whole = false;
        Outcome::Current
    }

    fn nothing_refused(&mut self) {
        self.refused = None;
        self.withheld = None;
        self.confirmed = None;
    }

    /// Judges, guards and applies a document; on an error nothing has changed.
    fn put_in_force(
        &mut self,
        text: &[u8],
        mut snapshot: Snapshot,
        digest: Digest,
        trust: Trust,
        now: Instant,
    ) -> Result<InForce, Refused> {
        snapshot.start_from(&self.folder);
        let revision = snapshot.revision;
        // The source may have gone on since.
        let confirmed = self
            .confirmed
            .is_some_and(|confirmed| revision >= confirmed);
        let trust = if confirmed { Trust::Yes } else { trust };
        if trust == Trust::No && self.cursor.judge(revision, false) == Judgement::Stale {
            let in_force = self.cursor.revision().unwrap_or_default();
            let reason = format!("revision {revision} is older than {in_force}, which is in force");
            self.withhold(revision, &reason);
            return Err(Refused::Older(reason));
        }
        let certificates = Some((&*snapshot.certificates, &*snapshot.rejected_certificates));
        let applied = self.apply(Wanted::Snapshot(&snapshot), certificates, trust, now);
        let (applied, shrinks) = applied.map_err(|refusal| {
            self.withhold(revision, &refusal.to_string());
            Refused::Guarded(refusal)
        })?;
        self.cursor.begin_again(revision);
        self.in_force = Some(digest);
        self.kept.clone_from(&applied.kept);
        self.tell(Accepted::Document {
            text,
            parsed: &snapshot,
            shrinks,
        });
        Ok(InForce {
            revision,
            applied,
            whole: true,
        })
    }

    /// The same for a change.
    fn make(&mut self, text: &[u8], trust: Trust, now: Instant) -> Result<Outcome, Refused> {
        let mut change = change::parse(text).map_err(|error| Refused::Wrong(error.to_string()))?;
        match self.cursor.judge_change(change.from, change.to) {
            ChangeJudgement::Accept => {}
            ChangeJudgement::Old => return Ok(Outcome::Nothing),
            ChangeJudgement::Gap => return Ok(Outcome::Gap),
        }
        change.start_from(&self.folder);
        let certificates = change
            .certificates
            .as_ref()
            .map(|entries| (&**entries, &*change.rejected_certificates));
        let (applied, shrinks) = self
            .apply(Wanted::Change(&change), certificates, trust, now)
            .map_err(Refused::Guarded)?;
        self.cursor.advance(change.to);
        self.in_force = None;
        self.nothing_refused();
        self.tell(Accepted::Change {
            text,
            parsed: &change,
            shrinks,
        });
        Ok(Outcome::Applied(InForce {
            revision: change.to,
            applied,
            whole: false,
        }))
    }

    /// Certificates come before the routes that need them and go after. Says also whether the update may take away as much
    /// as no update may by default: others must let it pass, too, who have no word of whoever let it pass here.
    fn apply(
        &mut self,
        wanted: Wanted<'_>,
        certificates: Option<(&[CertificateEntry], &[Rejection])>,
        trust: Trust,
        now: Instant,
    ) -> Result<(Applied, bool), Refusal> {
        let Self {
            router,
            certificates: held,
            guard,
            ..
        } = self;
        let next: Option<Next> =
            certificates.map(|(entries, unusable)| held.read(entries, unusable));
        let mut shrinks = false;
        let judge = |plan: &Plan, allow_shrink: bool| {
            guard.judge(plan, allow_shrink || trust == Trust::Yes, now.into_std())?;
            shrinks =
                allow_shrink || plan.empties || plan.domains_removed > plan.domains_before / 4;
            if let Some(next) = &next {
                held.add(next);
            }
            Ok(())
        };
        let applied = router.table().apply_judged(wanted, judge)?;
        if let Some(next) = next {
            held.settle(next, || router.table().domains());
        }
        Ok((applied, shrinks))
    }

    fn tell(&mut self, accepted: Accepted<'_>) {
        if let Some(tap) = &mut self.tap {
            tap.accepted(accepted);
        }
    }

    fn withhold(&mut self, revision: u64, reason: &str) {
        self.withheld = Some(Withheld {
            revision,
            reason: reason.to_owned(),
        });
    }

    /// Whether the document names files.
    pub(super) fn has_files(&self) -> bool {
        self.certificates.have_files() || self.router.table().has_authority_files()
    }

    /// A certificate may be renewed in its files while the document stays as it is, and so may an authority of dynos.
    /// Says whether certificates have changed.
    pub(super) fn look_at_files(&mut self) -> bool {
        let changed = self.router.table().look_at_authority_files();
        if changed > 0 {
            tracing::info!(
                apps = changed,
                "certificate authorities of dynos have changed"
            );
        }
        let table = self.router.table();
        self.certificates.look_at_files(|| table.domains())
    }

    /// Certificates that cannot be used.
    pub(super) fn rejected_certificates(&self) -> Vec<Rejection> {
        self.certificates.rejected()
    }
}

fn parse(document: &[u8]) -> Result<Snapshot, Refused> {
    snapshot::parse(document).map_err(|error| Refused::Wrong(error.to_string()))
}

impl From<Refused> for Outcome {
    fn from(refused: Refused) -> Self {
        Self::Refused {
            shrinks: matches!(refused, Refused::Guarded(_)),
            reason: refused.to_string(),
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong(reason) | Self::Older(reason) => f.write_str(reason),
            Self::Guarded(refusal) => refusal.fmt(f),
        }
    }
}
