//! Where access log lines go in the end: a file descriptor that may block, fill up or break, none of which is a reason to
//! stop routing.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::config::LogTarget;

/// The open target of the access log.
#[derive(Debug)]
pub(super) struct Sink {
    target: LogTarget,
    file: File,
    /// Whether the last write failed: said once when it begins and once when it ends.
    failing: bool,
    /// Whether the last write stopped in the middle of a line.
    torn: bool,
}

impl Sink {
    pub(super) fn open(target: LogTarget) -> io::Result<Self> {
        let file = open(&target)?;
        Ok(Self {
            target,
            file,
            failing: false,
            torn: false,
        })
    }

    /// Opens a file target anew; if that fails, the old file stays.
    pub(super) fn reopen(&mut self) {
        if !matches!(self.target, LogTarget::File(_)) {
            return;
        }
        match open(&self.target) {
            Ok(file) => {
                self.file = file;
                self.torn = false;
                tracing::info!("the access log was reopened");
            }
            Err(error) => {
                tracing::error!(%error, "the access log cannot be reopened; the old file stays in use")
            }
        }
    }

    /// Writes whole lines; gives how many were lost.
    pub(super) fn write(&mut self, lines: &[u8], stop: &AtomicBool) -> u64 {
        if self.torn && write_all(&mut &self.file, b"\n", stop).is_ok() {
            self.torn = false;
        }
        let (written, outcome) = match write_all(&mut &self.file, lines, stop) {
            Ok(()) => (lines.len(), Ok(())),
            Err((written, error)) => (written, Err(error)),
        };
        match outcome {
            Ok(()) if self.failing => tracing::info!("the access log is written again"),
            Err(error) if !self.failing => {
                tracing::error!(%error, "the access log cannot be written; lines are lost")
            }
            Ok(()) | Err(_) => {}
        }
        let (done, lost) = lines.split_at(written.min(lines.len()));
        self.failing = !lost.is_empty();
        if let Some(&last) = done.last() {
            self.torn = last != b'\n';
        }
        lost.iter().map(|&byte| u64::from(byte == b'\n')).sum()
    }
}

/// Standard streams are written through their own descriptor: `io::stdout` would look for line ends in each batch.
fn open(target: &LogTarget) -> io::Result<File> {
    match target {
        LogTarget::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        LogTarget::Stderr => io::stderr().as_fd().try_clone_to_owned().map(File::from),
        LogTarget::Off => OpenOptions::new().write(true).open("/dev/null"),
        LogTarget::File(path) => OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// `Write::write_all` that says how far it came, and that waits for a descriptor that somebody made non-blocking.
fn write_all(
    file: &mut impl Write,
    bytes: &[u8],
    stop: &AtomicBool,
) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error)
                if error.kind() == ErrorKind::WouldBlock && !stop.load(Ordering::Acquire) =>
            {
                thread::sleep(RETRY)
            }
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

const RETRY: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let mut sink = Sink::open(LogTarget::File("/dev/full".into())).unwrap();
        assert_eq!(sink.write(b"one\ntwo\n", &AtomicBool::new(false)), 2);
        assert!(sink.failing);
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut sink = Sink::open(LogTarget::File(path.clone())).unwrap();
        let go = AtomicBool::new(false);
        assert_eq!(sink.write(b"half", &go), 0);
        assert_eq!(sink.write(b"whole\n", &go), 0);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "half\nwhole\n");
    }
}
