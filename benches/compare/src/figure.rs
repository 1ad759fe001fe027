//! What is measured, and how figures of several rounds are put together: ratios pair by pair, then the least, the median, the largest.

use std::collections::BTreeMap;

use serde::Serialize;

/// A kind of figure. All but requests per second are better when they are smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// CPU microseconds of the proxy's processes for each request, or whatever the scenario counts.
    Cpu,
    /// Those of them in user space. The kernel takes samples for it: over some seconds that is good to a few percent.
    User,
    /// Requests a second, or whatever the scenario counts.
    Rate,
    /// Latencies in milliseconds.
    Mean,
    P50,
    P90,
    P99,
    P999,
    /// MiB of all processes of the proxy at the end.
    Rss,
    /// KiB for each connection that does nothing.
    RssPerConnection,
    /// Percent of the proxy's core that went to something else: what the other figures are worth.
    Others,
}

impl Figure {
    pub(crate) fn title(self, unit: &str) -> String {
        match self {
            Self::Cpu => format!("CPU µs per {unit}"),
            Self::User => "of that in user space, µs".to_owned(),
            Self::Rate => format!("{unit}s per second"),
            Self::Mean => "mean latency, ms".to_owned(),
            Self::P50 => "p50 latency, ms".to_owned(),
            Self::P90 => "p90 latency, ms".to_owned(),
            Self::P99 => "p99 latency, ms".to_owned(),
            Self::P999 => "p99.9 latency, ms".to_owned(),
            Self::Rss => "RSS, MiB".to_owned(),
            Self::RssPerConnection => "RSS per connection, KiB".to_owned(),
            Self::Others => "% of the core used by others".to_owned(),
        }
    }
}

/// The figures of one contender in one round.
pub(crate) type Figures = BTreeMap<Figure, f64>;

/// The least, the median and the largest of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Nothing, if there are no figures.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self {
            min,
            median: f64::midpoint(lower, upper),
            max,
        })
    }

    /// The ratios of the figures of two contenders, round by round.
    pub(crate) fn of_ratios(ours: &[Figures], theirs: &[Figures], figure: Figure) -> Option<Self> {
        let pairs = ours.iter().zip(theirs);
        Self::of(
            pairs
                .filter_map(|(ours, theirs)| {
                    let theirs = *theirs.get(&figure)?;
                    // A process that has not grown by a byte has no ratio.
                    (theirs > 0.0).then_some(*ours.get(&figure)? / theirs)
                })
                .collect(),
        )
    }
}

/// Percentiles of latencies in microseconds, which are sorted for it.
pub(crate) fn latencies(micros: &mut [u64]) -> Figures {
    micros.sort_unstable();
    let at = |share: f64| {
        let index = ((micros.len() as f64 * share) as usize).min(micros.len().saturating_sub(1));
        micros.get(index).map(|micros| *micros as f64 / 1000.0)
    };
    [
        (Figure::P50, 0.5),
        (Figure::P90, 0.9),
        (Figure::P99, 0.99),
        (Figure::P999, 0.999),
    ]
    .into_iter()
    .filter_map(|(figure, share)| Some((figure, at(share)?)))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_made_pair_by_pair() {
        let rounds = |values: [f64; 3]| values.map(|value| Figures::from([(Figure::Cpu, value)]));
        let spread = Spread::of_ratios(
            &rounds([1.0, 4.0, 9.0]),
            &rounds([2.0, 4.0, 6.0]),
            Figure::Cpu,
        );
        let expected = Spread {
            min: 0.5,
            median: 1.0,
            max: 1.5,
        };
        assert_eq!(spread, Some(expected));
        assert_eq!(Spread::of_ratios(&[], &[], Figure::Cpu), None);
    }

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let mut micros: Vec<u64> = (1..=1000).rev().collect();
        let figures = latencies(&mut micros);
        assert_eq!(figures[&Figure::P50], 0.501);
        assert_eq!(figures[&Figure::P99], 0.991);
    }
}
