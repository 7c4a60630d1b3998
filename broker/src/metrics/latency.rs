//! How long calls took lately: of the last one to two minutes, so that what was an hour ago does not count any more.

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use raftmq_proto::admin::CallLatency;
use std::time::Duration;
use tokio::time::Instant;

/// Calls that are looked at.
const CALLS: [&str; 3] = ["SendMessage", "ReceiveMessage", "AckMessage"];
/// A window is kept for this long after it has ended.
const WINDOW: Duration = Duration::from_secs(60);
/// Longer calls count as this long, in microseconds.
const LONGEST_US: u64 = 600_000_000;

/// One window of each call and the one before.
pub(super) struct Recent([Mutex<Windows>; CALLS.len()]);

struct Windows {
    since: Instant,
    now: Histogram<u32>,
    before: Histogram<u32>,
}

impl Default for Recent {
    fn default() -> Self {
        Recent(CALLS.map(|_| {
            // Two digits of 600 s in microseconds: bounds that are known to be good.
            let empty = Histogram::new_with_bounds(1, LONGEST_US, 2).expect("the bounds are good");
            Mutex::new(Windows { since: Instant::now(), now: empty.clone(), before: empty })
        }))
    }
}

impl Windows {
    fn turn(&mut self) {
        let elapsed = self.since.elapsed();
        if elapsed < WINDOW {
            return;
        }
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.reset();
        if elapsed >= 2 * WINDOW {
            self.before.reset();
        }
        self.since = Instant::now();
    }
}

impl Recent {
    pub(super) fn called(&self, rpc: &str, took: Duration) {
        let Some(place) = CALLS.iter().position(|call| *call == rpc) else { return };
        let us = u64::try_from(took.as_micros()).unwrap_or(LONGEST_US);
        let mut windows = self.0[place].lock();
        windows.turn();
        windows.now.saturating_record(us.clamp(1, LONGEST_US));
    }

    pub(super) fn look(&self) -> Vec<CallLatency> {
        let mut found = Vec::new();
        for (call, windows) in CALLS.iter().zip(&self.0) {
            let both = {
                let mut windows = windows.lock();
                windows.turn();
                let mut both = windows.before.clone();
                // Both have the same bounds.
                if both.add(&windows.now).is_err() {
                    continue;
                }
                both
            };
            if !both.is_empty() {
                let (p50_us, p99_us) = (both.value_at_quantile(0.5), both.value_at_quantile(0.99));
                found.push(CallLatency { call: (*call).to_owned(), calls: both.len(), p50_us, p99_us });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_long_ago_does_not_count() {
        let recent = Recent::default();
        for ms in 1..=100 {
            recent.called("SendMessage", Duration::from_millis(ms));
        }
        recent.called("QueryRoute", Duration::from_secs(9));
        let seen = recent.look();
        assert_eq!((seen.len(), seen[0].calls, seen[0].call.as_str()), (1, 100, "SendMessage"));
        assert!((49_000..52_000).contains(&seen[0].p50_us) && (98_000..101_000).contains(&seen[0].p99_us), "{seen:?}");
        tokio::time::advance(WINDOW).await;
        recent.called("SendMessage", Duration::from_secs(100_000));
        assert_eq!(recent.look()[0].calls, 101, "the minute before counts");
        tokio::time::advance(WINDOW).await;
        assert_eq!(recent.look()[0].calls, 1);
        tokio::time::advance(2 * WINDOW).await;
        assert!(recent.look().is_empty());
    }
}
