//! Who may read: whoever shows one of the tokens in a file. There may be several, so that a new one can be handed out
//! before the old one is taken out. The file is read again every second at most; if it cannot be used, what it said last
//! is.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::clock::{self, Instant};

/// The tokens that are accepted.
pub(super) struct Tokens {
    path: PathBuf,
    /// Nothing is awaited under it.
    last: Mutex<Last>,
}

/// What the file said.
#[derive(Default)]
struct Last {
    /// The last content that could be used.
    content: Zeroizing<String>,
    read: Option<Instant>,
    /// Why it could not be used the last time.
    failure: Option<String>,
}

impl Tokens {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// A reason for people.
    pub(super) fn read(path: PathBuf) -> Result<Self, String> {
        let tokens = Self {
            path,
            last: Mutex::default(),
        };
        let content = tokens.content()?;
        *tokens.lock() = Last {
            content,
            read: Some(clock::now()),
            failure: None,
        };
        Ok(tokens)
    }

    /// Whether a request with this Authorization field may read.
    pub(super) fn accept(&self, authorization: Option<&HeaderValue>) -> bool {
        let mut last = self.lock();
        let now = clock::now();
        if last.read.is_none_or(|read| now >= read + AT_MOST_EVERY) {
            last.read = Some(now);
            last.take(self.content());
        }
        let Some((scheme, token)) = authorization
            .map(HeaderValue::as_bytes)
            .and_then(|value| value.split_at_checked(BEARER.len()))
        else {
            return false;
        };
        let token = token.trim_ascii();
        let is_it = |good: &str| verify_slices_are_equal(good.as_bytes(), token).is_ok();
        // All are compared, so that time tells nothing.
        let matches = last
            .content
            .split_ascii_whitespace()
            .filter(|good| is_it(good));
        scheme.eq_ignore_ascii_case(BEARER) && matches.count() > 0
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn content(&self) -> Result<Zeroizing<String>, String> {
        let path = self.path.display();
        let content = fs::read_to_string(&self.path).map(Zeroizing::new);
        let content = content.map_err(|error| format!("{path} cannot be read: {error}"))?;
        if content.trim().is_empty() {
            return Err(format!("{path} holds no token"));
        }
        Ok(content)
    }
}

impl Last {
    /// The file was read; whether that went wrong in a way that was not said yet.
    fn take(&mut self, content: Result<Zeroizing<String>, String>) -> bool {
        let error = match content {
            Ok(content) => {
                self.content = content;
                self.failure = None;
                return false;
            }
            Err(error) => error,
        };
        let new = self.failure.as_ref() != Some(&error);
        if new {
            tracing::warn!("{error}; what was read before stays in force");
            self.failure = Some(error);
        }
        new
    }
}

const BEARER: &[u8] = b"Bearer ";
/// There may be thousands of requests in a second.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokens_can_be_replaced_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert!(
            Tokens::read(path.clone())
                .err()
                .unwrap()
                .contains("cannot be read")
        );
        fs::write(&path, " \n").unwrap();
        assert!(
            Tokens::read(path.clone())
                .err()
                .unwrap()
                .ends_with("holds no token")
        );
        fs::write(&path, "old\n").unwrap();
        let tokens = Tokens::read(path.clone()).unwrap();
        let accepted = |value: &str| tokens.accept(Some(&HeaderValue::from_str(value).unwrap()));
        for (content, good, bad) in [
            (
                "old\n",
                &["Bearer old", "bearer  old"][..],
                &["Bearer new", "Bearer", "Bearer ", "Basic old", "old"][..],
            ),
            (
                "old\nnew\n",
                &["Bearer old", "Bearer new"],
                &["Bearer old new", "Bearer ol"],
            ),
            ("new", &["Bearer new"], &["Bearer old"]),
            ("", &["Bearer new"], &["Bearer old"]),
        ] {
            fs::write(&path, content).unwrap();
            tokio::time::advance(AT_MOST_EVERY).await;
            assert!(good.iter().all(|value| accepted(value)), "{content:?}");
            assert!(bad.iter().all(|value| !accepted(value)), "{content:?}");
            assert!(!tokens.accept(None));
        }
        fs::remove_file(&path).unwrap();
        tokio::time::advance(AT_MOST_EVERY).await;
        assert!(accepted("Bearer new"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_is_read_once_a_second_however_many_ask() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "old").unwrap();
        let tokens = Tokens::read(path.clone()).unwrap();
        let accepted = |value: &'static str| tokens.accept(Some(&HeaderValue::from_static(value)));
        fs::write(&path, "new").unwrap();
        assert!(accepted("Bearer old") && !accepted("Bearer new"));
        tokio::time::advance(AT_MOST_EVERY).await;
        assert!(!accepted("Bearer old") && accepted("Bearer new"));
        // The same as before is not said again.
        let wrong = |why: &str| Err(why.to_owned());
        let mut last = tokens.lock();
        assert!(last.take(wrong("empty")) && !last.take(wrong("empty")));
        assert!(last.take(wrong("gone")));
        assert!(!last.take(Ok(Zeroizing::new("new".to_owned()))));
        assert!(last.take(wrong("gone")));
    }
}
