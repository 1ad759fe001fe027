//! One worker's counters, and the sum of all. Counters only grow, and each is written by one worker: relaxed atomics on
//! cache lines that no other core writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connections::ConnectionCounts;

/// What one worker counted.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Shard {
    requests: [[AtomicU64; CLASSES.len()]; CODES],
    refusals: [AtomicU64; MOST_REFUSALS],
    connect_failures: [AtomicU64; CODES],
    /// Service times.
    pub(super) service: Histogram,
    /// Connect times.
    pub(super) connect: Histogram,
    retries: AtomicU64,
    quarantines: AtomicU64,
    tunnels: AtomicU64,
    response_bytes: AtomicU64,
    /// What became of connections before their first request, or instead of more.
    pub(super) connections: ConnectionCounts,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            requests: [const { [const { AtomicU64::new(0) }; CLASSES.len()] }; CODES],
            refusals: [const { AtomicU64::new(0) }; MOST_REFUSALS],
            connect_failures: [const { AtomicU64::new(0) }; CODES],
            service: Histogram::default(),
            connect: Histogram::default(),
            retries: AtomicU64::new(0),
            quarantines: AtomicU64::new(0),
            tunnels: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            connections: ConnectionCounts::default(),
        }
    }
}

impl Shard {
    pub(super) fn request(&self, code: usize, status: Option<u16>) {
        if let Some(count) = self
            .requests
            .get(code)
            .and_then(|classes| classes.get(class(status)))
        {
            add(count, 1);
        }
    }

    pub(super) fn refusal(&self, index: usize) {
        if let Some(count) = self.refusals.get(index) {
            add(count, 1);
        }
    }

    pub(super) fn connect_failure(&self, code: usize) {
        if let Some(count) = self.connect_failures.get(code) {
            add(count, 1);
        }
    }

    pub(super) fn retry(&self) {
        add(&self.retries, 1);
    }

    pub(super) fn quarantine(&self) {
        add(&self.quarantines, 1);
    }

    pub(super) fn tunnel(&self) {
        add(&self.tunnels, 1);
    }

    pub(super) fn response_bytes(&self, bytes: u64) {
        add(&self.response_bytes, bytes);
    }
}

/// How often something took how long.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            nanos: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|&bound| Duration::from_micros(bound) < duration);
        if let Some(count) = self.buckets.get(bucket) {
            add(count, 1);
        }
        add(
            &self.nanos,
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
        );
    }
}

/// What all workers counted.
#[derive(Debug, Default)]
pub(super) struct Totals {
    requests: Vec<(usize, usize, u64)>,
    refusals: Vec<u64>,
    connect_failures: Vec<u64>,
    /// Service times.
    pub(super) service: HistogramTotal,
    /// Connect times.
    pub(super) connect: HistogramTotal,
    /// Requests sent again.
    pub(super) retries: u64,
    /// Quarantines begun.
    pub(super) quarantines: u64,
    /// Tunnels opened.
    pub(super) tunnels: u64,
    /// Body bytes sent.
    pub(super) response_bytes: u64,
}

impl Totals {
    pub(super) fn of(shards: &[Shard]) -> Self {
        let sum = |field: &dyn Fn(&Shard) -> Option<&AtomicU64>| -> u64 {
            shards
                .iter()
                .filter_map(field)
                .map(|count| count.load(Ordering::Relaxed))
                .sum()
        };
        let pairs = (0..CODES).flat_map(|code| (0..CLASSES.len()).map(move |class| (code, class)));
        Self {
            requests: pairs
                .map(|(code, class)| {
                    (
                        code,
                        class,
                        sum(&|shard| shard.requests.get(code)?.get(class)),
                    )
                })
                .collect(),
            refusals: (0..MOST_REFUSALS)
                .map(|index| sum(&|shard| shard.refusals.get(index)))
                .collect(),
            connect_failures: (0..CODES)
                .map(|code| sum(&|shard| shard.connect_failures.get(code)))
                .collect(),
            service: HistogramTotal::of(shards.iter().map(|shard| &shard.service)),
            connect: HistogramTotal::of(shards.iter().map(|shard| &shard.connect)),
            retries: sum(&|shard| Some(&shard.retries)),
            quarantines: sum(&|shard| Some(&shard.quarantines)),
            tunnels: sum(&|shard| Some(&shard.tunnels)),
            response_bytes: sum(&|shard| Some(&shard.response_bytes)),
        }
    }

    /// Code, class and count of each pair that is expected or has happened.
    pub(super) fn requests(
        &self,
        expected: &[(usize, Option<u16>)],
    ) -> impl Iterator<Item = (usize, &'static str, u64)> {
        let expected: Vec<_> = expected
            .iter()
            .map(|&(code, status)| (code, class(status)))
            .collect();
        self.requests
            .iter()
            .filter(move |&&(code, class, count)| count > 0 || expected.contains(&(code, class)))
            .filter_map(|&(code, class, count)| Some((code, *CLASSES.get(class)?, count)))
    }

    pub(super) fn refusals(&self, index: usize) -> u64 {
        self.refusals.get(index).copied().unwrap_or(0)
    }

    /// Code and count of each failure to connect that has happened.
    pub(super) fn connect_failures(&self) -> impl Iterator<Item = (usize, u64)> {
        let codes = self.connect_failures.iter().copied().enumerate();
        codes.filter(|&(code, count)| count > 0 || matches!(code, 19 | 21))
    }
}

/// One histogram, added up.
#[derive(Debug, Default)]
pub(super) struct HistogramTotal {
    /// Upper bound in seconds, and how many were at most that.
    pub(super) cumulative: Vec<(f64, u64)>,
    /// How many there were.
    pub(super) count: u64,
    /// Their sum in seconds.
    pub(super) seconds: f64,
}

impl HistogramTotal {
    pub(super) fn of<'a>(shards: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut counts = [0; BOUNDS.len() + 1];
        let mut nanos = 0_u64;
        for shard in shards {
            for (total, count) in counts.iter_mut().zip(&shard.buckets) {
                *total += count.load(Ordering::Relaxed);
            }
            nanos = nanos.saturating_add(shard.nanos.load(Ordering::Relaxed));
        }
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(BOUNDS.len());
        for (bound, bucket) in BOUNDS.iter().zip(counts) {
            count += bucket;
            cumulative.push((Duration::from_micros(*bound).as_secs_f64(), count));
        }
        count += counts.last().copied().unwrap_or(0);
        Self {
            cumulative,
            count,
            seconds: Duration::from_nanos(nanos).as_secs_f64(),
        }
    }
}

pub(super) fn add(count: &AtomicU64, number: u64) {
    count.fetch_add(number, Ordering::Relaxed);
}

/// The index in `CLASSES` of a status.
fn class(status: Option<u16>) -> usize {
    status
        .map_or(0, |status| usize::from(status / 100))
        .min(CLASSES.len() - 1)
}

/// Error codes are H0 to H99; 0 stands for none.
const CODES: usize = 100;
/// More than the ways to refuse a request before its app is known.
pub(super) const MOST_REFUSALS: usize = 32;
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds of the buckets, in microseconds.
const BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
