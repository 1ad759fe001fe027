//! A document from its bytes, app by app: each app is a tree of values only until it has been read, and what cannot be
//! made one is rejected alone. Keys that mean nothing
//! are skipped where they stand.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::rejections::{Named, Rejections};
use super::{Head, SnapshotError, raw, reasons};
use crate::app::App;

/// A document as far as it could be read.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) head: Head,
    pub(super) apps: Apps,
}

/// What stands at `apps`.
#[derive(Debug, Default)]
pub(super) enum Apps {
    #[default]
    Missing,
    /// No array, but this.
    Wrong(String),
    Read(AppList),
}

/// The apps of a document.
#[derive(Debug)]
pub(super) struct AppList {
    pub(super) good: Vec<Arc<App>>,
    pub(super) rejected: Rejections,
    names: HashSet<Arc<str>>,
    seen: usize,
}

impl AppList {
    fn new() -> Self {
        Self {
            good: Vec::new(),
            rejected: Rejections::of("apps"),
            names: HashSet::new(),
            seen: 0,
        }
    }

    fn push(&mut self, text: &RawValue) {
        if self.rejected.are_too_many() {
            return;
        }
        let index = self.seen;
        self.seen += 1;
        let parsed = raw::app_text(text, || format!("apps[{index}]"));
        // The name of a rejected app counts too: two apps of one name leave it open which one was meant.
        let repeated = parsed
            .name
            .as_ref()
            .is_some_and(|name| !self.names.insert(Arc::clone(name)));
        match parsed.app {
            Ok(app) if !repeated => self.good.push(Arc::new(app)),
            outcome => {
                let mut reasons = outcome.err().unwrap_or_default();
                if repeated {
                    let label = &parsed.label;
                    reasons.insert(
                        0,
                        format!("name: {label} was used by an earlier app of this document"),
                    );
                }
                let named = match parsed.name {
                    Some(_) if repeated => Named::Again,
                    Some(_) => Named::Once,
                    None => Named::No,
                };
                self.rejected.add(named, parsed.label, &reasons);
            }
        }
    }
}

/// Reads the document.
pub(super) fn read(document: &[u8]) -> Result<Document, SnapshotError> {
    let begins = document.iter().find(|byte| !byte.is_ascii_whitespace());
    if begins.is_some_and(|byte| *byte != b'{') {
        let IgnoredAny = serde_json::from_slice(document)?;
        return Err(SnapshotError::NotAnObject);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(document);
    let read = deserializer.deserialize_map(DocumentVisitor)?;
    deserializer.end()?;
    Ok(read)
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a route document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut document = Document::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "apps" => document.apps = map.next_value_seed(AppsSeed)?,
                "format" | "revision" | "allow_shrink" | "certificates" => {
                    document.head.0.insert(key, map.next_value()?);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(document)
    }
}

struct AppsSeed;

impl<'de> DeserializeSeed<'de> for AppsSeed {
    type Value = Apps;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Apps, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AppsSeed {
    type Value = Apps;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of apps")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Apps, A::Error> {
        let mut apps = AppList::new();
        while let Some(text) = sequence.next_element()? {
            apps.push(text);
        }
        Ok(Apps::Read(apps))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Apps, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(wrong(&Value::Object(serde_json::Map::new())))
    }

    fn visit_unit<E>(self) -> Result<Apps, E> {
        Ok(wrong(&Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Apps, E> {
        Ok(wrong(&value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Apps, E> {
        Ok(wrong(&value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Apps, E> {
        Ok(wrong(&value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Apps, E> {
        Ok(wrong(&value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Apps, E> {
        Ok(wrong(&value.into()))
    }
}

fn wrong(value: &Value) -> Apps {
    Apps::Wrong(reasons::describe(Some(value)))
}
