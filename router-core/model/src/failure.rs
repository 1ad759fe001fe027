//! Everything that can go wrong with one exchange, as facts. This file never says what to do about it: codes, statuses,
//! pages and retries are policy and live in one table, `verdict`. A new cause is a new variant here and a new row
//! there, never a new `if` somewhere else.

/// Why an exchange did not end with the dyno's own, complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    // Refused before the app is known: no error code and no log line, for there is no app whose log could hold it.
    /// The request head cannot be parsed, or must not be forwarded.
    BadRequest(BadRequest),
    /// `CONNECT`: a router of web apps is no open proxy.
    MethodNotAllowed,
    /// The request line names an HTTP version other than 1.0 and 1.1.
    VersionNotSupported,
    /// The client began a request head and did not finish it in time.
    HeaderTimeout,
    /// The host belongs to no app.
    NoSuchApp,
    /// No set of routes has been applied yet, so that nothing can be said about the host.
    NoRoutes,

    // The app is known: one log line each.
    /// H10: no usable web dyno, for they crashed or failed to boot.
    AppCrashed,
    /// H11: the app has more requests in flight on this router than its web dynos are allowed.
    BacklogTooDeep,
    /// H12: no response byte within the first-byte timeout.
    RequestTimeout,
    /// H13: the dyno closed the connection in an orderly way without a single response byte.
    ClosedWithoutResponse,
    /// H14: the app's web formation is empty.
    NoWebProcesses,
    /// H15: the dyno fell silent in the middle of a response, or a tunnel was idle.
    DynoIdle,
    /// H17: what the dyno sent is not an HTTP response.
    MalformedResponse,
    /// H18: the dyno's connection broke before the response was complete.
    DynoInterrupted,
    /// H19: the last attempt to connect to a dyno timed out.
    ConnectTimeout,
    /// H20: dynos were starting, and none came up in time.
    BootTimeout,
    /// H21: the last attempt to connect to a dyno was refused.
    ConnectRefused,
    /// H21: whoever answered at the dyno's address did not prove to be that dyno.
    DynoIdentity,
    /// H17: the dyno does not speak the HTTP/2 that its app says it does.
    DynoProtocol,
    /// H22: too many client connections on this router.
    ConnectionLimit,
    /// H24: the router ended before the exchange did.
    ForcedClose,
    /// H25: the response has differing, repeated or unreadable `Content-Length` fields.
    InvalidContentLength,
    /// H25: a `Set-Cookie` line of the response is too long.
    OversizedCookie,
    /// H25: another header line of the response is too long.
    OversizedHeader,
    /// H25: the status line of the response is too long.
    OversizedStatusLine,
    /// H26: `Expect` asks for something other than `100-continue`.
    UnsupportedExpect,
    /// H26: a header that routing depends on cannot be parsed, such as `Connection: ,`.
    BadHeader,
    /// H26: the chunked framing of the request body is broken.
    BadChunk,
    /// H27: the client went away before the response was complete.
    ClientInterrupted,
    /// H28: the client owed bytes, or had to take some, and did neither for too long.
    ClientIdle,
    /// H31: over HTTP/2, a request for a host that this connection's name and certificate do not stand for.
    Misdirected,
    /// H32: the same over HTTP/1.
    CertificateMismatch,
    /// H33: the client's HTTP/2 stream broke its rules.
    StreamBroken,
    /// H33: the dyno's did.
    DynoStreamBroken,
    /// H34: every `up` dyno stayed quarantined for the whole time allowed to find one.
    AllQuarantined,
    /// H80: the app is in maintenance.
    Maintenance,
    /// H81: the app has no release yet.
    BlankApp,
    /// H82: the app is suspended, its running time is used up.
    Suspended,
    /// H83: an announced degradation of the service.
    Degraded,
    /// H99: the router itself is at fault.
    Platform,
}

/// What is wrong with a request head that is answered with 400 before its app is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BadRequest {
    /// Not `METHOD SP TARGET SP VERSION`.
    RequestLine,
    /// Longer than the limit on request lines.
    RequestLineTooLong,
    /// The request target is none that an HTTP server can be asked for.
    Target,
    /// A line ends in something other than CR LF.
    LineEnding,
    /// Not `name: value`: no colon, white space before it, a folded line, a forbidden byte.
    HeaderLine,
    /// A header line is longer than the limit.
    HeaderTooLong,
    /// More header lines than the limit.
    TooManyHeaders,
    /// The `Host` value is empty or no host.
    Host,
    /// No `Host` at all.
    HostMissing,
    /// More than one `Host` line, be they equal or not.
    HostRepeated,
    /// `Content-Length` is no number, or several of them differ.
    ContentLength,
    /// `Transfer-Encoding` is anything but one `chunked`.
    TransferEncoding,
    /// Both `Content-Length` and `Transfer-Encoding`: the two ends could disagree about where the body ends.
    AmbiguousLength,
}

impl Failure {
    /// Every failure, each reason of [`BadRequest`] included; what tables, metrics and documents are printed from.
    pub const ALL: &[Self] = &[
        Self::BadRequest(BadRequest::RequestLine),
        Self::BadRequest(BadRequest::RequestLineTooLong),
        Self::BadRequest(BadRequest::Target),
        Self::BadRequest(BadRequest::LineEnding),
        Self::BadRequest(BadRequest::HeaderLine),
        Self::BadRequest(BadRequest::HeaderTooLong),
        Self::BadRequest(BadRequest::TooManyHeaders),
        Self::BadRequest(BadRequest::Host),
        Self::BadRequest(BadRequest::HostMissing),
        Self::BadRequest(BadRequest::HostRepeated),
        Self::BadRequest(BadRequest::ContentLength),
        Self::BadRequest(BadRequest::TransferEncoding),
        Self::BadRequest(BadRequest::AmbiguousLength),
        Self::MethodNotAllowed,
        Self::VersionNotSupported,
        Self::HeaderTimeout,
        Self::NoSuchApp,
        Self::NoRoutes,
        Self::AppCrashed,
        Self::BacklogTooDeep,
        Self::RequestTimeout,
        Self::ClosedWithoutResponse,
        Self::NoWebProcesses,
        Self::DynoIdle,
        Self::MalformedResponse,
        Self::DynoInterrupted,
        Self::ConnectTimeout,
        Self::BootTimeout,
        Self::ConnectRefused,
        Self::DynoIdentity,
        Self::DynoProtocol,
        Self::ConnectionLimit,
        Self::ForcedClose,
        Self::InvalidContentLength,
        Self::OversizedCookie,
        Self::OversizedHeader,
        Self::OversizedStatusLine,
        Self::UnsupportedExpect,
        Self::BadHeader,
        Self::BadChunk,
        Self::ClientInterrupted,
        Self::ClientIdle,
        Self::Misdirected,
        Self::CertificateMismatch,
        Self::StreamBroken,
        Self::DynoStreamBroken,
        Self::AllQuarantined,
        Self::Maintenance,
        Self::BlankApp,
        Self::Suspended,
        Self::Degraded,
        Self::Platform,
    ];
}

impl BadRequest {
    /// One plain sentence for the person who sent the request; the body of the answer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestLine => "The request line is malformed.",
            Self::RequestLineTooLong => "The request line is too long.",
            Self::Target => "The request target is not valid.",
            Self::LineEnding => "A line of the request does not end in CR LF.",
            Self::HeaderLine => "A header line is malformed.",
            Self::HeaderTooLong => "A header line is too long.",
            Self::TooManyHeaders => "The request has too many header lines.",
            Self::Host => "The Host header is not valid.",
            Self::HostMissing => "The request has no Host header.",
            Self::HostRepeated => "The request has more than one Host header.",
            Self::ContentLength => "The Content-Length header is not valid.",
            Self::TransferEncoding => "The Transfer-Encoding header is not supported.",
            Self::AmbiguousLength => "The request has both Content-Length and Transfer-Encoding.",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The variants that the source of this file declares in `pub enum NAME`.
    fn declared(name: &str) -> usize {
        let source = include_str!("failure.rs");
        let body = source.split(&format!("pub enum {name} {{")).nth(1).unwrap();
        let body = body.split("\n}").next().unwrap();
        body.lines()
            .filter(|line| line.ends_with(',') && !line.trim_start().starts_with("//"))
            .count()
    }

    #[test]
    fn all_lists_every_failure_once() {
        let distinct: HashSet<_> = Failure::ALL.iter().collect();
        assert_eq!(distinct.len(), Failure::ALL.len());
        // One variant stands for all the bad requests.
        assert_eq!(
            Failure::ALL.len(),
            declared("Failure") - 1 + declared("BadRequest")
        );
    }

    #[test]
    fn each_bad_request_is_told_in_its_own_sentence() {
        let mut sentences = HashSet::new();
        for failure in Failure::ALL {
            if let Failure::BadRequest(reason) = failure {
                let text = reason.as_str();
                assert!(text.ends_with('.') && text.is_ascii(), "{text}");
                assert!(sentences.insert(text), "{text} is said twice");
            }
        }
    }
}
