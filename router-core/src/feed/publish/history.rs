//! The latest changes, for those who only missed a few: each is one line, made once and shared by all who get it. The
//! history is bounded; who has missed more than it holds gets the whole.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use super::gzip::Packed;
use super::raw::Raw;

/// What has become of an app: its text, or nothing if it is gone.
pub(super) type Op = (Arc<str>, Option<Raw>);

/// One change.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) from: u64,
    pub(super) to: u64,
    ops: Vec<Op>,
    certificates: Option<Raw>,
    line: Bytes,
    packed: OnceLock<Packed>,
}

impl Change {
    pub(super) fn new(
        from: u64,
        to: u64,
        allow_shrink: bool,
        ops: Vec<Op>,
        certificates: Option<Raw>,
    ) -> Self {
        let line = line(from, to, allow_shrink, &ops, certificates.as_ref());
        Self {
            from,
            to,
            ops,
            certificates,
            line,
            packed: OnceLock::new(),
        }
    }

    /// The message, with its end of line.
    pub(super) fn line(&self) -> &Bytes {
        &self.line
    }

    /// The same, compressed when first asked for.
    pub(super) fn packed(&self) -> &Packed {
        self.packed.get_or_init(|| Packed::new([&self.line]))
    }

    /// What it costs to remember, in bytes. The texts of apps are counted too: they outlive their app's next change.
    fn weight(&self) -> usize {
        let texts = self.ops.iter().filter_map(|(_, text)| text.as_ref());
        2 * self.line.len() + texts.map(Raw::len).sum::<usize>() + 256
    }

    /// Changes that follow each other, as one. Each of them was let through the guard that looks after shrinking, so that
    /// together they must not be held up by it.
    fn merged(changes: &[Arc<Self>]) -> Option<Arc<Self>> {
        let (first, last) = (changes.first()?, changes.last()?);
        if changes.len() == 1 {
            return Some(Arc::clone(first));
        }
        let mut places: HashMap<&Arc<str>, usize> = HashMap::new();
        let mut ops: Vec<&Op> = Vec::new();
        for op in changes.iter().flat_map(|change| &change.ops) {
            match places.get(&op.0).and_then(|place| ops.get_mut(*place)) {
                Some(before) => *before = op,
                None => {
                    places.insert(&op.0, ops.len());
                    ops.push(op);
                }
            }
        }
        let certificates = changes
            .iter()
            .rev()
            .find_map(|change| change.certificates.clone());
        let ops = ops.into_iter().cloned().collect();
        Some(Arc::new(Self::new(
            first.from,
            last.to,
            true,
            ops,
            certificates,
        )))
    }
}

fn line(from: u64, to: u64, allow_shrink: bool, ops: &[Op], certificates: Option<&Raw>) -> Bytes {
    let texts = ops
        .iter()
        .map(|(name, text)| 32 + text.as_ref().map_or(2 * name.len(), Raw::len));
    let mut line =
        BytesMut::with_capacity(128 + texts.sum::<usize>() + certificates.map_or(0, Raw::len));
    line.put_slice(format!("{{\"from\":{from},\"to\":{to}").as_bytes());
    if allow_shrink {
        line.put_slice(b",\"allow_shrink\":true");
    }
    if let Some(certificates) = certificates {
        line.put_slice(b",\"certificates\":");
        line.put_slice(&certificates.alone());
    }
    line.put_slice(b",\"changes\":[");
    for (index, (name, text)) in ops.iter().enumerate() {
        if index > 0 {
            line.put_u8(b',');
        }
        match text {
            Some(text) => {
                line.put_slice(b"{\"app\":");
                line.put_slice(&text.alone());
            }
            None => {
                line.put_slice(b"{\"remove\":");
                line.put_slice(serde_json::Value::from(&**name).to_string().as_bytes());
            }
        }
        line.put_u8(b'}');
    }
    line.put_slice(b"]}\n");
    line.freeze()
}

/// Changes that follow each other, numbered by their place in the order of all there ever were.
#[derive(Debug)]
pub(super) struct History {
    changes: VecDeque<Arc<Change>>,
    /// The number of the first one.
    first: u64,
    /// The revision before the first one.
    base: u64,
    /// There have been other routes at that revision.
    replaced: bool,
    weight: usize,
    /// Most of what it may cost.
    most: usize,
}

impl History {
    pub(super) fn new(most: usize) -> Self {
        Self {
            changes: VecDeque::new(),
            first: 0,
            base: 0,
            replaced: false,
            weight: 0,
            most,
        }
    }

    pub(super) fn push(&mut self, change: Change) {
        self.weight += change.weight();
        self.changes.push_back(Arc::new(change));
        while self.weight > self.most || self.changes.len() > MOST_CHANGES {
            let Some(oldest) = self.changes.pop_front() else {
                break;
            };
            self.weight -= oldest.weight();
            self.base = oldest.to;
            self.replaced = false;
            self.first += 1;
        }
    }

    /// What was is of no use to anybody: no change leads to this revision, which may have stood for other routes before.
    pub(super) fn forget(&mut self, revision: u64, replaced: bool) {
        self.base = revision;
        self.replaced = replaced;
        self.first = self.end() + 1;
        self.changes.clear();
        self.weight = 0;
    }

    /// The number that the next change will have.
    pub(super) fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    /// Some changes from this number on; `None` if it is one of those that are forgotten.
    pub(super) fn from(&self, number: u64, most: usize) -> Option<Vec<Arc<Change>>> {
        let skipped = usize::try_from(number.checked_sub(self.first)?).ok()?;
        Some(
            self.changes
                .iter()
                .skip(skipped)
                .take(most)
                .cloned()
                .collect(),
        )
    }

    /// The number of the first change that somebody needs who is at this revision; `None` if it is forgotten, or if no
    /// change starts there: an app that was changed and changed back would be missed.
    pub(super) fn after(&self, revision: u64) -> Option<u64> {
        if self.replaced && revision == self.base {
            return None;
        }
        let has_it = |change: &Arc<Change>| change.to <= revision;
        let place = self.changes.partition_point(has_it);
        let fits = match self.changes.get(place) {
            Some(change) => change.from == revision,
            None => revision >= self.changes.back().map_or(self.base, |last| last.to),
        };
        fits.then(|| self.first + place as u64)
    }

    /// What brings somebody from this number to the present, as one change; `None` if that is nothing, or forgotten.
    pub(super) fn merged_from(&self, number: u64) -> Option<Arc<Change>> {
        Change::merged(&self.from(number, usize::MAX)?)
    }

    /// What has come since this number, in bytes; `None` if it is forgotten.
    pub(super) fn length_from(&self, number: u64) -> Option<usize> {
        let skipped = usize::try_from(number.checked_sub(self.first)?).ok()?;
        Some(
            self.changes
                .iter()
                .skip(skipped)
                .map(|change| change.line.len())
                .sum(),
        )
    }
}

/// Many, but few enough to be looked through.
const MOST_CHANGES: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn op(name: &str, text: Option<&str>) -> Op {
        (name.into(), text.map(Raw::new))
    }

    fn change(from: u64, to: u64) -> Change {
        Change::new(
            from,
            to,
            false,
            vec![op("a", Some(&format!("{{\"v\":{to}}}")))],
            None,
        )
    }

    fn text(change: &Change) -> &str {
        std::str::from_utf8(change.line()).unwrap()
    }

    #[test]
    fn a_change_is_one_line() {
        let ops = vec![op("a", Some("{\"name\":\"a\"}")), op("b \"b\"", None)];
        let full = Change::new(7, 9, true, ops, Some(Raw::new("[1]")));
        assert_eq!(
            text(&full),
            "{\"from\":7,\"to\":9,\"allow_shrink\":true,\"certificates\":[1],\"changes\":[{\"app\":{\"name\":\"a\"}},\
             {\"remove\":\"b \\\"b\\\"\"}]}\n"
        );
        let empty = Change::new(7, 8, false, vec![], None);
        assert_eq!(text(&empty), "{\"from\":7,\"to\":8,\"changes\":[]}\n");
    }

    #[test]
    fn changes_are_found_by_what_their_reader_has() {
        let mut history = History::new(usize::MAX);
        history.forget(10, false);
        assert_eq!((history.after(10), history.end()), (Some(1), 1));
        for (from, to) in [(10, 12), (12, 13), (13, 20)] {
            history.push(change(from, to));
        }
        for (revision, number) in [
            (9, None),
            (10, Some(1)),
            (11, None),
            (12, Some(2)),
            (13, Some(3)),
            (19, None),
            (20, Some(4)),
            (99, Some(4)),
        ] {
            assert_eq!(history.after(revision), number, "{revision}");
        }
        history.forget(20, false);
        assert_eq!(
            (history.after(19), history.after(20), history.end()),
            (None, Some(5), 5)
        );
        assert!(history.from(4, 1).is_none() && history.length_from(4).is_none());
        history.push(change(20, 21));
        assert_eq!((history.after(19), history.after(20)), (None, Some(5)));
    }

    #[test]
    fn the_history_is_bounded() {
        let weight = change(11, 12).weight();
        let mut history = History::new(3 * weight);
        for revision in 11..=19 {
            history.push(change(revision, revision + 1));
        }
        assert_eq!(
            (history.end(), history.after(16), history.after(17)),
            (9, None, Some(6))
        );
        let all = history.from(6, 2).unwrap();
        assert_eq!(
            all.iter().map(|change| change.to).collect::<Vec<_>>(),
            [18, 19]
        );
        history.push(Change::new(
            20,
            21,
            false,
            vec![op("a", Some(&" [1]".repeat(2000)))],
            None,
        ));
        assert_eq!((history.after(20), history.after(21)), (None, Some(10)));
    }

    #[test]
    fn changes_are_merged_and_the_last_word_on_each_app_counts() {
        let mut history = History::new(usize::MAX);
        assert!(history.merged_from(0).is_none());
        let ops = vec![op("a", Some("1")), op("b", Some("1")), op("c", None)];
        history.push(Change::new(1, 2, false, ops, Some(Raw::new("[1]"))));
        history.push(Change::new(
            2,
            3,
            false,
            vec![op("c", Some("2")), op("a", None)],
            None,
        ));
        assert_eq!(
            text(&history.merged_from(0).unwrap()),
            "{\"from\":1,\"to\":3,\"allow_shrink\":true,\"certificates\":[1],\"changes\":[{\"remove\":\"a\"},{\"app\":1},{\"app\":2}]}\n"
        );
        assert_eq!(
            text(&history.merged_from(1).unwrap()),
            "{\"from\":2,\"to\":3,\"changes\":[{\"app\":2},{\"remove\":\"a\"}]}\n"
        );
    }
}
