//! The last-good document on disk: written whole beside its place and renamed into it, so that a crash leaves the old
//! one or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces the cached document.
pub(super) fn save(path: &Path, document: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = File::create(&beside)?;
    file.write_all(document)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// The cached document.
pub(super) fn load(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}
