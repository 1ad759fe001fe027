//! The query string of an admin request.

use std::borrow::Cow;

/// The value of a parameter, percent-decoded; the first of several. `+` stays a plus: hosts and paths have no spaces.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut found = pairs.filter(|(key, _)| decode(key) == name);
    found.next().map(|(_, value)| decode(value).into_owned())
}

/// Decodes `%41`; what is no such escape stays as it is, and what is no UTF-8 is replaced.
pub(super) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after
            .first_chunk()
            .filter(|_| byte == b'%')
            .and_then(|digits| hex(*digits));
        rest = if escaped.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
        bytes.push(escaped.unwrap_or(byte));
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_and_decoded() {
        for (query, wanted) in [
            ("host=a.example&path=/x", Some("/x")),
            ("path=%2Fx%3Fy%3d1+2", Some("/x?y=1+2")),
            ("path=100%&host=a", Some("100%")),
            ("path=%zz%4", Some("%zz%4")),
            ("path=%ff", Some("\u{fffd}")),
            ("p%61th=/y&path=/z", Some("/y")),
            ("path", Some("")),
            ("", None),
        ] {
            assert_eq!(parameter(query, "path").as_deref(), wanted, "{query}");
        }
    }
}
