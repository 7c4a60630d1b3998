//! How long fdatasync takes, over the last minute or so.

use std::time::{Duration, Instant};

/// Smallest latency told apart.
const UNIT: Duration = Duration::from_micros(8);
/// Steps per doubling; a figure is right within 19 %.
const STEPS: u32 = 4;
const BUCKETS: usize = 100;
/// How long samples are collected before the older half is forgotten.
const HALF: Duration = Duration::from_secs(30);

/// Latencies of fdatasync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsyncFigures {
    /// Calls since the log was opened.
    pub count: u64,
    /// How long they took together.
    pub total: Duration,
    /// Median of the last 30 to 60 seconds in which there were any.
    pub p50: Duration,
    /// 99 % were at most this long, of the same samples.
    pub p99: Duration,
    /// The longest since the log was opened.
    pub max: Duration,
}

/// Collects samples.
#[derive(Debug)]
pub struct FsyncRecorder {
    count: u64,
    total: Duration,
    max: Duration,
    since: Option<Instant>,
    recent: [u32; BUCKETS],
    before: [u32; BUCKETS],
}

impl Default for FsyncRecorder {
    fn default() -> Self {
        FsyncRecorder {
            count: 0,
            total: Duration::ZERO,
            max: Duration::ZERO,
            since: None,
            recent: [0; BUCKETS],
            before: [0; BUCKETS],
        }
    }
}

fn bucket(elapsed: Duration) -> usize {
    let units = elapsed.as_nanos() as f64 / UNIT.as_nanos() as f64;
    ((units.max(1.0).log2() * f64::from(STEPS)).ceil() as usize).min(BUCKETS - 1)
}

fn upper(bucket: usize) -> Duration {
    UNIT.mul_f64((bucket as f64 / f64::from(STEPS)).exp2())
}

impl FsyncRecorder {
    /// Adds a sample.
    pub fn record(&mut self, elapsed: Duration, now: Instant) {
        if self.since.is_none_or(|since| now.duration_since(since) > HALF) {
            self.since = Some(now);
            self.before = std::mem::replace(&mut self.recent, [0; BUCKETS]);
        }
        self.count += 1;
        self.total += elapsed;
        self.max = self.max.max(elapsed);
        let samples = &mut self.recent[bucket(elapsed)];
        *samples = samples.saturating_add(1);
    }

    /// The figures now.
    pub fn figures(&self) -> FsyncFigures {
        FsyncFigures {
            count: self.count,
            total: self.total,
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
            max: self.max,
        }
    }

    fn quantile(&self, quantile: f64) -> Duration {
        let samples = || self.recent.iter().zip(&self.before).map(|(a, b)| u64::from(*a) + u64::from(*b));
        let total: u64 = samples().sum();
        let wanted = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (number, count) in samples().enumerate() {
            seen += count;
            if count > 0 && seen >= wanted {
                return upper(number).min(self.max);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_step() {
        let mut recorder = FsyncRecorder::default();
        let now = Instant::now();
        for micros in 1..=1000 {
            recorder.record(Duration::from_micros(micros), now);
        }
        let figures = recorder.figures();
        assert_eq!(figures.count, 1000);
        assert_eq!(figures.max, Duration::from_micros(1000));
        assert!((500..600).contains(&figures.p50.as_micros()), "{figures:?}");
        assert!((990..=1000).contains(&figures.p99.as_micros()), "{figures:?}");
    }
}
