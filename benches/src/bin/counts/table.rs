//! The table that is printed: what it was, what it is, and what is worse.

use std::fmt::Write as _;

use crate::baseline::Baseline;
use crate::count::Counted;

/// One line of it; a count that is new or gone has one figure only.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    name: String,
    before: Option<f64>,
    now: Option<f64>,
    note: String,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        let (before, now) = (self.before?, self.now?);
        (before > 0.0).then(|| now / before)
    }

    /// Worse by more than counts differ from one run to the next.
    pub(crate) fn is_worse(&self) -> bool {
        self.ratio()
            .is_some_and(|ratio| ratio > 1.0 + self.tolerance())
    }

    fn is_better(&self) -> bool {
        self.ratio()
            .is_some_and(|ratio| ratio < 1.0 - self.tolerance())
    }

    /// By how much a count may grow without being marked. How often a router sleeps between two system calls is a matter of
    /// the moment.
    fn tolerance(&self) -> f64 {
        if self.name.starts_with("system-calls/") {
            0.1
        } else {
            0.03
        }
    }

    fn remark(&self) -> &'static str {
        match (self.before, self.now) {
            (None, _) => "new",
            (_, None) => "gone",
            _ if self.is_worse() => "WORSE",
            _ if self.is_better() => "better",
            _ => "",
        }
    }
}

/// What was counted beside the baseline; if everything was counted, what is in the baseline only is gone.
pub(crate) fn rows(before: Option<&Baseline>, counted: &[Counted], all: bool) -> Vec<Row> {
    let known = |name: &str| before.and_then(|before| before.counts.get(name).copied());
    let mut rows: Vec<Row> = counted
        .iter()
        .map(|one| Row {
            name: one.name.clone(),
            before: known(&one.name),
            now: Some(one.value),
            note: one.note.clone(),
        })
        .collect();
    let gone = before
        .into_iter()
        .filter(|_| all)
        .flat_map(|before| &before.counts)
        .filter(|(name, _)| counted.iter().all(|one| one.name != **name))
        .map(|(name, value)| Row {
            name: name.clone(),
            before: Some(*value),
            now: None,
            note: String::new(),
        });
    rows.extend(gone);
    rows
}

/// The rows as text, with a last line that says how it went.
pub(crate) fn print(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<32} {:>12} {:>12} {:>7}\n",
        "instructions per operation", "baseline", "now", "ratio"
    );
    for row in rows {
        let line = format!(
            "{:<32} {:>12} {:>12} {:>7}  {:<6} {}",
            row.name,
            figure(row.before),
            figure(row.now),
            row.ratio()
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
            row.remark(),
            row.note
        );
        writeln!(text, "{}", line.trim_end()).unwrap();
    }
    let worse = rows.iter().filter(|row| row.is_worse()).count();
    writeln!(
        text,
        "{worse} of {} worse than the baseline by more than 3 % (system calls 10 %)",
        rows.len()
    )
    .unwrap();
    text
}

/// Small figures are system calls, of which parts matter.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 100.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    fn rows_of(before: &[(&str, f64)], now: &[(&str, f64)], all: bool) -> Vec<Row> {
        let counts = before
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value));
        let baseline = Baseline {
            machine: Machine::default(),
            counts: counts.collect(),
        };
        let now: Vec<Counted> = now
            .iter()
            .map(|(name, value)| Counted {
                name: (*name).to_owned(),
                value: *value,
                note: String::new(),
            })
            .collect();
        rows(Some(&baseline), &now, all)
    }

    #[test]
    fn a_count_is_worse_beyond_the_tolerance_only() {
        for (name, now, remark) in [
            ("a", 1029.0, ""),
            ("a", 1031.0, "WORSE"),
            ("a", 971.0, ""),
            ("a", 969.0, "better"),
            ("system-calls/a", 1099.0, ""),
            ("system-calls/a", 1101.0, "WORSE"),
        ] {
            let rows = rows_of(&[(name, 1000.0)], &[(name, now)], true);
            assert_eq!(rows[0].remark(), remark, "{now}");
            assert_eq!(rows[0].is_worse(), remark == "WORSE");
        }
    }

    #[test]
    fn what_is_new_or_gone_is_said_and_never_worse() {
        let rows = rows_of(&[("a", 1.0)], &[("b", 2.0)], true);
        let remarks: Vec<_> = rows.iter().map(Row::remark).collect();
        assert_eq!(remarks, ["new", "gone"]);
        assert!(!rows.iter().any(Row::is_worse));
        // With a part of them asked for, nothing is gone.
        assert_eq!(rows_of(&[("a", 1.0)], &[("b", 2.0)], false).len(), 1);
    }

    #[test]
    fn the_table_can_be_read() {
        let rows = rows_of(
            &[("a/b", 1234.5), ("gone", 3.0)],
            &[("a/b", 1300.0), ("new", 4.056)],
            true,
        );
        let expected = "\
instructions per operation           baseline          now   ratio
a/b                                      1234         1300   1.053  WORSE
new                                         -         4.06       -  new
gone                                     3.00            -       -  gone
1 of 3 worse than the baseline by more than 3 % (system calls 10 %)
";
        assert_eq!(print(&rows), expected);
    }
}
