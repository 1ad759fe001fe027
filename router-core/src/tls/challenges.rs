//! Answers to ACME's http-01 challenges (RFC 8555 §8.3) that are expected right now, known tokens only.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashMap;

/// What to answer below `/.well-known/acme-challenge/`.
#[derive(Default)]
pub struct Challenges {
    /// Key authorizations by token. Read for requests below that path only; never held across an await.
    expected: RwLock<HashMap<Box<str>, Arc<str>>>,
}

impl Challenges {
    /// Answers `token` with `key_authorization` from now on.
    pub fn expect(&self, token: &str, key_authorization: &str) {
        let mut expected = self
            .expected
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        expected.insert(token.into(), key_authorization.into());
    }

    /// Forgets a token.
    pub fn forget(&self, token: &str) {
        let mut expected = self
            .expected
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        expected.remove(token);
    }

    /// The key authorization of a token; `None` for tokens that nobody expects.
    pub fn answer(&self, token: &str) -> Option<Arc<str>> {
        let expected = self.expected.read().unwrap_or_else(PoisonError::into_inner);
        expected.get(token).cloned()
    }
}

/// Without the answers.
impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}
