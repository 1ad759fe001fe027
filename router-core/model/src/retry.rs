//! When a request may be sent again, and how often a dyno may be tried (spec §1.5, §10-20).

use std::time::Duration;

use crate::limits::Limits;

/// What is known of a request that died on a dyno connection.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// The connection had served a request before.
    pub reused: bool,
    /// A byte of a response was read.
    pub response_seen: bool,
    /// A byte of the request was accepted by the system for sending.
    pub request_written: bool,
    /// The request has a body.
    pub has_body: bool,
    /// How long ago the connection was taken for it.
    pub age: Duration,
    /// The dyno said that it has not looked at it: REFUSED_STREAM, or a GOAWAY that does not count it in (RFC 9113
    /// §8.7).
    pub refused: bool,
}

/// Whether the request may go out once more on a fresh connection: no byte of it can have been acted on, or it is
/// idempotent, has no body and the connection was a kept one that died before a response byte. A body that has been
/// sent is gone, even if the dyno refused it.
pub fn may_resend(method: &[u8], sent: Sent) -> bool {
    let untouched = !sent.request_written && !sent.response_seen;
    let stale = !sent.response_seen && sent.age < STALE_WITHIN;
    let harmless = is_safe(method) && !sent.has_body && stale;
    let unprocessed = sent.refused && !sent.response_seen && !sent.has_body;
    unprocessed || sent.reused && (untouched || harmless)
}

/// A kept connection that was dead shows it within a round trip. One that dies later died of its request or with its
/// dyno, and a request that crashes dynos must not be handed to the next.
pub const STALE_WITHIN: Duration = Duration::from_secs(1);

/// GET, HEAD, OPTIONS, TRACE: the safe methods of RFC 9110 §9.2.1.
pub fn is_safe(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE")
}

/// How long a kept connection may have been idle to carry a request that cannot be sent again. Application servers
/// close idle connections after two seconds and more (gunicorn 2 s, Node 5 s); a younger one is safe, and a new
/// connection costs less than a failed request.
pub const UNSAFE_REUSE_IDLE: Duration = Duration::from_millis(500);

/// Connect attempts for one request: the limit, and never more than there are running web dynos.
pub fn attempts_allowed(limits: &Limits, running_web_dynos: usize) -> u32 {
    limits
        .connect_attempts
        .min(u32::try_from(running_web_dynos).unwrap_or(u32::MAX))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_requests_are_sent_again() {
        let sent = Sent {
            reused: true,
            response_seen: false,
            request_written: true,
            has_body: false,
            age: Duration::ZERO,
            refused: false,
        };
        for (method, sent, expected) in [
            (&b"GET"[..], sent, true),
            (b"HEAD", sent, true),
            (b"POST", sent, false),
            (b"get", sent, false),
            (
                b"GET",
                Sent {
                    reused: false,
                    ..sent
                },
                false,
            ),
            (
                b"GET",
                Sent {
                    response_seen: true,
                    ..sent
                },
                false,
            ),
            (
                b"GET",
                Sent {
                    has_body: true,
                    ..sent
                },
                false,
            ),
            (
                b"GET",
                Sent {
                    age: STALE_WITHIN,
                    ..sent
                },
                false,
            ),
            (
                b"POST",
                Sent {
                    request_written: false,
                    ..sent
                },
                true,
            ),
            (
                b"POST",
                Sent {
                    request_written: false,
                    reused: false,
                    ..sent
                },
                false,
            ),
        ] {
            assert_eq!(
                may_resend(method, sent),
                expected,
                "{} {sent:?}",
                String::from_utf8_lossy(method)
            );
        }
    }

    #[test]
    fn attempts_are_bounded_by_the_running_dynos() {
        let limits = Limits::default();
        for (dynos, attempts) in [(0, 1), (1, 1), (3, 3), (10, 10), (12, 10)] {
            assert_eq!(attempts_allowed(&limits, dynos), attempts);
        }
    }
}
