//! Where a feed stands: whether a document that arrived is to be applied, is already in force, or comes from the past.
//! Revisions never go backwards.

/// What to do with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Apply it.
    Accept,
    /// It is in force already.
    Same,
    /// Its revision is older than the one in force: ignore it.
    Stale,
}

/// What to do with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeJudgement {
    /// Apply it.
    Accept,
    /// What it brings is in force already.
    Old,
    /// It does not start where the router is: only a whole document helps.
    Gap,
}

/// The revision in force, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedCursor {
    revision: Option<u64>,
}

impl FeedCursor {
    /// A cursor that has seen nothing and accepts any revision.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a revision is in force. An older one than before changes nothing.
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(Some(revision));
    }

    /// Notes that a revision is in force, older or not: somebody has said that it shall be.
    pub fn begin_again(&mut self, revision: u64) {
        self.revision = Some(revision);
    }

    /// The revision in force.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// Judges a document by its revision and by whether its content is that of the document in force. The same revision
    /// with other content is accepted: whoever edits a file by hand and forgets the number must not be ignored
    /// silently.
    pub fn judge(&self, revision: u64, same_content: bool) -> Judgement {
        match self.revision {
            Some(current) if revision < current => Judgement::Stale,
            Some(current) if revision == current && same_content => Judgement::Same,
            _ => Judgement::Accept,
        }
    }

    /// Judges a change by the revisions that it starts from and leads to. One that starts earlier than the revision in
    /// force does not do either: an app that was changed and changed back since is in force, and not in the change.
    pub fn judge_change(&self, from: u64, to: u64) -> ChangeJudgement {
        match self.revision {
            Some(current) if to <= current => ChangeJudgement::Old,
            Some(current) if from == current => ChangeJudgement::Accept,
            Some(_) | None => ChangeJudgement::Gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_judged_by_revision_then_by_content() {
        for (current, revision, same_content, expected) in [
            (None, 0, false, Judgement::Accept),
            (None, 42, true, Judgement::Accept),
            (Some(42), 41, false, Judgement::Stale),
            (Some(42), 41, true, Judgement::Stale),
            (Some(42), 42, true, Judgement::Same),
            (Some(42), 42, false, Judgement::Accept),
            (Some(42), 43, false, Judgement::Accept),
            (Some(u64::MAX), u64::MAX, true, Judgement::Same),
        ] {
            let mut cursor = FeedCursor::new();
            if let Some(current) = current {
                cursor.advance(current);
            }
            let judged = cursor.judge(revision, same_content);
            assert_eq!(judged, expected, "{current:?} {revision} {same_content}");
        }
    }

    #[test]
    fn changes_are_judged_by_where_they_start_and_lead() {
        for (current, from, to, expected) in [
            (None, 0, 1, ChangeJudgement::Gap),
            (Some(5), 5, 6, ChangeJudgement::Accept),
            (Some(5), 3, 6, ChangeJudgement::Gap),
            (Some(5), 3, 5, ChangeJudgement::Old),
            (Some(5), 1, 2, ChangeJudgement::Old),
            (Some(5), 6, 7, ChangeJudgement::Gap),
            (Some(5), 6, u64::MAX, ChangeJudgement::Gap),
            (Some(u64::MAX), 6, u64::MAX, ChangeJudgement::Old),
        ] {
            let mut cursor = FeedCursor::new();
            if let Some(current) = current {
                cursor.advance(current);
            }
            let judged = cursor.judge_change(from, to);
            assert_eq!(judged, expected, "{current:?} {from} {to}");
        }
    }

    #[test]
    fn a_revision_never_goes_backwards() {
        let mut cursor = FeedCursor::new();
        for revision in [3, 7, 5] {
            cursor.advance(revision);
        }
        assert_eq!(cursor.revision(), Some(7));
        cursor.begin_again(2);
        assert_eq!(cursor.revision(), Some(2), "unless it is meant to");
    }
}
