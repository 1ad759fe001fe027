//! The first stage of the configuration: TOML text to values of the right type, key by key. A `Section` is asked for each
//! key it may hold; what it was never asked for is unknown, so the list of known keys is the code that reads them and
//! can't drift from it. Nothing here stops at a problem: each is noted, and the caller goes on with the default.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use router_core::model::snapshot::is_no_path;
use toml::{Table, Value};

use super::problem::Problem;

/// What is known of one file while it is read: its problems so far, and each key that some section was asked for.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    problems: RefCell<Vec<Problem>>,
    known: RefCell<Vec<String>>,
}

impl Reading {
    /// Notes a problem.
    pub(crate) fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// The problems found and the keys asked for.
    pub(crate) fn finish(self) -> (Vec<Problem>, Vec<String>) {
        (self.problems.into_inner(), self.known.into_inner())
    }
}

/// Parses TOML text. A syntax error names its line and column, and is the only problem that hides the others.
pub(crate) fn parse(text: &str) -> Result<Table, Problem> {
    text.parse::<Table>().map_err(|error| {
        let message = error.message().trim().replace('\n', ", ");
        let Some(span) = error.span() else {
            return Problem::of_file(message);
        };
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        Problem::of_file(format!("line {line}, column {column}: {message}"))
    })
}

/// One table of the file.
pub(crate) struct Section<'a> {
    reading: &'a Reading,
    /// Where this table is: `timeouts`, `listener[0]`, empty for the root.
    path: String,
    table: Option<&'a Table>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(crate) fn root(reading: &'a Reading, table: &'a Table) -> Self {
        Self {
            reading,
            path: String::new(),
            table: Some(table),
            asked: Vec::new(),
        }
    }

    /// A table below this one. One that is absent reads as an empty table.
    pub(crate) fn section(&mut self, key: &'static str) -> Self {
        let table = match self.take(key) {
            None => None,
            Some(Value::Table(table)) => Some(table),
            Some(other) => {
                self.mistyped(key, &format!("a table ([{key}])"), other);
                None
            }
        };
        Self {
            reading: self.reading,
            path: self.at(key),
            table,
            asked: Vec::new(),
        }
    }

    /// An array of tables below this one; `None` when it is absent or something else.
    pub(crate) fn sections(&mut self, key: &'static str) -> Option<Vec<Self>> {
        let wanted = format!("an array of tables ([[{key}]])");
        let items = match self.take(key)? {
            Value::Array(items) => items,
            other => {
                self.mistyped(key, &wanted, other);
                return None;
            }
        };
        let mut sections = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.at(key));
            let Value::Table(table) = item else {
                self.note(Problem::new(
                    path,
                    format!("expected a table, found {}", shown(item)),
                    wanted.clone(),
                ));
                continue;
            };
            sections.push(Self {
                reading: self.reading,
                path,
                table: Some(table),
                asked: Vec::new(),
            });
        }
        Some(sections)
    }

    /// Text.
    pub(crate) fn string(&mut self, key: &'static str) -> Option<&'a str> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.mistyped(key, "a string", other);
                None
            }
        }
    }

    /// Text that says something.
    pub(crate) fn filled_string(&mut self, key: &'static str, allowed: &str) -> Option<&'a str> {
        let text = self.string(key)?;
        if text.is_empty() {
            self.note(Problem::new(self.at(key), "is empty", allowed));
            return None;
        }
        Some(text)
    }

    /// The path of a file or a folder. What cannot be one is not repeated: somebody may have pasted a key.
    pub(crate) fn path(&mut self, key: &'static str, allowed: &str) -> Option<&'a str> {
        let text = self.filled_string(key, allowed)?;
        if is_no_path(text) {
            let wrong = "is a PEM text or several lines, not a path";
            self.note(Problem::new(self.at(key), wrong, allowed));
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(value) => Some(*value),
            other => {
                self.mistyped(key, "true or false", other);
                None
            }
        }
    }

    /// A whole number within a range.
    pub(crate) fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let number = match value {
            Value::Integer(number) => u64::try_from(*number)
                .ok()
                .filter(|number| range.contains(number)),
            other => {
                self.mistyped(key, &allowed, other);
                return None;
            }
        };
        if number.is_none() {
            self.note(Problem::new(
                self.at(key),
                format!("{value} is out of range"),
                allowed,
            ));
        }
        number
    }

    /// A share from nothing to all, in thousandths.
    pub(crate) fn share(&mut self, key: &'static str) -> Option<u16> {
        let allowed = "a share from 0.0 to 1.0, such as 0.25";
        let value = self.take(key)?;
        let share = match value {
            Value::Float(share) => *share,
            Value::Integer(0) => 0.0,
            Value::Integer(1) => 1.0,
            other => {
                self.mistyped(key, allowed, other);
                return None;
            }
        };
        if !(0.0..=1.0).contains(&share) {
            let wrong = format!("{value} is out of range");
            self.note(Problem::new(self.at(key), wrong, allowed));
            return None;
        }
        Some((share * 1000.0).round() as u16)
    }

    /// A length of time, from a millisecond to thirty days.
    pub(crate) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let allowed = "a duration such as \"30s\" or \"1500ms\", from 1ms to 30days";
        let text = match self.take(key)? {
            Value::String(text) => text,
            other => {
                self.mistyped(key, allowed, other);
                return None;
            }
        };
        let wrong = match humantime::parse_duration(text) {
            Ok(duration) if (SHORTEST..=LONGEST).contains(&duration) => return Some(duration),
            Ok(duration) if duration.is_zero() => "must be more than zero".to_owned(),
            Ok(_) => format!("{text:?} is out of range"),
            Err(_) => format!("{text:?} is not a duration"),
        };
        self.note(Problem::new(self.at(key), wrong, allowed));
        None
    }

    /// One word out of a fixed list.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.string(key)?;
        let chosen = choices.iter().find(|(word, _)| *word == text);
        if chosen.is_none() {
            let allowed = choices
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect::<Vec<_>>()
                .join(", ");
            self.note(Problem::new(
                self.at(key),
                format!("{text:?} is unknown"),
                allowed,
            ));
        }
        chosen.map(|&(_, value)| value)
    }

    /// An IP address and a port.
    pub(crate) fn address(&mut self, key: &'static str) -> Option<SocketAddr> {
        let text = self.string(key)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.note(Problem::new(
                self.at(key),
                format!("{text:?} is not an address"),
                ADDRESSES,
            ));
        }
        address
    }

    /// A list of anything, for a caller that looks into it itself.
    pub(crate) fn list(&mut self, key: &'static str) -> Option<&'a [Value]> {
        match self.take(key)? {
            Value::Array(items) => Some(items),
            other => {
                self.mistyped(key, "a list", other);
                None
            }
        }
    }

    /// Whether the key is there at all.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The full name of a key of this section.
    pub(crate) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Notes it if one of two keys is there, of which neither says anything without the other.
    pub(crate) fn both(&self, one: &str, other: &str) {
        for (there, missing) in [(one, other), (other, one)] {
            if self.has(there) && !self.has(missing) {
                let wrong = format!("is missing, but {} is there", self.at(there));
                self.note(Problem::plain(self.at(missing), wrong));
            }
        }
    }

    /// Notes a problem.
    pub(crate) fn note(&self, problem: Problem) {
        self.reading.note(problem);
    }

    /// Reports each key that this section was never asked for, with the nearest one that it knows.
    pub(crate) fn finish(self) {
        for key in self
            .table
            .into_iter()
            .flat_map(Table::keys)
            .filter(|key| !self.asked.contains(&key.as_str()))
        {
            let wrong = nearest(key, &self.asked).map_or_else(
                || "unknown key".to_owned(),
                |near| format!("unknown key, the nearest known one is \"{near}\""),
            );
            self.note(Problem::new(self.at(key), wrong, self.asked.join(", ")));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        self.reading.known.borrow_mut().push(self.at(key));
        self.table?.get(key)
    }

    fn mistyped(&self, key: &str, wanted: &str, found: &Value) {
        self.note(Problem::new(
            self.at(key),
            format!("has the wrong type ({})", shown(found)),
            wanted,
        ));
    }
}

/// The known key that a misspelt one most likely meant.
pub(crate) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), *candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.6)
        .map(|(_, candidate)| candidate)
}

/// A value as its reader wrote it, or what kind of thing it is if it is long.
fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}

/// What an address may look like.
pub(crate) const ADDRESSES: &str =
    "an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:443\"";
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let problem = parse("[feed]\npath = = 1\n").unwrap_err().to_string();
        assert!(problem.starts_with("line 2, column 8: "), "{problem}");
        let problem = parse("[feed]\npath = \"a\"\npath = \"b\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            problem.contains("line 3") && problem.contains("duplicate"),
            "{problem}"
        );
    }

    #[test]
    fn the_nearest_key_is_named_only_if_it_is_near() {
        assert_eq!(nearest("adress", &["address", "protocol"]), Some("address"));
        assert_eq!(nearest("xyz", &["address", "protocol"]), None);
    }
}
