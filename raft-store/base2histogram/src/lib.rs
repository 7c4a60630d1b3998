//! The histograms of openraft's own statistics: takes the place of the crate of this name (`[patch.crates-io]`).
//!
//! That one fills tables for every precision that it offers at the first use of any, 24 MB that stay resident, of
//! which openraft needs some hundred bytes. This one has what openraft calls, and counts with `hdrhistogram`.

use std::fmt;
use std::marker::PhantomData;

/// Counts of values of 64 bits; a percentile is right to a tenth of its value.
#[derive(Debug, Clone)]
pub struct Histogram<T = ()> {
    counts: hdrhistogram::Histogram<u64>,
    slot: PhantomData<T>,
}

/// The values below which so many percent of all recorded ones lie; zeros when nothing was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values recorded.
    pub samples: u64,
    /// 0.1 %.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// 50 %.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl<T> Histogram<T> {
    /// An empty one, of some 8 KB.
    ///
    /// # Panics
    /// Never: one significant digit is within what `hdrhistogram` takes.
    #[must_use]
    pub fn new() -> Self {
        let counts = hdrhistogram::Histogram::new_with_max(u64::MAX, 1).expect("one digit of any value");
        Histogram { counts, slot: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts.saturating_record_n(value, count);
    }

    /// Values recorded.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.len()
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        let at = |quantile| self.counts.value_at_quantile(quantile);
        PercentileStats {
            samples: self.total(),
            p0_1: at(0.001),
            p1: at(0.01),
            p5: at(0.05),
            p10: at(0.1),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
        }
    }
}

impl<T> PartialEq for Histogram<T> {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts
    }
}

impl<T> Eq for Histogram<T> {}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Several histograms, printed as a line of percentiles each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    rows: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// One without rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one row more.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.rows.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|(name, histogram)| writeln!(f, "{name}: {}", histogram.percentile_stats()))
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p50, p99, p99_9, .. } = self;
        write!(f, "{samples} values, p50 {p50}, p99 {p99}, p99.9 {p99_9}")
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn percentiles_are_right_to_a_tenth() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), super::PercentileStats::default());
        (1..=1000).for_each(|value| histogram.record(value));
        histogram.record(u64::MAX);
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1001);
        for (found, exact) in [(stats.p1, 10), (stats.p50, 500), (stats.p99, 990)] {
            assert!(found.abs_diff(exact) <= exact / 10, "{found} for {exact}");
        }
    }
}
