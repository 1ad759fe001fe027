//! What a source can say: one JSON object each, a whole document, a change or a heartbeat. Only as much is read of it as
//! tells which; the runner reads the rest, and says what is wrong with it.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::feed::Update;
use crate::tasks;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) update: Update,
    /// The revision that it leads to.
    pub(super) revision: Option<u64>,
}

impl Message {
    /// Reads what it is. Long ones are looked at where that holds nobody up.
    pub(super) async fn read(text: Bytes) -> Self {
        let known = match Shape::at_a_glance(&text) {
            Some(shape) => Some(shape),
            None if text.len() <= SHORT => Some(Shape::of(&text)),
            None => {
                let text = text.clone();
                tasks::blocking(move || Shape::of(&text)).await
            }
        };
        known.unwrap_or_default().message(text)
    }

    /// The same, and its revision for sure, if it has one.
    pub(super) async fn read_with_revision(text: Bytes) -> Self {
        let looked_at = text.clone();
        let shape = tasks::blocking(move || Shape::of(&looked_at)).await;
        shape.unwrap_or_default().message(text)
    }

    /// A change, if it can be told without a look at all of it; otherwise what was given.
    pub(super) fn change(text: Bytes) -> Result<Self, Bytes> {
        match Shape::at_a_glance(&text).filter(|shape| shape.changes.is_some()) {
            Some(shape) => Ok(shape.message(text)),
            None => Err(text),
        }
    }
}

/// What tells messages apart.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Shape {
    heartbeat: Option<u64>,
    revision: Option<u64>,
    to: Option<u64>,
    changes: Option<IgnoredAny>,
}

impl Shape {
    /// What is unreadable counts as a document, for those who read documents to say what is wrong with it.
    fn of(text: &[u8]) -> Self {
        let is_object = text.trim_ascii_start().starts_with(b"{");
        let shape = is_object.then(|| serde_json::from_slice(text).ok());
        shape.flatten().unwrap_or_default()
    }

    /// From the first key alone: long messages begin with what they are, as a rule.
    fn at_a_glance(text: &[u8]) -> Option<Self> {
        if text.starts_with(b"{\"from\":") {
            let changes = Some(IgnoredAny);
            return Some(Self {
                changes,
                ..Self::default()
            });
        }
        text.starts_with(b"{\"format\":").then(Self::default)
    }

    fn message(self, text: Bytes) -> Message {
        if self.changes.is_some() {
            return Message {
                update: Update::Change(text),
                revision: self.to,
            };
        }
        match self.heartbeat {
            Some(revision) => Message {
                update: Update::Alive {
                    revision: Some(revision),
                },
                revision: Some(revision),
            },
            None => Message {
                update: Update::Snapshot(text),
                revision: self.revision,
            },
        }
    }
}

/// What is looked at in no time.
const SHORT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_told_apart() {
        let long = format!("{{\"apps\":[{}1],\"revision\":9}}", "1,".repeat(SHORT));
        for (text, what, revision) in [
            (r#"{"heartbeat":7}"#, "alive", Some(7)),
            (r#" { "heartbeat" : 7, "new": 1 }"#, "alive", Some(7)),
            (r#"{"from":7,"to":8,"changes":[]}"#, "change", Some(8)),
            (r#"{"changes":[],"to":8,"from":7}"#, "change", Some(8)),
            (
                r#"{"format":1,"revision":7,"apps":[]}"#,
                "document",
                Some(7),
            ),
            (r#"{"apps":[],"revision":7}"#, "document", Some(7)),
            (&long, "document", Some(9)),
            (r#"{"heartbeat":-1}"#, "document", None),
            (r#"{"heartbeat":null}"#, "document", None),
            ("[7,7,7,7]", "document", None),
            ("no JSON", "document", None),
            ("", "document", None),
        ] {
            let text = Bytes::copy_from_slice(text.as_bytes());
            let read = Message::read_with_revision(text.clone()).await;
            let is = match &read.update {
                Update::Snapshot(document) if *document == text => "document",
                Update::Change(change) if *change == text => "change",
                Update::Alive { .. } => "alive",
                Update::Snapshot(_) | Update::Change(_) => "something else",
            };
            assert_eq!((is, read.revision), (what, revision), "{text:?}");
            assert_eq!(Message::read(text).await.update, read.update);
        }
    }
}
