//! Who may read: whoever shows one of the tokens in a file. There may be several, so that a new one can be handed out
//! before the old one is taken out. The file is read again for each request; if it cannot be used, what it said last is.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::HeaderValue;
use zeroize::Zeroizing;

/// The tokens that are accepted.
pub(super) struct Tokens {
    path: PathBuf,
    /// The last content that could be used. Nothing is awaited under it.
    last: Mutex<Zeroizing<String>>,
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
        *tokens.last.lock().unwrap_or_else(PoisonError::into_inner) = content;
        Ok(tokens)
    }

    /// Whether a request with this Authorization field may read.
    pub(super) fn accept(&self, authorization: Option<&HeaderValue>) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match self.content() {
            Ok(content) => *last = content,
            Err(error) => tracing::warn!("{error}; what was read before stays in force"),
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
        let matches = last.split_ascii_whitespace().filter(|good| is_it(good));
        scheme.eq_ignore_ascii_case(BEARER) && matches.count() > 0
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

const BEARER: &[u8] = b"Bearer ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_can_be_replaced_one_after_the_other() {
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
            assert!(good.iter().all(|value| accepted(value)), "{content:?}");
            assert!(bad.iter().all(|value| !accepted(value)), "{content:?}");
            assert!(!tokens.accept(None));
        }
        fs::remove_file(&path).unwrap();
        assert!(accepted("Bearer new"));
    }
}
