//! What outlives the process: account, certificates, the ledger of orders and failures, and for other routers that share
//! the folder the challenges of the moment. Every file is written whole beside its place and renamed into it, readable by
//! its owner only. What cannot be read is set aside under another name, for a person to look at, and said.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use router_model::hostname::Domain;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::tasks;
use crate::tls::{Certificate, CertificateError, CertificateStore};

/// The folder of one authority.
#[derive(Debug, Clone)]
pub(super) struct Folder(Arc<Path>);

/// A certificate of the folder.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) domain: Domain,
    /// `Err` with the time at which it ended.
    pub(super) certificate: Result<Arc<Certificate>, SystemTime>,
}

/// Held by the one router that orders. The system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lead(#[expect(dead_code, reason = "held for its lock")] File);

/// Held by each router that answers another one's challenges.
#[derive(Debug)]
pub(super) struct Following(#[expect(dead_code, reason = "held for its lock")] File);

const ACCOUNT: &str = "account.json";
const LEDGER: &str = "ledger.json";
const LEAD: &str = "orders.lock";
const FOLLOWERS: &str = "followers.lock";
const CERTIFICATES: &str = "certificates";
const CHALLENGES: &str = "challenges";

impl Folder {
    /// Makes the folder of an authority below `parent` if need be.
    pub(super) fn open(parent: &Path, directory: &str) -> io::Result<Self> {
        let folder = Self(parent.join(folder_name(directory)).into());
        for part in [CERTIFICATES, CHALLENGES] {
            let path = folder.0.join(part);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|error| named(&path, error))?;
        }
        Ok(folder)
    }

    /// The place of the one that orders, unless another router has it.
    pub(super) fn try_lead(&self) -> io::Result<Option<Lead>> {
        let file = self.lock_file(LEAD)?;
        Ok(locked(&self.0.join(LEAD), file.try_lock())?.then_some(Lead(file)))
    }

    /// Says that this router answers the challenges of the one that orders.
    pub(super) fn follow(&self) -> io::Result<Option<Following>> {
        let file = self.lock_file(FOLLOWERS)?;
        let shared = locked(&self.0.join(FOLLOWERS), file.try_lock_shared())?;
        Ok(shared.then_some(Following(file)))
    }

    /// Whether any router answers our challenges, and so must be given the time to see them.
    pub(super) fn has_followers(&self) -> io::Result<bool> {
        let file = self.lock_file(FOLLOWERS)?;
        Ok(!locked(&self.0.join(FOLLOWERS), file.try_lock())?)
    }

    fn lock_file(&self, name: &str) -> io::Result<File> {
        let path = self.0.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        options.open(&path).map_err(|error| named(&path, error))
    }

    pub(super) fn save_account(&self, account: &impl Serialize) -> io::Result<()> {
        self.save_json(ACCOUNT, account)
    }

    /// The account; none when there is none yet, or none that can be read.
    pub(super) fn load_account<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        self.load_json(ACCOUNT)
    }

    /// The authority does not know the account any more; its key may still be of use to a person.
    pub(super) fn set_account_aside(&self, reason: &str) -> io::Result<()> {
        self.set_aside(&self.0.join(ACCOUNT), reason)
    }

    pub(super) fn save_ledger(&self, ledger: &impl Serialize) -> io::Result<()> {
        self.save_json(LEDGER, ledger)
    }

    pub(super) fn load_ledger<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        self.load_json(LEDGER)
    }

    /// Key and chain go into one file, so that no half of a pair is ever found.
    pub(super) fn save_certificate(
        &self,
        domain: &Domain,
        key: &str,
        chain: &str,
    ) -> io::Result<()> {
        let mut text = Zeroizing::new(Vec::with_capacity(key.len() + chain.len() + 1));
        text.extend_from_slice(key.as_bytes());
        if !key.ends_with('\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(chain.as_bytes());
        self.write(&self.certificate_path(domain), &text)
    }

    pub(super) fn remove_certificate(&self, domain: &Domain) -> io::Result<()> {
        unless_missing(fs::remove_file(self.certificate_path(domain))).map(|_| ())
    }

    /// Every certificate that can be read. Those that `store` holds already are not parsed again.
    pub(super) fn load_certificates(&self, store: &CertificateStore) -> io::Result<Vec<Stored>> {
        let folder = self.0.join(CERTIFICATES);
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| named(&folder, error))? {
            let path = entry.map_err(|error| named(&folder, error))?.path();
            let Some(domain) = domain_of(&path) else {
                continue;
            };
            let Some(text) = unless_missing(fs::read(&path))? else {
                continue;
            };
            match read_certificate(&domain, &Zeroizing::new(text), store) {
                Ok(certificate) => found.push(Stored {
                    domain,
                    certificate,
                }),
                Err(reason) => self.set_aside(&path, &reason)?,
            }
        }
        Ok(found)
    }

    /// When certificates were last added or replaced.
    pub(super) fn certificates_changed(&self) -> io::Result<SystemTime> {
        fs::metadata(self.0.join(CERTIFICATES))?.modified()
    }

    /// Shows a challenge to the routers that follow.
    pub(super) fn publish(&self, token: &str, key_authorization: &str) -> io::Result<()> {
        let path = self.challenge_path(token)?;
        self.write(&path, key_authorization.as_bytes())
    }

    pub(super) fn withdraw(&self, token: &str) -> io::Result<()> {
        unless_missing(fs::remove_file(self.challenge_path(token)?)).map(|_| ())
    }

    /// What the router that orders wants answered now: tokens and key authorizations.
    pub(super) fn challenges(&self) -> io::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.0.join(CHALLENGES))? {
            let name = entry?.file_name();
            let Some(token) = name.to_str().filter(|name| is_token(name)) else {
                continue;
            };
            if let Some(answer) = unless_missing(fs::read_to_string(self.challenge_path(token)?))? {
                found.push((token.to_owned(), answer));
            }
        }
        Ok(found)
    }

    /// Takes away what a router that ended in the middle of an order has left.
    pub(super) fn clear_challenges(&self) -> io::Result<()> {
        for (token, _) in self.challenges()? {
            self.withdraw(&token)?;
        }
        Ok(())
    }

    fn certificate_path(&self, domain: &Domain) -> PathBuf {
        self.0.join(CERTIFICATES).join(format!("{domain}{PEM}"))
    }

    /// The token comes from the authority; nothing but a token may become a path.
    fn challenge_path(&self, token: &str) -> io::Result<PathBuf> {
        if is_token(token) {
            Ok(self.0.join(CHALLENGES).join(token))
        } else {
            Err(io::Error::other(format!(
                "{token:?} is no token (RFC 8555 §8.3)"
            )))
        }
    }

    fn save_json(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let text = Zeroizing::new(serde_json::to_vec_pretty(value)?);
        self.write(&self.0.join(name), &text)
    }

    fn load_json<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.0.join(name);
        let read = unless_missing(fs::read(&path)).map_err(|error| named(&path, error))?;
        let Some(text) = read.map(Zeroizing::new) else {
            return Ok(None);
        };
        match serde_json::from_slice(&text) {
            Ok(value) => Ok(Some(value)),
            // Only the place of the error: its text could quote a key.
            Err(error) => {
                let place = format!("it is broken at its line {}", error.line());
                self.set_aside(&path, &place).map(|()| None)
            }
        }
    }

    fn set_aside(&self, path: &Path, reason: &str) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".broken");
        let aside = path.with_file_name(name);
        tracing::error!(path = %path.display(), aside = %aside.display(), %reason, "a file of the ACME folder is set aside");
        fs::rename(path, &aside).map_err(|error| named(path, error))
    }

    fn write(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        write_whole(path, text).map_err(|error| named(path, error))
    }
}

fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let beside = path.with_file_name(name);
    // A leftover could have another mode.
    unless_missing(fs::remove_file(&beside))?;
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The rename itself has to reach the disk too: an account or a certificate that is lost costs a new one.
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Does work with a folder on a thread where it holds nobody up.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tasks::blocking(work).await {
        Some(done) => done.map_err(|error| error.to_string()),
        None => Err("the thread that uses the ACME folder panicked".to_owned()),
    }
}

const PEM: &str = ".pem";

/// The domain that a file is named after; `None` for files that are not ours.
fn domain_of(path: &Path) -> Option<Domain> {
    let name = path.file_name()?.to_str()?.strip_suffix(PEM)?;
    let domain = Domain::parse(name).ok()?;
    (domain.as_str() == name && !domain.is_wildcard()).then_some(domain)
}

fn read_certificate(
    domain: &Domain,
    text: &[u8],
    store: &CertificateStore,
) -> Result<Result<Arc<Certificate>, SystemTime>, String> {
    match store.read_pem(text, text) {
        Ok(certificate) if certificate.covers(domain.as_str()) => Ok(Ok(certificate)),
        Ok(_) => Err(format!("its certificate is not for {domain}")),
        Err(CertificateError::Expired(at)) => Ok(Err(at)),
        Err(error) => Err(error.to_string()),
    }
}

/// `acme-v02.api.letsencrypt.org-directory` for `https://acme-v02.api.letsencrypt.org/directory`.
fn folder_name(directory: &str) -> String {
    let rest = directory.strip_prefix("https://").unwrap_or(directory);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let name: String = rest
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    // Neither hidden nor a way out.
    format!("{}{}", if name.starts_with('.') { "-" } else { "" }, name)
}

/// Base64url, and of a length that a file system takes.
fn is_token(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn locked(path: &Path, tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(named(path, error)),
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use router_testkit::TestCa;
    use tempfile::TempDir;

    use super::*;

    fn folder() -> (TempDir, Folder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(&parent.path().join("acme"), "https://ca.test/dir").unwrap();
        (parent, folder)
    }

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn save(folder: &Folder, name: &str, names: &[&str], days: std::ops::Range<i64>) -> String {
        let made = TestCa::new("ca").certificate_valid(names, days);
        folder
            .save_certificate(&domain(name), made.key_pem(), made.chain_pem())
            .unwrap();
        made.fingerprint()
    }

    fn load(folder: &Folder) -> Vec<(String, Option<String>)> {
        let stored = folder.load_certificates(&CertificateStore::new()).unwrap();
        let mut found: Vec<_> = stored
            .into_iter()
            .map(|stored| {
                let fingerprint = stored.certificate.ok().map(|held| held.fingerprint());
                (stored.domain.to_string(), fingerprint)
            })
            .collect();
        found.sort();
        found
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn folders_of_authorities() {
        for (directory, expected) in [
            (
                "https://acme-v02.api.letsencrypt.org/directory",
                "acme-v02.api.letsencrypt.org-directory",
            ),
            (
                "https://localhost:14000/dir?x=/../..",
                "localhost-14000-dir-x--..-..",
            ),
            ("https://../..", "-..-.."),
            ("https://[::1]:14000/", "---1--14000-"),
        ] {
            assert_eq!(folder_name(directory), expected);
        }
    }

    #[test]
    fn certificates_are_found_again_and_only_their_owner_reads_them() {
        let (_parent, folder) = folder();
        let one = save(&folder, "a.test", &["a.test"], -1..89);
        let two = save(&folder, "b.test", &["b.test"], -10..1);
        save(&folder, "old.test", &["old.test"], -10..-1);
        assert_eq!(
            load(&folder),
            [
                ("a.test".to_owned(), Some(one)),
                ("b.test".to_owned(), Some(two)),
                ("old.test".to_owned(), None),
            ]
        );
        let renewed = save(&folder, "a.test", &["a.test"], -1..89);
        assert_eq!(load(&folder)[0].1, Some(renewed));
        let certificates = folder.0.join(CERTIFICATES);
        assert_eq!(
            names(&certificates),
            ["a.test.pem", "b.test.pem", "old.test.pem"]
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for path in [&folder.0, folder.0.parent().unwrap(), &certificates] {
            assert_eq!(mode(path), 0o700, "{path:?}");
        }
        assert_eq!(mode(&certificates.join("a.test.pem")), 0o600);
        folder.remove_certificate(&domain("a.test")).unwrap();
        folder.remove_certificate(&domain("a.test")).unwrap();
        assert_eq!(load(&folder).len(), 2);
    }

    #[test]
    fn torn_files_are_set_aside_and_strangers_left_alone() {
        let (_parent, folder) = folder();
        save(&folder, "a.test", &["a.test"], -1..89);
        save(&folder, "other.test", &["a.test"], -1..89);
        let certificates = folder.0.join(CERTIFICATES);
        let whole = fs::read(certificates.join("a.test.pem")).unwrap();
        let put = |name: &str, text: &[u8]| fs::write(certificates.join(name), text).unwrap();
        for torn in 1..whole.len() {
            // A cut within the last line end is none.
            if whole[torn..].trim_ascii().is_empty() {
                continue;
            }
            put("a.test.pem", &whole[..torn]);
            assert!(load(&folder).is_empty(), "cut at {torn} of {}", whole.len());
            assert!(!certificates.join("a.test.pem").exists());
        }
        put(".a.test.pem.new", &whole);
        put("notes.txt", b"x");
        put("A.test.pem", &whole);
        put("*.a.test.pem", &whole);
        assert_eq!(load(&folder), []);
        assert_eq!(
            names(&certificates),
            [
                "*.a.test.pem",
                ".a.test.pem.new",
                "A.test.pem",
                "a.test.pem.broken",
                "notes.txt",
                "other.test.pem.broken",
            ]
        );
    }

    #[test]
    fn json_files_survive_and_broken_ones_are_set_aside() {
        let (_parent, folder) = folder();
        assert_eq!(folder.load_ledger::<Vec<u8>>().unwrap(), None);
        folder.save_ledger(&vec![1, 2]).unwrap();
        folder.save_ledger(&vec![3]).unwrap();
        assert_eq!(folder.load_ledger::<Vec<u8>>().unwrap(), Some(vec![3]));
        folder.save_account(&"secret").unwrap();
        assert_eq!(
            folder.load_account::<String>().unwrap().as_deref(),
            Some("secret")
        );
        for broken in ["", "{", "[1,2", "\"s\""] {
            fs::write(folder.0.join(LEDGER), broken).unwrap();
            assert_eq!(folder.load_ledger::<Vec<u8>>().unwrap(), None, "{broken:?}");
            assert!(!folder.0.join(LEDGER).exists());
        }
        folder.set_account_aside("it is gone").unwrap();
        assert_eq!(folder.load_account::<String>().unwrap(), None);
        assert_eq!(
            names(&folder.0),
            [
                "account.json.broken",
                "certificates",
                "challenges",
                "ledger.json.broken"
            ]
        );
    }

    #[test]
    fn one_leads_and_knows_whether_others_follow() {
        let (_parent, folder) = folder();
        let lead = folder.try_lead().unwrap();
        assert!(lead.is_some());
        assert!(folder.try_lead().unwrap().is_none());
        assert!(!folder.has_followers().unwrap());
        let followers = [folder.follow().unwrap(), folder.follow().unwrap()];
        assert!(followers.iter().all(Option::is_some));
        assert!(folder.has_followers().unwrap());
        drop(followers);
        assert!(!folder.has_followers().unwrap());
        drop(lead);
        assert!(folder.try_lead().unwrap().is_some());
    }

    #[test]
    fn challenges_are_shown_and_taken_away() {
        let (_parent, folder) = folder();
        folder.publish("aB-_9", "aB-_9.thumb").unwrap();
        assert_eq!(
            folder.challenges().unwrap(),
            [("aB-_9".to_owned(), "aB-_9.thumb".to_owned())]
        );
        folder.withdraw("aB-_9").unwrap();
        folder.withdraw("aB-_9").unwrap();
        for bad in ["", ".", "..", "../x", "a/b", "a.b", "ä", &"a".repeat(201)] {
            assert!(folder.publish(bad, "x").is_err(), "{bad:?}");
        }
        folder.publish("left", "x").unwrap();
        folder.clear_challenges().unwrap();
        assert_eq!(folder.challenges().unwrap(), []);
    }
}
