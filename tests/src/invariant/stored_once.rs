//! No message is stored more often than its sender asked: once for each call.

use std::collections::HashMap;

use super::Verdict;
use crate::oracle::History;

/// Holds when the delivered copies of each message are at most as many as the calls made for it.
pub fn stored_once(history: &History) -> Verdict {
    let mut copies: HashMap<u64, Vec<&(String, i32, i64)>> = HashMap::new();
    for (place, records) in &history.deliveries {
        for sequence in records.iter().map(|record| record.sequence).take(1) {
            copies.entry(sequence).or_default().push(place);
        }
    }
    let doubled = copies.into_iter().filter_map(|(sequence, places)| {
        let calls = history.sends.get(&sequence)?.calls;
        (places.len() > calls).then(|| format!("message {sequence} was sent in {calls} calls and stored at {places:?}"))
    });
    Verdict::of(doubled)
}
