//! What SQL filters say of messages, as commands carry it: said by the node that asks (`deliver/judge.rs`), which reads
//! the messages, and looked up by apply, which does not.

use raftmq_proto::command::{JudgedRun, Judgement};
use std::collections::BTreeMap;

/// Filters of one judgement, the receive's own among them. What further members want is taken to be everything.
pub const FILTERS_MAX: usize = 8;

/// What is said of messages, by their places in the log: log index and slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judged {
    filters: Vec<u64>,
    /// By log index and first slot. Runs do not overlap.
    runs: BTreeMap<(u64, u32), JudgedRun>,
}

impl Judged {
    /// As a command carries it.
    #[must_use]
    pub fn of(judgement: Judgement) -> Judged {
        let runs = judgement.runs.into_iter().map(|run| ((run.log_index, run.first_slot), run));
        Judged { filters: judgement.filters, runs: runs.collect() }
    }

    /// Whether the filter with this digest takes the message; `None` when nothing is said of it.
    #[must_use]
    pub fn says(&self, filter: u64, (log_index, slot): (u64, u32)) -> Option<bool> {
        let filter = self.filters.iter().position(|known| *known == filter)?;
        let (_, run) = self.runs.range(..=(log_index, slot)).next_back()?;
        let at = slot.checked_sub(run.first_slot).filter(|at| run.log_index == log_index && *at < run.count)?;
        let bit = (at as usize).checked_mul(self.filters.len())?.checked_add(filter)?;
        Some(run.matches.get(bit / 8)? >> (bit % 8) & 1 == 1)
    }
}

/// Collects what filters say of messages.
#[derive(Debug)]
pub struct Verdicts {
    filters: Vec<u64>,
    /// By log index and slot: a bit per filter.
    messages: BTreeMap<(u64, u32), u8>,
}

impl Verdicts {
    /// Of filters with these digests, at most [`FILTERS_MAX`].
    #[must_use]
    pub fn new(filters: Vec<u64>) -> Verdicts {
        debug_assert!(filters.len() <= FILTERS_MAX, "a byte holds what they say");
        Verdicts { filters, messages: BTreeMap::new() }
    }

    /// Bit n of `takes`: the n-th filter takes the message.
    pub fn add(&mut self, place: (u64, u32), takes: u8) {
        self.messages.insert(place, takes);
    }

    /// As a command carries it.
    #[must_use]
    pub fn finish(self, first_queue: u32) -> Judgement {
        let mut runs: Vec<(JudgedRun, Vec<u8>)> = Vec::new();
        for ((log_index, slot), takes) in self.messages {
            let follows = |(run, _): &(JudgedRun, Vec<u8>)| {
                run.log_index == log_index && run.first_slot.checked_add(run.count) == Some(slot)
            };
            if !runs.last().is_some_and(follows) {
                runs.push((JudgedRun { log_index, first_slot: slot, ..JudgedRun::default() }, Vec::new()));
            }
            let (run, matches) = runs.last_mut().expect("pushed if there was none");
            for filter in 0..self.filters.len() {
                let bit = run.count as usize * self.filters.len() + filter;
                if bit / 8 == matches.len() {
                    matches.push(0);
                }
                matches[bit / 8] |= (takes >> filter & 1) << (bit % 8);
            }
            run.count += 1;
        }
        let runs = runs.into_iter().map(|(run, matches)| JudgedRun { matches: matches.into(), ..run }).collect();
        Judgement { filters: self.filters, runs, first_queue }
    }
}

#[cfg(test)]
mod tests {
    use super::{Judged, JudgedRun, Judgement, Verdicts};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn what_was_said_comes_back(
            filters in 1_u64..9,
            messages in proptest::collection::btree_map((1_u64..4, 0_u32..40), any::<u8>(), 0..60),
        ) {
            let mut verdicts = Verdicts::new((0..filters).collect());
            messages.iter().for_each(|(place, takes)| verdicts.add(*place, *takes));
            let judgement = verdicts.finish(3);
            prop_assert_eq!(judgement.first_queue, 3);
            let judged = Judged::of(judgement);
            for place in (0..5).flat_map(|index| (0..42).map(move |slot| (index, slot))) {
                for filter in 0..filters + 1 {
                    let said = messages.get(&place).filter(|_| filter < filters).map(|takes| takes >> filter & 1 == 1);
                    prop_assert_eq!(judged.says(filter, place), said);
                }
            }
        }

        #[test]
        fn garbage_never_panics(
            runs in proptest::collection::vec((0_u64..3, any::<u32>(), any::<u32>(), any::<Vec<u8>>()), 0..4),
            filters in proptest::collection::vec(0_u64..4, 0..12),
            place in (0_u64..3, any::<u32>()),
        ) {
            let runs = runs.into_iter();
            let runs = runs.map(|(log_index, first_slot, count, matches)| {
                JudgedRun { log_index, first_slot, count, matches: matches.into() }
            });
            let judged = Judged::of(Judgement { filters, runs: runs.collect(), first_queue: 0 });
            let _ = judged.says(1, place);
            prop_assert!(true);
        }
    }

    #[test]
    fn neighbours_share_a_run() {
        let mut verdicts = Verdicts::new(vec![7]);
        (0..1_000).for_each(|slot| verdicts.add((5, slot), u8::from(slot == 999)));
        let judgement = verdicts.finish(0);
        assert_eq!(judgement.runs.len(), 1);
        assert_eq!(judgement.runs[0].matches.len(), 125);
    }
}
