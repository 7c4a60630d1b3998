//! No message is stored more often than its sender asked: once for each call.

use std::collections::HashMap;

use super::Verdict;
use crate::oracle::{History, Place};

/// Holds when the delivered copies of each message are at most as many as the calls made for it.
pub fn stored_once(history: &History) -> Verdict {
    let doubled = copies(history).into_iter().filter_map(|(sequence, places)| {
        let calls = history.sends.get(&sequence)?.calls;
        (places.len() > calls).then(|| format!("message {sequence} was sent in {calls} calls and stored at {places:?}"))
    });
    Verdict::of(doubled)
}

/// Holds when there is one delivered copy of each message, however many calls were made for it: where nobody sends it
/// again later than `idempotentWindowMillis`.
pub fn one_copy(history: &History) -> Verdict {
    let doubled = copies(history).into_iter().filter(|(_, places)| places.len() > 1);
    Verdict::of(doubled.map(|(sequence, places)| format!("message {sequence} is stored at {places:?}")))
}

fn copies(history: &History) -> HashMap<u64, Vec<&Place>> {
    let mut copies: HashMap<u64, Vec<&Place>> = HashMap::new();
    for (place, records) in &history.deliveries {
        for sequence in records.iter().map(|record| record.sequence).take(1) {
            copies.entry(sequence).or_default().push(place);
        }
    }
    copies
}
