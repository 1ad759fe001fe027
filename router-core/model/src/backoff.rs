//! How long to wait between two attempts: a base that doubles up to a maximum, shortened at random by up to half, so
//! that routers which failed together do not come back together. The random number is an argument.

use std::time::Duration;

/// The waits of one series of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    base: Duration,
}

impl Backoff {
    /// Starts with `first`, never waits longer than `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        let first = first.min(max);
        Self {
            first,
            max,
            base: first,
        }
    }

    /// The next wait: between half of the base and the base. `jitter` is any random number, `u32::MAX` gives the whole
    /// base.
    pub fn next(&mut self, jitter: u32) -> Duration {
        let base = self.base;
        self.base = base.saturating_mul(2).min(self.max);
        shortened(base, jitter)
    }

    /// The wait after that many failures in a row, for those who keep the count themselves.
    pub fn after(&self, failures: u32, jitter: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        shortened(self.first.saturating_mul(doubled).min(self.max), jitter)
    }

    /// Begins again with the first wait, after a success.
    pub fn reset(&mut self) {
        self.base = self.first;
    }
}

fn shortened(base: Duration, jitter: u32) -> Duration {
    let half = base / 2;
    // In u128, 2^94 nanoseconds times 2^32 still fit; a floating-point product could round past the base.
    let extra = (base - half).as_nanos() * u128::from(jitter) / u128::from(u32::MAX);
    half + Duration::from_nanos_u128(extra)
}

impl Default for Backoff {
    /// 50 ms, doubling, at most a second.
    fn default() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: u32 = u32::MAX;

    #[test]
    fn waits_double_up_to_the_maximum_and_begin_again() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..7).map(|_| backoff.next(WHOLE).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next(WHOLE).as_millis(), 50);
    }

    #[test]
    fn a_count_of_failures_waits_as_a_series_does() {
        let mut series = Backoff::default();
        for failures in 1..10 {
            let wait = Backoff::default().after(failures, WHOLE);
            assert_eq!(wait, series.next(WHOLE), "{failures}");
        }
        assert_eq!(Backoff::default().after(0, WHOLE).as_millis(), 50);
        assert_eq!(Backoff::default().after(u32::MAX, WHOLE).as_secs(), 1);
    }

    #[test]
    fn jitter_takes_away_up_to_half() {
        for (jitter, expected) in [(0, 25), (WHOLE / 2, 37), (WHOLE, 50)] {
            assert_eq!(
                Backoff::default().next(jitter).as_millis(),
                expected,
                "{jitter}"
            );
        }
    }

    #[test]
    fn extreme_figures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        for jitter in [0, 1, WHOLE] {
            assert!(backoff.next(jitter) >= Duration::MAX / 2);
        }
        assert_eq!(
            Backoff::new(Duration::ZERO, Duration::ZERO).next(WHOLE),
            Duration::ZERO
        );
        assert_eq!(
            Backoff::new(Duration::from_secs(9), Duration::from_secs(1)).next(WHOLE),
            Duration::from_secs(1)
        );
    }
}
