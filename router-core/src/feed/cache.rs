//! The last good routes on disk: a whole document, and beside it a log of the changes after it. The two are replaced as
//! one: whenever a crash comes, there is the old pair or the new one. The log is also added to, and a torn line at its end
//! is cut off. They may hold private keys, so that nobody else may read them. What cannot be written leaves what was there.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256};
use serde_json::Value;
use zeroize::Zeroizing;

use super::disk::{Disk, Files};
use super::log::{self, Header};

/// The files.
#[derive(Debug)]
pub(super) struct Cache<D = Files> {
    disk: D,
    document: PathBuf,
    changes: PathBuf,
    document_length: u64,
    /// Whether the log was found where it belongs.
    in_place: bool,
    /// The length of the log; none while what is on disk must not be added to.
    log: Option<u64>,
}

/// What was found on disk.
pub(super) struct Found {
    document: Zeroizing<Vec<u8>>,
    log: Zeroizing<Vec<u8>>,
}

impl Found {
    pub(super) fn document(&self) -> &[u8] {
        &self.document
    }

    /// The log as far as it is good.
    pub(super) fn log(&self) -> log::Read<'_> {
        log::read(&self.log)
    }

    /// What is wrong with a document that was found to have this revision.
    pub(super) fn damage(&self, revision: u64) -> Option<String> {
        let header = self.log().header?;
        (header.after == revision && header.sha256 != sha256(&self.document))
            .then(|| "the document is not as it was written".to_owned())
    }
}

impl Cache {
    /// The cache at `document`, and `.changes` behind that name.
    pub(super) fn new(document: &Path) -> Self {
        Self::on(Files, document)
    }
}

impl<D: Disk> Cache<D> {
    /// The same on some disk.
    pub(super) fn on(disk: D, document: &Path) -> Self {
        Self {
            disk,
            document: document.to_owned(),
            changes: with_suffix(document, ".changes"),
            document_length: 0,
            in_place: true,
            log: None,
        }
    }

    /// What there is.
    pub(super) fn load(&mut self) -> io::Result<Found> {
        let document = self.disk.read(&self.document)?;
        self.document_length = document.len() as u64;
        let log = self.unfinished(&document).unwrap_or_else(|| {
            // Without its log the document is old, and still better than nothing.
            self.disk.read(&self.changes).unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    let path = self.changes.display();
                    tracing::warn!(%path, %error, "cannot read the changes after the last good document");
                }
                Vec::new()
            })
        });
        Ok(Found {
            document: Zeroizing::new(document),
            log: Zeroizing::new(log),
        })
    }

    /// The log of the document, if a crash has left it beside its place.
    fn unfinished(&mut self, document: &[u8]) -> Option<Vec<u8>> {
        let beside = with_suffix(&self.changes, NEW);
        let log = self.disk.read(&beside).ok()?;
        let header = log::read(&log).header?;
        if header.sha256 != sha256(document) {
            return None;
        }
        if let Err(error) = self.disk.rename(&beside, &self.changes) {
            tracing::warn!(path = %beside.display(), %error, "cannot be renamed");
            self.in_place = false;
        }
        Some(log)
    }

    /// Goes on after what was found, of which `length` bytes are good. Without a good log nothing can be added.
    pub(super) fn resume(&mut self, length: usize) {
        self.log = (self.in_place && length > 0).then_some(length as u64);
    }

    /// Replaces everything by a document and the apps that were kept when it came.
    pub(super) fn save(
        &mut self,
        document: &[u8],
        revision: u64,
        kept: Vec<Value>,
    ) -> io::Result<()> {
        // Changes that come after this document do not fit an older one.
        self.log = None;
        let header = Header {
            after: revision,
            sha256: sha256(document),
            kept,
        };
        let log = Zeroizing::new(header.line());
        let (new_log, new_document) = (
            with_suffix(&self.changes, NEW),
            with_suffix(&self.document, NEW),
        );
        self.disk.create(&new_log, &log)?;
        self.disk.create(&new_document, document)?;
        // From here on the new log is found by its document.
        self.disk.rename(&new_document, &self.document)?;
        self.document_length = document.len() as u64;
        self.disk.rename(&new_log, &self.changes)?;
        self.log = Some(log.len() as u64);
        Ok(())
    }

    /// Adds changes to the log.
    pub(super) fn append(&mut self, changes: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let Some(length) = self.log.take() else {
            return Err(io::Error::other(
                "the cache has missed something, and waits for the whole document",
            ));
        };
        let lines = changes.iter().flat_map(|change| log::line(change.as_ref()));
        let lines = Zeroizing::new(lines.collect::<Vec<u8>>());
        self.disk.append(&self.changes, length, &lines)?;
        self.log = Some(length + lines.len() as u64);
        Ok(())
    }

    /// Something was missed: nothing can be added any more.
    pub(super) fn forget_log(&mut self) {
        self.log = None;
    }

    /// Whether only a whole document helps: something is missing, or the log has grown larger than the document.
    pub(super) fn needs_whole(&self) -> bool {
        let longest = self.document_length.max(SHORT_LOG);
        self.log.is_none_or(|length| length > longest)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn sha256(document: &[u8]) -> String {
    let digest = digest::digest(&SHA256, document);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What a file is called until it is renamed into its place.
const NEW: &str = ".new";
/// A log of this length is not too long, however small the document is.
const SHORT_LOG: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DOCUMENT: &[u8] = b"{\"revision\": 7}";

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn cache(&self) -> Cache {
            Cache::new(&self.path("routes.json"))
        }

        /// Document and changes, as a restart would find them.
        fn found(&self) -> (Vec<u8>, Vec<String>) {
            let found = self.cache().load().unwrap();
            let changes = found.log().changes.into_iter();
            let changes = changes.map(|change| String::from_utf8(change.to_vec()).unwrap());
            (found.document.to_vec(), changes.collect())
        }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_was_saved_is_found() {
        let place = Place::new();
        let mut cache = Cache::new(&place.path("not/there/yet/routes.json"));
        assert!(cache.load().is_err() && cache.needs_whole());
        cache.save(DOCUMENT, 7, Vec::new()).unwrap();
        assert!(!cache.needs_whole());
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7, Vec::new()).unwrap();
        cache.append(&["{\"a\":1}", "{\"b\":\n2}"]).unwrap();
        cache.append(&["{\"c\":3}"]).unwrap();
        let expected = texts(&["{\"a\":1}", "{\"b\": 2}", "{\"c\":3}"]);
        assert_eq!(place.found(), (DOCUMENT.to_vec(), expected));
        for name in ["routes.json", "routes.json.changes"] {
            let mode = fs::metadata(place.path(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        cache.save(b"{}", 8, Vec::new()).unwrap();
        assert_eq!(place.found(), (b"{}".to_vec(), vec![]));
    }

    #[test]
    fn a_restart_goes_on_after_what_is_good() {
        let place = Place::new();
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7, Vec::new()).unwrap();
        cache.append(&["{\"a\":1}", "{\"b\":2}"]).unwrap();
        let path = place.path("routes.json.changes");
        let log = fs::read(&path).unwrap();
        fs::write(&path, &log[..log.len() - 3]).unwrap();
        let mut cache = place.cache();
        let found = cache.load().unwrap();
        cache.resume(found.log().good);
        cache.append(&["{\"c\":3}"]).unwrap();
        assert_eq!(place.found().1, texts(&["{\"a\":1}", "{\"c\":3}"]));
        assert_eq!(found.damage(7), None);
    }

    #[test]
    fn a_log_without_its_head_is_no_log() {
        let place = Place::new();
        place.cache().save(DOCUMENT, 7, Vec::new()).unwrap();
        fs::write(place.path("routes.json.changes"), "rubbish\n").unwrap();
        let mut cache = place.cache();
        let good = cache.load().unwrap().log().good;
        cache.resume(good);
        assert!(cache.needs_whole() && cache.append(&["{}"]).is_err());
        fs::remove_file(place.path("routes.json.changes")).unwrap();
        assert_eq!(place.found(), (DOCUMENT.to_vec(), vec![]));
    }

    #[test]
    fn a_document_that_has_changed_on_disk_is_noticed() {
        let place = Place::new();
        place.cache().save(DOCUMENT, 7, Vec::new()).unwrap();
        fs::write(place.path("routes.json"), b"{\"revision\": 7 }").unwrap();
        let found = place.cache().load().unwrap();
        assert!(found.damage(7).is_some());
        assert_eq!(found.damage(8), None, "the log of an older document");
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        for name in ["routes.json", "routes.json.changes"] {
            let place = Place::new();
            let mut cache = place.cache();
            cache.save(DOCUMENT, 7, Vec::new()).unwrap();
            cache.append(&["{\"a\":1}"]).unwrap();
            // A folder in the way stops everybody, the superuser too.
            let beside = place.path(&format!("{name}.new"));
            fs::create_dir(&beside).unwrap();
            assert!(cache.save(b"{\"revision\": 9}", 9, Vec::new()).is_err());
            assert!(cache.needs_whole() && cache.append(&["{\"b\":2}"]).is_err());
            assert_eq!(place.found().1, texts(&["{\"a\":1}"]));
            assert_eq!(place.found().0, DOCUMENT);
            fs::remove_dir(&beside).unwrap();
            cache.save(b"{\"revision\": 9}", 9, Vec::new()).unwrap();
            assert_eq!(place.found(), (b"{\"revision\": 9}".to_vec(), vec![]));
        }
        let nowhere =
            Cache::new(Path::new("/proc/router/routes.json")).save(DOCUMENT, 7, Vec::new());
        assert!(nowhere.is_err());
    }

    #[test]
    fn a_log_that_a_crash_left_beside_its_place_is_found() {
        let place = Place::new();
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7, Vec::new()).unwrap();
        cache.append(&["{\"a\":1}"]).unwrap();
        let (log, beside) = (
            place.path("routes.json.changes"),
            place.path("routes.json.changes.new"),
        );
        let old = fs::read(&log).unwrap();
        cache.save(b"{}", 8, vec![Value::Bool(true)]).unwrap();
        fs::rename(&log, &beside).unwrap();
        fs::write(&log, &old).unwrap();
        let found = place.cache().load().unwrap();
        assert_eq!(found.log().header.unwrap().kept, [Value::Bool(true)]);
        assert!(!beside.exists() && found.log().changes.is_empty());
        // One that was written before its document is not.
        fs::write(&beside, &old).unwrap();
        let found = place.cache().load().unwrap();
        assert_eq!(found.log().header.unwrap().after, 8);
    }

    #[test]
    fn a_full_disk_leaves_what_was_there() {
        /// Takes reads and no more.
        struct Full;
        impl Disk for Full {
            fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
                Files.read(path)
            }
            fn create(&self, _: &Path, _: &[u8]) -> io::Result<()> {
                Files.append(Path::new("/dev/full"), 0, b"x")
            }
            fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
                Files.rename(from, to)
            }
            fn append(&self, _: &Path, _: u64, _: &[u8]) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        let place = Place::new();
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7, Vec::new()).unwrap();
        cache.append(&["{\"a\":1}"]).unwrap();
        let mut full = Cache::on(Full, &place.path("routes.json"));
        let good = full.load().unwrap().log().good;
        full.resume(good);
        let error = full.append(&["{\"b\":2}"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(full.needs_whole());
        assert!(full.save(b"{}", 9, Vec::new()).is_err() && full.needs_whole());
        assert_eq!(place.found(), (DOCUMENT.to_vec(), texts(&["{\"a\":1}"])));
    }

    #[test]
    fn a_log_longer_than_its_document_needs_a_new_one() {
        let place = Place::new();
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7, Vec::new()).unwrap();
        let line = "x".repeat(300_000);
        for expected in [false, false, false, true] {
            cache.append(&[&line]).unwrap();
            assert_eq!(cache.needs_whole(), expected);
        }
        cache.save(&vec![b' '; 2_000_000], 8, Vec::new()).unwrap();
        cache.append(&[&line; 5]).unwrap();
        assert!(!cache.needs_whole());
        cache.append(&[&line; 2]).unwrap();
        assert!(cache.needs_whole());
    }
}
