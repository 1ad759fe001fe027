//! Counts instructions and system calls, which a noisy machine cannot blur, and compares them with `benches/baseline.json`:
//! each part of the hot path under callgrind, in a process of its own, and the `router` binary under load. README.md of the
//! benches says how to read it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures and prints, and a surprise must end it at once"
)]

mod baseline;
mod callgrind;
mod count;
mod machine;
mod runs;
mod strace;
mod table;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use router_benches::parts;

use crate::baseline::Baseline;
use crate::count::Count;
use crate::machine::Machine;

/// Counts instructions of each part of the hot path, and instructions and system calls of a whole router.
#[derive(Debug, Parser)]
struct Arguments {
    /// Counts only what has one of these in its name
    names: Vec<String>,
    /// Says what there is to count
    #[arg(long)]
    list: bool,
    /// Makes what is counted the new baseline
    #[arg(long, conflicts_with = "check")]
    store: bool,
    /// Ends with 1 if anything is worse than the baseline
    #[arg(long)]
    check: bool,
    /// The baseline
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.json"))]
    baseline: PathBuf,
    /// The router to count; the one beside this program by default
    #[arg(long)]
    router: Option<PathBuf>,
    /// How many parts are counted at once; as many as there are cores by default
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Runs one part so often, for callgrind to look at
    #[arg(long, hide = true, requires = "rounds")]
    part: Option<String>,
    /// How often
    #[arg(long, hide = true)]
    rounds: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.part, arguments.rounds) {
        (Some(part), Some(rounds)) => run_part(part, rounds),
        _ => count_and_compare(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("counts: {why}");
            ExitCode::from(2)
        }
    }
}

impl Arguments {
    /// What is asked for; each name has to mean something.
    fn counts(&self) -> Result<Vec<Count>, String> {
        let mut counts = count::all();
        let unknown = |part: &&String| !counts.iter().any(|count| count.name().contains(*part));
        if let Some(unknown) = self.names.iter().find(unknown) {
            return Err(format!(
                "nothing has {unknown} in its name; --list says what there is"
            ));
        }
        counts.retain(|count| {
            self.names.is_empty() || self.names.iter().any(|part| count.name().contains(part))
        });
        Ok(counts)
    }

    /// The router's path, good in any folder.
    fn router(&self, counts: &[Count]) -> Result<PathBuf, String> {
        let beside = || std::env::current_exe().unwrap().with_file_name("router");
        let router = self.router.clone().unwrap_or_else(beside);
        if !router.is_file() && counts.iter().any(Count::needs_router) {
            return Err(format!(
                "{} is not there; `make release` builds it",
                router.display()
            ));
        }
        std::path::absolute(&router).map_err(|error| format!("{}: {error}", router.display()))
    }
}

/// Says whether the exit code is to be good. What can be told before counting is: that takes minutes.
fn count_and_compare(arguments: &Arguments) -> Result<bool, String> {
    let counts = arguments.counts()?;
    if arguments.list {
        for count in counts {
            println!("{}", count.name());
        }
        return Ok(true);
    }
    has_tools(&counts)?;
    let router = arguments.router(&counts)?;
    let all = arguments.names.is_empty();
    let here = Machine::look();
    let known = Baseline::read(&arguments.baseline)?;
    if arguments.check && known.is_none() {
        return Err(format!("no baseline: {}", arguments.baseline.display()));
    }
    let differences = known
        .as_ref()
        .map(|known| known.machine.differences(&here))
        .unwrap_or_default();
    let new = arguments
        .store
        .then(|| Baseline::begin(known.as_ref(), here, all))
        .transpose()?;

    let jobs = arguments
        .jobs
        .or_else(|| thread::available_parallelism().ok());
    let counted = count::run(&counts, &router, jobs.map_or(1, NonZeroUsize::get));
    let rows = table::rows(known.as_ref(), &counted, all);
    print!("{}", table::print(&rows));
    for difference in differences {
        println!("The baseline was counted elsewhere: {difference}");
    }
    if let Some(mut new) = new {
        new.add(&counted);
        new.write(&arguments.baseline)?;
        println!("stored in {}", arguments.baseline.display());
    }
    Ok(!arguments.check || !rows.iter().any(table::Row::is_worse))
}

fn has_tools(counts: &[Count]) -> Result<(), String> {
    let needed: BTreeSet<&str> = counts.iter().map(Count::tool).collect();
    match needed.into_iter().find(|tool| !machine::has(tool)) {
        Some(missing) => Err(format!(
            "{missing} is not installed; `scripts/setup.sh --bench` installs it"
        )),
        None => Ok(()),
    }
}

fn run_part(name: &str, rounds: u64) -> Result<bool, String> {
    let part = parts::all().into_iter().find(|part| part.name == name);
    let part = part.ok_or_else(|| format!("no part is called {name}"))?;
    // The same dynos are chosen and the same IDs made each time.
    fastrand::seed(1);
    let mut round = part.start();
    // Buffers have their sizes, and what is made lazily is made, before anything counts.
    for _ in 0..rounds / 10 {
        round();
    }
    callgrind::counted_rounds(&mut round, rounds);
    Ok(true)
}
