//! THE TABLE: what the router does about each failure. One exhaustive match, one row per cause; the log line, metrics
//! labels, pages, retries and quarantine all read the same row, so that they cannot disagree. The printed form of the
//! whole table is a checked-in snapshot, so that a change of policy is seen as one in review.
#![deny(clippy::wildcard_enum_match_arm)]

use crate::failure::Failure;

/// What to do about one failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The error code of the log line (`H12`), or `None` for requests that are refused before their app is known.
    pub code: Option<&'static str>,
    /// The `desc=` of the log line.
    pub desc: &'static str,
    /// The `cause=` of the log line; only H26 has one.
    pub cause: Option<&'static str>,
    /// The `at=` of the log line.
    pub severity: Severity,
    /// The status sent to the client as long as no byte of a response is out; `None` if nothing is sent or logged.
    pub status: Option<u16>,
    /// The `sock=` of the log line: the side whose connection broke.
    pub sock: Option<&'static str>,
    /// What the client is shown as long as no byte of a response is out.
    pub page: Page,
    /// Whether the app's log gets a line.
    pub logged: bool,
    /// Whether the dyno is left alone for a while. Only failing to connect says something about the dyno.
    pub quarantine: bool,
    /// Whether another dyno may be tried: only while no byte of the request can have been acted on.
    pub try_another_dyno: bool,
}

/// How bad a failure is, in the words of the log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Meant to be so: maintenance, a blank app.
    Info,
    /// The client's doing.
    Warning,
    /// The app or the router failed.
    Error,
}

/// What the client is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Nothing is sent: the client is gone, or the connection is simply cut.
    None,
    /// A short text.
    Plain,
    /// "No such app".
    NoSuchApp,
    /// "Application Error", or the app's `error_page_url`.
    Application,
    /// "Offline for Maintenance", or the app's `maintenance_page_url`.
    Maintenance,
    /// The welcome page of an app without a release.
    Blank,
}

/// The row of a failure.
#[must_use]
pub const fn of(failure: Failure) -> &'static Verdict {
    match failure {
        Failure::BadRequest(_) => &const { refusal(400, "Bad Request", Page::Plain) },
        Failure::MethodNotAllowed => &const { refusal(405, "Method Not Allowed", Page::Plain) },
        Failure::VersionNotSupported => {
            &const { refusal(505, "HTTP Version Not Supported", Page::Plain) }
        }
        Failure::HeaderTimeout => &const { refusal(408, "Request Timeout", Page::Plain) },
        Failure::NoSuchApp => &const { refusal(404, "No such app", Page::NoSuchApp) },
        Failure::NoRoutes => {
            &const {
                Verdict {
                    severity: Severity::Error,
                    ..refusal(503, "No routes yet", Page::Plain)
                }
            }
        }
        Failure::AppCrashed => &const { app_error("H10", "App crashed") },
        Failure::BacklogTooDeep => &const { app_error("H11", "Backlog too deep") },
        Failure::RequestTimeout => &const { app_error("H12", "Request timeout") },
        Failure::ClosedWithoutResponse => {
            &const { app_error("H13", "Connection closed without response") }
        }
        Failure::NoWebProcesses => &const { app_error("H14", "No web processes running") },
        Failure::DynoIdle => &const { app_error("H15", "Idle connection") },
        Failure::MalformedResponse => &const { app_error("H17", "Poorly formatted HTTP response") },
        Failure::DynoInterrupted => {
            &const {
                Verdict {
                    sock: Some("backend"),
                    ..app_error("H18", "Server Request Interrupted")
                }
            }
        }
        Failure::ConnectTimeout => &const { connect_error("H19", "Backend connection timeout") },
        Failure::BootTimeout => &const { app_error("H20", "App boot timeout") },
        Failure::ConnectRefused | Failure::DynoIdentity => {
            &const { connect_error("H21", "Backend connection refused") }
        }
        // What it sent is all that can be told of it; but it was sent no request yet, so another dyno may be tried.
        Failure::DynoProtocol => &const { connect_error("H17", "Poorly formatted HTTP response") },
        Failure::ConnectionLimit => &const { app_error("H22", "Connection limit reached") },
        Failure::ForcedClose => {
            &const {
                Verdict {
                    status: None,
                    page: Page::None,
                    ..app_error("H24", "Forced close")
                }
            }
        }
        Failure::InvalidContentLength => {
            &const { restriction("HTTP restriction: invalid content length") }
        }
        Failure::OversizedCookie => &const { restriction("HTTP restriction: oversized cookie") },
        Failure::OversizedHeader => &const { restriction("HTTP restriction: oversized header") },
        Failure::OversizedStatusLine => {
            &const { restriction("HTTP restriction: oversized status line") }
        }
        Failure::UnsupportedExpect => {
            &const { request_error(417, "unsupported expect header value") }
        }
        Failure::BadHeader => &const { request_error(400, "bad header") },
        Failure::BadChunk => &const { request_error(400, "bad chunk") },
        Failure::ClientInterrupted => {
            &const {
                Verdict {
                    sock: Some("client"),
                    ..client_gone("H27", "Client Request Interrupted")
                }
            }
        }
        Failure::ClientIdle => &const { client_gone("H28", "Client Connection Idle") },
        Failure::Misdirected => &const { wrong_door("H31", "Misdirected Request", 421) },
        Failure::CertificateMismatch => {
            &const { wrong_door("H32", "TLS Certificate Mismatch", 495) }
        }
        Failure::StreamBroken | Failure::DynoStreamBroken => {
            &const { app_error("H33", "HTTP/2 Stream Broken") }
        }
        Failure::AllQuarantined => &const { app_error("H34", "All up dynos are quarantined") },
        Failure::Maintenance => {
            &const { notice("H80", "Maintenance mode", 503, Page::Maintenance) }
        }
        Failure::BlankApp => &const { notice("H81", "Blank app", 502, Page::Blank) },
        Failure::Suspended => {
            &const {
                notice(
                    "H82",
                    "Free app running time quota exhausted",
                    503,
                    Page::Application,
                )
            }
        }
        Failure::Degraded => {
            &const { notice("H83", "Planned Service Degradation", 503, Page::Application) }
        }
        Failure::Platform => &const { app_error("H99", "Platform error") },
    }
}

impl Severity {
    /// As printed after `at=`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Page {
    /// Which of an app's two page URLs replaces this page, if any. Refusals with a 4xx need a plain answer and pages of
    /// unknown apps have nobody to replace them.
    #[must_use]
    pub const fn custom_url<'a>(
        self,
        error: Option<&'a str>,
        maintenance: Option<&'a str>,
    ) -> Option<&'a str> {
        match self {
            Self::Application => error,
            Self::Maintenance => maintenance,
            Self::None | Self::Plain | Self::NoSuchApp | Self::Blank => None,
        }
    }
}

/// A request refused before its app is known.
const fn refusal(status: u16, desc: &'static str, page: Page) -> Verdict {
    Verdict {
        code: None,
        desc,
        cause: None,
        severity: Severity::Warning,
        status: Some(status),
        sock: None,
        page,
        logged: false,
        quarantine: false,
        try_another_dyno: false,
    }
}

/// The common case of a known app: 503 and the application error page.
const fn app_error(code: &'static str, desc: &'static str) -> Verdict {
    Verdict {
        code: Some(code),
        desc,
        cause: None,
        severity: Severity::Error,
        status: Some(503),
        sock: None,
        page: Page::Application,
        logged: true,
        quarantine: false,
        try_another_dyno: false,
    }
}

/// H31, H32: the client has to come again on another connection, so it gets a short text and no page of an app.
const fn wrong_door(code: &'static str, desc: &'static str, status: u16) -> Verdict {
    Verdict {
        status: Some(status),
        page: Page::Plain,
        ..app_error(code, desc)
    }
}

/// No connection, so the dyno has not seen a byte of the request: safe to try another one.
const fn connect_error(code: &'static str, desc: &'static str) -> Verdict {
    Verdict {
        quarantine: true,
        try_another_dyno: true,
        ..app_error(code, desc)
    }
}

/// H25: the dyno answered, but with something that must not be passed on.
const fn restriction(desc: &'static str) -> Verdict {
    Verdict {
        status: Some(502),
        ..app_error("H25", desc)
    }
}

/// H26: the client of a known app sent something that must not be passed on.
const fn request_error(status: u16, cause: &'static str) -> Verdict {
    Verdict {
        cause: Some(cause),
        status: Some(status),
        page: Page::Plain,
        ..app_error("H26", "Request Error")
    }
}

/// The client left or stalled: 499 stands in the log only, nobody is there to read an answer.
const fn client_gone(code: &'static str, desc: &'static str) -> Verdict {
    Verdict {
        severity: Severity::Warning,
        status: Some(499),
        page: Page::None,
        ..app_error(code, desc)
    }
}

/// A state that the owner of the app, or of the platform, has put it in.
const fn notice(code: &'static str, desc: &'static str, status: u16, page: Page) -> Verdict {
    Verdict {
        severity: Severity::Info,
        status: Some(status),
        page,
        ..app_error(code, desc)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The whole table as a person reads it.
    fn printed() -> String {
        let mut table = String::new();
        for &failure in Failure::ALL {
            let row = of(failure);
            let status = row
                .status
                .map_or_else(|| "-".to_owned(), |status| status.to_string());
            writeln!(
                table,
                "{:<32} {:<3} {status:<3} {:<7} {:<7} {:<11} logged={:<5} quarantine={:<5} try_another_dyno={:<5} {:?}{}",
                format!("{failure:?}"),
                row.code.unwrap_or("-"),
                row.severity.as_str(),
                row.sock.unwrap_or("-"),
                format!("{:?}", row.page),
                row.logged,
                row.quarantine,
                row.try_another_dyno,
                row.desc,
                row.cause.map(|cause| format!(" cause={cause:?}")).unwrap_or_default(),
            )
            .unwrap();
        }
        table
    }

    #[test]
    fn the_printed_table_is_the_one_reviewed() {
        insta::assert_snapshot!("verdicts", printed());
    }

    #[test]
    fn only_failing_to_connect_blames_the_dyno_and_tries_another() {
        for &failure in Failure::ALL {
            let connect = matches!(
                failure,
                Failure::ConnectTimeout
                    | Failure::ConnectRefused
                    | Failure::DynoIdentity
                    | Failure::DynoProtocol
            );
            assert_eq!(of(failure).quarantine, connect, "{failure:?}");
            assert_eq!(of(failure).try_another_dyno, connect, "{failure:?}");
        }
    }

    #[test]
    fn a_line_is_logged_exactly_for_failures_with_a_code() {
        for &failure in Failure::ALL {
            assert_eq!(
                of(failure).logged,
                of(failure).code.is_some(),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn texts_need_no_escaping_in_a_log_line() {
        for &failure in Failure::ALL {
            for text in [of(failure).desc, of(failure).cause.unwrap_or_default()] {
                assert!(
                    text.bytes()
                        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
                );
            }
        }
    }
}
