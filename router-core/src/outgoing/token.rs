//! A secret that says who the router is, in a file: read again for each request, so that a new one is used at once. If
//! the file cannot be used, the last one that could is.

use std::fs;
use std::path::PathBuf;

use http::HeaderValue;
use zeroize::Zeroizing;

/// A bearer token (RFC 6750 §2.1).
pub(crate) struct TokenFile {
    path: PathBuf,
    /// The whole value of the Authorization field.
    last: Option<HeaderValue>,
}

impl TokenFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, last: None }
    }

    /// The value of the Authorization field.
    ///
    /// # Errors
    /// A reason for people, if the file cannot be used and never could.
    pub(crate) fn authorization(&mut self) -> Result<HeaderValue, String> {
        match (self.read(), &self.last) {
            (Ok(value), _) => {
                self.last = Some(value.clone());
                Ok(value)
            }
            (Err(error), Some(last)) => {
                tracing::warn!("{error}; the last token is used");
                Ok(last.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Whether the file holds another token than the one that was used last.
    pub(crate) fn has_changed(&self) -> bool {
        self.read()
            .is_ok_and(|now| self.last.as_ref() != Some(&now))
    }

    /// The token itself, for those who check it.
    ///
    /// # Errors
    /// A reason for people.
    pub(crate) fn read_token(&self) -> Result<Zeroizing<String>, String> {
        let path = self.path.display();
        let text = fs::read_to_string(&self.path).map(Zeroizing::new);
        let text = text.map_err(|error| format!("{path} cannot be read: {error}"))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{path} holds no token: expected one word of visible ASCII characters"
            ));
        }
        Ok(Zeroizing::new(token.to_owned()))
    }

    fn read(&self) -> Result<HeaderValue, String> {
        let token = self.read_token()?;
        let value = Zeroizing::new(format!("Bearer {}", *token));
        let mut value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_used_at_once_and_a_bad_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let mut token = TokenFile::new(path.clone());
        assert!(
            token
                .authorization()
                .unwrap_err()
                .contains("cannot be read")
        );
        for (content, wanted) in [
            ("", None),
            (" \n", None),
            ("two words", None),
            ("geheimniß", None),
            ("s3cr3t\n", Some("Bearer s3cr3t")),
            ("", Some("Bearer s3cr3t")),
            ("n3w", Some("Bearer n3w")),
        ] {
            fs::write(&path, content).unwrap();
            let value = token.authorization();
            let value = value.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(value.ok(), wanted, "{content:?}");
        }
        assert!(!token.has_changed());
        fs::write(&path, "n3wer").unwrap();
        assert!(token.has_changed());
        fs::remove_file(&path).unwrap();
        assert!(!token.has_changed());
        let value = token.authorization().unwrap();
        assert_eq!(value, "Bearer n3w");
        assert!(!format!("{value:?}").contains("n3w"));
    }
}
