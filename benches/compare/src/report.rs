//! The report: Markdown for people, with a plot for each scenario, and the same figures as JSON for programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::failed::{Context, Result};
use crate::figure::{Figure, Figures, Spread};
use crate::machine::Machine;
use crate::plot;
use crate::scenario::{Contender, Contenders, Scenario};

/// All figures of a scenario: the rounds of each contender, in the order in which they took part.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) scenario: &'static Scenario,
    pub(crate) contenders: Vec<(Contender, Vec<Figures>)>,
    /// Why the scenario ended early, if it did; it has no results then.
    pub(crate) failure: Option<String>,
}

/// One row of the JSON.
#[derive(Serialize)]
struct Row<'a> {
    scenario: &'a str,
    contender: &'a str,
    figure: Figure,
    rounds: Vec<f64>,
    /// The first contender's figures divided by these, round by round.
    ratio: Option<Spread>,
}

/// Writes `REPORT.md`, `results.json` and the plots into a folder.
pub(crate) fn write(machine: &Machine, all: &[Results], folder: &Path) -> Result<()> {
    let rows: Vec<Row<'_>> = all.iter().flat_map(rows).collect();
    let json = serde_json::json!({"machine": machine, "results": rows});
    let json = serde_json::to_string_pretty(&json).context(|| "results.json".to_owned())?;
    fs::write(folder.join("results.json"), json)?;
    let mut text = head(machine);
    text.push_str(&summary(all));
    for results in all {
        text.push_str(&section(results));
        if let Some(bars) = bars(results) {
            let title = format!(
                "{}: {}",
                results.scenario.title,
                results.scenario.figure.title(results.scenario.unit)
            );
            plot::bars(
                &folder.join(format!("{}.svg", results.scenario.name)),
                &title,
                &bars,
            )?;
        }
    }
    Ok(fs::write(folder.join("REPORT.md"), text)?)
}

fn rows(results: &Results) -> Vec<Row<'_>> {
    let Some((_, first)) = results.contenders.first() else {
        return Vec::new();
    };
    let of = |(contender, rounds): &(Contender, Vec<Figures>)| {
        figures(rounds)
            .into_iter()
            .map(|figure| Row {
                scenario: results.scenario.name,
                contender: contender.name(),
                figure,
                rounds: values(rounds, figure),
                ratio: Spread::of_ratios(first, rounds, figure),
            })
            .collect::<Vec<_>>()
    };
    results.contenders.iter().flat_map(of).collect()
}

fn figures(rounds: &[Figures]) -> BTreeSet<Figure> {
    rounds
        .iter()
        .flat_map(|figures| figures.keys().copied())
        .collect()
}

fn values(rounds: &[Figures], figure: Figure) -> Vec<f64> {
    rounds
        .iter()
        .filter_map(|figures| figures.get(&figure).copied())
        .collect()
}

fn head(machine: &Machine) -> String {
    let mut text = format!(
        "# The router and its peers under load\n\nMeasured on {}, {} cores of {}, {}, at commit {}, with\n\n    router-compare {}\n\nThe proxy is on one core; the load generator and the origin are on another. Ratios are the router's figure divided by\nthe peer's in the same round: the median of all rounds, and the least and the largest in brackets. Below 1 the router is\nbetter, except in figures per second.\n\n| program | version |\n|---|---|\n",
        machine.date, machine.cores, machine.cpu, machine.kernel, machine.commit, machine.command,
    );
    for (name, version) in &machine.programs {
        writeln!(text, "| {name} | {version} |").unwrap_or_default();
    }
    text
}

/// The figure that each scenario is about, in ratios: to peers, and of the router to itself.
fn summary(all: &[Results]) -> String {
    let (peers, variants): (Vec<&Results>, Vec<&Results>) = all
        .iter()
        .partition(|results| results.scenario.contenders == Contenders::Peers);
    let mut text = String::new();
    for (title, some) in [("Ratios", peers), ("The router against itself", variants)] {
        if !some.is_empty() {
            text.push_str(&ratios(title, &some));
        }
    }
    text + &noise(all)
}

fn ratios(title: &str, some: &[&Results]) -> String {
    let mut names = Vec::new();
    for results in some {
        for (contender, _) in results.contenders.iter().skip(1) {
            if !names.contains(&contender.name()) {
                names.push(contender.name());
            }
        }
    }
    let mut text = format!(
        "\n## {title}\n\n| scenario | figure | {} |\n|---|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for results in some {
        let Scenario {
            name, figure, unit, ..
        } = results.scenario;
        write!(text, "| [{name}](#{name}) | {} |", figure.title(unit)).unwrap_or_default();
        for name in &names {
            let of_name = |(contender, _): &&(Contender, Vec<Figures>)| contender.name() == *name;
            let cell = results
                .contenders
                .iter()
                .skip(1)
                .find(of_name)
                .and_then(|(_, theirs)| {
                    let (_, ours) = results.contenders.first()?;
                    Spread::of_ratios(ours, theirs, *figure)
                })
                .filter(|_| results.failure.is_none())
                .map_or_else(String::new, ratio);
            write!(text, " {cell} |").unwrap_or_default();
        }
        text.push('\n');
    }
    text
}

/// Percent of the proxy's core that others may use before a figure is worth less.
pub(crate) const QUIET: f64 = 3.0;

/// Where the machine was not quiet enough.
fn noise(all: &[Results]) -> String {
    let mut text = String::new();
    for results in all {
        let rounds = results.contenders.iter().flat_map(|(_, rounds)| rounds);
        let others = rounds.filter_map(|figures| figures.get(&Figure::Others).copied());
        let most = others.fold(0.0, f64::max);
        // Connections that do nothing use no time that others could take away.
        if most > QUIET && results.scenario.figure != Figure::RssPerConnection {
            let name = results.scenario.name;
            writeln!(
                text,
                "* **{name}** was disturbed: others used up to {most:.0} % of the proxy's core."
            )
            .unwrap_or_default();
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("\n{text}")
    }
}

fn section(results: &Results) -> String {
    let Scenario {
        name, title, unit, ..
    } = results.scenario;
    let mut text = format!("\n## {name}\n\n{title}.\n");
    if let Some(failure) = &results.failure {
        writeln!(
            text,
            "\n**Failed:** there is no result.\n\n```\n{failure}\n```"
        )
        .unwrap_or_default();
        return text;
    }
    let Some((_, ours)) = results.contenders.first() else {
        return text;
    };
    let columns = figures(ours);
    text.push_str("\n| |");
    for figure in &columns {
        let ratio = if has_ratio(*figure) { " ratio |" } else { "" };
        write!(text, " {} |{ratio}", figure.title(unit)).unwrap_or_default();
    }
    text.push_str("\n|---|");
    for figure in &columns {
        text.push_str(if has_ratio(*figure) {
            "---:|---|"
        } else {
            "---:|"
        });
    }
    text.push('\n');
    for (nth, (contender, rounds)) in results.contenders.iter().enumerate() {
        write!(text, "| {} |", contender.name()).unwrap_or_default();
        for figure in &columns {
            let median = Spread::of(values(rounds, *figure))
                .map_or_else(String::new, |spread| number(spread.median));
            let against = (nth > 0)
                .then(|| Spread::of_ratios(ours, rounds, *figure))
                .flatten()
                .map_or_else(String::new, ratio);
            let against = if has_ratio(*figure) {
                format!(" {against} |")
            } else {
                String::new()
            };
            write!(text, " {median} |{against}").unwrap_or_default();
        }
        text.push('\n');
    }
    writeln!(text, "\n![{title}]({name}.svg)").unwrap_or_default();
    text
}

fn bars(results: &Results) -> Option<Vec<(String, Spread)>> {
    let bars: Vec<_> = results
        .contenders
        .iter()
        .filter_map(|(contender, rounds)| {
            let spread = Spread::of(values(rounds, results.scenario.figure))?;
            Some((contender.name().to_owned(), spread))
        })
        .collect();
    (results.failure.is_none() && !bars.is_empty()).then_some(bars)
}

fn ratio(spread: Spread) -> String {
    format!(
        "**{:.2}** ({:.2}–{:.2})",
        spread.median, spread.min, spread.max
    )
}

/// What others use of a core is not to be compared, only to be known.
fn has_ratio(figure: Figure) -> bool {
    figure != Figure::Others
}

/// As many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
