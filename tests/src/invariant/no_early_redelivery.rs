//! Nothing is delivered while another client's lease on it is valid, and attempts only grow.

use std::time::Duration;

use super::Verdict;
use crate::oracle::{Fate, History};

/// Cluster time may run this much faster than the test's clock.
pub const SLEW: f64 = 0.001;

/// Deadlines are kept in whole milliseconds.
const GRAIN: Duration = Duration::from_millis(2);

/// Holds when each stored copy was received again only after its last lease had ended.
pub fn no_early_redelivery(history: &History) -> Verdict {
    let early = history.deliveries.iter().flat_map(|(place, records)| {
        records.windows(2).filter_map(move |pair| {
            let [before, after] = pair else { return None };
            let ends = match before.fate {
                Fate::Changed(ends) => ends,
                _ => before.leased_after + before.invisible.mul_f64(1.0 - SLEW),
            };
            if after.received + GRAIN < ends {
                let early = ends - after.received;
                return Some(format!(
                    "message {} at {place:?}: attempt {} came {early:?} before the lease of attempt {} ended",
                    before.sequence, after.attempt, before.attempt
                ));
            }
            (after.attempt <= before.attempt).then(|| {
                format!(
                    "message {} at {place:?}: attempt {} came after attempt {}",
                    before.sequence, after.attempt, before.attempt
                )
            })
        })
    });
    Verdict::of(early)
}
