//! Why an app is rejected, collected rather than stopped at: each reason names the field, the value and what is
//! allowed. Values are shown escaped and shortened, because a document may hold anything.

use std::fmt::Display;

use serde_json::Value;

/// The reasons found so far, as far as anybody will read them.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    first: Vec<String>,
    more: usize,
}

impl Reasons {
    /// Notes that `value` at `field` is not what it has to be.
    pub(super) fn add(&mut self, field: &str, value: Option<&Value>, expected: impl Display) {
        self.add_described(field, &describe(value), expected);
    }

    /// The same for a value that must not be shown.
    pub(super) fn add_described(&mut self, field: &str, found: &str, expected: impl Display) {
        if self.is_there_room() {
            self.first.push(format!("{field}: {found}, {expected}"));
        }
    }

    /// Notes what somebody else found wrong.
    pub(super) fn add_text(&mut self, text: &str) {
        let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let text = visible.take(LONGEST_TEXT).collect();
        if self.is_there_room() {
            self.first.push(text);
        }
    }

    /// Whether one more is kept; otherwise it is counted.
    fn is_there_room(&mut self) -> bool {
        let room = self.first.len() < MOST_REASONS;
        self.more += usize::from(!room);
        room
    }

    /// Every reason.
    pub(super) fn into_vec(mut self) -> Vec<String> {
        if self.more > 0 {
            self.first.push(format!("and {} more", self.more));
        }
        self.first
    }
}

/// A value as a person would read it, short and without control characters.
pub(crate) fn describe(value: Option<&Value>) -> String {
    match value {
        None => "missing".to_owned(),
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => quote(text),
        Some(Value::Array(_)) => "an array".to_owned(),
        Some(Value::Object(_)) => "an object".to_owned(),
    }
}

fn quote(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or(text)),
        None => format!("{text:?}"),
    }
}

/// Characters of a text that are shown.
const LONGEST_SHOWN: usize = 80;
/// Of one app.
const MOST_REASONS: usize = 20;
/// Of somebody else's reason.
const LONGEST_TEXT: usize = 300;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_app_has_only_so_many_reasons() {
        let mut reasons = Reasons::default();
        for index in 0..1000 {
            reasons.add(&format!("domains[{index}]"), None, "must be there");
        }
        let reasons = reasons.into_vec();
        assert_eq!(reasons.len(), 21);
        assert_eq!(reasons[20], "and 980 more");
    }

    #[test]
    fn values_are_described_short_and_escaped() {
        for (value, expected) in [
            (json!(null), "null".to_owned()),
            (json!(true), "true".to_owned()),
            (json!(-1.5), "-1.5".to_owned()),
            (json!("a\n\"b\""), "\"a\\n\\\"b\\\"\"".to_owned()),
            (json!([1, 2]), "an array".to_owned()),
            (json!({"a": 1}), "an object".to_owned()),
            (json!("é".repeat(80)), format!("\"{}\"", "é".repeat(80))),
            (json!("é".repeat(81)), format!("\"{}\"...", "é".repeat(80))),
        ] {
            assert_eq!(describe(Some(&value)), expected);
        }
        assert_eq!(describe(None), "missing");
    }
}
