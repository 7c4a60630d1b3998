//! How far this node is behind its leader, in time: by when it was told that entries are committed which it has not
//! applied.

use crate::status::Standing;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Between two marks at least; what is said in between is told as if it had been said with the one before.
const APART: Duration = Duration::from_millis(200);

/// Marks that are kept at most; beyond, two neighbours become one.
const MARKS_MAX: usize = 64;

/// What leaders said was committed, and when.
#[derive(Default)]
pub(crate) struct Told {
    /// What was said first since the node started.
    first: Option<u64>,
    /// What was said last.
    last: u64,
    /// Both in increasing order.
    marks: VecDeque<(u64, Instant)>,
}

impl Told {
    /// A leader said that all up to `committed` is.
    pub(crate) fn said(&mut self, committed: u64, now: Instant) {
        self.first.get_or_insert(committed);
        // A new leader may know of less for a moment.
        self.last = self.last.max(committed);
        if self.marks.back().is_some_and(|(index, at)| *index == self.last || now - *at < APART) {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            // As if the later one had been said with the earlier one: a node never seems less late than it is.
            let pairs = self.marks.make_contiguous().chunks(2);
            self.marks = pairs.filter_map(|pair| Some((pair.last()?.0, pair.first()?.1))).collect();
        }
        self.marks.push_back((self.last, now));
    }

    /// Where a node stands that has applied all up to `applied`.
    pub(crate) fn standing(&mut self, applied: Option<u64>, now: Instant) -> Standing {
        let Some(first) = self.first else { return Standing::Untold };
        let applied = applied.unwrap_or(0);
        let entries = self.last.saturating_sub(applied);
        if applied < first {
            return Standing::Starting { entries };
        }
        // The newest one stays: what is said next is measured against it.
        while self.marks.len() > 1 && self.marks[0].0 <= applied {
            self.marks.pop_front();
        }
        let since =
            self.marks.front().filter(|(index, _)| applied < *index).map_or(Duration::ZERO, |(_, at)| now - *at);
        Standing::Follows { entries, since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn follows(entries: u64, seconds: u64) -> Standing {
        Standing::Follows { entries, since: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_node_that_starts_has_to_reach_what_it_is_told_first() {
        let (mut told, start) = (Told::default(), Instant::now());
        assert_eq!(told.standing(Some(7), start), Standing::Untold);
        told.said(1000, start);
        assert_eq!(told.standing(None, start), Standing::Starting { entries: 1000 });
        told.said(1500, at(start, 1));
        assert_eq!(told.standing(Some(999), at(start, 1)), Standing::Starting { entries: 501 });
        // It has what was said first, and lacks what was said afterwards.
        assert_eq!(told.standing(Some(1000), at(start, 5)), follows(500, 4));
        assert_eq!(told.standing(Some(1500), at(start, 5)), follows(0, 0));
    }

    #[test]
    fn time_behind_is_that_of_the_oldest_word_which_is_not_applied() {
        let (mut told, start) = (Told::default(), Instant::now());
        for second in 0..10 {
            told.said(100 * (second + 1), at(start, second));
            // A new leader that knows of less.
            told.said(50, at(start, second));
        }
        for (applied, expected) in [(100, follows(900, 9)), (150, follows(850, 9)), (899, follows(101, 2))] {
            assert_eq!(told.standing(Some(applied), at(start, 10)), expected, "{applied}");
        }
        assert_eq!(told.standing(Some(999), at(start, 10)), follows(1, 1));
        assert_eq!(told.standing(Some(1000), at(start, 10)), follows(0, 0));
        // An idle group is behind by nothing, however long ago its last word was.
        assert_eq!(told.standing(Some(1000), at(start, 3600)), follows(0, 0));
        told.said(1001, at(start, 3600));
        assert_eq!(told.standing(Some(1000), at(start, 3602)), follows(1, 2));
        // What comes too soon for a mark of its own gets one by the next word, though that says nothing new.
        for millis in [100, 200, 300] {
            told.said(1002, at(start, 3600) + Duration::from_millis(millis));
        }
        assert_eq!(
            told.standing(Some(1001), at(start, 3602)),
            Standing::Follows { entries: 1, since: Duration::from_millis(1800) }
        );
    }

    #[test]
    fn who_applies_nothing_for_long_takes_no_room_and_is_as_late_as_it_is() {
        let (mut told, start) = (Told::default(), Instant::now());
        told.said(1, start);
        for second in 1..100_000 {
            told.said(1 + second, at(start, second));
        }
        assert!(told.marks.len() <= MARKS_MAX);
        let late = told.standing(Some(1), at(start, 100_000));
        assert!([follows(99_999, 99_999), follows(99_999, 100_000)].contains(&late), "{late:?}");
        // Of what was said lately it knows more exactly.
        let late = told.standing(Some(99_990), at(start, 100_000));
        assert!([follows(10, 10), follows(10, 11), follows(10, 12)].contains(&late), "{late:?}");
    }
}
