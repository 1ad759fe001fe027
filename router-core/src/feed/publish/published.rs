//! What is published: the routes in force, text by text, and the way to them from what others may still have. It is put
//! together anew as a whole only when somebody needs a whole, and then once for all who do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use router_model::app::App;
use router_model::hostname::Domain;
use router_model::snapshot::Rejection;
use tokio::sync::OnceCell;

use super::gzip::Packed;
use super::history::{Change, History, Op};
use super::raw::{Parts, Raw, change_of, name_of, unreadable, without};
use crate::tasks;

/// The routes in force, as others get them.
#[derive(Debug)]
pub(super) struct Published {
    /// `None` until there are any.
    pub(super) revision: Option<u64>,
    /// Many routes were meant to go: said by the last document, or by a change since. Whoever missed that is told.
    allow_shrink: bool,
    /// As they are in force: of several that claim a domain, one has it.
    apps: BTreeMap<Arc<str>, Raw>,
    /// Apps that claim a domain which is another one's, as they came. They may get it later.
    contesting: BTreeMap<Arc<str>, (Arc<App>, Raw)>,
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
    /// Whether a domain that the app of this name claims is another one's.
    pub(super) lost: &'a dyn Fn(&str, &Domain) -> bool,
}

impl Published {
    /// Nothing yet. Of changes so much is remembered, in bytes.
    pub(super) fn new(history: usize) -> Self {
        Self {
            revision: None,
            allow_shrink: false,
            apps: BTreeMap::new(),
            contesting: BTreeMap::new(),
            certificates: None,
            unknown: Vec::new(),
            digest: 0,
            tag: None,
            history: History::new(history),
            whole: None,
        }
    }

    /// A document is in force, but for some apps: those are as they were before.
    pub(super) fn document(
        &mut self,
        text: &[u8],
        good: &Good<'_>,
        rejected: &[Rejection],
    ) -> Result<(), serde_json::Error> {
        let parts = Parts::of(text)?;
        let mut texts = HashMap::new();
        for app in parts.array("apps") {
            if let Some(name) = name_of(app) {
                // Of several apps with one name the first one counts.
                texts.entry(name).or_insert(app);
            }
        }
        let mut named: HashSet<&str> = HashSet::new();
        let mut put = Vec::with_capacity(good.apps.len());
        for app in good.apps {
            named.insert(&app.name);
            let text = texts.get(&app.name).ok_or_else(|| no_text(&app.name))?;
            put.push((Arc::clone(app), Raw::new(text.get())));
        }
        let mut ops: Vec<Op> = Vec::new();
        for bad in rejected {
            if !named.insert(&bad.app) || self.apps.contains_key(&*bad.app) {
                continue;
            }
            // Whoever has had it is to keep it, which this router has not.
            if let Some((name, _)) = texts.get_key_value(&*bad.app) {
                ops.push((Arc::clone(name), Some(unreadable(name, &bad.reason))));
            }
        }
        let gone = self.apps.keys().filter(|name| !named.contains(&***name));
        ops.extend(gone.map(|name| (Arc::clone(name), None)));
        let certificates = parts.member("certificates");
        let unknown = parts.unknown(KNOWN);
        let unheard_of = unknown != self.unknown;
        self.unknown = unknown;
        self.allow_shrink = good.shrinks;
        self.put(put, ops, Some(certificates), unheard_of, good)
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
        let mut put = Vec::with_capacity(good.apps.len());
        for app in good.apps {
            let text = texts.get(&app.name).copied().flatten();
            let text = text.ok_or_else(|| no_text(&app.name))?;
            put.push((Arc::clone(app), Raw::new(text.get())));
        }
        let gone = removed.iter().map(|name| (Arc::clone(name), None));
        self.allow_shrink |= good.shrinks;
        let certificates = parts.member("certificates");
        let first = self.revision.is_none();
        self.put(put, gone.collect(), certificates.map(Some), false, good)?;
        if first {
            // Apps that a document in the cache has wrong, as they were before: nothing to show until it comes.
            self.revision = None;
        }
        Ok(())
    }

    /// Nothing is published any more until there is a whole document.
    pub(super) fn give_up(&mut self) {
        self.history.forget(0, false);
        self.revision = None;
        self.whole = None;
    }

    /// Notes what has become of apps and certificates, and remembers the change that it is; or, where no change can say
    /// it, that there is none.
    fn put(
        &mut self,
        put: Vec<(Arc<App>, Raw)>,
        others: Vec<Op>,
        certificates: Option<Option<Raw>>,
        unheard_of: bool,
        good: &Good<'_>,
    ) -> Result<(), serde_json::Error> {
        for (name, _) in &others {
            self.contesting.remove(name);
        }
        let mut ops: Vec<Op> = Vec::with_capacity(put.len() + others.len());
        for (app, text) in put {
            let contests = app
                .domains
                .iter()
                .any(|domain| (good.lost)(&app.name, domain));
            let name = Arc::clone(&app.name);
            if contests {
                self.contesting.insert(name, (app, text));
            } else {
                self.contesting.remove(&name);
                ops.push((name, Some(text)));
            }
        }
        ops.extend(others);
        // Those too that nobody has touched: what they claim may have become free, or another one's.
        for (name, (_, text)) in &self.contesting {
            let lost = |domain: &Domain| (good.lost)(name, domain);
            ops.push((Arc::clone(name), Some(without(text, &lost)?)));
        }
        let lost = good.lost;
        self.contesting
            .retain(|name, (app, _)| app.domains.iter().any(|domain| lost(name, domain)));
        ops.retain(|(name, text)| self.apps.get(name) != text.as_ref());
        for (name, text) in &ops {
            self.replace(name, text.clone());
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
            before => self.history.forget(revision, before == Some(revision)),
        }
        self.tag = self.make_tag();
        Ok(())
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
            None => self.apps.remove(name),
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
        pieces.extend(self.apps.values().map(Raw::next));
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

fn no_text(app: &str) -> serde_json::Error {
    serde::de::Error::custom(format_args!("where is the text of app {app}?"))
}

/// Members of a document that have a meaning here.
const KNOWN: &[&str] = &["format", "revision", "allow_shrink", "certificates", "apps"];
/// Changes of so many bytes are no reason to make a new document.
const FEW: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use router_model::{change, snapshot};
    use serde_json::{Value, json};

    use super::*;

    fn app(name: &str, domains: &[&str]) -> Value {
        json!({"name": name, "domains": domains, "dynos": [], "new": "unknown"})
    }

    /// Publishes a document. Of the domains that several claim, `holder` says whose they are.
    fn document(
        published: &mut Published,
        revision: u64,
        apps: &[Value],
        holder: &dyn Fn(&str) -> &'static str,
    ) {
        let text = json!({"format": 1, "revision": revision, "apps": apps}).to_string();
        let parsed = snapshot::parse(text.as_bytes()).unwrap();
        let good = Good {
            revision,
            shrinks: false,
            apps: &parsed.apps,
            lost: &|app, domain| {
                holder(domain.as_str()) != app && !holder(domain.as_str()).is_empty()
            },
        };
        let put = published.document(text.as_bytes(), &good, &parsed.rejected);
        put.unwrap();
    }

    fn change(
        published: &mut Published,
        to: u64,
        changes: &Value,
        holder: &dyn Fn(&str) -> &'static str,
    ) {
        let text = json!({"from": to - 1, "to": to, "changes": changes}).to_string();
        let parsed = change::parse(text.as_bytes()).unwrap();
        let good = Good {
            revision: to,
            shrinks: false,
            apps: &parsed.upsert,
            lost: &|app, domain| {
                holder(domain.as_str()) != app && !holder(domain.as_str()).is_empty()
            },
        };
        let put = published.change(text.as_bytes(), &good, &parsed.remove);
        put.unwrap();
    }

    /// Each app that is published, with its domains; or that it is unreadable.
    fn apps(published: &mut Published) -> Vec<String> {
        let whole = published.build().unwrap();
        let document: Value = serde_json::from_slice(&whole.pieces.concat()).unwrap();
        let apps = document["apps"].as_array().unwrap().iter();
        let shown = apps.map(|app| match app["domains"].as_array() {
            Some(domains) => {
                assert_eq!(app["new"], "unknown");
                let domains = domains.iter().map(|domain| domain.as_str().unwrap());
                format!(
                    "{} {}",
                    app["name"].as_str().unwrap(),
                    domains.collect::<Vec<_>>().join(" ")
                )
            }
            None => format!("{} ?", app["name"].as_str().unwrap()),
        });
        shown.collect()
    }

    fn nobody(_: &str) -> &'static str {
        ""
    }

    #[test]
    fn a_domain_that_several_claim_is_published_as_its_holders() {
        let mut published = Published::new(1 << 20);
        let held = |domain: &str| match domain {
            "one.test" => "alpha",
            _ => "zeta",
        };
        let both = ["one.test", "two.test"];
        document(
            &mut published,
            1,
            &[app("zeta", &both), app("alpha", &both)],
            &held,
        );
        assert_eq!(apps(&mut published), ["alpha one.test", "zeta two.test"]);
        let tag = published.tag().cloned();
        // The one lets go of what it had: the other has claimed it all the time.
        change(
            &mut published,
            2,
            &json!([{"app": app("alpha", &["two.test"])}]),
            &|_| "zeta",
        );
        assert_eq!(apps(&mut published), ["alpha ", "zeta one.test two.test"]);
        let line = published
            .history
            .merged_from(published.history.after(1).unwrap());
        let line = String::from_utf8(line.unwrap().line().to_vec()).unwrap();
        assert!(line.contains("alpha") && line.contains("zeta"), "{line}");
        // Who holds them is a part of what the tag stands for.
        let mut other = Published::new(1 << 20);
        document(
            &mut other,
            1,
            &[app("alpha", &both), app("zeta", &both)],
            &|_| "zeta",
        );
        assert_ne!(other.tag().cloned(), tag);
        change(
            &mut published,
            3,
            &json!([{"remove": "zeta"}]),
            &|_| "alpha",
        );
        assert_eq!(apps(&mut published), ["alpha two.test"]);
    }

    #[test]
    fn of_a_bad_app_nothing_is_said_that_would_take_it_away() {
        let mut published = Published::new(1 << 20);
        let bad = |name: &str| json!({"name": name, "domains": ["no domain"], "dynos": []});
        document(
            &mut published,
            1,
            &[app("a", &["a.test"]), bad("b"), json!(7)],
            &nobody,
        );
        assert_eq!(apps(&mut published), ["a a.test", "b ?"]);
        let parsed = snapshot::parse(&published.build().unwrap().pieces.concat()).unwrap();
        assert_eq!(
            parsed
                .rejected
                .iter()
                .map(|bad| &*bad.app)
                .collect::<Vec<_>>(),
            ["b"]
        );
        // What was good once stays as it was.
        document(
            &mut published,
            2,
            &[bad("a"), app("b", &["b.test"])],
            &nobody,
        );
        assert_eq!(apps(&mut published), ["a a.test", "b b.test"]);
        document(&mut published, 3, &[app("b", &["b.test"])], &nobody);
        assert_eq!(apps(&mut published), ["b b.test"]);
    }

    #[test]
    fn what_is_null_in_a_change_is_not_there() {
        let mut published = Published::new(1 << 20);
        document(&mut published, 1, &[app("a", &["a.test"])], &nobody);
        let changes =
            json!([{"app": app("b", &["b.test"]), "remove": null}, {"app": null, "remove": "a"}]);
        change(&mut published, 2, &changes, &nobody);
        assert_eq!(apps(&mut published), ["b b.test"]);
    }

    #[test]
    fn the_same_revision_with_other_routes_is_another_document() {
        let mut published = Published::new(1 << 20);
        document(&mut published, 5, &[app("a", &["a.test"])], &nobody);
        assert_eq!(published.history.after(5), Some(published.history.end()));
        document(&mut published, 5, &[app("a", &["b.test"])], &nobody);
        assert_eq!(published.history.after(5), None);
        change(&mut published, 6, &json!([{"remove": "a"}]), &nobody);
        assert_eq!(published.history.after(5), None, "which of both?");
        assert_eq!(published.history.after(6), Some(published.history.end()));
    }

    #[test]
    fn what_cannot_be_read_again_stops_everything_until_a_document_comes() {
        let mut published = Published::new(1 << 20);
        document(&mut published, 1, &[app("a", &["a.test"])], &nobody);
        let good = Good {
            revision: 2,
            shrinks: false,
            apps: &[],
            lost: &|_, _| false,
        };
        assert!(
            published
                .change(b"{\"changes\":[\xff]}", &good, &[])
                .is_err()
        );
        published.give_up();
        assert!(published.build().is_none() && published.revision.is_none());
        document(&mut published, 3, &[app("a", &["a.test"])], &nobody);
        assert_eq!(apps(&mut published), ["a a.test"]);
        assert_eq!(published.history.after(1), None);
    }
}
