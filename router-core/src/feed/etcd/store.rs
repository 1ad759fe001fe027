//! From keys and values to documents and changes. An app's value is put into them as it is, once it is sure that it cannot
//! spoil what stands around it; what it means is for whoever reads the document.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::gateway::{Event, EventKind, KeyValue, RangeAnswer, WatchAnswer};
use super::keys::{Layout, Place};

/// What stands beside apps and certificates, at most.
const ROOM_FOR_END: usize = 128;

/// What stands at `PREFIX/meta`, a JSON object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Meta {
    /// Added to the store's revisions. A store that was wiped, or restored from an old backup, counts from a smaller one
    /// again; nobody believes it until this makes up for it.
    #[serde(default)]
    pub(super) revision_base: u64,
    /// Lets the next update take away as many domains as it likes; those after it only if this is put again.
    #[serde(default)]
    allow_shrink: bool,
}

impl Meta {
    /// A value that cannot be read means nothing.
    pub(super) fn read(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_else(|error| {
            tracing::warn!(%error, "the etcd feed's meta cannot be read, and is ignored");
            Self::default()
        })
    }
}

/// What is known of the store beside its apps. The certificates are here because a change tells all of them; they are
/// private keys, too, so that this is never shown.
#[derive(Default)]
pub(super) struct Known {
    meta: Meta,
    /// When that was put.
    meta_revision: u64,
    certificates: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
}

impl Known {
    /// The revision that the router is told for one of the store's.
    pub(super) fn told(&self, revision: u64) -> u64 {
        revision.saturating_add(self.meta.revision_base)
    }

    pub(super) fn base(&self) -> u64 {
        self.meta.revision_base
    }

    /// Whether an update for a router with this revision in force may take away many domains: only if that was said
    /// later.
    fn allows_shrink(&self, in_force: Option<u64>) -> bool {
        let said = self.told(self.meta_revision);
        self.meta.allow_shrink && in_force.is_none_or(|in_force| said > in_force)
    }

    fn put_meta(&mut self, value: &[u8], revision: u64) {
        self.meta = Meta::read(value);
        self.meta_revision = revision;
    }

    fn write_certificates(&self, json: &mut Vec<u8>) {
        // With room for the document's end too, so that no copy of a private key is left behind by growing.
        let length: usize = self
            .certificates
            .values()
            .map(|value| value.len() + 5)
            .sum();
        json.reserve_exact(length + ROOM_FOR_END);
        json.extend_from_slice(b",\"certificates\":[");
        for (index, (key, value)) in self.certificates.iter().enumerate() {
            separate(json, index);
            match serde_json::from_slice::<&RawValue>(value) {
                Ok(value) => json.extend_from_slice(value.get().as_bytes()),
                Err(_) => {
                    // The value may hold a private key, and so may the error.
                    let key = String::from_utf8_lossy(key);
                    tracing::warn!(%key, certificate = index, "a certificate in etcd is not JSON");
                    json.extend_from_slice(b"null");
                }
            }
        }
        json.push(b']');
    }
}

/// A document in the making, page by page, all of one revision.
pub(super) struct Listing {
    /// None before the first page.
    pub(super) revision: Option<u64>,
    /// Where the next page begins.
    pub(super) next: Vec<u8>,
    json: Vec<u8>,
    apps: usize,
    known: Known,
}

impl Listing {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            revision: None,
            next: layout.first(),
            json: b"{\"format\":1,\"apps\":[".to_vec(),
            apps: 0,
            known: Known::default(),
        }
    }

    /// Takes a page; whether there are more.
    pub(super) fn add(&mut self, layout: &Layout, page: &RangeAnswer<'_>) -> Result<bool, Unread> {
        // Asked for at one revision, the later pages still tell the newest.
        self.revision = self.revision.or(Some(page.header.revision));
        for kv in &page.kvs {
            let (key, value) = read(kv)?;
            match layout.place(&key) {
                Place::App(name) => {
                    separate(&mut self.json, self.apps);
                    self.apps += 1;
                    write_app(&mut self.json, &name, &value);
                }
                Place::Certificate => {
                    self.known.certificates.insert(key.clone(), value);
                }
                Place::Meta => self.known.put_meta(&value, kv.mod_revision),
                Place::Other => {}
            }
            self.next = key;
            // The first key after this one.
            self.next.push(0);
        }
        Ok(page.more && !page.kvs.is_empty())
    }

    /// The document, for a router with this revision in force.
    pub(super) fn finish(mut self, in_force: Option<u64>) -> (Bytes, Known) {
        self.json.push(b']');
        self.known.write_certificates(&mut self.json);
        let listed = self.known.told(self.revision.unwrap_or_default());
        let allow_shrink = self.known.allows_shrink(in_force);
        let end = format!(",\"revision\":{listed},\"allow_shrink\":{allow_shrink}}}");
        self.json.extend_from_slice(end.as_bytes());
        (Bytes::from(self.json), self.known)
    }
}

/// What a watch has told since the last change. Of an app that changed several times, only the last word is kept: whoever
/// is late hears less, not later.
#[derive(Default)]
pub(super) struct Pending {
    /// Of the last event.
    pub(super) revision: u64,
    /// By app; none is one that is gone.
    apps: BTreeMap<String, Option<Zeroizing<Vec<u8>>>>,
    certificates: bool,
    /// Bytes of all values.
    pub(super) size: usize,
    /// There was something that means anything.
    any: bool,
    /// There was a word about what concerns all apps.
    pub(super) meta: bool,
}

impl Pending {
    /// Takes what one line of a watch tells.
    pub(super) fn add(
        &mut self,
        layout: &Layout,
        known: &mut Known,
        answer: &WatchAnswer<'_>,
    ) -> Result<(), Unread> {
        for Event { kind, kv } in &answer.events {
            let (key, value) = read(kv)?;
            let put = *kind == EventKind::Put;
            self.revision = self.revision.max(kv.mod_revision);
            let place = layout.place(&key);
            self.any |= place != Place::Other;
            self.meta |= place == Place::Meta;
            match place {
                Place::App(name) => {
                    self.size += name.len() + value.len();
                    self.apps.insert(name.into_owned(), put.then_some(value));
                }
                Place::Certificate => {
                    self.certificates = true;
                    if put {
                        known.certificates.insert(key, value);
                    } else {
                        known.certificates.remove(&key);
                    }
                }
                Place::Meta if put => known.put_meta(&value, kv.mod_revision),
                Place::Meta => known.put_meta(b"{}", kv.mod_revision),
                Place::Other => {}
            }
        }
        Ok(())
    }

    /// Whether there is anything to tell.
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// The change since a revision of the store.
    pub(super) fn change(self, known: &Known, from: u64) -> Bytes {
        let (told, to) = (known.told(from), known.told(self.revision));
        let allow_shrink = known.allows_shrink(Some(told));
        let begin =
            format!("{{\"from\":{told},\"to\":{to},\"allow_shrink\":{allow_shrink},\"changes\":[");
        let mut json = begin.into_bytes();
        for (index, (name, value)) in self.apps.iter().enumerate() {
            separate(&mut json, index);
            match value {
                Some(value) => {
                    json.extend_from_slice(b"{\"app\":");
                    write_app(&mut json, name, value);
                    json.push(b'}');
                }
                None => json.extend_from_slice(json!({"remove": name}).to_string().as_bytes()),
            }
        }
        json.push(b']');
        if self.certificates {
            known.write_certificates(&mut json);
        }
        json.push(b'}');
        Bytes::from(json)
    }
}

/// Something that etcd does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key or a value that is no Base64")]
pub(super) struct Unread;

fn read(kv: &KeyValue<'_>) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Unread> {
    let key = kv.key().map_err(|_| Unread)?;
    let value = kv.value().map_err(|_| Unread)?;
    Ok((key, Zeroizing::new(value)))
}

fn separate(json: &mut Vec<u8>, index: usize) {
    if index > 0 {
        json.push(b',');
    }
}

/// Writes an app's value, or why it is none of this name: then it is rejected alone, and its previous version stays.
fn write_app(json: &mut Vec<u8>, name: &str, value: &[u8]) {
    match app_text(name, value) {
        Ok(text) => json.extend_from_slice(text.get().as_bytes()),
        Err(why) => {
            let entry = json!({"name": name, "unreadable": why});
            json.extend_from_slice(entry.to_string().as_bytes());
        }
    }
}

fn app_text<'v>(name: &str, value: &'v [u8]) -> Result<&'v RawValue, String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
    }

    let text: &RawValue =
        serde_json::from_slice(value).map_err(|error| format!("its value is not JSON: {error}"))?;
    // An array would be read as the fields in order.
    if !text.get().starts_with('{') {
        return Err("its value is not a JSON object".to_owned());
    }
    match serde_json::from_str(text.get()) {
        Ok(Named { name: said }) if said == name => Ok(text),
        Ok(Named { name: said }) => Err(format!("name: {said:?}, must be as in its key: {name:?}")),
        Err(error) => Err(format!("its name cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests;
