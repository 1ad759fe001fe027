//! Judges a dyno's response head (spec §1.18): where its body ends, whether the connection can be used again, or which
//! failure it is.

use std::time::Duration;

use crate::admission::{MOST_CONNECTION_TOKENS, content_length};
use crate::failure::Failure;
use crate::h1::field::list_elements;
use crate::h1::{FieldId, Framing, HeadError, ResponseHead, Version};

/// What the router has understood of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the dyno's connection may serve another request once the body has been read.
    pub reusable: bool,
    /// How long the dyno says it keeps an idle connection (`Keep-Alive: timeout=N`).
    pub keep_alive_timeout: Option<Duration>,
    /// Whether the Connection field names fields of its own.
    pub nominates: bool,
}

/// The failure of a response whose head cannot be parsed (H17, H25).
pub fn head_failure(error: HeadError) -> Failure {
    match error {
        HeadError::StartLine
        | HeadError::Version
        | HeadError::LineEnding
        | HeadError::FieldLine => Failure::MalformedResponse,
        HeadError::StartLineTooLong => Failure::OversizedStatusLine,
        HeadError::FieldTooLong | HeadError::TooManyFields => Failure::OversizedHeader,
        HeadError::CookieTooLong => Failure::OversizedCookie,
    }
}

/// Judges a final response (any status but an interim 1xx).
///
/// # Errors
/// H25 for a Content-Length that is not one number; H17 for a Transfer-Encoding other than chunked and for a 101 that
/// nobody asked for.
pub fn judge(
    head: &ResponseHead,
    to_head_request: bool,
    upgrade_requested: bool,
) -> Result<Judged, Failure> {
    let status = head.status();
    if status == 101 && !upgrade_requested {
        return Err(Failure::MalformedResponse);
    }
    let length = content_length(head.fields().values(FieldId::ContentLength))
        .map_err(|()| Failure::InvalidContentLength)?;
    let chunked = chunked(head)?;
    let bodiless = to_head_request || matches!(status, 204 | 304);
    let streamed = head.version() == Version::Http2;
    let framing = match (bodiless || status == 101, chunked, length) {
        (true, _, _) => Framing::None,
        (false, true, _) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) if streamed && head.is_whole() => Framing::Length(0),
        (false, false, None) if streamed => Framing::Chunked,
        (false, false, None) => Framing::UntilClose,
    };
    let (close, keep_alive, nominates) = connection(head)?;
    let persistent = if head.version() >= Version::Http11 {
        !close
    } else {
        keep_alive && !close
    };
    Ok(Judged {
        framing,
        reusable: persistent && framing != Framing::UntilClose && status != 101,
        keep_alive_timeout: keep_alive_timeout(head),
        nominates,
    })
}

/// Chunked wins over Content-Length (spec §1.18); any other coding is not ours to undo.
fn chunked(head: &ResponseHead) -> Result<bool, Failure> {
    let mut codings = head.fields().values(FieldId::TransferEncoding);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(true),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => Ok(false),
        _ => Err(Failure::MalformedResponse),
    }
}

fn connection(head: &ResponseHead) -> Result<(bool, bool, bool), Failure> {
    let mut tokens = 0;
    let (mut close, mut keep_alive, mut nominates) = (false, false, false);
    for value in head.fields().values(FieldId::Connection) {
        // What nearly every dyno says.
        if value == b"keep-alive" && tokens < MOST_CONNECTION_TOKENS {
            tokens += 1;
            keep_alive = true;
            continue;
        }
        for token in list_elements(value) {
            tokens += 1;
            if tokens > MOST_CONNECTION_TOKENS {
                return Err(Failure::MalformedResponse);
            }
            if token.eq_ignore_ascii_case(b"close") {
                close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                keep_alive = true;
            } else if !token.eq_ignore_ascii_case(b"upgrade") {
                nominates = true;
            }
        }
    }
    Ok((close, keep_alive, nominates))
}

fn keep_alive_timeout(head: &ResponseHead) -> Option<Duration> {
    head.fields()
        .values(FieldId::KeepAlive)
        .flat_map(list_elements)
        .find_map(|parameter| {
            let text = std::str::from_utf8(parameter).ok()?;
            let (name, value) = text.split_once('=')?;
            let timeout = name.trim().eq_ignore_ascii_case("timeout");
            if timeout {
                value.trim().parse().ok().map(Duration::from_secs)
            } else {
                None
            }
        })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::h1::{HeadLimits, HeadParser};
    use crate::limits::Limits;

    fn head(text: &str) -> ResponseHead {
        let mut buffer = BytesMut::from(format!("{text}\r\n").as_bytes());
        HeadParser::response(HeadLimits::response(&Limits::default()))
            .take_response(&mut buffer)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn responses_are_judged() {
        use Framing::{Chunked, Length, None, UntilClose};
        // (head, to HEAD?, framing, reusable)
        for (text, to_head, framing, reusable) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
                false,
                Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
                false,
                Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n",
                false,
                Length(5),
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                false,
                Chunked,
                true,
            ),
            ("HTTP/1.1 200 OK\r\n", false, UntilClose, false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n",
                false,
                Length(5),
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n",
                false,
                Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n",
                true,
                None,
                true,
            ),
            (
                "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n",
                false,
                None,
                true,
            ),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n",
                false,
                None,
                true,
            ),
        ] {
            let judged = judge(&head(text), to_head, false).unwrap();
            assert_eq!(
                (judged.framing, judged.reusable),
                (framing, reusable),
                "{text:?}"
            );
        }
    }

    #[test]
    fn bad_responses_are_named() {
        for (text, failure) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
                Failure::InvalidContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n",
                Failure::InvalidContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
                Failure::InvalidContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: x\r\n",
                Failure::InvalidContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
                Failure::MalformedResponse,
            ),
            (
                "HTTP/1.1 101 Switching Protocols\r\n",
                Failure::MalformedResponse,
            ),
        ] {
            assert_eq!(
                judge(&head(text), false, false).unwrap_err(),
                failure,
                "{text:?}"
            );
        }
        assert!(judge(&head("HTTP/1.1 101 Switching Protocols\r\n"), false, true).is_ok());
    }

    #[test]
    fn the_dynos_own_idle_limit_is_read() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: max=9, Timeout = 5\r\n";
        assert_eq!(
            judge(&head(text), false, false).unwrap().keep_alive_timeout,
            Some(Duration::from_secs(5))
        );
    }
}
