//! Whether a history of one register is linearizable: every operation that was answered took effect at some moment
//! between its call and its answer, and a write that was not answered at some moment after its call, or never.
//!
//! Each value is written once, which makes the question easy (Gibbons and Korach, 1997). All operations of one value
//! stand side by side in any order that explains the history. They fill the time from the first answer to the last
//! call among them: when the former comes first, the register has that value in between for sure (a hold). Otherwise all of
//! them overlap in one moment, and the value may be there just then (a glimpse). There is an order exactly when no two
//! holds overlap, no glimpse lies within a hold of another value, and no read was answered before its value's write was
//! called.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::invariant::Verdict;

/// What is in a register; 0 is there from the beginning.
pub type Value = u64;

/// A call of one register. Reads without an answer tell nothing and are not in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Whether it wrote the value, or read it.
    pub writes: bool,
    /// What it wrote or read.
    pub value: Value,
    /// When it was called.
    pub called: Duration,
    /// When it was answered OK; of a write, none when it may have happened.
    pub answered: Option<Duration>,
}

/// When a value was there: from `from` to `to` for sure in a hold; in a glimpse, some time in between.
#[derive(Clone, Copy)]
struct Zone {
    value: Value,
    from: Duration,
    to: Duration,
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?} to {:?})", self.value, self.from, self.to)
    }
}

/// Holds when the history is linearizable.
pub fn linearizable(history: &[Operation]) -> Verdict {
    let mut values: BTreeMap<Value, Vec<Operation>> = BTreeMap::new();
    let first = Operation { writes: true, value: 0, called: Duration::ZERO, answered: Some(Duration::ZERO) };
    for operation in std::iter::once(&first).chain(history) {
        values.entry(operation.value).or_default().push(*operation);
    }
    let (mut holds, mut glimpses, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (value, operations) in values {
        let writes: Vec<&Operation> = operations.iter().filter(|operation| operation.writes).collect();
        let [write] = writes[..] else {
            wrong.push(format!("{value} was written {} times and read", writes.len()));
            continue;
        };
        // One that was not answered and that nobody saw need not have happened.
        let Some(answered) = operations.iter().filter_map(|operation| operation.answered).min() else { continue };
        if answered < write.called {
            wrong.push(format!("{value} was read at {answered:?} and written from {:?} on", write.called));
            continue;
        }
        let called = operations.iter().map(|operation| operation.called).max().unwrap_or_default();
        match answered < called {
            true => holds.push(Zone { value, from: answered, to: called }),
            false => glimpses.push(Zone { value, from: called, to: answered }),
        }
    }
    holds.sort_by_key(|zone| zone.from);
    for pair in holds.windows(2) {
        if pair[0].to > pair[1].from {
            wrong.push(format!("{} and {} overlap: a read is stale", pair[0], pair[1]));
        }
    }
    for glimpse in glimpses {
        let at = holds.partition_point(|hold| hold.from < glimpse.from);
        if let Some(hold) = holds[..at].last().filter(|hold| glimpse.to < hold.to) {
            wrong.push(format!("{glimpse} lies within {hold}: a write is not seen, or a read is stale"));
        }
    }
    Verdict::of(wrong)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn operation(writes: bool, value: Value, called: u64, answered: u64) -> Operation {
        let answered = (answered > 0).then(|| Duration::from_millis(answered));
        Operation { writes, value, called: Duration::from_millis(called), answered }
    }

    fn wrote(value: Value, called: u64, answered: u64) -> Operation {
        operation(true, value, called, answered)
    }

    fn read(value: Value, called: u64, answered: u64) -> Operation {
        operation(false, value, called, answered)
    }

    #[track_caller]
    fn check(history: &[Operation], holds: bool) {
        let verdict = linearizable(history);
        assert_eq!(verdict == Verdict::True, holds, "{history:?}: {verdict}");
    }

    #[test]
    fn stale_reads_and_lost_writes_are_seen() {
        check(&[wrote(1, 1, 2), read(1, 3, 4)], true);
        check(&[wrote(1, 1, 2), read(0, 3, 4)], false);
        check(&[wrote(1, 1, 5), read(0, 2, 3)], true);
        check(&[wrote(1, 1, 2), wrote(2, 3, 4), read(1, 5, 6)], false);
        check(&[wrote(1, 1, 4), wrote(2, 1, 4), read(1, 5, 6), read(2, 7, 8)], false);
        check(&[wrote(1, 1, 4), wrote(2, 1, 4), read(2, 5, 6), read(2, 7, 8)], true);
        check(&[wrote(1, 1, 9), read(1, 2, 3), read(0, 4, 5)], false);
        check(&[read(7, 1, 2)], false);
        check(&[read(1, 1, 2), wrote(1, 3, 4)], false);
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened() {
        check(&[wrote(1, 1, 0), read(0, 8, 9)], true);
        check(&[wrote(1, 1, 0), read(0, 2, 3), read(1, 4, 5)], true);
        check(&[wrote(1, 1, 0), read(1, 2, 3), read(0, 4, 5)], false);
        check(&[wrote(1, 1, 0), wrote(2, 2, 3), read(1, 4, 5)], true);
        check(&[wrote(1, 1, 0), wrote(2, 2, 3), read(1, 4, 5), read(2, 6, 7)], false);
    }

    /// Tries every order.
    fn has_an_order(left: &[Operation], value: Value) -> bool {
        let must = |operation: &&Operation| operation.answered.is_some();
        if !left.iter().any(|operation| must(&operation)) {
            return true;
        }
        (0..left.len()).any(|at| {
            let next = left[at];
            let precedes = |other: &Operation| other.answered.is_some_and(|answered| answered < next.called);
            if left.iter().any(precedes) || (!next.writes && next.value != value) {
                return false;
            }
            let rest = [&left[..at], &left[at + 1..]].concat();
            has_an_order(&rest, if next.writes { next.value } else { value })
        })
    }

    #[test]
    fn it_says_what_trying_every_order_says() {
        let mut random = StdRng::seed_from_u64(11);
        let mut held = 0;
        for round in 0..3_000 {
            let mut history = Vec::new();
            for value in 1..=random.random_range(1..=3) {
                let called = random.random_range(1..20);
                let answered = if random.random_ratio(1, 4) { 0 } else { called + random.random_range(1..9) };
                history.push(wrote(value, called, answered));
            }
            let newest = history.len() as u64;
            for _ in 0..random.random_range(0..=4) {
                let called = random.random_range(1..25);
                history.push(read(random.random_range(0..=newest), called, called + random.random_range(1..9)));
            }
            let expected = has_an_order(&history, 0);
            held += usize::from(expected);
            assert_eq!(linearizable(&history) == Verdict::True, expected, "round {round}: {history:?}");
        }
        assert!((300..2_700).contains(&held), "{held} of 3,000 histories are linearizable");
    }
}
