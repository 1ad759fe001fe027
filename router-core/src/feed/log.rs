//! The text of the change log beside the last good document: one line for each change, with a checksum. The first line
//! says which document they come after. Nothing here opens a file.

use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The revision of the document.
    pub(super) after: u64,
    /// The SHA-256 of the document.
    pub(super) sha256: String,
    /// Apps that were there before the document, and without which it would come to something else.
    #[serde(default)]
    pub(super) kept: Vec<Value>,
}

/// What could be read of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read<'l> {
    pub(super) header: Option<Header>,
    pub(super) changes: Vec<&'l [u8]>,
    /// So many bytes are good; what comes after them was never written to the end, or has gone bad.
    pub(super) good: usize,
}

impl Header {
    /// The line.
    pub(super) fn line(&self) -> Vec<u8> {
        line(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// A change as a line.
pub(super) fn line(change: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(SUM + change.len() + 2);
    line.extend_from_slice(&[b' '; SUM + 1]);
    // A line break in JSON can only stand between two tokens, where a blank means the same.
    let text = change.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    });
    line.extend(text);
    let sum = sum(line.get(SUM + 1..).unwrap_or_default());
    for (place, digit) in line.iter_mut().zip(sum) {
        *place = digit;
    }
    line.push(b'\n');
    line
}

/// Reads a log up to its end, or to the first line that is not as it was written.
pub(super) fn read(log: &[u8]) -> Read<'_> {
    let mut read = Read::default();
    while let Some((line, rest)) = next_line(log.get(read.good..).unwrap_or_default()) {
        if read.good == 0 {
            let Ok(header) = serde_json::from_slice(line) else {
                return read;
            };
            read.header = Some(header);
        } else {
            read.changes.push(line);
        }
        read.good = log.len() - rest;
    }
    read
}

/// What the next line says, and how many bytes come after it.
fn next_line(log: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', log)?;
    let (line, rest) = (log.get(..end)?, log.len() - end - 1);
    let (written, text) = line.split_at_checked(SUM + 1)?;
    (written.split_last()? == (&b' ', &sum(text))).then_some((text, rest))
}

/// Hexadecimal digits of a checksum. It is there for disks, not for enemies: whoever can write the log can write routes.
const SUM: usize = 16;

fn sum(text: &[u8]) -> [u8; SUM] {
    let digest = digest::digest(&SHA256, text);
    let mut sum = [0; SUM];
    let digits = digest
        .as_ref()
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15]);
    for (place, digit) in sum.iter_mut().zip(digits) {
        *place = if digit < 10 {
            b'0' + digit
        } else {
            b'a' + digit - 10
        };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            after: 7,
            sha256: "00".to_owned(),
            kept: vec![Value::Null],
        }
    }

    fn log(changes: &[&str]) -> Vec<u8> {
        let lines = changes.iter().map(|change| line(change.as_bytes()));
        [header().line()]
            .into_iter()
            .chain(lines)
            .flatten()
            .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let log = log(&["{\"a\": 1}", "{\n\r}", ""]);
        let read = read(&log);
        assert_eq!(read.header, Some(header()));
        assert_eq!(read.changes, [&b"{\"a\": 1}"[..], b"{  }", b""]);
        assert_eq!(read.good, log.len());
    }

    #[test]
    fn a_torn_tail_is_left_out() {
        let whole = log(&["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
        let ends: Vec<_> = memchr::memchr_iter(b'\n', &whole)
            .map(|end| end + 1)
            .collect();
        for cut in 0..=whole.len() {
            let read = read(&whole[..cut]);
            let lines = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(read.changes.len(), lines.saturating_sub(1), "{cut}");
            assert_eq!(
                read.good,
                ends[..lines].last().copied().unwrap_or(0),
                "{cut}"
            );
            assert_eq!(read.header.is_some(), lines > 0);
        }
    }

    #[test]
    fn a_bad_byte_ends_the_log_before_its_line() {
        let whole = log(&["{\"a\":1}", "{\"b\":2}"]);
        let good = read(&whole);
        let start = whole.len() - line(b"{\"b\":2}").len();
        for place in 0..whole.len() {
            let mut bad = whole.clone();
            bad[place] ^= 1;
            let read = read(&bad);
            assert!(read.good <= place, "{place}");
            assert!(good.changes.starts_with(&read.changes), "{place}");
            if place >= start {
                assert_eq!((read.changes.len(), read.good), (1, start), "{place}");
            }
        }
    }

    #[test]
    fn what_is_no_log_is_read_as_an_empty_one() {
        for text in [
            "",
            "\n",
            "\n\n\n",
            "rubbish",
            "0123456789abcdef {}\n",
            "é\n",
        ] {
            assert_eq!(read(text.as_bytes()), Read::default(), "{text:?}");
        }
        let without_header = line(b"{\"a\":1}");
        assert_eq!(read(&without_header), Read::default());
    }
}
