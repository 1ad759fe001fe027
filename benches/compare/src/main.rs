//! `make compare`: the router and other proxies do the same work, one after the other, and everything that is said of them is a ratio
//! within one round. README.md says how to read it.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a tool that measures: it reads clocks, waits, and talks to whoever started it"
)]

mod drivers;
mod failed;
mod feed;
mod figure;
mod generators;
mod http;
mod machine;
mod origin;
mod peer;
mod plot;
mod process;
mod programs;
mod report;
mod scenario;
mod stand;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;

use crate::failed::{Context, Result, fail};
use crate::figure::{Figure, Figures};
use crate::machine::Machine;
use crate::peer::{Peer, Programs};
use crate::report::Results;
use crate::scenario::{Contender, Scenario, Variant, Work};
use crate::stand::Stand;

/// Compares the router with other proxies under load.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Scenarios, by name; all of them by default
    scenarios: Vec<String>,
    /// Says which scenarios there are
    #[arg(long)]
    list: bool,
    /// Who is compared with the router
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Peer::ALL)]
    peers: Vec<Peer>,
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement is
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections that do nothing, in the scenarios about them
    #[arg(long, default_value_t = 2000)]
    idle: usize,
    /// Where the report goes
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// The core of the load generator and the origin
    #[arg(long, default_value = "0")]
    load_cores: String,
    /// The core of the proxy
    #[arg(long, default_value = "1")]
    proxy_cores: String,
    /// The cores of two workers
    #[arg(long, default_value = "0,1")]
    two_cores: String,
    /// Measures again, up to five times, when others have used more percent of the proxy's core
    #[arg(long)]
    quiet: Option<f64>,
    /// Builds the small peers and fetches envoy first
    #[arg(long)]
    build: bool,
    /// Goes on with the next scenario when one has failed; the exit status still says so
    #[arg(long)]
    keep_going: bool,
    #[command(flatten)]
    programs: Programs,
}

/// How often things are measured.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rounds: usize,
    /// Percent of the proxy's core that others may use.
    quiet: f64,
}

/// How often one measurement is made until it is taken as it is.
const TRIES: usize = 5;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.list {
        for scenario in scenario::ALL {
            println!("{:16} {}", scenario.name, scenario.title);
        }
        return Ok(());
    }
    let scenarios = chosen(&arguments.scenarios)?;
    let mut peers = arguments.peers;
    peers.retain(|peer| *peer != Peer::Router);
    peers.insert(0, Peer::Router);
    let programs = arguments.programs;
    fs::create_dir_all(&arguments.out)?;
    if arguments.build {
        programs::build(&peers, &programs)?;
    }
    let machine = Machine::look(&peers, &programs);
    // Everything that this process starts inherits its core, unless it is told otherwise.
    pin(&arguments.load_cores)?;
    let stand = Stand::new(
        programs,
        arguments.out,
        arguments.seconds,
        arguments.idle,
        arguments.proxy_cores,
        arguments.two_cores,
    )?;
    let plan = Plan {
        rounds: arguments.rounds,
        quiet: arguments.quiet.unwrap_or(f64::INFINITY),
    };
    let mut all = Vec::new();
    for scenario in scenarios {
        let results = compare(&stand, scenario, &peers, plan);
        let failure = results.failure.clone();
        all.push(results);
        // A report is written as soon as there is something to report, for a run takes an hour.
        report::write(&machine, &all, &stand.folder)?;
        if let Some(failure) = failure {
            eprintln!("compare: {failure}");
            if !arguments.keep_going {
                return fail(format!("{} failed", scenario.name));
            }
        }
    }
    println!("{}", stand.folder.join("REPORT.md").display());
    let failed: Vec<_> = all
        .iter()
        .filter(|results| results.failure.is_some())
        .map(|results| results.scenario.name)
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        fail(format!("failed: {}", failed.join(", ")))
    }
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(scenario::ALL.iter().collect());
    }
    let find = |name: &String| {
        let found = scenario::ALL.iter().find(|scenario| scenario.name == name);
        found.context(|| format!("no scenario {name}; see --list"))
    };
    names.iter().map(find).collect()
}

/// All rounds of a scenario. Every other round goes backwards, so that nobody is always the first after somebody else.
fn compare(stand: &Stand, scenario: &'static Scenario, peers: &[Peer], plan: Plan) -> Results {
    let mut contenders: Vec<(Contender, Vec<Figures>)> = scenario
        .contenders(peers)
        .into_iter()
        .map(|contender| (contender, Vec::new()))
        .collect();
    let failure = rounds_of(stand, scenario, &mut contenders, plan)
        .err()
        .map(|error| error.to_string());
    Results {
        scenario,
        contenders,
        failure,
    }
}

fn rounds_of(
    stand: &Stand,
    scenario: &Scenario,
    contenders: &mut [(Contender, Vec<Figures>)],
    plan: Plan,
) -> Result<()> {
    let rate = if scenario.work == Work::HalfRate {
        half_rate(stand, contenders)?
    } else {
        0.0
    };
    for round in 0..plan.rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for nth in order {
            let Some((contender, figures)) = contenders.get_mut(nth) else {
                continue;
            };
            let mut tries = 1;
            let measured = loop {
                let measured = stand.measure(scenario, contender, rate)?;
                println!(
                    "{:16} {:2} {:24} {}",
                    scenario.name,
                    round + 1,
                    contender.name(),
                    line(&measured, scenario.unit)
                );
                // Memory is the same however busy the machine is.
                let others = match scenario.figure {
                    Figure::RssPerConnection => 0.0,
                    _ => measured.get(&Figure::Others).copied().unwrap_or(0.0),
                };
                if others > report::QUIET {
                    println!("{:20}^ the machine was not quiet: this is worth less", "");
                }
                if others <= plan.quiet || tries == TRIES {
                    break measured;
                }
                tries += 1;
            };
            figures.push(measured);
        }
    }
    Ok(())
}

/// Half of what nginx can do at most; of the first contender, if nginx is not there.
fn half_rate(stand: &Stand, contenders: &[(Contender, Vec<Figures>)]) -> Result<f64> {
    let nginx = contenders
        .iter()
        .find(|(contender, _)| contender.peer == Peer::Nginx);
    let (reference, _) = nginx
        .or_else(|| contenders.first())
        .context(|| "nobody takes part".to_owned())?;
    let reference = Contender {
        variant: Variant::PLAIN,
        ..*reference
    };
    let full = scenario::ALL
        .first()
        .context(|| "there is no scenario".to_owned())?;
    let measured = stand.measure(full, &reference, 0.0)?;
    let top = measured
        .get(&Figure::Rate)
        .context(|| "no rate was measured".to_owned())?;
    println!(
        "half of the top rate of {} is {:.0} requests a second",
        reference.name(),
        top / 2.0
    );
    Ok(top / 2.0)
}

fn line(figures: &Figures, unit: &str) -> String {
    figures
        .iter()
        .map(|(figure, value)| format!("{} {}", figure.title(unit), report::number(*value)))
        .collect::<Vec<_>>()
        .join(" · ")
}

fn pin(cores: &str) -> Result<()> {
    let output = Command::new("taskset")
        .args(["-cp", cores, &std::process::id().to_string()])
        .output()
        .context(|| "cannot start taskset".to_owned())?;
    if output.status.success() {
        Ok(())
    } else {
        fail(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
