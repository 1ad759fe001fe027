//! System calls of a router, as strace sees them. Those of the worker count; what other threads do meanwhile, such as
//! writing the log every few milliseconds, depends on how long it takes, and is only told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use router_benches::load::Work;

use crate::runs::Runs;

/// Calls by name.
type Calls = BTreeMap<String, u64>;

/// System calls of the worker for one operation, and a note of which they are.
pub(crate) fn router(router: &Path, work: Work) -> (f64, String) {
    let runs = Runs::below(strace, OUT, router, work);
    let [short, long] = [&runs.short, &runs.long].map(|written| {
        split(by_thread(
            written.get(OUT).expect("what strace has written"),
        ))
    });
    let added = |short: &Calls, long: &Calls| -> BTreeMap<String, f64> {
        let added = long.iter().map(|(name, count)| {
            let more = count.saturating_sub(short.get(name).copied().unwrap_or(0));
            (name.clone(), more as f64 / runs.operations)
        });
        added.collect()
    };
    let worker = added(&short.0, &long.0);
    assert!(!worker.is_empty(), "a worker without system calls");
    let others = added(&short.1, &long.1).into_values().sum();
    (worker.values().sum(), note(&worker, others))
}

/// strace ends when the router does, and passes no signal on: that goes to the router, whose shell has written down who it is.
fn strace() -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-s", "0", "-e", "signal=none", "-o", OUT]);
    command.args(["sh", "-c", "echo $$ > router.pid; exec \"$0\" \"$@\""]);
    command
}

/// Each line is a thread and a call, or the rest of a call that was interrupted by another thread's.
fn by_thread(written: &str) -> BTreeMap<u32, Calls> {
    let mut calls: BTreeMap<u32, Calls> = BTreeMap::new();
    for line in written.lines() {
        let Some((thread, call)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let (Ok(thread), Some((name, _))) = (thread.parse(), call.trim_start().split_once('('))
        else {
            continue;
        };
        if name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            let of_thread = calls.entry(thread).or_default();
            *of_thread.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

/// The calls of the worker, which is the thread that accepts connections, and those of all others.
fn split(mut calls: BTreeMap<u32, Calls>) -> (Calls, Calls) {
    let accepted = |(_, calls): &(&u32, &Calls)| calls.get("accept4").copied();
    let worker = calls.iter().max_by_key(accepted).map(|(thread, _)| *thread);
    let worker = worker
        .and_then(|thread| calls.remove(&thread))
        .unwrap_or_default();
    let mut others = Calls::new();
    for (name, count) in calls.into_values().flatten() {
        *others.entry(name).or_default() += count;
    }
    (worker, others)
}

/// The calls that matter, most frequent first.
fn note(worker: &BTreeMap<String, f64>, others: f64) -> String {
    let mut calls: Vec<(&String, &f64)> = worker.iter().collect();
    calls.sort_by(|one, other| other.1.total_cmp(one.1));
    let mut note = String::new();
    for (name, count) in calls.into_iter().filter(|(_, count)| **count >= 0.005) {
        write!(note, "{name} {count:.2}, ").unwrap();
    }
    write!(note, "other threads {others:.2}").unwrap();
    note
}

const OUT: &str = "strace.out";

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "\
11 execve(\"/usr/bin/router\", [\"router\"...], 0x7ffc /* 9 vars */) = 0
11 futex(0x7f, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
  12 accept4(9,  <unfinished ...>
11 <... futex resumed>)              = 0
12 <... accept4 resumed>{sa_family=AF_INET}, [128 => 16], SOCK_CLOEXEC) = 10
12 recvfrom(10, \"\"..., 8192, 0, NULL, NULL) = 80
12 recvfrom(10, 0x7f, 8192, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
12 +++ exited with 0 +++
";

    fn counts<const N: usize>(counts: [(&str, u64); N]) -> Calls {
        counts.map(|(name, count)| (name.to_owned(), count)).into()
    }

    #[test]
    fn calls_are_counted_once_and_apart() {
        let (worker, others) = split(by_thread(WRITTEN));
        assert_eq!(worker, counts([("accept4", 1), ("recvfrom", 2)]));
        assert_eq!(others, counts([("execve", 1), ("futex", 1)]));
        assert_eq!(split(by_thread("")), (counts([]), counts([])));
    }

    #[test]
    fn the_calls_that_matter_are_named_most_frequent_first() {
        let calls = [("sendto", 2.0), ("futex", 0.001), ("recvfrom", 2.25)];
        let calls = calls.map(|(name, count)| (name.to_owned(), count)).into();
        assert_eq!(
            note(&calls, 0.301),
            "recvfrom 2.25, sendto 2.00, other threads 0.30"
        );
    }
}
