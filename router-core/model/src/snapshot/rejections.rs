//! What was rejected, as far as anybody can use it. A document of a few bytes can, decompressed, hold millions of entries
//! that are nothing; they must not become as many texts.

use super::{Rejection, SnapshotError};

/// What was rejected so far.
#[derive(Debug)]
pub(crate) struct Rejections {
    /// The key whose entries they are.
    field: &'static str,
    list: Vec<Rejection>,
    /// Those that are not listed.
    more: usize,
    unnamed: usize,
}

/// What a rejected entry says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// The name of an app, whose previous version stays: it must not be forgotten.
    Once,
    /// A name that an earlier entry has.
    Again,
    No,
}

impl Rejections {
    pub(crate) fn of(field: &'static str) -> Self {
        Self {
            field,
            list: Vec::new(),
            more: 0,
            unnamed: 0,
        }
    }

    /// Whether there is no use in looking at more entries.
    pub(crate) fn are_too_many(&self) -> bool {
        self.unnamed > MOST_UNNAMED
    }

    pub(crate) fn add(&mut self, named: Named, label: String, reasons: &[String]) {
        self.unnamed += usize::from(named == Named::No);
        let room = self.list.len() < MOST_EXPLAINED;
        if !room && named != Named::Once {
            self.more += 1;
            return;
        }
        let reason = match room {
            true => reasons.join("; "),
            false => "rejected, like too many others to say why".to_owned(),
        };
        self.list.push(Rejection { app: label, reason });
    }

    /// All of them.
    pub(crate) fn into_list(mut self) -> Result<Vec<Rejection>, SnapshotError> {
        if self.are_too_many() {
            return Err(SnapshotError::Field {
                field: self.field,
                found: format!("more than {MOST_UNNAMED} entries that are none"),
                expected: "which is taken for no document at all",
            });
        }
        if self.more > 0 {
            // No app can be called that.
            let app = format!("{}[...]", self.field);
            let reason = format!("and {} more", self.more);
            self.list.push(Rejection { app, reason });
        }
        Ok(self.list)
    }
}

/// So many are listed with their reasons.
const MOST_EXPLAINED: usize = 1000;
/// Of so many entries without a name, somebody has made a mistake that is none in single entries.
pub(crate) const MOST_UNNAMED: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use crate::{change, snapshot};

    fn list(entry: impl Fn(usize) -> String, count: usize) -> String {
        let mut list = String::new();
        for index in 0..count {
            write!(
                list,
                "{}{}",
                if index == 0 { "" } else { "," },
                entry(index)
            )
            .unwrap();
        }
        list
    }

    fn document(entries: &str) -> Result<snapshot::Snapshot, snapshot::SnapshotError> {
        let text = format!(r#"{{"format":1,"revision":1,"apps":[{entries}]}}"#);
        snapshot::parse(text.as_bytes())
    }

    fn changes(entries: &str) -> Result<change::Change, snapshot::SnapshotError> {
        let text = format!(r#"{{"from":1,"to":2,"changes":[{entries}]}}"#);
        change::parse(text.as_bytes())
    }

    #[test]
    fn entries_that_are_nothing_are_counted_and_too_many_refuse_the_whole() {
        let nothing = |count| list(|_| "0".to_owned(), count);
        let few = document(&nothing(1000)).unwrap().rejected;
        assert_eq!((few.len(), &*few[999].app), (1000, "apps[999]"));
        let many = [
            document(&nothing(100_000)).unwrap().rejected,
            changes(&nothing(100_000)).unwrap().rejected,
        ];
        for (rejected, app) in many.iter().zip(["apps[...]", "changes[...]"]) {
            assert_eq!(rejected.len(), 1001);
            assert_eq!(rejected[1000].app, app);
            assert_eq!(rejected[1000].reason, "and 99000 more");
        }
        let certificates = |count| {
            let text = format!(
                r#"{{"format":1,"revision":1,"apps":[],"certificates":[{}]}}"#,
                nothing(count)
            );
            snapshot::parse(text.as_bytes())
        };
        let some = certificates(100_000).unwrap().rejected_certificates;
        assert_eq!(some.len(), 1001);
        for error in [
            document(&nothing(100_001)).unwrap_err(),
            changes(&nothing(100_001)).unwrap_err(),
            certificates(100_001).unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(
                error.contains("more than 100000 entries that are none"),
                "{error}"
            );
        }
    }

    #[test]
    fn no_name_of_a_rejected_app_is_forgotten() {
        let named = list(|index| format!(r#"{{"name":"a{index}"}}"#), 2000);
        let put = list(|index| format!(r#"{{"app":{{"name":"a{index}"}}}}"#), 2000);
        for rejected in [
            document(&named).unwrap().rejected,
            changes(&put).unwrap().rejected,
        ] {
            assert_eq!((rejected.len(), &*rejected[1999].app), (2000, "a1999"));
            assert!(rejected[999].reason.contains("domains: missing"));
            assert!(!rejected[1000].reason.contains("domains"));
        }
        let again = list(|_| r#"{"name":"a"}"#.to_owned(), 200_000);
        assert_eq!(document(&again).unwrap().rejected.len(), 1001);
    }
}
