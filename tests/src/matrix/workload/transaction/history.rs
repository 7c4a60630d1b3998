//! What is written down about transactions, and what it is held against.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::invariant::Verdict;
use crate::oracle::{History, Sequence};

const CHECKS_MAX: usize = 4;
/// A leader that dies between a question and its count leaves the question to its successor. A fault deposes one leader,
/// its end perhaps another.
const REPEATED_MAX: usize = 2;
/// Transactions that somebody is asked about.
const ASKED_MIN: usize = 10;
/// A question that was on its way when a transaction ended arrives within this.
pub(super) const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// What a producer does with a transaction, by the number of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// It says its word by itself; with the second one, the opposite afterwards.
    Say(bool),
    SayBoth(bool),
    /// It says its word when it is asked.
    WhenAsked(bool),
    /// It never does.
    Never,
}

pub(super) fn plan(sequence: Sequence) -> Plan {
    match (sequence % 40, sequence % 8) {
        (15, _) => Plan::Never,
        (_, 0..=2) => Plan::Say(true),
        (_, 3) => Plan::Say(false),
        (_, 4) => Plan::SayBoth(true),
        (_, 5) => Plan::SayBoth(false),
        (_, 6) => Plan::WhenAsked(true),
        _ => Plan::WhenAsked(false),
    }
}

/// A word about a transaction, and its answer.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) commit: bool,
    pub(super) said: Duration,
    pub(super) answered: Duration,
    /// What it was refused with; `Err` when nobody answered.
    pub(super) outcome: Result<Option<String>, ()>,
}

impl Word {
    pub(super) fn taken(&self) -> bool {
        self.outcome == Ok(None)
    }
}

/// What happened to one half message.
#[derive(Debug, Clone, Default)]
pub(super) struct Half {
    pub(super) acknowledged: bool,
    pub(super) words: Vec<Word>,
    pub(super) asked: Vec<Duration>,
}

impl Half {
    pub(super) fn ended(&self) -> Option<Duration> {
        self.words.iter().filter(|word| word.taken()).map(|word| word.answered).min()
    }
}

pub(super) type Halves = BTreeMap<Sequence, Half>;

/// Of each message when its first copy came.
pub(super) fn came(history: &History) -> BTreeMap<Sequence, Duration> {
    let mut came = BTreeMap::new();
    for record in history.deliveries.values().flatten() {
        let first = came.entry(record.sequence).or_insert(record.received);
        *first = record.received.min(*first);
    }
    came
}

/// Holds when what came is what was committed.
pub(super) fn seen_as_ended(halves: &Halves, came: &BTreeMap<Sequence, Duration>) -> Verdict {
    Verdict::of(halves.iter().flat_map(|(sequence, half)| {
        let taken = |commit: bool| half.words.iter().any(|word| word.commit == commit && word.taken());
        let said = half.words.iter().filter(|word| word.commit).map(|word| word.said).min();
        let (came, mut wrong) = (came.get(sequence), Vec::new());
        if taken(true) && taken(false) {
            wrong.push("was committed and rolled back");
        }
        if taken(true) && came.is_none() {
            wrong.push("was committed and did not come");
        }
        if taken(false) && came.is_some() {
            wrong.push("was rolled back and came");
        }
        if came.is_some_and(|at| said.is_none_or(|said| *at < said)) {
            wrong.push("came before anybody committed it");
        }
        wrong.into_iter().map(move |what| format!("transaction {sequence} {what}"))
    }))
}

/// Holds when a word that none contradicted was taken.
pub(super) fn words_are_taken(halves: &Halves) -> Verdict {
    Verdict::of(halves.iter().filter_map(|(sequence, half)| {
        let first = half.words.first()?.commit;
        let alone = half.acknowledged && half.words.iter().all(|word| word.commit == first);
        let refused = half.words.iter().find_map(|word| word.outcome.clone().ok().flatten());
        refused
            .filter(|_| alone)
            .map(|reason| format!("the only word about transaction {sequence} was refused: {reason}"))
    }))
}

/// Holds when nobody was asked too often, nor after the end. `healed`: when the fault was taken back; a question may
/// have been held up until then.
pub(super) fn asked_as_agreed(halves: &Halves, healed: Duration) -> Verdict {
    Verdict::of(halves.iter().filter_map(|(sequence, half)| {
        let late = half.ended().and_then(|ended| {
            let by = if ended < healed { healed } else { ended } + ON_ITS_WAY;
            half.asked.iter().find(|asked| **asked > by)
        });
        if half.asked.len() > CHECKS_MAX + REPEATED_MAX {
            return Some(format!("transaction {sequence} was asked about {} times", half.asked.len()));
        }
        late.map(|late| format!("transaction {sequence} was asked about at {late:?}, and ended at {:?}", half.ended()))
    }))
}

/// Acknowledged half messages that should have ended and have not.
pub(super) fn open(halves: &Halves) -> Vec<Sequence> {
    let open = |(sequence, half): &(&Sequence, &Half)| {
        half.acknowledged && half.ended().is_none() && plan(**sequence) != Plan::Never
    };
    halves.iter().filter(open).map(|(sequence, _)| *sequence).collect()
}

/// Whether enough transactions were asked about.
pub(super) fn questions(halves: &Halves) -> Verdict {
    let asked = halves.values().filter(|half| !half.asked.is_empty()).count();
    if asked < ASKED_MIN {
        return Verdict::Unknown(format!("{asked} transactions were asked about"));
    }
    Verdict::True
}

#[cfg(test)]
mod tests;
