//! The examples of `router-core/docs/feed.md`, executed in their order: what the page says is sent is sent, and what it says
//! is answered must come.

use std::time::Duration;

use router_core::feed::FeedOptions;
use router_testkit::{RawClient, RawResponse};

use crate::relay_world::{Lines, Relay, scripted};

const PAGE: &str = include_str!("../../docs/feed.md");

/// A fenced block of the page.
struct Block {
    kind: &'static str,
    /// Where it is, for messages.
    line: usize,
    text: Vec<&'static str>,
}

fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in PAGE.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(kind) => {
                open = true;
                let (line, text) = (number + 1, Vec::new());
                blocks.push(Block { kind, line, text });
            }
            None if open => blocks.last_mut().unwrap().text.push(line),
            None => {}
        }
    }
    blocks
}

/// Whether a text is as the page says, where `…` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.trim_end().split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.trim_end().strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Block {
    /// What is sent, as bytes.
    fn request(&self) -> Option<String> {
        let sent: Vec<&str> = self
            .text
            .iter()
            .filter_map(|line| line.strip_prefix('>'))
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect();
        let (head, body) = match sent.iter().position(|line| line.is_empty()) {
            Some(end) => (&sent[..end], sent[end + 1..].join("\n")),
            None => (&sent[..], String::new()),
        };
        let (line, fields) = head.split_first()?;
        let mut request = format!("{line}\r\nHost: relay\r\n");
        for field in fields {
            request.push_str(&format!("{field}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        Some(format!("{request}\r\n{body}"))
    }

    /// What is to come: lines of the head, and the body.
    fn answer(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let lines: Vec<&str> = self
            .text
            .iter()
            .filter_map(|line| line.strip_prefix('<'))
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect();
        if !lines.first().is_some_and(|line| line.starts_with("HTTP/")) {
            return (Vec::new(), lines);
        }
        match lines.iter().position(|line| line.is_empty()) {
            Some(end) => (lines[..end].to_vec(), lines[end + 1..].to_vec()),
            None => (lines, Vec::new()),
        }
    }

    fn check_head(&self, wanted: &[&str], start: &str, header: impl Fn(&str) -> Option<String>) {
        let line = self.line;
        let (first, fields) = wanted.split_first().expect("a status line");
        assert_eq!(start, *first, "feed.md:{line}");
        for field in fields {
            let (name, value) = field.split_once(": ").expect("a field");
            let found = header(name).unwrap_or_else(|| panic!("feed.md:{line}: no {name}"));
            assert!(matches(value, &found), "feed.md:{line}: {name}: {found}");
        }
    }

    fn check(&self, answer: &RawResponse) {
        let (head, body) = self.answer();
        self.check_head(&head, &answer.status_line, |name| {
            answer.header(name).map(str::to_owned)
        });
        if !body.is_empty() {
            let text = String::from_utf8(answer.body.clone()).expect("UTF-8");
            assert!(
                matches(&body.join("\n"), &text),
                "feed.md:{}: {text}",
                self.line
            );
        }
    }

    async fn check_lines(&self, lines: &mut Lines) {
        let (head, wanted) = self.answer();
        if !head.is_empty() {
            self.check_head(&head, lines.head.start_line(), |name| {
                lines.head.header(name).map(str::to_owned)
            });
        }
        for wanted in wanted {
            let line = lines.next().await;
            assert!(matches(wanted, &line), "feed.md:{}: {line}", self.line);
        }
    }
}

#[tokio::test]
async fn the_examples_of_the_page_are_true() {
    let (script, feed) = scripted();
    let settings = |settings: &mut router_core::feed::PublishSettings| {
        settings.heartbeat = Duration::from_millis(50);
    };
    let relay = Relay::with(feed, settings, FeedOptions::default()).await;
    let mut stream = None;
    let mut executed = 0;
    for block in blocks() {
        let text = block.text.join("\n");
        match block.kind {
            "json document" | "json change" => {
                let update: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                match block.kind {
                    "json document" => script.text(&text),
                    _ => script.change(&text),
                }
                let revision = update.get("to").or_else(|| update.get("revision"));
                relay.at(revision.unwrap().as_u64().unwrap()).await;
            }
            "http stream" => {
                if let Some(request) = block.request() {
                    let mut client = relay.client().await;
                    client.send(request).await;
                    stream = Some(Lines::after(client).await);
                }
                block.check_lines(stream.as_mut().expect("a stream")).await;
            }
            "http" => {
                let request = block.request().expect("a request");
                let mut client: RawClient = relay.client().await;
                client.send(&request).await;
                if request.contains("x-ndjson") {
                    block.check_lines(&mut Lines::after(client).await).await;
                } else {
                    block.check(&client.read_response().await);
                }
            }
            _ => continue,
        }
        executed += 1;
    }
    assert!(executed >= 20, "only {executed} examples were found");
    relay.stop().await;
}

#[test]
fn patterns() {
    for (pattern, text, wanted) in [
        ("abc", "abc\n", true),
        ("abc", "abcd", false),
        ("a…c", "abbc", true),
        ("a…", "a", true),
        ("…c", "abd", false),
        ("a…b…c", "a1b2c", true),
        ("a…b…c", "a1c2c", false),
    ] {
        assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
    }
}
