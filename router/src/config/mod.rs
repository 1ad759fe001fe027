//! The configuration of the router: a TOML file read in two stages, `raw` (text to typed values) and `checked` (values to
//! a `Config` that can't be wrong), and the environment variables that beat it.

mod acme;
mod checked;
mod feed;
mod feed_rules;
mod listener;
mod problem;
mod raw;
mod relay;

use std::path::{Path, PathBuf};

pub(crate) use checked::{AccessLog, Config, LogFormat, LogTarget};
pub(crate) use feed::{Feed, FeedSource};
pub(crate) use listener::{Listener, Pair, Protocol};
use problem::Problem;
pub(crate) use raw::nearest;
pub(crate) use relay::check as check_relay;

/// The configuration as far as it could be read, and everything that is wrong with it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What the file says; defaults stand where it says something wrong.
    pub(crate) config: Config,
    /// The file, as it was named.
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Loaded {
    /// One line for each problem, `FILE: KEY: what is wrong; allowed: …`; none when all is well.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.problems
            .iter()
            .map(|problem| format!("{}: {problem}", self.file.display()))
            .collect()
    }

    /// Lines about the file that others found, in the form of its problems.
    pub(crate) fn in_file(&self, lines: Vec<String>) -> impl Iterator<Item = String> {
        let file = self.file.display();
        lines.into_iter().map(move |line| format!("{file}: {line}"))
    }

    /// Whether the file names a route document that can be looked at, whatever else is wrong.
    pub(crate) fn route_document(&self) -> Option<&Path> {
        self.config.feed.document()
    }
}

/// Reads a configuration file. Never fails: what is wrong is in the answer.
pub(crate) fn load(file: &Path) -> Loaded {
    let mut loaded = match std::fs::read_to_string(file) {
        Ok(text) => parse(file, &text),
        Err(error) => unreadable(file, Problem::of_file(format!("cannot be read: {error}"))),
    };
    if let Some(key) = std::env::var_os("ROUTER_AFFINITY_KEY").filter(|key| !key.is_empty()) {
        match key.into_string() {
            Ok(key) => loaded.config.affinity_key = Some(key),
            Err(_) => loaded
                .problems
                .push(Problem::plain("ROUTER_AFFINITY_KEY", "is not UTF-8")),
        }
    }
    loaded
}

fn parse(file: &Path, text: &str) -> Loaded {
    let table = match raw::parse(text) {
        Ok(table) => table,
        Err(problem) => return unreadable(file, problem),
    };
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let reading = raw::Reading::default();
    let config = checked::build(&reading, &table, folder);
    let (problems, _) = reading.finish();
    Loaded {
        config,
        file: file.to_owned(),
        problems,
    }
}

fn unreadable(file: &Path, problem: Problem) -> Loaded {
    let mut config = Config::default();
    config.feed.source = FeedSource::File(PathBuf::new());
    Loaded {
        config,
        file: file.to_owned(),
        problems: vec![problem],
    }
}

#[cfg(test)]
mod tests;
