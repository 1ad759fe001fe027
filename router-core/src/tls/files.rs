//! Reads the small files that certificates and keys are in. Whatever is no regular file is refused unopened: opening a pipe
//! waits for somebody to write into it, which may be for ever. A key that everybody on the machine can read is used all
//! the same, and told of.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

/// Reads a file that anybody may see.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    regular(path)?;
    std::fs::read(path).map(Zeroizing::new)
}

/// Reads a file with something secret in it; warns once if others can read it too.
pub(crate) fn read_secret(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let file = regular(path)?;
    if is_open_to_all(&file) {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(path.to_owned()) {
            let (path, mode) = (path.display(), file.permissions().mode() & 0o777);
            tracing::warn!(
                "{path} holds a key, and everybody can read it (mode {mode:o}); 600 is enough"
            );
        }
    }
    std::fs::read(path).map(Zeroizing::new)
}

fn regular(path: &Path) -> io::Result<Metadata> {
    let file = std::fs::metadata(path)?;
    if file.is_file() {
        return Ok(file);
    }
    let kind = if file.is_dir() {
        io::ErrorKind::IsADirectory
    } else {
        io::ErrorKind::InvalidInput
    };
    Err(io::Error::new(kind, "it is not a regular file"))
}

fn is_open_to_all(file: &Metadata) -> bool {
    const READ_BY_OTHERS: u32 = 0o004;
    file.permissions().mode() & READ_BY_OTHERS != 0
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        for path in [&*path, directory.path(), Path::new("/dev/zero")] {
            for read in [read, read_secret] {
                let error = read(path).unwrap_err();
                assert_eq!(error.to_string(), "it is not a regular file");
            }
        }
        let missing = read(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        // What a link leads to counts, as in a mounted secret.
        let (file, link) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(**read_secret(&link).unwrap(), *b"x");
    }

    #[test]
    fn keys_for_everybody_are_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let seen = fs::metadata(file.path()).unwrap();
            assert_eq!(is_open_to_all(&seen), open, "{mode:o}");
        }
    }
}
