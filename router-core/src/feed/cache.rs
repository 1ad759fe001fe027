//! The last-good document on disk: written whole beside its place and renamed into it, so that a crash leaves the old
//! one or the new one. It may hold private keys, so that nobody else may read it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces the cached document.
pub(super) fn save(path: &Path, document: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    // A file that a crash has left may be readable to others.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(&beside)?;
    file.write_all(document)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// The cached document.
pub(super) fn load(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}

const OWNER_ONLY: u32 = 0o600;
