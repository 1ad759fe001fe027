//! What the cache needs of a disk, and the real one. Behind a trait, because what matters is what is left after any of
//! these steps was the last.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A disk.
pub(super) trait Disk: Send + 'static {
    /// What a file holds.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Writes a file that was not there, or instead of one that a crash has left. It is on the disk afterwards, and
    /// nobody else may read it.
    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Puts a file in the place of another, at once.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Cuts a file at a length and writes on from there. It is on the disk afterwards.
    fn append(&self, path: &Path, length: u64, content: &[u8]) -> io::Result<()>;
}

/// The file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files;

impl Disk for Files {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        fs::create_dir_all(folder(path))?;
        // A file that a crash has left may be readable to others.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(OWNER_ONLY)
            .open(path)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a file would take the room that the next attempt needs.
            drop(fs::remove_file(path));
        }
        written
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        File::open(folder(to))?.sync_all()
    }

    fn append(&self, path: &Path, length: u64, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        let written = file.write_all(content).and_then(|()| file.sync_data());
        if written.is_err()
            && let Err(error) = file.set_len(length)
        {
            // It is cut off when it is read.
            tracing::debug!(%error, "a torn line stays at the end of a log");
        }
        written
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

const OWNER_ONLY: u32 = 0o600;
