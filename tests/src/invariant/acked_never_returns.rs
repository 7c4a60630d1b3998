//! A message whose acknowledgement was answered OK never comes back to its consumer group.

use super::Verdict;
use crate::oracle::{Fate, History};

/// Holds when no stored copy was received after the OK of its acknowledgement.
pub fn acked_never_returns(history: &History) -> Verdict {
    let returned = history.deliveries.iter().flat_map(|(place, records)| {
        let acknowledged = records.iter().find_map(|record| match record.fate {
            Fate::Acknowledged(at) => Some(at),
            _ => None,
        });
        let late = records.iter().filter(move |record| acknowledged.is_some_and(|at| record.received > at));
        late.map(move |record| {
            format!("message {} at {place:?} came back as attempt {}", record.sequence, record.attempt)
        })
    });
    Verdict::of(returned)
}
