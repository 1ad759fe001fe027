//! What the client is shown when the router answers itself. Default pages are whole documents that load nothing else; a
//! page of the app's own is shown in a frame and never fetched by the router, so that it cannot fail here.

use bytes::Bytes;

use crate::{
    failure::Failure,
    verdict::{self, Page},
};

/// The body of a response that the router makes, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedPage {
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// The body; its length is the `Content-Length`, also to a `HEAD`.
    pub body: Bytes,
}

/// The `Cache-Control` of every page: the next request may fare better.
pub const CACHE_CONTROL: &str = "no-cache, no-store";

/// The page for a failure, or `None` if nothing is to be sent. `custom_url` is the app's URL for this kind of page
/// ([`Page::custom_url`]); it is ignored for pages that cannot be replaced.
#[must_use]
pub fn render(page: Page, failure: Failure, custom_url: Option<&str>) -> Option<RenderedPage> {
    let (title, default) = match page {
        Page::None => return None,
        Page::Plain => return Some(plain(failure)),
        Page::NoSuchApp => return Some(html(Bytes::from_static(NO_SUCH_APP.as_bytes()))),
        Page::Blank => return Some(html(Bytes::from_static(BLANK.as_bytes()))),
        Page::Application => ("Application Error", APPLICATION_ERROR),
        Page::Maintenance => ("Offline for Maintenance", MAINTENANCE),
    };
    Some(html(match custom_url {
        Some(url) => frame(title, url).into(),
        None => Bytes::from_static(default.as_bytes()),
    }))
}

const fn html(body: Bytes) -> RenderedPage {
    RenderedPage {
        content_type: "text/html; charset=utf-8",
        body,
    }
}

/// One line that says what was wrong with the request.
fn plain(failure: Failure) -> RenderedPage {
    let row = verdict::of(failure);
    let body = match (failure, row.cause) {
        (Failure::BadRequest(reason), _) => format!("{}: {}\n", row.desc, reason.as_str()),
        (_, Some(cause)) => format!("{}: {cause}\n", row.desc),
        (_, None) => format!("{}\n", row.desc),
    };
    RenderedPage {
        content_type: "text/plain; charset=utf-8",
        body: body.into(),
    }
}

/// A document that is nothing but a frame around the app's own page.
fn frame(title: &str, url: &str) -> String {
    let mut document = String::with_capacity(512 + url.len());
    document.push_str("<!DOCTYPE html><html><head>");
    document.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    document.push_str("<meta charset=\"utf-8\"><title>");
    document.push_str(title);
    document.push_str("</title>");
    document.push_str("<style>html,body,iframe{margin:0;padding:0;width:100%;height:100%;border:0;overflow:hidden}");
    document.push_str("iframe{display:block;overflow:auto}</style></head><body><iframe src=\"");
    escape_attribute(&mut document, url);
    document.push_str("\"></iframe></body></html>");
    document
}

/// Nothing in the URL may end the attribute or begin markup.
fn escape_attribute(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            other => out.push(other),
        }
    }
}

const APPLICATION_ERROR: &str = include_str!("pages/application_error.html");
const NO_SUCH_APP: &str = include_str!("pages/no_such_app.html");
const MAINTENANCE: &str = include_str!("pages/maintenance.html");
const BLANK: &str = include_str!("pages/blank.html");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::BadRequest;

    fn text(page: Page, failure: Failure, url: Option<&str>) -> String {
        let rendered = render(page, failure, url).unwrap();
        String::from_utf8(rendered.body.to_vec()).unwrap()
    }

    #[test]
    fn every_failure_has_the_page_its_verdict_names() {
        for &failure in Failure::ALL {
            let page = verdict::of(failure).page;
            let rendered = render(page, failure, None);
            let title = match page {
                Page::None => {
                    assert_eq!(rendered, None);
                    continue;
                }
                Page::Plain => {
                    let rendered = rendered.unwrap();
                    assert_eq!(rendered.content_type, "text/plain; charset=utf-8");
                    assert_eq!(
                        rendered.body.iter().filter(|&&byte| byte == b'\n').count(),
                        1
                    );
                    assert!(rendered.body.ends_with(b"\n"));
                    continue;
                }
                Page::NoSuchApp => "No such app",
                Page::Application => "Application Error",
                Page::Maintenance => "Offline for Maintenance",
                Page::Blank => "Welcome",
            };
            assert_eq!(rendered.unwrap().content_type, "text/html; charset=utf-8");
            let document = text(page, failure, None);
            assert!(document.starts_with("<!DOCTYPE html>"), "{document}");
            assert!(
                document.contains(&format!("<title>{title}</title>")),
                "{document}"
            );
            for remote in ["src=", "href=", "url(", "@import"] {
                assert!(!document.contains(remote), "{title} loads something");
            }
        }
    }

    #[test]
    fn plain_pages_name_the_fault() {
        for (failure, expected) in [
            (
                Failure::BadRequest(BadRequest::HostMissing),
                "Bad Request: The request has no Host header.\n",
            ),
            (
                Failure::UnsupportedExpect,
                "Request Error: unsupported expect header value\n",
            ),
            (Failure::MethodNotAllowed, "Method Not Allowed\n"),
            (Failure::NoRoutes, "No routes yet\n"),
        ] {
            assert_eq!(text(Page::Plain, failure, None), expected);
        }
    }

    #[test]
    fn a_page_of_the_apps_own_is_framed() {
        let url = "//cdn.example.com/error.html";
        let document = text(Page::Application, Failure::RequestTimeout, Some(url));
        assert!(
            document.contains("<iframe src=\"//cdn.example.com/error.html\"></iframe>"),
            "{document}"
        );
        assert!(document.contains("<title>Application Error</title>"));
        let document = text(Page::Maintenance, Failure::Maintenance, Some(url));
        assert!(document.contains("<title>Offline for Maintenance</title>"));
    }

    #[test]
    fn a_url_cannot_leave_its_attribute() {
        let url = "https://x/?a=1&b='2'\"><script>alert(1)</script>";
        let document = text(Page::Application, Failure::RequestTimeout, Some(url));
        assert!(document.contains(
            "src=\"https://x/?a=1&amp;b=&#39;2&#39;&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\""
        ));
        assert!(!document.contains("<script>"));
    }

    #[test]
    fn other_pages_cannot_be_replaced() {
        let (error, maintenance) = (Some("//e"), Some("//m"));
        for (page, expected) in [
            (Page::None, None),
            (Page::Plain, None),
            (Page::NoSuchApp, None),
            (Page::Blank, None),
            (Page::Application, error),
            (Page::Maintenance, maintenance),
        ] {
            assert_eq!(page.custom_url(error, maintenance), expected);
            assert_eq!(page.custom_url(None, None), None);
            if expected.is_none() && page != Page::None {
                assert!(!text(page, Failure::NoSuchApp, error).contains("iframe"));
            }
        }
    }
}
