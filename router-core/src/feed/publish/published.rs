//! What is published: the routes in force, text by text, and the way to them from what others may still have. It is put
//! together anew as a whole only when somebody needs a whole, and then once for all who do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use router_model::app::App;
use tokio::sync::OnceCell;

use super::gzip::Packed;
use super::history::{Change, History, Op};
use super::raw::{Parts, Raw, change_of, name_of};
use crate::tasks;

/// The routes in force, as others get them.
#[derive(Debug)]
pub(super) struct Published {
    /// `None` until there are any.
    pub(super) revision: Option<u64>,
    /// Many routes were meant to go: said by the last document, or by a change since. Whoever missed that is told.
    allow_shrink: bool,
    apps: BTreeMap<Arc<str>, Raw>,
    /// Apps that claim a domain which is another one's. They stand last in a document, where they do not get it either.
    contesting: HashSet<Arc<str>>,
    certificates: Option<Raw>,
    /// Members of the document that this router does not know.
    unknown: Vec<(String, Raw)>,
    /// The sum of the digests of all apps.
    digest: u64,
    /// Stands for the routes as they are now.
    tag: Option<HeaderValue>,
    pub(super) history: History,
    whole: Option<Arc<Whole>>,
}

/// A whole document.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) revision: u64,
    /// Equal tags stand for equal routes.
    pub(super) tag: HeaderValue,
    /// The number of the first change after it.
    pub(super) next: u64,
    pub(super) pieces: Vec<Bytes>,
    pub(super) length: usize,
    packed: OnceCell<Packed>,
}

impl Whole {
    /// The same, compressed when first asked for.
    pub(super) async fn packed(self: &Arc<Self>) -> Option<&Packed> {
        let whole = Arc::clone(self);
        let pack = || async move {
            let packed = tasks::blocking(move || Packed::new(&whole.pieces)).await;
            packed.ok_or(())
        };
        self.packed.get_or_try_init(pack).await.ok()
    }

    /// The same, if it was asked for before.
    pub(super) fn packed_already(&self) -> Option<&Packed> {
        self.packed.get()
    }
}

/// What of an update is in force, said by those who judged it.
pub(super) struct Good<'a> {
    /// The revision that it leads to.
    pub(super) revision: u64,
    /// It may take away many domains.
    pub(super) shrinks: bool,
    /// The apps that are good.
    pub(super) apps: &'a [Arc<App>],
    /// Whether an app does not get all that it claims.
    pub(super) contests: &'a dyn Fn(&App) -> bool,
}

impl Published {
    /// Nothing yet. Of changes so much is remembered, in bytes.
    pub(super) fn new(history: usize) -> Self {
        Self {
            revision: None,
            allow_shrink: false,
            apps: BTreeMap::new(),
            contesting: HashSet::new(),
            certificates: None,
            unknown: Vec::new(),
            digest: 0,
            tag: None,
            history: History::new(history),
            whole: None,
        }
    }

    /// A document is in force. Apps whose names are in `kept` are as they were, because the document has them wrong.
    pub(super) fn document(
        &mut self,
        text: &[u8],
        good: &Good<'_>,
        kept: &HashSet<&str>,
    ) -> Result<(), serde_json::Error> {
        let parts = Parts::of(text)?;
        let mut texts = HashMap::new();
        for app in parts.array("apps") {
            if let Some(name) = name_of(app) {
                // Of several apps with one name the first one counts.
                texts.entry(name).or_insert(app);
            }
        }
        let mut ops: Vec<Op> = Vec::new();
        let mut named: HashSet<&str> = kept.clone();
        for app in good.apps {
            named.insert(&app.name);
            if let Some(text) = texts.get(&app.name) {
                ops.push((Arc::clone(&app.name), Some(Raw::new(text.get()))));
            }
        }
        let gone = self.apps.keys().filter(|name| !named.contains(&***name));
        ops.extend(gone.map(|name| (Arc::clone(name), None)));
        let certificates = parts.member("certificates");
        let unknown = parts.unknown(KNOWN);
        let unheard_of = unknown != self.unknown;
        self.unknown = unknown;
        self.allow_shrink = good.shrinks;
        self.put(ops, Some(certificates), unheard_of, good);
        Ok(())
    }

    /// A change is in force. One that comes before any document is kept for it.
    pub(super) fn change(
        &mut self,
        text: &[u8],
        good: &Good<'_>,
        removed: &[Arc<str>],
    ) -> Result<(), serde_json::Error> {
        let parts = Parts::of(text)?;
        let entries = parts.array("changes");
        let named = entries.iter().filter_map(|entry| change_of(entry));
        // Of several entries with one name the last one counts.
        let texts: HashMap<_, _> = named.collect();
        let mut ops: Vec<Op> = Vec::new();
        for app in good.apps {
            if let Some(Some(text)) = texts.get(&app.name) {
                ops.push((Arc::clone(&app.name), Some(Raw::new(text.get()))));
            }
        }
        ops.extend(removed.iter().map(|name| (Arc::clone(name), None)));
        self.allow_shrink |= good.shrinks;
        let certificates = parts.member("certificates");
        let first = self.revision.is_none();
        self.put(ops, certificates.map(Some), false, good);
        if first {
            // Apps that a document in the cache has wrong, as they were before: nothing to show until it comes.
            self.revision = None;
        }
        Ok(())
    }

    /// Notes what has become of apps and certificates, and remembers the change that it is; or, where no change can say
    /// it, that there is none.
    fn put(
        &mut self,
        mut ops: Vec<Op>,
        certificates: Option<Option<Raw>>,
        unheard_of: bool,
        good: &Good<'_>,
    ) {
        ops.retain(|(name, text)| self.apps.get(name) != text.as_ref());
        for (name, text) in &ops {
            self.replace(name, text.clone());
        }
        for app in good.apps {
            if (good.contests)(app) {
                self.contesting.insert(Arc::clone(&app.name));
            } else {
                self.contesting.remove(&app.name);
            }
        }
        let certificates = certificates.filter(|now| *now != self.certificates);
        if let Some(now) = &certificates {
            self.certificates.clone_from(now);
        }
        let revision = good.revision;
        let nothing = ops.is_empty() && certificates.is_none();
        match self.revision.replace(revision) {
            Some(before) if before == revision && nothing && !unheard_of => {}
            Some(before) if before < revision && !unheard_of => {
                // None at all and an empty list are the same.
                let certificates = certificates.map(|now| now.unwrap_or_else(|| Raw::new("[]")));
                let change = Change::new(before, revision, good.shrinks, ops, certificates);
                self.history.push(change);
            }
            Some(_) | None => self.history.forget(revision),
        }
        self.tag = self.make_tag();
    }

    fn make_tag(&self) -> Option<HeaderValue> {
        let mut digest = self.digest;
        for (key, raw) in self.members() {
            digest = digest.wrapping_add(raw.digest(&format!("\0{key}")));
        }
        let tag = format!("\"{}-{digest:016x}\"", self.revision?);
        HeaderValue::from_str(&tag).ok()
    }

    /// What a document has beside its apps.
    fn members(&self) -> impl Iterator<Item = (&str, &Raw)> {
        let certificates = self.certificates.iter().map(|raw| ("certificates", raw));
        certificates.chain(self.unknown.iter().map(|(key, raw)| (&**key, raw)))
    }

    fn replace(&mut self, name: &Arc<str>, text: Option<Raw>) {
        if let Some(text) = &text {
            self.digest = self.digest.wrapping_add(text.digest(name));
        }
        let before = match text {
            Some(text) => self.apps.insert(Arc::clone(name), text),
            None => {
                self.contesting.remove(name);
                self.apps.remove(name)
            }
        };
        if let Some(before) = before {
            self.digest = self.digest.wrapping_sub(before.digest(name));
        }
    }

    /// What stands for the routes as they are now; equal ones for equal routes, on all that publish them.
    pub(super) fn tag(&self) -> Option<&HeaderValue> {
        self.tag.as_ref()
    }

    /// The latest whole document, if that is good enough: the present one, or one with only a few changes since for those
    /// who take changes too.
    pub(super) fn latest(&self, with_changes: bool) -> Option<Arc<Whole>> {
        let whole = self.whole.as_ref()?;
        let since = self.history.length_from(whole.next)?;
        let present = whole.next == self.history.end();
        let near = with_changes && since <= FEW + whole.length / 4;
        (present || near).then(|| Arc::clone(whole))
    }

    /// Puts the present document together; `None` if there is none. To be called where that holds nobody up.
    pub(super) fn build(&mut self) -> Option<Arc<Whole>> {
        let revision = self.revision?;
        let mut head = format!("{{\"format\":1,\"revision\":{revision}").into_bytes();
        if self.allow_shrink {
            head.extend(b",\"allow_shrink\":true");
        }
        for (key, raw) in self.members() {
            head.extend(format!(",{}:", serde_json::Value::from(key)).into_bytes());
            head.extend(raw.alone());
        }
        head.extend(b",\"apps\":[");
        let mut pieces = Vec::with_capacity(self.apps.len() + 2);
        pieces.push(Bytes::from(head));
        let first = pieces.len();
        let (last, sure): (Vec<_>, Vec<_>) = self
            .apps
            .iter()
            .partition(|(name, _)| self.contesting.contains(*name));
        pieces.extend(sure.into_iter().chain(last).map(|(_, raw)| raw.next()));
        if let Some(app) = pieces.get_mut(first) {
            // Without the comma.
            *app = app.slice(1.min(app.len())..);
        }
        pieces.push(Bytes::from_static(b"]}\n"));
        let whole = Arc::new(Whole {
            revision,
            tag: self.tag.clone()?,
            next: self.history.end(),
            length: pieces.iter().map(Bytes::len).sum(),
            pieces,
            packed: OnceCell::new(),
        });
        self.whole = Some(Arc::clone(&whole));
        Some(whole)
    }

    pub(super) fn app_count(&self) -> usize {
        self.apps.len()
    }
}

/// Members of a document that have a meaning here.
const KNOWN: &[&str] = &["format", "revision", "allow_shrink", "certificates", "apps"];
/// Changes of so many bytes are no reason to make a new document.
const FEW: usize = 64 * 1024;
