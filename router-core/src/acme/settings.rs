//! What the router is told about its ACME authority, and what of it cannot be.

use std::path::PathBuf;
use std::time::Duration;

use ::http::Uri;
use router_model::acme_schedule::{self, Unprovable};
use router_model::backoff::Backoff;
use router_model::hostname::Domain;
use rustls::RootCertStore;

use crate::outgoing;

/// The directory of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Which certificates to order, and where.
#[derive(Debug, Clone)]
pub struct AcmeSettings {
    /// The authority's directory, an https URL.
    pub directory: String,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// Where account and certificates are kept; each authority has a folder of its own in it.
    pub folder: PathBuf,
    /// These domains always.
    pub domains: Vec<Domain>,
    /// The exact domains of the route table too.
    pub on_demand: bool,
    /// The authority's terms of service are agreed to; there is no account without that.
    pub accept_terms: bool,
    /// Most orders an hour; renewals count.
    pub per_hour: u32,
    /// PEM file with the certificates that the authority's own endpoint is trusted by. Default: the public ones.
    pub root: Option<PathBuf>,
    /// How long to wait after failures.
    pub retries: Retries,
}

/// How long to wait after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Of one domain. The default keeps below the five failures an hour that Let's Encrypt allows per name.
    pub domain: Backoff,
    /// When the authority cannot be reached, or wants no orders of ours.
    pub authority: Backoff,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            domain: Backoff::new(Duration::from_mins(10), Duration::from_hours(6)),
            authority: Backoff::new(Duration::from_secs(15), Duration::from_mins(30)),
        }
    }
}

impl AcmeSettings {
    /// Let's Encrypt, nothing to order, terms not accepted. Let's Encrypt's own limit is 100 orders an hour and account.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            directory: LETS_ENCRYPT.to_owned(),
            email: None,
            folder: folder.into(),
            domains: Vec::new(),
            on_demand: false,
            accept_terms: false,
            per_hour: 50,
            root: None,
            retries: Retries::default(),
        }
    }

    /// Everything that is wrong with these settings. Reads the root file, talks to nobody.
    pub fn check(&self) -> Vec<AcmeSettingsError> {
        let mut wrong = Vec::new();
        wrong.extend(self.check_directory().err());
        wrong.extend(self.check_email().err());
        wrong.extend(self.roots().err());
        if !self.accept_terms {
            wrong.push(AcmeSettingsError::Terms);
        }
        if self.per_hour == 0 {
            wrong.push(AcmeSettingsError::NoBudget);
        }
        if self.domains.is_empty() && !self.on_demand {
            wrong.push(AcmeSettingsError::Nothing);
        }
        wrong.extend(self.domains.iter().filter_map(|domain| {
            let reason = acme_schedule::provable(domain).err()?;
            Some(AcmeSettingsError::Domain {
                domain: domain.clone(),
                reason,
            })
        }));
        wrong
    }

    /// Whether the directory can be one.
    ///
    /// # Errors
    /// [`AcmeSettingsError::Directory`].
    pub fn check_directory(&self) -> Result<(), AcmeSettingsError> {
        let uri = self.directory.parse::<Uri>().ok();
        let good = uri.is_some_and(|uri| {
            uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())
        });
        good.then_some(())
            .ok_or_else(|| AcmeSettingsError::Directory(self.directory.clone()))
    }

    /// Whether the email can be one.
    ///
    /// # Errors
    /// [`AcmeSettingsError::Email`].
    pub fn check_email(&self) -> Result<(), AcmeSettingsError> {
        self.contact().map(|_| ())
    }

    /// The account's contact, as RFC 8555 §7.3 wants it.
    pub(super) fn contact(&self) -> Result<Option<String>, AcmeSettingsError> {
        let Some(email) = &self.email else {
            return Ok(None);
        };
        let plain = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b',')
        };
        match email.split_once('@') {
            Some((name, host)) if plain(name) && plain(host) && is_hostname(host) => {
                Ok(Some(format!("mailto:{email}")))
            }
            _ => Err(AcmeSettingsError::Email(email.clone())),
        }
    }

    /// Whom the authority's endpoint is trusted by.
    pub(super) fn roots(&self) -> Result<RootCertStore, AcmeSettingsError> {
        match &self.root {
            None => Ok(outgoing::system_roots()),
            Some(path) => outgoing::read_roots(path).map_err(|reason| AcmeSettingsError::Root {
                path: path.clone(),
                reason,
            }),
        }
    }
}

fn is_hostname(text: &str) -> bool {
    Domain::parse(text).is_ok_and(|domain| !domain.is_wildcard())
}

/// What is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcmeSettingsError {
    /// RFC 8555 §6.1: https only.
    #[error(
        "the directory {0:?} is no https URL; an example is https://acme-v02.api.letsencrypt.org/directory"
    )]
    Directory(String),
    /// One plain address.
    #[error("the email {0:?} is no address; an example is certificates@example.com")]
    Email(String),
    /// A root file that cannot be used.
    #[error("the root file {} cannot be used: {reason}", .path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The cryptography of this build cannot be a TLS client; no setting mends that.
    #[error("TLS to the authority is not to be had: {0}")]
    Tls(String),
    /// No account without agreement.
    #[error(
        "the authority's terms of service are not accepted; read them, then say accept_terms = true"
    )]
    Terms,
    /// Nothing would ever be ordered.
    #[error("per_hour is 0, so nothing would ever be ordered; allowed are 1 and more")]
    NoBudget,
    /// Nothing would ever be ordered.
    #[error("there is nothing to order: name domains, or say on_demand = true")]
    Nothing,
    /// A domain of the fixed list for which there can be no certificate.
    #[error("the domain {domain} {reason}")]
    Domain {
        /// The domain.
        domain: Domain,
        /// Why.
        reason: Unprovable,
    },
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn good() -> AcmeSettings {
        AcmeSettings {
            on_demand: true,
            accept_terms: true,
            ..AcmeSettings::new("acme")
        }
    }

    fn wrong(change: impl FnOnce(&mut AcmeSettings)) -> Vec<String> {
        let mut settings = good();
        change(&mut settings);
        settings
            .check()
            .iter()
            .map(AcmeSettingsError::to_string)
            .collect()
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(good().check(), []);
        assert_eq!(
            AcmeSettings::new("acme").check(),
            [AcmeSettingsError::Terms, AcmeSettingsError::Nothing]
        );
        for directory in [
            "",
            "directory",
            "http://ca.test/dir",
            "https://",
            "https://:443/",
            "ftp://x",
        ] {
            let wrong = wrong(|settings| settings.directory = directory.to_owned());
            assert!(
                wrong.len() == 1 && wrong[0].contains("https"),
                "{directory}: {wrong:?}"
            );
        }
        for email in [
            "", "a", "@b", "a@", "a@b@c", "a b@c", "a@b,c@d", "a@b\n", "a@*.b", "a@b..c",
        ] {
            let wrong = wrong(|settings| settings.email = Some(email.to_owned()));
            assert!(
                wrong.len() == 1 && wrong[0].contains("email"),
                "{email}: {wrong:?}"
            );
        }
        let domains = ["a.test", "*.b.test"].map(|text| Domain::parse(text).unwrap());
        assert_eq!(
            wrong(|settings| settings.domains = domains.to_vec()),
            ["the domain *.b.test is a wildcard, which http-01 cannot prove"]
        );
        assert_eq!(wrong(|settings| settings.per_hour = 0).len(), 1);
    }

    #[test]
    fn roots() {
        assert!(good().roots().unwrap().len() > 50);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.pem");
        let with = |path: &Path| AcmeSettings {
            root: Some(path.to_owned()),
            ..good()
        };
        let reason = |path| match with(path).roots() {
            Err(AcmeSettingsError::Root { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(&path).contains("No such file"));
        std::fs::write(&path, "no PEM").unwrap();
        assert!(reason(&path).contains("no certificate"));
        std::fs::write(
            &path,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(!reason(&path).is_empty());
        let ca =
            router_testkit::TestCa::new("one").pem() + &router_testkit::TestCa::new("two").pem();
        std::fs::write(&path, ca).unwrap();
        assert_eq!(with(&path).roots().unwrap().len(), 2);
    }

    #[test]
    fn the_contact() {
        assert_eq!(good().contact(), Ok(None));
        let mut settings = good();
        settings.email = Some("a+b@c.test".to_owned());
        assert_eq!(settings.contact(), Ok(Some("mailto:a+b@c.test".to_owned())));
    }
}
