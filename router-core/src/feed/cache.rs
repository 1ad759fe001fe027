//! The last good routes on disk: a whole document, and beside it a log of the changes after it. Both are replaced by
//! writing beside their place and renaming, so that a crash leaves the old one or the new one; the log is also added to,
//! and a torn line at its end is cut off. They may hold private keys, so that nobody else may read them. What cannot be
//! written leaves what was there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256};
use zeroize::Zeroizing;

use super::log::{self, Header};

/// The files.
#[derive(Debug)]
pub(super) struct Cache {
    document: PathBuf,
    changes: PathBuf,
    document_length: u64,
    /// None while what is on disk must not be added to.
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    length: u64,
}

/// What was found on disk.
pub(super) struct Found {
    pub(super) document: Zeroizing<Vec<u8>>,
    log: Zeroizing<Vec<u8>>,
}

impl Found {
    /// The log as far as it is good.
    pub(super) fn log(&self) -> log::Read<'_> {
        log::read(&self.log)
    }

    /// What is wrong with a document that was found to have this revision.
    pub(super) fn damage(&self, revision: u64) -> Option<String> {
        let header = self.log().header?;
        // A log that belongs to an older document is what a crash between the two leaves.
        (header.after == revision && header.sha256 != sha256(&self.document))
            .then(|| "the document is not as it was written".to_owned())
    }
}

impl Cache {
    /// The cache at `document`, and `.changes` behind that name.
    pub(super) fn new(document: &Path) -> Self {
        let mut name = document.file_name().unwrap_or_default().to_owned();
        name.push(".changes");
        Self {
            changes: document.with_file_name(name),
            document: document.to_owned(),
            document_length: 0,
            log: None,
        }
    }

    /// What there is.
    pub(super) fn load(&mut self) -> io::Result<Found> {
        let document = Zeroizing::new(fs::read(&self.document)?);
        // Without its log the document is old, and still better than nothing.
        let log = fs::read(&self.changes).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %self.changes.display(), %error, "cannot read the changes after the last good document");
            }
            Vec::new()
        });
        self.document_length = document.len() as u64;
        Ok(Found {
            document,
            log: Zeroizing::new(log),
        })
    }

    /// Goes on after what was found, of which `length` bytes are good. Without a good log nothing can be added.
    pub(super) fn resume(&mut self, length: usize) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let length = length as u64;
        let mut file = OpenOptions::new().write(true).open(&self.changes)?;
        file.set_len(length)?;
        file.seek(SeekFrom::End(0))?;
        self.log = Some(Log { file, length });
        Ok(())
    }

    /// Replaces everything by a document.
    pub(super) fn save(&mut self, document: &[u8], revision: u64) -> io::Result<()> {
        // Changes that come after this document do not fit an older one.
        self.log = None;
        let folder = match self.document.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder)?;
        replace(&self.document, document)?;
        self.document_length = document.len() as u64;
        let header = Header {
            after: revision,
            sha256: sha256(document),
        };
        let line = header.line();
        let file = replace(&self.changes, &line)?;
        File::open(folder)?.sync_all()?;
        self.log = Some(Log {
            file,
            length: line.len() as u64,
        });
        Ok(())
    }

    /// Adds changes to the log.
    pub(super) fn append(&mut self, changes: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let Some(log) = &mut self.log else {
            return Err(io::Error::other(
                "the cache has missed something, and waits for the whole document",
            ));
        };
        let lines: Vec<u8> = changes
            .iter()
            .flat_map(|change| log::line(change.as_ref()))
            .collect();
        let lines = Zeroizing::new(lines);
        match log.add(&lines) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.log = None;
                Err(error)
            }
        }
    }

    /// Something was missed: nothing can be added any more.
    pub(super) fn forget_log(&mut self) {
        self.log = None;
    }

    /// Whether only a whole document helps: something is missing, or the log has grown larger than the document.
    pub(super) fn needs_whole(&self) -> bool {
        let longest = self.document_length.max(SHORT_LOG);
        self.log.as_ref().is_none_or(|log| log.length > longest)
    }
}

impl Log {
    fn add(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(lines);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            // A torn line would be cut off when it is read; without it the disk has some room again.
            if let Err(error) = self.file.set_len(self.length) {
                tracing::debug!(%error, "a torn line stays at the end of the change log");
            }
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(())
    }
}

/// Writes a file beside its place and renames it into it.
fn replace(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    // A file that a crash has left may be readable to others.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(&beside)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        // Half a file would take the room that the next attempt needs.
        drop(fs::remove_file(&beside));
        return Err(error);
    }
    Ok(file)
}

fn sha256(document: &[u8]) -> String {
    let digest = digest::digest(&SHA256, document);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

const OWNER_ONLY: u32 = 0o600;
/// A log of this length is not too long, however small the document is.
const SHORT_LOG: u64 = 1 << 20;

#[cfg(test)]
mod tests {
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
        cache.save(DOCUMENT, 7).unwrap();
        assert!(!cache.needs_whole());
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7).unwrap();
        cache.append(&["{\"a\":1}", "{\"b\":\n2}"]).unwrap();
        cache.append(&["{\"c\":3}"]).unwrap();
        let expected = texts(&["{\"a\":1}", "{\"b\": 2}", "{\"c\":3}"]);
        assert_eq!(place.found(), (DOCUMENT.to_vec(), expected));
        for name in ["routes.json", "routes.json.changes"] {
            let mode = fs::metadata(place.path(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        cache.save(b"{}", 8).unwrap();
        assert_eq!(place.found(), (b"{}".to_vec(), vec![]));
    }

    #[test]
    fn a_restart_goes_on_after_what_is_good() {
        let place = Place::new();
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7).unwrap();
        cache.append(&["{\"a\":1}", "{\"b\":2}"]).unwrap();
        let path = place.path("routes.json.changes");
        let log = fs::read(&path).unwrap();
        fs::write(&path, &log[..log.len() - 3]).unwrap();
        let mut cache = place.cache();
        let found = cache.load().unwrap();
        cache.resume(found.log().good).unwrap();
        cache.append(&["{\"c\":3}"]).unwrap();
        assert_eq!(place.found().1, texts(&["{\"a\":1}", "{\"c\":3}"]));
        assert_eq!(found.damage(7), None);
    }

    #[test]
    fn a_log_without_its_head_is_no_log() {
        let place = Place::new();
        place.cache().save(DOCUMENT, 7).unwrap();
        fs::write(place.path("routes.json.changes"), "rubbish\n").unwrap();
        let mut cache = place.cache();
        let good = cache.load().unwrap().log().good;
        cache.resume(good).unwrap();
        assert!(cache.needs_whole() && cache.append(&["{}"]).is_err());
        fs::remove_file(place.path("routes.json.changes")).unwrap();
        assert_eq!(place.found(), (DOCUMENT.to_vec(), vec![]));
    }

    #[test]
    fn a_document_that_has_changed_on_disk_is_noticed() {
        let place = Place::new();
        place.cache().save(DOCUMENT, 7).unwrap();
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
            cache.save(DOCUMENT, 7).unwrap();
            cache.append(&["{\"a\":1}"]).unwrap();
            // A folder in the way stops everybody, the superuser too.
            let beside = place.path(&format!("{name}.new"));
            fs::create_dir(&beside).unwrap();
            assert!(cache.save(b"{\"revision\": 9}", 9).is_err());
            assert!(cache.needs_whole() && cache.append(&["{\"b\":2}"]).is_err());
            assert_eq!(place.found().1, texts(&["{\"a\":1}"]));
            if name == "routes.json" {
                assert_eq!(place.found().0, DOCUMENT);
            }
            fs::remove_dir(&beside).unwrap();
            cache.save(b"{\"revision\": 9}", 9).unwrap();
            assert_eq!(place.found(), (b"{\"revision\": 9}".to_vec(), vec![]));
        }
        let nowhere = Cache::new(Path::new("/proc/router/routes.json")).save(DOCUMENT, 7);
        assert!(nowhere.is_err());
    }

    #[test]
    fn a_full_disk_leaves_what_was_there() {
        let place = Place::new();
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7).unwrap();
        cache.append(&["{\"a\":1}"]).unwrap();
        // Takes nothing: "no space left on device".
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let log = cache.log.as_mut().unwrap();
        log.file = full;
        let error = cache.append(&["{\"b\":2}"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(cache.needs_whole());
        assert_eq!(place.found(), (DOCUMENT.to_vec(), texts(&["{\"a\":1}"])));
    }

    #[test]
    fn a_log_longer_than_its_document_needs_a_new_one() {
        let place = Place::new();
        let mut cache = place.cache();
        cache.save(DOCUMENT, 7).unwrap();
        let line = "x".repeat(300_000);
        for expected in [false, false, false, true] {
            cache.append(&[&line]).unwrap();
            assert_eq!(cache.needs_whole(), expected);
        }
        cache.save(&vec![b' '; 2_000_000], 8).unwrap();
        cache.append(&[&line; 5]).unwrap();
        assert!(!cache.needs_whole());
        cache.append(&[&line; 2]).unwrap();
        assert!(cache.needs_whole());
    }
}
