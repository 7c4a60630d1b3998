//! When each sum began that is told of: a collector makes rates of it, and sees by it that a sum began anew.

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::LabelPair;
use std::collections::HashMap;
use xxhash_rust::xxh3::Xxh3;

/// Of the series of the last look, when each began and what it was.
#[derive(Debug)]
pub(super) struct Began {
    /// When the look before began, or this process to count; ns since the Unix epoch.
    before: u64,
    seen: HashMap<u128, (u64, f64)>,
}

/// One look at all series.
#[derive(Debug)]
pub(super) struct Look<'b> {
    began: &'b mut Began,
    from: u64,
    /// When it ended, in ns since the Unix epoch.
    pub(super) now: u64,
    seen: HashMap<u128, (u64, f64)>,
}

impl Began {
    /// With the time at which this process began to count, in ns since the Unix epoch.
    pub(super) fn new(started: u64) -> Began {
        Began { before: started, seen: HashMap::new() }
    }

    /// A look that ended `now`, and that began at `from`: what was not there then may have come since. What is not told of
    /// in it is forgotten at its end.
    pub(super) fn look(&mut self, from: u64, now: u64) -> Look<'_> {
        Look { from, now, seen: HashMap::with_capacity(self.seen.len()), began: self }
    }
}

impl Look<'_> {
    /// When a sum began that is `value` now, in ns since the Unix epoch and not after this look. One that was not there
    /// before began after the last look, unless it is `older` than this process: how long that has been there nobody
    /// knows, and what it is when it is first seen is where it is counted from.
    pub(super) fn since(&mut self, name: &str, labels: &[LabelPair], value: f64, older: bool) -> u64 {
        let key = key(name, labels);
        let before = self.began.before;
        let since = match self.began.seen.get(&key) {
            Some((since, last)) if *last <= value => *since,
            // It is less than it was: it was taken away and is there again.
            Some(_) => before,
            None if older => self.now,
            None => before,
        };
        // The clock may have been set back.
        let since = since.min(self.now);
        self.seen.insert(key, (since, value));
        since
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.began.before = self.from;
        self.began.seen = std::mem::take(&mut self.seen);
    }
}

fn key(name: &str, labels: &[LabelPair]) -> u128 {
    let mut hasher = Xxh3::new();
    let texts = labels.iter().flat_map(|label| [label.name.as_str(), label.value.as_str()]);
    for text in std::iter::once(name).chain(texts) {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use super::{Began, LabelPair};

    fn of(topic: &str) -> [LabelPair; 1] {
        [LabelPair { name: "topic".to_owned(), value: topic.to_owned() }]
    }

    #[test]
    fn sums_begin_with_the_process_or_after_the_look_that_did_not_see_them() {
        let mut began = Began::new(100);
        let mut look = began.look(200, 201);
        assert_eq!(look.since("calls", &of("a"), 5.0, false), 100);
        assert_eq!(look.since("dead", &of("a"), 70.0, true), 201, "nobody knows since when");
        drop(look);
        let mut look = began.look(300, 301);
        assert_eq!(look.since("calls", &of("a"), 5.0, false), 100);
        assert_eq!(look.since("calls", &of("b"), 1.0, false), 200, "it was not there at 200");
        assert_eq!(look.since("dead", &of("a"), 71.0, true), 201);
        drop(look);
        let mut look = began.look(400, 401);
        assert_eq!(look.since("calls", &of("b"), 2.0, false), 200);
        assert_eq!(look.since("dead", &of("a"), 3.0, true), 300, "made anew after 300");
        drop(look);
        // Another node led meanwhile.
        drop(began.look(500, 501));
        let mut look = began.look(600, 601);
        assert_eq!(look.since("dead", &of("a"), 9.0, true), 601);
        drop(look);
        assert_eq!(began.look(49, 50).since("dead", &of("a"), 9.0, true), 50, "nothing begins after it is told");
    }

    #[test]
    fn series_are_told_apart_by_all_of_their_labels() {
        let label = |name: &str, value: &str| LabelPair { name: name.to_owned(), value: value.to_owned() };
        let keys = [
            super::key("a", &[label("b", "c")]),
            super::key("ab", &[label("", "c")]),
            super::key("a", &[label("bc", "")]),
            super::key("a", &[]),
        ];
        assert!((1..keys.len()).all(|at| !keys[..at].contains(&keys[at])));
    }
}
