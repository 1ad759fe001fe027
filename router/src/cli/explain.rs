//! `router explain HOST[/PATH]`: asks a running router where a request would go, and why.

use std::process::ExitCode;

use router_core::model::hostname::Domain;
use serde_json::Value;

use super::ask::RunningRouter;
use super::table::lay_out;
use super::{FAILURE, complain, print};

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// Whose request: a host, and a path if it matters
    #[arg(value_name = "HOST[/PATH]", value_parser = target)]
    target: Target,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    router: RunningRouter,
}

impl Explain {
    pub(super) fn run(self) -> ExitCode {
        let answer = match self.router.ask(&query(&self.target)) {
            Ok(answer) => answer,
            Err(error) => {
                complain([error.to_string()]);
                return error.exit_code();
            }
        };
        let routed = answer.json.get("routed").and_then(Value::as_bool);
        let (200, Some(routed)) = (answer.status, routed) else {
            let error = answer.json.get("error").and_then(Value::as_str);
            complain([error.unwrap_or(&answer.text)]);
            return FAILURE;
        };
        print(&if self.json {
            answer.text
        } else {
            readable(&answer.json)
        });
        if routed {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(NO_ROUTE)
        }
    }
}

/// What is asked about.
#[derive(Debug, Clone)]
struct Target {
    /// As it was typed; never empty.
    host: String,
    /// Begins with a slash.
    path: String,
}

/// Reads `HOST[/PATH]`. A scheme is let go: people paste URLs.
fn target(text: &str) -> Result<Target, &'static str> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .unwrap_or(text);
    let (host, path) = rest
        .find('/')
        .map_or((rest, "/"), |slash| rest.split_at(slash));
    if host.is_empty() {
        return Err("there is no host in it; ask for example about shop.example.com/cart");
    }
    Ok(Target {
        host: host.to_owned(),
        path: path.to_owned(),
    })
}

/// The question as a request target.
fn query(target: &Target) -> String {
    let host = target.host.as_str();
    // A client would ask for the name in its ASCII form.
    let ascii = Domain::parse(host).ok().filter(|_| !host.is_ascii());
    let mut query = "/v1/explain?host=".to_owned();
    escape(&mut query, ascii.as_ref().map_or(host, Domain::as_str));
    query.push_str("&path=");
    escape(&mut query, &target.path);
    query
}

fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// The answer for people. Whatever a router of another version leaves out is left out here too.
fn readable(answer: &Value) -> String {
    let mut text = format!("{}{}: ", shown(&answer["host"]), shown(&answer["path"]));
    if answer["routed"] == true {
        text.push_str("routed");
    } else {
        text.push_str("not routed");
    }
    if let Some(reason) = answer["reason"].as_str() {
        text.push_str(&format!(", {reason}"));
    }
    text.push('\n');
    for key in ["app", "domain"] {
        if let Some(value) = answer[key].as_str() {
            text.push_str(&format!("{key}: {value}\n"));
        }
    }
    for (key, columns) in [
        ("candidates", ["dyno", "address", "in_flight"].as_slice()),
        ("excluded", &["dyno", "reason"]),
    ] {
        let Some(dynos) = answer[key].as_array().filter(|dynos| !dynos.is_empty()) else {
            continue;
        };
        let heading = columns
            .iter()
            .map(|column| column.to_uppercase().replace('_', "-"))
            .collect();
        let rows = dynos
            .iter()
            .map(|dyno| columns.iter().map(|column| shown(&dyno[*column])).collect());
        let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
        text.push_str(&format!("{key}:\n{}", indented(&lay_out(&rows))));
    }
    if let Some(settings) = answer["settings"].as_object() {
        let rows: Vec<_> = settings
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| vec![name.clone(), shown(value)])
            .collect();
        text.push_str(&format!("settings:\n{}", indented(&lay_out(&rows))));
    }
    text.push_str(&feed(&answer["feed"]));
    text
}

/// Revision and age of the routes that the answer is about.
pub(super) fn feed(feed: &Value) -> String {
    let Some(revision) = feed["revision"].as_u64() else {
        return "feed: no routes yet\n".to_owned();
    };
    let mut text = format!("feed: revision {revision}");
    if let Some(age) = feed["age_seconds"].as_f64() {
        text.push_str(&format!(", {age:.0} s old"));
    }
    if feed["stale"] == true {
        text.push_str(", stale (from the cache)");
    }
    text.push('\n');
    text
}

/// A JSON value without its quotes.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// No app, or no dyno for it.
const NO_ROUTE: u8 = 2;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_becomes_a_query() {
        for (text, wanted) in [
            (
                "shop.example.com",
                "/v1/explain?host=shop.example.com&path=/",
            ),
            (
                "shop.example.com:8080/a b?c=d&e",
                "/v1/explain?host=shop.example.com:8080&path=/a%20b%3Fc%3Dd%26e",
            ),
            (
                "https://bücher.example/",
                "/v1/explain?host=xn--bcher-kva.example&path=/",
            ),
        ] {
            assert_eq!(query(&target(text).unwrap()), wanted);
        }
        for text in ["", "/", "/cart", "http://", "https:///cart"] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_is_readable() {
        let answer = json!({
            "host": "shop.example.com", "path": "/", "routed": true, "app": "shop", "domain": "*.example.com",
            "candidates": [{"dyno": "web.1", "address": "127.0.0.1:5001", "in_flight": 3}],
            "excluded": [{"dyno": "web.2", "reason": "starting"}],
            "settings": {"balancer": "random", "error_page_url": null, "http2": true, "idle_timeout": "55s"},
            "feed": {"revision": 42, "age_seconds": 12.3, "stale": false},
        });
        assert_eq!(
            readable(&answer),
            "shop.example.com/: routed\napp: shop\ndomain: *.example.com\ncandidates:\n  DYNO   ADDRESS         IN-FLIGHT\n  \
             web.1  127.0.0.1:5001  3\nexcluded:\n  DYNO   REASON\n  web.2  starting\nsettings:\n  balancer      random\n  \
             http2         true\n  idle_timeout  55s\nfeed: revision 42, 12 s old\n"
        );
        let answer =
            json!({"host": "x", "path": "/", "routed": false, "reason": "no such app", "feed": {}});
        assert_eq!(
            readable(&answer),
            "x/: not routed, no such app\nfeed: no routes yet\n"
        );
    }
}
