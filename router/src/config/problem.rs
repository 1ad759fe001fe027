//! One thing that is wrong with a configuration, said so that its reader can mend it: where, what, and what would be
//! allowed. Problems are collected, never thrown at the first: a reader mends a file once, not ten times.

use std::fmt;

/// One thing wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The key, as `section.key`; empty when the whole file is meant.
    key: String,
    wrong: String,
    allowed: Option<String>,
}

impl Problem {
    /// A problem with the value (or the absence) of one key.
    pub(crate) fn new(
        key: impl Into<String>,
        wrong: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            wrong: wrong.into(),
            allowed: Some(allowed.into()),
        }
    }

    /// A problem for which there is nothing to choose from.
    pub(crate) fn plain(key: impl Into<String>, wrong: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            wrong: wrong.into(),
            allowed: None,
        }
    }

    /// A problem with the file as a whole.
    pub(crate) fn of_file(wrong: impl Into<String>) -> Self {
        Self::plain("", wrong)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.wrong)?;
        self.allowed
            .as_ref()
            .map_or(Ok(()), |allowed| write!(out, "; allowed: {allowed}"))
    }
}
