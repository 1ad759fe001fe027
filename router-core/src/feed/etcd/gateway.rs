//! The JSON that etcd's gateway takes and gives (protocol buffers' JSON: bytes in Base64, 64-bit numbers as texts, fields
//! with their default left out).

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that go out.
pub(super) struct Base64<'b>(pub(super) &'b [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

/// A range of keys, at one revision or the newest.
#[derive(Serialize)]
pub(super) struct RangeRequest<'b> {
    pub(super) key: Base64<'b>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<Base64<'b>>,
    /// No limit if zero.
    pub(super) limit: u32,
    /// The newest, as the quorum knows it, if zero.
    pub(super) revision: u64,
}

#[derive(Deserialize)]
pub(super) struct RangeAnswer<'a> {
    pub(super) header: Header,
    #[serde(borrow, default)]
    pub(super) kvs: Vec<KeyValue<'a>>,
    /// Whether there are more keys than asked for.
    #[serde(default)]
    pub(super) more: bool,
}

/// Asks for everything that happens to a range of keys from a revision on.
#[derive(Serialize)]
pub(super) struct WatchRequest<'b> {
    pub(super) create_request: WatchCreate<'b>,
}

#[derive(Serialize)]
pub(super) struct WatchCreate<'b> {
    pub(super) key: Base64<'b>,
    pub(super) range_end: Base64<'b>,
    pub(super) start_revision: u64,
    pub(super) progress_notify: bool,
}

/// One line of a streamed answer.
#[derive(Deserialize)]
pub(super) struct Streamed<T> {
    pub(super) result: Option<T>,
    pub(super) error: Option<Refused>,
}

/// What a watch tells. Events of one revision are never spread over several.
#[derive(Deserialize)]
pub(super) struct WatchAnswer<'a> {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) created: bool,
    #[serde(default)]
    pub(super) canceled: bool,
    /// There if it was cancelled because the revisions asked for are gone.
    #[serde(default, deserialize_with = "number", alias = "compactRevision")]
    pub(super) compact_revision: u64,
    #[serde(borrow, default, alias = "cancelReason")]
    pub(super) cancel_reason: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) events: Vec<Event<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type", default)]
    pub(super) kind: EventKind,
    #[serde(borrow)]
    pub(super) kv: KeyValue<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum EventKind {
    #[default]
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "DELETE")]
    Delete,
}

/// A key and its value, as texts in Base64.
#[derive(Deserialize)]
pub(super) struct KeyValue<'a> {
    #[serde(borrow, default)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Cow<'a, str>,
    /// When it was last changed.
    #[serde(default, deserialize_with = "number", alias = "modRevision")]
    pub(super) mod_revision: u64,
}

impl KeyValue<'_> {
    pub(super) fn key(&self) -> Result<Vec<u8>, base64::DecodeError> {
        STANDARD.decode(self.key.as_bytes())
    }

    pub(super) fn value(&self) -> Result<Vec<u8>, base64::DecodeError> {
        STANDARD.decode(self.value.as_bytes())
    }
}

#[derive(Default, Deserialize)]
pub(super) struct Header {
    /// Of the whole store.
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: u64,
}

/// Puts a value that goes away with its lease.
#[derive(Serialize)]
pub(super) struct PutRequest<'b> {
    pub(super) key: Base64<'b>,
    pub(super) value: Base64<'b>,
    pub(super) lease: i64,
}

#[derive(Serialize)]
pub(super) struct LeaseGrant {
    /// Seconds.
    #[serde(rename = "TTL")]
    pub(super) ttl: u64,
}

#[derive(Serialize)]
pub(super) struct LeaseKeepAlive {
    #[serde(rename = "ID")]
    pub(super) id: i64,
}

/// Of both.
#[derive(Deserialize)]
pub(super) struct LeaseAnswer {
    #[serde(rename = "ID", default, deserialize_with = "number")]
    pub(super) id: i64,
    /// Seconds left; none if there is no such lease any more.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub(super) ttl: i64,
}

#[derive(Serialize)]
pub(super) struct Authenticate<'b> {
    pub(super) name: &'b str,
    pub(super) password: &'b str,
}

#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) token: String,
}

/// Why etcd did not do what was asked.
#[derive(Debug, Deserialize)]
pub(super) struct Refused {
    pub(super) message: String,
}

/// The reason in the answer to a request that etcd did not do, or the answer itself, if it is nothing of etcd's.
pub(super) fn refusal(answer: &[u8]) -> String {
    let reason = serde_json::from_slice::<Refused>(answer).map(|refused| refused.message);
    let reason = reason.unwrap_or_else(|_| String::from_utf8_lossy(answer).trim().to_owned());
    reason.chars().take(LONGEST_REASON).collect()
}

const LONGEST_REASON: usize = 300;

/// A number, which the gateway writes as a text.
fn number<'de, D: Deserializer<'de>, N: TryFrom<i128>>(deserializer: D) -> Result<N, D::Error> {
    struct Number;

    impl Visitor<'_> for Number {
        type Value = i128;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<i128, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_u64<E>(self, number: u64) -> Result<i128, E> {
            Ok(number.into())
        }

        fn visit_i64<E>(self, number: i64) -> Result<i128, E> {
            Ok(number.into())
        }
    }

    let number = deserializer.deserialize_any(Number)?;
    N::try_from(number).map_err(|_| D::Error::custom("a number out of range"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_of_old_and_new_gateways() {
        for text in [
            r#"{"header":{"revision":"7"},"kvs":[{"key":"L2E=","mod_revision":"3","value":"eA=="}],"more":true,"count":"2"}"#,
            r#"{"header":{"revision":7},"kvs":[{"key":"L2E=","modRevision":3,"value":"eA==","lease":"0"}],"more":true}"#,
        ] {
            let answer: RangeAnswer<'_> = serde_json::from_str(text).unwrap();
            let [kv] = &answer.kvs[..] else { panic!() };
            assert_eq!(
                (answer.header.revision, answer.more, kv.mod_revision),
                (7, true, 3)
            );
            assert_eq!(
                (kv.key().unwrap(), kv.value().unwrap()),
                (b"/a".to_vec(), b"x".to_vec())
            );
        }
        let answer: RangeAnswer<'_> = serde_json::from_str(r#"{"header":{}}"#).unwrap();
        assert_eq!(
            (answer.header.revision, answer.kvs.len(), answer.more),
            (0, 0, false)
        );
        for bad in [
            r#"{"header":{"revision":"x"}}"#,
            r#"{"header":{"revision":"-1"}}"#,
            "{}",
        ] {
            assert!(serde_json::from_str::<RangeAnswer<'_>>(bad).is_err());
        }
    }

    #[test]
    fn lines_of_a_watch() {
        let read = |text: &'static str| -> WatchAnswer<'_> {
            let line: Streamed<WatchAnswer<'_>> = serde_json::from_str(text).unwrap();
            line.result.unwrap()
        };
        let created = read(r#"{"result":{"header":{"revision":"3"},"created":true}}"#);
        assert!(created.created && !created.canceled && created.events.is_empty());
        let events = read(
            r#"{"result":{"header":{"revision":"9"},"events":[{"kv":{"key":"YQ==","mod_revision":"4","value":""}},
                {"type":"DELETE","kv":{"key":"Yg==","mod_revision":"5"}},{"type":"PUT","kv":{"key":"Yw==","mod_revision":"5"}}]}}"#,
        );
        let kinds: Vec<_> = events.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Put, EventKind::Delete, EventKind::Put]);
        let compacted = read(r#"{"result":{"header":{},"canceled":true,"compact_revision":"4"}}"#);
        assert_eq!((compacted.canceled, compacted.compact_revision), (true, 4));
        let text = r#"{"error":{"grpc_code":16,"http_code":401,"message":"etcdserver: invalid auth token","http_status":"Unauthorized"}}"#;
        let line: Streamed<WatchAnswer<'_>> = serde_json::from_str(text).unwrap();
        assert_eq!(
            line.error.unwrap().message,
            "etcdserver: invalid auth token"
        );
    }

    #[test]
    fn refusals_of_old_and_new_gateways() {
        for text in [
            r#"{"error":"no","message":"no","code":9}"#,
            r#"{"code":9,"message":"no","details":[]}"#,
        ] {
            assert_eq!(refusal(text.as_bytes()), "no");
        }
        assert_eq!(refusal(b"404 page not found\n"), "404 page not found");
    }

    #[test]
    fn requests_as_the_gateway_wants_them() {
        let range = RangeRequest {
            key: Base64(b"/a"),
            range_end: Some(Base64(b"/b")),
            limit: 5,
            revision: 7,
        };
        assert_eq!(
            serde_json::to_value(&range).unwrap(),
            json!({"key": "L2E=", "range_end": "L2I=", "limit": 5, "revision": 7})
        );
    }
}
