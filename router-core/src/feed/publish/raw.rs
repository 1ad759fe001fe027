//! Routes as they came: the JSON text of each app, so that what this router does not know reaches one that does. Blanks
//! are taken out, because a message is one line, and the same app must be the same text however it was written.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use router_model::hostname::Domain;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One JSON value without blanks. It may hold private keys, so that nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Raw {
    /// With a comma before it.
    text: Bytes,
}

impl Raw {
    /// The value in this JSON text.
    pub(super) fn new(json: &str) -> Self {
        let mut text = Vec::with_capacity(json.len() + 1);
        text.push(b',');
        let (mut quoted, mut escaped) = (false, false);
        for byte in json.bytes() {
            if quoted || !byte.is_ascii_whitespace() {
                text.push(byte);
            }
            quoted ^= byte == b'"' && !escaped;
            escaped = quoted && byte == b'\\' && !escaped;
        }
        text.shrink_to_fit();
        Self { text: text.into() }
    }

    /// For an element of an array that is not its first one: with a comma before it.
    pub(super) fn next(&self) -> Bytes {
        self.text.clone()
    }

    /// The value alone.
    pub(super) fn alone(&self) -> Bytes {
        self.text.slice(1.min(self.text.len())..)
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// A part of the digest of a whole document; so is `place`, which says what the value is.
    pub(super) fn digest(&self, place: &str) -> u64 {
        let mut context = digest::Context::new(&SHA256);
        context.update(place.as_bytes());
        context.update(&self.text);
        let digest = context.finish();
        let first = digest.as_ref().first_chunk().copied();
        u64::from_be_bytes(first.unwrap_or_default())
    }
}

/// Without the text.
impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({} bytes)", self.len())
    }
}

/// A document or a change, taken apart. It has been parsed before, so that what is wrong with it is known.
pub(super) struct Parts<'t> {
    members: HashMap<Cow<'t, str>, &'t RawValue>,
}

impl<'t> Parts<'t> {
    pub(super) fn of(text: &'t [u8]) -> Result<Self, serde_json::Error> {
        let members = serde_json::from_slice::<HashMap<Key<'t>, &'t RawValue>>(text)?;
        let members = members.into_iter().map(|(key, value)| (key.0, value));
        Ok(Self {
            members: members.collect(),
        })
    }

    /// The elements of an array among the members.
    pub(super) fn array(&self, key: &str) -> Vec<&'t RawValue> {
        let array = self.members.get(key);
        let elements = array.and_then(|array| serde_json::from_str(array.get()).ok());
        elements.unwrap_or_default()
    }

    /// A member, if it is there and not null.
    pub(super) fn member(&self, key: &str) -> Option<Raw> {
        let value = self.members.get(key)?;
        (value.get() != "null").then(|| Raw::new(value.get()))
    }

    /// The members that this router does not know.
    pub(super) fn unknown(&self, known: &[&str]) -> Vec<(String, Raw)> {
        let unknown = self.members.iter();
        let unknown = unknown.filter(|(key, _)| !known.contains(&&***key));
        let mut unknown: Vec<_> = unknown
            .map(|(key, value)| (key.to_string(), Raw::new(value.get())))
            .collect();
        unknown.sort_by(|(one, _), (other, _)| one.cmp(other));
        unknown
    }
}

/// The name of an app, read from its text.
pub(super) fn name_of(app: &RawValue) -> Option<Arc<str>> {
    serde_json::from_str::<Named>(app.get()).ok()?.0
}

/// What an entry of `changes` is about: the name of an app, and its text unless it is gone.
pub(super) fn change_of(entry: &RawValue) -> Option<(Arc<str>, Option<&RawValue>)> {
    let members: HashMap<Key<'_>, &RawValue> = serde_json::from_str(entry.get()).ok()?;
    // As for those who parse it, what is null is not there.
    let member = |key: &'static str| {
        let member = members.get(&Key(Cow::Borrowed(key)));
        member.filter(|member| member.get() != "null")
    };
    match (member("app"), member("remove")) {
        (Some(app), None) => Some((name_of(app)?, Some(app))),
        (None, Some(name)) => {
            let name: String = serde_json::from_str(name.get()).ok()?;
            Some((name.into(), None))
        }
        _ => None,
    }
}

/// An app as it is in force if it does not get all that it claims: without the domains that are `lost`.
pub(super) fn without(app: &Raw, lost: &dyn Fn(&Domain) -> bool) -> Result<Raw, serde_json::Error> {
    let mut value: serde_json::Value = serde_json::from_slice(&app.alone())?;
    let domains = value
        .get_mut("domains")
        .and_then(|domains| domains.as_array_mut());
    if let Some(domains) = domains {
        domains.retain(|domain| {
            let domain = domain.as_str().map(Domain::parse);
            !domain.is_some_and(|domain| domain.is_ok_and(|domain| lost(&domain)))
        });
    }
    Ok(Raw::new(&value.to_string()))
}

/// An app that nobody can read, and has as it was before.
pub(super) fn unreadable(name: &str, why: &str) -> Raw {
    Raw::new(&serde_json::json!({"name": name, "unreadable": why}).to_string())
}

/// The key of a member, borrowed if it can be.
#[derive(PartialEq, Eq, Hash, Deserialize)]
struct Key<'t>(#[serde(borrow)] Cow<'t, str>);

/// The name among the members of an object, without the work of keeping the others.
struct Named(Option<Arc<str>>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Named;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
                let mut name = None;
                while let Some(Key(key)) = map.next_key()? {
                    if key == "name" {
                        // Of several members with one key the last one counts, as everywhere.
                        let value: &RawValue = map.next_value()?;
                        name = serde_json::from_str::<String>(value.get()).ok();
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Named(name.map(Arc::from)))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(raw: &Raw) -> String {
        String::from_utf8(raw.alone().to_vec()).unwrap()
    }

    #[test]
    fn blanks_are_taken_out_and_texts_are_left_alone() {
        for (json, wanted) in [
            ("{\n  \"a b\" : [ 1 ,\t2 ]\r\n}", "{\"a b\":[1,2]}"),
            (
                r#"{"a \\" : "x \" y" , "b" : " " }"#,
                r#"{"a \\":"x \" y","b":" "}"#,
            ),
            (r#" "\\\" \\" "#, r#""\\\" \\""#),
            ("\"\u{fc} \u{1f600}\"", "\"\u{fc} \u{1f600}\""),
            ("[]", "[]"),
        ] {
            let raw = Raw::new(json);
            assert_eq!(alone(&raw), wanted);
            assert_eq!(raw.next(), format!(",{wanted}"));
            assert_eq!(raw.len(), wanted.len() + 1);
        }
        let secret = format!("{:?}", Raw::new("\"key\""));
        assert_eq!(secret, "Raw(6 bytes)");
    }

    #[test]
    fn equal_values_have_equal_digests() {
        let digest = |place: &str, json: &str| Raw::new(json).digest(place);
        assert_eq!(digest("a", "{\"a\": 1}"), digest("a", "{\"a\":1}"));
        assert_ne!(digest("a", "{\"a\":1}"), digest("a", "{\"a\":2}"));
        assert_ne!(digest("a", "1"), digest("b", "1"));
    }

    #[test]
    fn documents_are_taken_apart() {
        let text = br#"{"format":1,"revision":1,"revision":7,"new":{"x": 1},"n\u0061me2":null,
            "certificates":null,"apps":[{"domains":[],"name":"a","name":"sh\u006fp"},7,{"name":7},{"nam":"b"},[]]}"#;
        let parts = Parts::of(text).unwrap();
        assert_eq!(
            parts.member("revision").map(|raw| alone(&raw)).as_deref(),
            Some("7")
        );
        assert!(parts.member("certificates").is_none() && parts.member("none").is_none());
        let names: Vec<_> = parts.array("apps").iter().map(|app| name_of(app)).collect();
        assert_eq!(names, [Some("shop".into()), None, None, None, None]);
        assert!(parts.array("new").is_empty() && parts.array("none").is_empty());
        let unknown = parts.unknown(&["format", "revision", "certificates", "apps"]);
        let unknown: Vec<_> = unknown
            .iter()
            .map(|(key, raw)| (&**key, alone(raw)))
            .collect();
        assert_eq!(
            unknown,
            [
                ("name2", "null".to_owned()),
                ("new", r#"{"x":1}"#.to_owned())
            ]
        );
        assert!(Parts::of(b"[]").is_err() && Parts::of(b"{").is_err());
    }

    #[test]
    fn entries_of_changes_say_what_they_are_about() {
        for (entry, wanted) in [
            (r#"{"app":{"name":"a"}}"#, Some(("a", true))),
            (r#"{"remove":"a"}"#, Some(("a", false))),
            (r#"{"remove":"a","app":{"name":"a"}}"#, None),
            (r#"{"remove":7}"#, None),
            (r#"{"app":{}}"#, None),
            ("{}", None),
            ("7", None),
        ] {
            let entry: &RawValue = serde_json::from_str(entry).unwrap();
            let change = change_of(entry);
            let change = change.as_ref().map(|(name, app)| (&**name, app.is_some()));
            assert_eq!(change, wanted, "{entry}");
        }
    }
}
