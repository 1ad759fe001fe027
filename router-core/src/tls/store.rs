//! Every certificate that the router may choose by name, whatever brought it. Readers see one immutable index; a change
//! makes a new one and swaps it in, so a handshake finds either all of the old or all of the new.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use foldhash::{HashMap, HashMapExt};
use router_model::hostname;

use super::certificate::{self, Certificate, CertificateError, CertificateView, Digest};
use crate::clock;

/// Where a certificate in the store comes from. Each origin replaces its own and leaves the others alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The watched directory.
    Folder,
    /// The route document.
    Document,
    /// Ordered by the router itself.
    Acme,
}

impl Origin {
    /// Every origin, in the order of views.
    pub const ALL: [Self; 3] = [Self::Folder, Self::Document, Self::Acme];

    /// As in views.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Document => "document",
            Self::Acme => "acme",
        }
    }
}

/// The certificates of the router, found by the name that a client asks for.
#[derive(Default)]
pub struct CertificateStore {
    index: ArcSwap<Index>,
    /// Held by whoever makes the next index from the present one; never across an await.
    changing: Mutex<()>,
}

#[derive(Default)]
struct Index {
    of_folder: Vec<Arc<Certificate>>,
    of_document: Vec<Arc<Certificate>>,
    of_acme: Vec<Arc<Certificate>>,
    /// Under each name as [`Domain::key`](hostname::Domain::key) spells it, the one that is valid longest first.
    by_name: HashMap<Box<str>, Held>,
    by_digest: HashMap<Digest, Arc<Certificate>>,
}

/// Nearly every name has one certificate.
enum Held {
    One(Arc<Certificate>),
    Several(Vec<Arc<Certificate>>),
}

impl CertificateStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The certificate in this PEM: the very one that is held already if its text is the same (even if it has expired
    /// since), else read anew. This makes publishing ten thousand certificates again cheap.
    ///
    /// # Errors
    /// [`CertificateError`] as for [`Certificate::from_pem`], and when it names no host.
    pub fn read_pem(&self, chain: &[u8], key: &[u8]) -> Result<Arc<Certificate>, CertificateError> {
        let digest = certificate::digest(chain, key);
        if let Some(held) = self.index.load().by_digest.get(&digest) {
            return Ok(Arc::clone(held));
        }
        let certificate = Certificate::read(chain, key, digest, clock::wall())?;
        if certificate.names().len() == 0 {
            return Err(CertificateError::NoNames);
        }
        Ok(Arc::new(certificate))
    }

    /// Puts these in the place of all that came from `origin`, in one step.
    pub fn replace(&self, origin: Origin, certificates: Vec<Arc<Certificate>>) {
        self.change(origin, |_| certificates);
    }

    /// Adds one; it takes the place of the certificate from the same origin that has exactly the same names.
    pub fn insert(&self, origin: Origin, certificate: Arc<Certificate>) {
        self.change(origin, |held| {
            let others = held
                .iter()
                .filter(|held| held.shared_names() != certificate.shared_names());
            others.cloned().chain([Arc::clone(&certificate)]).collect()
        });
    }

    /// The certificate for a name (lower-case ASCII without a trailing dot): an exact one, else a wildcard for its
    /// first label; among several the one that is valid now, and for longest.
    pub fn resolve(&self, name: &str) -> Option<Arc<Certificate>> {
        if name.starts_with('.') {
            // No name, but the key of a wildcard.
            return None;
        }
        let index = self.index.load();
        let exact = index.by_name.get(name);
        let held = exact.or_else(|| index.by_name.get(hostname::wildcard_key(name)?));
        held?.best(clock::wall).cloned()
    }

    /// All certificates, as an operator may see them.
    pub fn views(&self) -> Vec<CertificateView> {
        let index = self.index.load();
        let views = Origin::ALL.into_iter().flat_map(|origin| {
            let of_origin = index.of(origin).iter();
            of_origin.map(move |held| held.view(origin.as_str()))
        });
        views.collect()
    }

    /// The certificates that came from `origin`.
    pub fn of(&self, origin: Origin) -> Vec<Arc<Certificate>> {
        self.index.load().of(origin).to_vec()
    }

    /// How many certificates there are.
    pub fn len(&self) -> usize {
        let index = self.index.load();
        Origin::ALL
            .map(|origin| index.of(origin).len())
            .iter()
            .sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn change(
        &self,
        origin: Origin,
        next: impl FnOnce(&[Arc<Certificate>]) -> Vec<Arc<Certificate>>,
    ) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.index.load();
        let next = next(now.of(origin));
        let of = |other| {
            if other == origin {
                next.clone()
            } else {
                now.of(other).to_vec()
            }
        };
        let index = Index::new(of(Origin::Folder), of(Origin::Document), of(Origin::Acme));
        self.index.store(Arc::new(index));
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore")
            .field("certificates", &self.len())
            .finish_non_exhaustive()
    }
}

impl Index {
    fn new(
        of_folder: Vec<Arc<Certificate>>,
        of_document: Vec<Arc<Certificate>>,
        of_acme: Vec<Arc<Certificate>>,
    ) -> Self {
        let count = of_folder.len() + of_document.len() + of_acme.len();
        let mut index = Self {
            by_name: HashMap::with_capacity(count),
            by_digest: HashMap::with_capacity(count),
            ..Self::default()
        };
        for certificate in of_folder.iter().chain(&of_document).chain(&of_acme) {
            let digest = *certificate.digest();
            index.by_digest.insert(digest, Arc::clone(certificate));
            for name in certificate.shared_names() {
                index.add(name, certificate);
            }
        }
        Self {
            of_folder,
            of_document,
            of_acme,
            ..index
        }
    }

    fn add(&mut self, name: &str, certificate: &Arc<Certificate>) {
        let key = name.strip_prefix('*').unwrap_or(name);
        match self.by_name.get_mut(key) {
            Some(held) => held.add(certificate),
            None => {
                let held = Held::One(Arc::clone(certificate));
                self.by_name.insert(key.into(), held);
            }
        }
    }

    fn of(&self, origin: Origin) -> &[Arc<Certificate>] {
        match origin {
            Origin::Folder => &self.of_folder,
            Origin::Document => &self.of_document,
            Origin::Acme => &self.of_acme,
        }
    }
}

impl Held {
    fn add(&mut self, certificate: &Arc<Certificate>) {
        let mut all = match self {
            Self::One(one) => vec![Arc::clone(one)],
            Self::Several(several) => std::mem::take(several),
        };
        all.push(Arc::clone(certificate));
        all.sort_by_key(|held| std::cmp::Reverse(held.not_after()));
        *self = Self::Several(all);
    }

    fn best(&self, now: impl FnOnce() -> SystemTime) -> Option<&Arc<Certificate>> {
        match self {
            Self::One(one) => Some(one),
            Self::Several(several) => {
                let now = now();
                let valid = several.iter().find(|held| held.is_valid_at(now));
                valid.or_else(|| several.first())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::{TestCa, TestCertificate};

    use super::*;

    fn read(store: &CertificateStore, certificate: &TestCertificate) -> Arc<Certificate> {
        let (chain, key) = (certificate.chain_pem(), certificate.key_pem());
        store.read_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }

    fn found(store: &CertificateStore, name: &str) -> Option<String> {
        store.resolve(name).map(|found| found.fingerprint())
    }

    #[test]
    fn exact_before_wildcard_and_no_deeper_than_one_label() {
        let (ca, store) = (TestCa::new("root"), CertificateStore::new());
        let exact = ca.certificate(&["a.test", "x.a.test"]);
        let wildcard = ca.certificate(&["*.a.test"]);
        store.replace(
            Origin::Document,
            vec![read(&store, &exact), read(&store, &wildcard)],
        );
        for (name, expected) in [
            ("a.test", Some(&exact)),
            ("x.a.test", Some(&exact)),
            ("y.a.test", Some(&wildcard)),
            ("z.y.a.test", None),
            ("b.test", None),
            ("test", None),
            (".a.test", None),
            ("*.a.test", Some(&wildcard)),
            ("", None),
        ] {
            let expected = expected.map(TestCertificate::fingerprint);
            assert_eq!(found(&store, name), expected, "{name}");
        }
    }

    #[test]
    fn of_several_the_one_that_is_valid_and_for_longest() {
        let (ca, store) = (TestCa::new("root"), CertificateStore::new());
        let short = ca.certificate_valid(&["a.test"], -10..10);
        let long = ca.certificate_valid(&["a.test", "b.test"], -10..20);
        let future = ca.certificate_valid(&["a.test"], 5..90);
        let all = [&short, &long, &future].map(|one| read(&store, one));
        store.replace(
            Origin::Folder,
            vec![Arc::clone(&all[2]), Arc::clone(&all[0])],
        );
        store.replace(Origin::Document, vec![Arc::clone(&all[1])]);
        assert_eq!(found(&store, "a.test"), Some(long.fingerprint()));
        store.replace(Origin::Document, Vec::new());
        assert_eq!(found(&store, "a.test"), Some(short.fingerprint()));
        assert_eq!(found(&store, "b.test"), None);
        store.replace(Origin::Folder, vec![Arc::clone(&all[2])]);
        assert_eq!(found(&store, "a.test"), Some(future.fingerprint()));
    }

    #[test]
    fn an_origin_changes_only_its_own() {
        let (ca, store) = (TestCa::new("root"), CertificateStore::new());
        let [folder, document, ordered, renewed] =
            [-3..10, -2..11, -1..12, -1..13].map(|days| ca.certificate_valid(&["a.test"], days));
        store.replace(Origin::Folder, vec![read(&store, &folder)]);
        store.replace(Origin::Document, vec![read(&store, &document)]);
        store.insert(Origin::Acme, read(&store, &ordered));
        assert_eq!(found(&store, "a.test"), Some(ordered.fingerprint()));
        store.insert(Origin::Acme, read(&store, &renewed));
        assert_eq!(store.of(Origin::Acme).len(), 1, "the renewed one is gone");
        store.insert(
            Origin::Acme,
            read(&store, &ca.certificate(&["a.test", "b.test"])),
        );
        assert_eq!((store.of(Origin::Acme).len(), store.len()), (2, 4));
        let views = store.views();
        let origins: Vec<_> = views.iter().map(|view| view.origin).collect();
        assert_eq!(origins, ["folder", "document", "acme", "acme"]);
        assert_eq!(views[0].fingerprint, folder.fingerprint());
        assert_eq!(
            (views[0].days_left, &*views[0].names),
            (9, &["a.test".to_owned()][..])
        );
        assert_eq!(views[0].issuer, "CN=root");
    }

    #[test]
    fn the_same_text_is_not_read_twice() {
        let (ca, store) = (TestCa::new("root"), CertificateStore::new());
        let certificate = ca.certificate(&["a.test"]);
        let first = read(&store, &certificate);
        assert!(
            !Arc::ptr_eq(&first, &read(&store, &certificate)),
            "not held yet"
        );
        store.replace(Origin::Document, vec![Arc::clone(&first)]);
        assert!(Arc::ptr_eq(&first, &read(&store, &certificate)));
        store.replace(Origin::Document, Vec::new());
        assert!(store.is_empty());
        assert!(!Arc::ptr_eq(&first, &read(&store, &certificate)));
    }

    #[test]
    fn a_certificate_without_a_name_is_for_listeners_only() {
        let (ca, store) = (TestCa::new("root"), CertificateStore::new());
        let nameless = ca.certificate(&[]);
        let (chain, key) = (
            nameless.chain_pem().as_bytes(),
            nameless.key_pem().as_bytes(),
        );
        let refused = store.read_pem(chain, key).unwrap_err();
        assert!(matches!(refused, CertificateError::NoNames), "{refused}");
        assert!(Certificate::from_pem(chain, key).is_ok());
    }
}
