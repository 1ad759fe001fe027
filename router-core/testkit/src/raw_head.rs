//! A message head as it stood on the wire: the raw bytes, and the same bytes split into start line and header lines, in
//! order and with their case. Bytes become characters one to one (Latin-1), so nothing is lost or repaired.

/// The head of a request or a response, exactly as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawHead {
    raw: Vec<u8>,
    start_line: String,
    headers: Vec<(String, String)>,
}

impl RawHead {
    /// Splits a head that ends with its empty line. Panics on anything that is not CRLF lines with a colon: the router
    /// must never put such a head on the wire.
    pub fn parse(raw: &[u8]) -> Self {
        let text = text(raw);
        let lines = text
            .strip_suffix("\r\n\r\n")
            .unwrap_or_else(|| panic!("a head without its empty line: {text:?}"));
        let mut lines = lines.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let headers = header_lines(lines, &text);
        assert!(
            !start_line.contains(['\r', '\n']),
            "bare CR or LF in a start line: {text:?}"
        );
        Self {
            raw: raw.to_vec(),
            start_line,
            headers,
        }
    }

    /// Every byte of the head, its empty line included.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The request line or status line, without CRLF.
    pub fn start_line(&self) -> &str {
        &self.start_line
    }

    /// The header lines in order, names in the case they came in, values without the blanks around them.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.request_line_part(0)
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.request_line_part(1)
    }

    /// The version of a request.
    pub fn version(&self) -> &str {
        self.request_line_part(2)
    }

    /// All values of a header, in order; names compare without case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        all(&self.headers, name)
    }

    /// The value of a header that may occur once at most; panics when it occurs twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        one(&self.headers, name)
    }

    /// Whether a header is there at all.
    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    fn request_line_part(&self, at: usize) -> &str {
        let parts: Vec<&str> = self.start_line.split(' ').collect();
        assert_eq!(parts.len(), 3, "not a request line: {:?}", self.start_line);
        parts[at]
    }
}

/// Header (or trailer) lines split at their colon.
pub(crate) fn header_lines<'a>(
    lines: impl Iterator<Item = &'a str>,
    whole: &str,
) -> Vec<(String, String)> {
    lines
        .map(|line| {
            assert!(
                !line.contains(['\r', '\n']),
                "bare CR or LF in a header line: {whole:?}"
            );
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("no colon in header line {line:?}: {whole:?}"));
            assert!(
                !name.is_empty() && !name.contains([' ', '\t']),
                "bad header name in {line:?}: {whole:?}"
            );
            (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
        })
        .collect()
}

pub(crate) fn all<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect()
}

pub(crate) fn one<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let values = all(headers, name);
    assert!(
        values.len() <= 1,
        "{name} occurs {} times: {headers:?}",
        values.len()
    );
    values.first().copied()
}

/// Bytes as characters, one to one.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_head_keeps_order_case_and_bytes() {
        let head = RawHead::parse(b"GET /\xff HTTP/1.1\r\nHOST: a\r\nx-B:  c \r\nx-b: d\r\n\r\n");
        assert_eq!(
            (head.method(), head.target(), head.version()),
            ("GET", "/\u{ff}", "HTTP/1.1")
        );
        assert_eq!(head.headers()[0], ("HOST".to_owned(), "a".to_owned()));
        assert_eq!(head.all("X-B"), ["c", "d"]);
        assert_eq!(head.header("host"), Some("a"));
        assert!(!head.has("via"));
    }

    #[test]
    #[should_panic(expected = "occurs 2 times")]
    fn a_header_asked_for_as_single_must_be_single() {
        RawHead::parse(b"GET / HTTP/1.1\r\na: 1\r\nA: 2\r\n\r\n").header("a");
    }
}
