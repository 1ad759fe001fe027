//! What is counted, and in which order. Counts of parts and of routers under callgrind run side by side; system calls are
//! counted alone, for how many events a router finds in one look depends on how fast it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use router_benches::load::Work;
use router_benches::parts;

use crate::{callgrind, strace};

/// Something to be counted.
#[derive(Debug, Clone)]
pub(crate) enum Count {
    /// Instructions of a part.
    Part(String),
    /// Instructions of a router.
    Router(Work),
    /// System calls of a router.
    SystemCalls(Work),
}

impl Count {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Part(name) => name.clone(),
            Self::Router(work) => format!("router/{}", work.name()),
            Self::SystemCalls(work) => format!("system-calls/{}", work.name()),
        }
    }

    pub(crate) fn needs_router(&self) -> bool {
        !matches!(self, Self::Part(_))
    }

    /// The program that counts.
    pub(crate) fn tool(&self) -> &'static str {
        match self {
            Self::Part(_) | Self::Router(_) => "valgrind",
            Self::SystemCalls(_) => "strace",
        }
    }

    fn run(&self, router: &Path) -> Counted {
        let (value, note) = match self {
            Self::Part(name) => (callgrind::part(name, rounds(name)), String::new()),
            Self::Router(work) => (callgrind::router(router, *work), String::new()),
            Self::SystemCalls(work) => strace::router(router, *work),
        };
        Counted {
            name: self.name(),
            value,
            note,
        }
    }
}

/// What came out, for one operation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Counted {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// More to say of it.
    pub(crate) note: String,
}

/// Everything that there is to count.
pub(crate) fn all() -> Vec<Count> {
    let parts = parts::all().into_iter().map(|part| Count::Part(part.name));
    parts
        .chain(Work::ALL.map(Count::Router))
        .chain(KEPT.map(Count::SystemCalls))
        .collect()
}

/// Counts so many at once, and gives what came out in the order asked for.
pub(crate) fn run(counts: &[Count], router: &Path, jobs: usize) -> Vec<Counted> {
    let (alone, side_by_side): (Vec<_>, Vec<_>) = counts
        .iter()
        .enumerate()
        .partition(|(_, count)| matches!(count, Count::SystemCalls(_)));
    let done = Mutex::new(BTreeMap::new());
    let work = |(nth, count): (usize, &Count)| {
        let counted = count.run(router);
        // Guards what is done; nothing waits under it.
        let mut done = done.lock().unwrap();
        done.insert(nth, counted);
        eprintln!("{}/{} {}", done.len(), counts.len(), count.name());
    };
    let next = Mutex::new(side_by_side.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(count) = next.lock().unwrap().next() else {
                        return;
                    };
                    work(count);
                }
            });
        }
    });
    alone.into_iter().for_each(work);
    done.into_inner().unwrap().into_values().collect()
}

/// Work on kept connections. With new ones the calls depend on who is faster, the router or its clients.
const KEPT: [Work; 4] = [Work::H1, Work::H1Tls, Work::H2, Work::WebSocket];

/// As many rounds as make the count of one steady, and no more.
fn rounds(part: &str) -> u64 {
    if part.starts_with("pipe/") { 300 } else { 1000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_counts_have_one_name() {
        let names: Vec<String> = all().iter().map(Count::name).collect();
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }
}
