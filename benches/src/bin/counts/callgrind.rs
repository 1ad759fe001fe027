//! Instructions, as valgrind's callgrind counts them. Of a part only what happens within [`counted_rounds`] counts; of a
//! router what its worker does, and what two runs of different length have in common is taken away.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use router_benches::load::Work;
use router_benches::parts::Round;

use crate::runs::Runs;

/// What callgrind looks for by its name: it counts from its beginning to its end, on this thread.
#[inline(never)]
pub(crate) fn counted_rounds(round: &mut Round, rounds: u64) {
    for _ in 0..rounds {
        round();
    }
}

/// Instructions of one round of a part.
pub(crate) fn part(name: &str, rounds: u64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("callgrind.out");
    let output = callgrind(&out)
        .arg("--toggle-collect=*counted_rounds*")
        .arg(std::env::current_exe().unwrap())
        .args(["--part", name, "--rounds", &rounds.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("valgrind: {error}"));
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    total(&std::fs::read_to_string(out).unwrap()).expect("a total") as f64 / rounds as f64
}

/// Instructions of a router's worker for one operation. What its other threads do meanwhile depends on how long it takes.
pub(crate) fn router(router: &Path, work: Work) -> f64 {
    let tool = || {
        let mut command = callgrind(Path::new(OUT));
        command.arg("--separate-threads=yes");
        command
    };
    let runs = Runs::below(tool, OUT, router, work);
    let added = added_by_worker(&threads(&runs.short), &threads(&runs.long));
    added.expect("a worker") as f64 / runs.operations
}

/// Totals by the thread that a file's name ends with.
fn threads(files: &BTreeMap<String, String>) -> BTreeMap<u32, u64> {
    let of_file = |(name, written): (&String, &String)| {
        let (_, thread) = name.rsplit_once('-')?;
        Some((thread.parse().ok()?, total(written)?))
    };
    files.iter().filter_map(of_file).collect()
}

/// What the longer run has more in the thread to which it has added most: the threads of a router start in the same order
/// each time.
fn added_by_worker(short: &BTreeMap<u32, u64>, long: &BTreeMap<u32, u64>) -> Option<u64> {
    let added = long
        .iter()
        .map(|(thread, total)| total.saturating_sub(short.get(thread).copied().unwrap_or(0)));
    added.max()
}

fn callgrind(out: &Path) -> Command {
    let mut command = Command::new("valgrind");
    let file = format!("--callgrind-out-file={}", out.display());
    command.args(["--tool=callgrind", &file]);
    // By default jemalloc's caches are tidied up by the clock, so that two runs of the same part could be 8 % apart.
    command.env("_RJEM_MALLOC_CONF", "experimental_tcache_gc:false");
    command
}

/// The total that a file of callgrind's ends with.
fn total(written: &str) -> Option<u64> {
    written
        .lines()
        .filter_map(|line| line.strip_prefix("totals: "))
        .next_back()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

const OUT: &str = "callgrind.out";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_last_line_of_its_name() {
        for (written, expected) in [
            (
                "events: Ir\nsummary: 5\nfn=(1) totals\n4 5\n\ntotals: 5\n",
                Some(5),
            ),
            ("totals: 12345678901 7\n", Some(12_345_678_901)),
            ("summary: 5\n", None),
            ("totals: many\n", None),
            ("", None),
        ] {
            assert_eq!(total(written), expected, "{written}");
        }
    }

    #[test]
    fn the_worker_is_the_thread_that_did_more() {
        let file = |thread: u32, total: u64| {
            let name = format!("callgrind.out-{thread:02}");
            (name, format!("totals: {total}\n"))
        };
        let short = [
            file(1, 900),
            file(2, 100),
            ("callgrind.out".to_owned(), String::new()),
        ];
        let long = [file(1, 910), file(2, 500), file(3, 7)];
        let (short, long) = (threads(&short.into()), threads(&long.into()));
        assert_eq!(short, BTreeMap::from([(1, 900), (2, 100)]));
        assert_eq!(added_by_worker(&short, &long), Some(400));
        assert_eq!(added_by_worker(&short, &BTreeMap::new()), None);
    }
}
