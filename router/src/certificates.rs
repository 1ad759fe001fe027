//! The certificates that come from files of the configuration: the default pairs of https listeners, the folder, and the
//! keys of session tickets. They are read before anything listens, watched while the router runs, and told of to
//! operators together with those of the route document.

use std::path::Path;
use std::sync::Arc;

use router_core::acme::AcmeSettingsError;
use router_core::tls::{
    Certificate, DefaultCertificate, FileWatch, FolderHandle, Origin, TicketKeys, folder,
};
use router_core::{CertificateInUse, Router};
use serde::Serialize;

use crate::config::{Config, Pair};
use crate::metrics::Held;

/// The default certificates of the listeners.
#[derive(Debug)]
pub(crate) struct Defaults(Vec<DefaultPair>);

#[derive(Debug)]
struct DefaultPair {
    pair: Pair,
    certificate: Arc<DefaultCertificate>,
}

impl Defaults {
    /// Reads what the router does not start without: the pair of each listener that has one, the ticket keys, and who
    /// vouches for the ACME authority.
    ///
    /// # Errors
    /// One line for each file that cannot be used, `KEY: …`.
    pub(crate) fn load(config: &Config) -> Result<Self, Vec<String>> {
        let (mut defaults, mut problems) = (Vec::new(), Vec::new());
        if let Some(path) = &config.tls.ticket_keys
            && let Err(error) = TicketKeys::check_file(path)
        {
            problems.push(format!("tls.ticket_keys: {error}"));
        }
        let acme = config.acme.iter().flat_map(|acme| acme.settings().check());
        problems.extend(acme.filter_map(|error| match error {
            AcmeSettingsError::Root { .. } => Some(format!("acme.root: {error}")),
            // Said already, of the key that is to blame.
            _ => None,
        }));
        let pairs = config
            .listeners
            .iter()
            .filter_map(|listener| listener.https()?.default.as_ref());
        for pair in pairs {
            match DefaultCertificate::from_files(&pair.certificate, &pair.private_key) {
                Ok(certificate) => defaults.push(DefaultPair {
                    pair: pair.clone(),
                    certificate: Arc::new(certificate),
                }),
                Err(error) => problems.push(format!("{}.certificate: {error}", pair.place)),
            }
        }
        if problems.is_empty() {
            Ok(Self(defaults))
        } else {
            Err(problems)
        }
    }
}

/// What is wrong with the pairs in the folder, one line each. The router starts without them.
pub(crate) fn check_folder(config: &Config) -> Vec<String> {
    let status = config.tls.certificates.as_ref().map(folder::check);
    let rejected = status.iter().flat_map(|status| {
        let path = status.path.display();
        let files = status.rejected.iter();
        files
            .map(move |rejection| format!("{path}/{}: {}", rejection.file, rejection.reason))
            .chain(status.last_error.clone())
    });
    rejected.collect()
}

/// The files of the configuration while the router runs.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    defaults: Vec<(DefaultPair, FileWatch)>,
    folder: Option<FolderHandle>,
    ticket_keys: Option<FileWatch>,
}

impl Watches {
    /// Reads the folder and watches everything from now on. Must be called on a tokio runtime.
    pub(crate) async fn start(config: &Config, defaults: Defaults, router: &Router) -> Self {
        let watched = defaults.0.into_iter().map(|default| {
            let Pair {
                certificate,
                private_key,
                ..
            } = &default.pair;
            let watch = default.certificate.watch(certificate, private_key);
            (default, watch)
        });
        let ticket_keys = config.tls.ticket_keys.as_ref();
        Self {
            ticket_keys: ticket_keys.map(|path| router.ticket_keys().watch(path)),
            defaults: watched.collect(),
            folder: match &config.tls.certificates {
                Some(path) => Some(folder::start(router.certificates(), path).await),
                None => None,
            },
        }
    }

    /// The default certificate that these files are.
    pub(crate) fn default_of(&self, pair: &Pair) -> Option<Arc<DefaultCertificate>> {
        let mut defaults = self.defaults.iter();
        let (found, _) = defaults.find(|(default, _)| default.pair == *pair)?;
        Some(Arc::clone(&found.certificate))
    }

    /// Has everything looked at now.
    pub(crate) fn look_now(&self) {
        let watches = self.defaults.iter().map(|(_, watch)| watch);
        watches
            .chain(&self.ticket_keys)
            .for_each(FileWatch::look_now);
        self.folder.iter().for_each(FolderHandle::look_now);
    }

    /// Each certificate that may answer a client, for `/v1/certificates`.
    pub(crate) fn views(&self, router: &Router) -> Vec<View> {
        let defaults = self.defaults.iter().map(|(default, _)| View {
            certificate: CertificateInUse {
                certificate: default.certificate.current().view(LISTENER),
                apps: Vec::new(),
            },
            listener: Some(default.pair.place.clone()),
        });
        let held = router.certificates_in_use().into_iter();
        let held = held.map(|certificate| View {
            certificate,
            listener: None,
        });
        defaults.chain(held).collect()
    }

    /// The same without the views, for metrics.
    pub(crate) fn held(&self, router: &Router) -> Vec<Held> {
        let defaults = self.defaults.iter().map(|(default, _)| Held {
            origin: LISTENER,
            certificate: default.certificate.current(),
            superseded: false,
        });
        let store = router.certificates();
        let answers = |certificate: &Arc<Certificate>| {
            let found = certificate.names().filter_map(|name| store.resolve(name));
            found
                .into_iter()
                .any(|found| Arc::ptr_eq(&found, certificate))
        };
        let held = Origin::ALL.into_iter().flat_map(|origin| {
            let held = store.of(origin).into_iter();
            held.map(move |certificate| Held {
                origin: origin.as_str(),
                superseded: !answers(&certificate),
                certificate,
            })
        });
        defaults.chain(held).collect()
    }

    /// Files that are not used as they are now.
    pub(crate) fn rejected(&self) -> Vec<Rejected> {
        let rejected = |origin, place: String, reason| Rejected {
            origin,
            place,
            reason,
        };
        let defaults = self.defaults.iter().filter_map(|(default, watch)| {
            let place = format!("{}.certificate", default.pair.place);
            Some(rejected(LISTENER, place, watch.last_error()?))
        });
        let folder = self.folder.as_ref().map(FolderHandle::status);
        let of_folder = folder.iter().flat_map(|status| {
            let whole = status.last_error.clone();
            let whole = whole.map(|reason| rejected("folder", shown(&status.path), reason));
            let files = status.rejected.iter().map(|file| {
                let place = shown(&status.path.join(&file.file));
                rejected("folder", place, file.reason.clone())
            });
            whole.into_iter().chain(files)
        });
        defaults.chain(of_folder).collect()
    }
}

/// A certificate, and where it answers.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    #[serde(flatten)]
    certificate: CertificateInUse,
    /// The listener whose default it is.
    listener: Option<String>,
}

/// Something that should be a certificate and is none, or is not the one that is used.
#[derive(Debug, Serialize)]
pub(crate) struct Rejected {
    /// As in [`View`].
    pub(crate) origin: &'static str,
    /// The file, the key of the configuration or the entry of the document.
    pub(crate) place: String,
    /// What is wrong.
    pub(crate) reason: String,
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The origin of default certificates, which are not in the store.
const LISTENER: &str = "listener";
