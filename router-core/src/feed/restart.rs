//! The beginning of a feed's life: the routes of the last one, from its cache.

use std::io;

use super::cache::{Cache, Found};
use super::disk::Disk;
use super::intake::{Intake, Outcome};
use super::status::{Board, Saved};
use crate::clock;

/// Puts in force what the cache has, and leaves the cache ready for what comes after it.
pub(super) fn from_cache<D: Disk>(cache: &mut Cache<D>, intake: &mut Intake, board: &Board) {
    let found = match cache.load() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return tracing::info!("no last good routes yet");
        }
        Err(error) => return complain(board, error.to_string()),
    };
    let Some(complete) = put_in_force(&found, intake, board) else {
        return;
    };
    if complete {
        cache.resume(found.log().good);
    }
    let revision = *board.revision.borrow();
    tracing::warn!(
        ?revision,
        "serving the last good routes until the feed answers"
    );
    board.lock().status.cache.get_or_insert_default().revision = revision;
    board.saved.send_replace(Saved {
        revision,
        needs_whole: cache.needs_whole(),
        failed: false,
    });
}

/// Puts in force what was found. Whether all of it fits together; nothing if there is nothing to be served.
fn put_in_force(found: &Found, intake: &mut Intake, board: &Board) -> Option<bool> {
    let now = clock::now();
    let kept = found
        .log()
        .header
        .map_or_else(Vec::new, |header| header.kept);
    let in_force = intake.document_of_cache(found.document(), &kept, now);
    let mut in_force = in_force.map_err(|error| complain(board, error)).ok()?;
    if let Some(damage) = found.damage(in_force.revision) {
        complain(board, damage);
    }
    board.in_force(&mut in_force, intake, now);
    board.lock().status.stale = true;
    Some(make_changes(found, intake, board))
}

/// Whether all of them fit.
fn make_changes(found: &Found, intake: &mut Intake, board: &Board) -> bool {
    for change in found.log().changes {
        let now = clock::now();
        match intake.change_of_cache(change, now) {
            Ok(Outcome::Applied(mut in_force)) => board.in_force(&mut in_force, intake, now),
            // The document was written after it.
            Ok(Outcome::Nothing | Outcome::Current) => {}
            Ok(outcome) => {
                complain(board, format!("a change does not fit: {outcome:?}"));
                return false;
            }
            Err(error) => {
                complain(board, error);
                return false;
            }
        }
    }
    true
}

fn complain(board: &Board, error: String) {
    tracing::warn!(%error, "the last good routes cannot be read, or not all of them");
    let mut recorded = board.lock();
    let cache = recorded.status.cache.get_or_insert_default();
    cache.error = Some(error);
    cache.failures += 1;
}
