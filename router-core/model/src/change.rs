//! A change, from bytes to values that cannot be wrong: which apps are new or different at one revision of a feed, and
//! which are gone, compared with an earlier one.
//!
//! ```json
//! {"from": 7, "to": 9, "changes": [{"app": {"name": "shop", …}}, {"remove": "old"}]}
//! ```
//!
//! An app stands there whole, as in a route document, and is judged alone; of several entries with one name the last one
//! counts. `"allow_shrink": true` and `"certificates": […]` (all of them, as they are from now on) may be there as well.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use foldhash::HashMapExt;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::app::App;
use crate::snapshot::rejections::{MOST_UNNAMED, Named, Rejections};
use crate::snapshot::{self, CertificateEntry, Head, ParsedApp, Rejection, SnapshotError, reasons};

/// What lies between two revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision that it starts from.
    pub from: u64,
    /// The revision that it leads to, a greater one.
    pub to: u64,
    /// Whether it may take away many domains at once.
    pub allow_shrink: bool,
    /// The good apps that are new or different, in order, names unique.
    pub upsert: Vec<Arc<App>>,
    /// The names of apps that are gone; none of them is in `upsert`.
    pub remove: Vec<Arc<str>>,
    /// The bad entries.
    pub rejected: Vec<Rejection>,
    /// Every certificate, if there is a word about them.
    pub certificates: Option<Vec<CertificateEntry>>,
    /// The entries of `certificates` that say nothing usable.
    pub rejected_certificates: Vec<Rejection>,
}

impl Change {
    /// Makes every file name in the change start from a folder, unless it is absolute.
    pub fn start_from(&mut self, folder: &Path) {
        let entries = self.certificates.as_deref_mut().unwrap_or_default();
        snapshot::start_from(folder, entries, &mut self.upsert);
    }
}

/// Reads a change. What is wrong with one entry rejects that entry alone.
pub fn parse(change: &[u8]) -> Result<Change, SnapshotError> {
    let text = std::str::from_utf8(change)?;
    if change.trim_ascii_start().first() != Some(&b'{') {
        let IgnoredAny = serde_json::from_slice(change)?;
        return Err(SnapshotError::NotAnObject);
    }
    let (mut head, changes) = match serde_json::from_str::<Usual<'_>>(text) {
        Ok(usual) => usual.into_parts(),
        Err(_) => field_by_field(text)?,
    };
    head.check_format_if_there()?;
    let (from, to) = (head.revision("from")?, head.revision("to")?);
    if from >= to {
        return Err(head.wrong("to", "must be greater than \"from\""));
    }
    let allow_shrink = head.flag("allow_shrink")?;
    let entries = match changes {
        Listed::Entries(entries) => entries,
        Listed::Text(Some(changes)) if changes.get().starts_with('[') => {
            serde_json::from_str(changes.get())?
        }
        Listed::Text(found) => {
            let found: Option<Value> = found
                .map(|found| serde_json::from_str(found.get()))
                .transpose()?;
            return Err(SnapshotError::Field {
                field: "changes",
                found: reasons::describe(found.as_ref()),
                expected: "must be an array of {\"app\": {…}} and {\"remove\": \"NAME\"}",
            });
        }
    };
    let (certificates, rejected_certificates) = match head.certificates()? {
        Some((certificates, rejected)) => (Some(certificates), rejected),
        None => (None, Vec::new()),
    };

    let mut change = Change {
        from,
        to,
        allow_shrink,
        upsert: Vec::new(),
        remove: Vec::new(),
        rejected: Vec::new(),
        certificates,
        rejected_certificates,
    };
    let mut rejected = Rejections::of("changes");
    for entry in last_of_each_name(&entries) {
        match entry {
            Entry::Upsert(app) => change.upsert.push(app),
            Entry::Remove(name) => change.remove.push(name),
            Entry::Rejected(named, label, reasons) => rejected.add(named, label, &reasons),
        }
    }
    change.rejected = rejected.into_list()?;
    Ok(change)
}

/// A change in which everything is of the kind that it should be, read in one go: thousands may come in a second.
#[derive(Deserialize)]
struct Usual<'a> {
    format: Option<Value>,
    from: Value,
    to: Value,
    allow_shrink: Option<Value>,
    certificates: Option<Value>,
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
}

impl<'a> Usual<'a> {
    fn into_parts(self) -> (Head, Listed<'a>) {
        let head = Head::of([
            ("format", self.format),
            ("from", Some(self.from)),
            ("to", Some(self.to)),
            ("allow_shrink", self.allow_shrink),
            ("certificates", self.certificates),
        ]);
        (head, Listed::Entries(self.changes))
    }
}

/// What stands at `changes`.
enum Listed<'a> {
    Entries(Vec<&'a RawValue>),
    /// Not looked at yet, if there is anything.
    Text(Option<&'a RawValue>),
}

/// The same of any other change.
fn field_by_field(text: &str) -> Result<(Head, Listed<'_>), SnapshotError> {
    let mut texts: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text)?;
    let changes = texts.remove("changes");
    let mut head = Head::default();
    for (key, text) in texts {
        head.add(&key, text)?;
    }
    Ok((head, Listed::Text(changes)))
}

/// One entry of `changes`.
enum Entry {
    Upsert(Arc<App>),
    Remove(Arc<str>),
    /// With what to call it, and why.
    Rejected(Named, String, Vec<String>),
}

fn last_of_each_name(texts: &[&RawValue]) -> impl Iterator<Item = Entry> {
    let mut entries: Vec<Option<Entry>> = Vec::new();
    let mut places = foldhash::HashMap::new();
    let mut unnamed = 0;
    for (index, text) in texts.iter().enumerate() {
        let (name, entry) = entry(text, index);
        unnamed += usize::from(matches!(entry, Entry::Rejected(Named::No, ..)));
        if let Some(before) = name.and_then(|name| places.insert(name, index))
            && let Some(before) = entries.get_mut(before)
        {
            *before = None;
        }
        entries.push(Some(entry));
        if unnamed > MOST_UNNAMED {
            // The rest makes no difference.
            break;
        }
    }
    entries.into_iter().flatten()
}

/// An entry and the name of the app that it is about, if that can be told.
fn entry(text: &RawValue, index: usize) -> (Option<Arc<str>>, Entry) {
    let place = || format!("changes[{index}]");
    // An array would be read as the fields in order.
    let is_object = text.get().starts_with('{');
    if is_object
        && let Ok(UsualFields {
            app: Some(app),
            remove: None,
        }) = serde_json::from_str(text.get())
    {
        return upsert(snapshot::app(&app, place));
    }
    let fields = is_object.then(|| serde_json::from_str(text.get()));
    match fields {
        Some(Ok(Fields {
            app: Some(app),
            remove: None,
        })) => upsert(snapshot::app_text(app, place)),
        Some(Ok(Fields {
            app: None,
            remove: Some(name),
        })) => {
            let name: Arc<str> = name.into();
            (Some(Arc::clone(&name)), Entry::Remove(name))
        }
        _ => {
            let found = serde_json::from_str(text.get());
            let found = found.map_or_else(
                |error: serde_json::Error| error.to_string(),
                |found: Value| reasons::describe(Some(&found)),
            );
            let reason = format!(
                "{}: {found}, must be either {{\"app\": {{…}}}} or {{\"remove\": \"NAME\"}}",
                place()
            );
            (None, Entry::Rejected(Named::No, place(), vec![reason]))
        }
    }
}

fn upsert(ParsedApp { label, name, app }: ParsedApp) -> (Option<Arc<str>>, Entry) {
    let entry = match app {
        Ok(app) => Entry::Upsert(Arc::new(app)),
        Err(reasons) => {
            let named = name.as_ref().map_or(Named::No, |_| Named::Once);
            Entry::Rejected(named, label, reasons)
        }
    };
    (name, entry)
}

/// The fields of an entry whose app can be held, read in one go.
#[derive(Deserialize)]
struct UsualFields {
    app: Option<Value>,
    remove: Option<IgnoredAny>,
}

/// The fields of an entry.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    app: Option<&'a RawValue>,
    #[serde(borrow)]
    remove: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests;
