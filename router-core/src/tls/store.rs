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
    const ALL: [Self; 3] = [Self::Folder, Self::Document, Self::Acme];

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
