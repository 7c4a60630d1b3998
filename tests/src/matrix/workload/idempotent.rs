//! Messages that are sent again: at once, side by side, after seconds, and on the other side of the fault.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{DRAINED_WITHIN, Kind, Report, Running, Scene, read};
use crate::client::{Consumer, Producer, eventually};
use crate::cluster::Cluster;
use crate::invariant::{self, Verdict};
use crate::matrix::tally::{Crew, Least, Phase, Shared};
use crate::oracle::{History, Oracle, Sequence, message_id};

pub(super) const ROW: (&str, &str, &str) = (
    "idempotent",
    "half of the sends repeat an earlier one: side by side, later, or on the other side of the fault",
    "one stored copy for each message id; every answer has its offset",
);

const LEAST: Least = Least { before: 150, during: 10, after: 150 };
/// Messages that were answered before the fault and again after it.
const SPANNING_MIN: usize = 10;
const SENDERS: u64 = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// An answer to a send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    sequence: Sequence,
    offset: i64,
    phase: Phase,
}

/// Holds when all answers to sends of one message have the offset at which it is stored.
fn one_offset(answers: &[Answer], history: &History) -> Verdict {
    let mut offsets: BTreeMap<Sequence, i64> = BTreeMap::new();
    for ((_, _, offset), records) in &history.deliveries {
        offsets.extend(records.iter().map(|record| (record.sequence, *offset)));
    }
    Verdict::of(answers.iter().filter_map(|answer| {
        let known = *offsets.entry(answer.sequence).or_insert(answer.offset);
        let Answer { sequence, offset, .. } = answer;
        (known != *offset).then(|| format!("message {sequence} is at {known}, and an answer says {offset}"))
    }))
}

/// Whether enough was sent again on the other side of the fault.
fn repeats_span(answers: &[Answer]) -> Verdict {
    let of = |phase: Phase| -> std::collections::BTreeSet<Sequence> {
        answers.iter().filter(|answer| answer.phase == phase).map(|answer| answer.sequence).collect()
    };
    let spanning = of(Phase::Before).intersection(&of(Phase::After)).count();
    if spanning < SPANNING_MIN {
        return Verdict::Unknown(format!("{spanning} messages were sent before the fault and again after it"));
    }
    Verdict::True
}

#[derive(Default)]
struct Log {
    oracle: Oracle,
    next: AtomicU64,
    answers: Mutex<Vec<Answer>>,
}

pub(super) struct Again {
    crew: Crew,
    log: Arc<Log>,
}

impl Again {
    pub(super) async fn start(scene: &Scene, seed: u64) -> Result<Self> {
        let topic = Kind::Idempotent.topic();
        let mut again = Self { crew: Crew::default(), log: Arc::default() };
        for _ in 0..2 {
            let consumer = Consumer::new(&scene.access, &Kind::Idempotent.consumers(), &topic, "*", false)?;
            consumer.join(&topic).await;
            let (log, shared) = (again.log.clone(), again.crew.shared.clone());
            again.crew.receiver(async move { read(Kind::Idempotent, &consumer, &log.oracle, &shared, |_| {}).await });
        }
        for number in 0..SENDERS {
            // Each has its own node first.
            let mut access = scene.access.clone();
            let nodes = access.len();
            access.rotate_left(number as usize % nodes);
            let producers = [Producer::new(&access, &[&topic])?, Producer::new(&scene.access, &[&topic])?];
            let (log, shared) = (again.log.clone(), again.crew.shared.clone());
            again.crew.sender(send(producers, log, shared, StdRng::seed_from_u64(seed ^ number)));
        }
        Ok(again)
    }
}

async fn send(producers: [Producer; 2], log: Arc<Log>, shared: Arc<Shared>, mut random: StdRng) {
    while shared.sends() {
        let so_far = log.next.load(Ordering::Relaxed);
        let sequence = match random.random_ratio(1, 2) && so_far > 0 {
            true => random.random_range(0..so_far),
            false => {
                let sequence = log.next.fetch_add(1, Ordering::Relaxed);
                log.oracle.sending(sequence);
                sequence
            }
        };
        let [one, other] = &producers;
        if random.random_ratio(1, 5) {
            tokio::join!(send_one(one, sequence, &log, &shared), send_one(other, sequence, &log, &shared));
        } else {
            send_one(one, sequence, &log, &shared).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn send_one(producer: &Producer, sequence: Sequence, log: &Log, shared: &Shared) {
    shared.tally.begin();
    let body = format!("body of {sequence}");
    let topic = Kind::Idempotent.topic();
    if let Ok(sent) = producer.send(&topic, &message_id(sequence), Some("again"), body.into()).await {
        log.oracle.sent(sequence, true, sent.calls);
        let answer = Answer { sequence, offset: sent.offset, phase: shared.tally.phase() };
        log.answers.lock().expect("no holder panics").push(answer);
        shared.tally.done();
    }
}

#[tonic::async_trait(?Send)]
impl Running for Again {
    async fn covered(&self, phase: Phase, limit: Duration) -> Result<()> {
        self.crew.shared.tally.reaches(phase, LEAST, limit).await?;
        let spans = || repeats_span(&self.log.answers.lock().expect("no holder panics")) == Verdict::True;
        if phase < Phase::After {
            return Ok(());
        }
        eventually("enough is sent again after the fault", limit, async || spans()).await
    }

    fn mark(&self, phase: Phase) {
        self.crew.shared.tally.mark(phase);
    }

    async fn finish(mut self: Box<Self>, cluster: &Cluster) -> Result<Report> {
        self.crew.end_senders().await?;
        let topic = Kind::Idempotent.topic();
        let deadline = Instant::now() + DRAINED_WITHIN;
        // All that is stored comes, also what no answer told of and what should not be there.
        let stored = cluster.stored(&topic).await?.unwrap_or_default() as usize;
        while self.log.oracle.history().deliveries.len() < stored && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.crew.end_receivers().await?;
        let history = self.log.oracle.history();
        let answers = std::mem::take(&mut *self.log.answers.lock().expect("no holder panics"));
        let left = (history.deliveries.len() < stored)
            .then(|| format!("{stored} are stored, and {} came", history.deliveries.len()));
        let verdicts = vec![
            ("coverage", self.crew.shared.tally.coverage(LEAST)),
            ("repeats span the fault", repeats_span(&answers)),
            ("acked is delivered", invariant::acked_is_delivered(&history)),
            ("one copy", invariant::one_copy(&history)),
            ("one offset", one_offset(&answers, &history)),
            ("all that is stored comes", Verdict::of(left)),
        ];
        let (sends, tally) = (history.sends.len(), &self.crew.shared.tally);
        let summary = format!("{sends} messages, {} sends answered, {stored} stored; {tally}", answers.len());
        Ok(Report { verdicts, summary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: Sequence, offset: i64, phase: Phase) -> Answer {
        Answer { sequence, offset, phase }
    }

    #[test]
    fn another_offset_is_seen() {
        let (before, after) = (Phase::Before, Phase::After);
        let history = History::default();
        let same = [answer(1, 7, before), answer(2, 7, before), answer(1, 7, after)];
        assert_eq!(one_offset(&same, &history), Verdict::True);
        let moved = [answer(1, 7, before), answer(1, 8, after)];
        assert!(matches!(one_offset(&moved, &history), Verdict::False(_)));
    }

    #[test]
    fn without_repeats_on_the_other_side_nothing_is_proved() {
        let across = |count: u64| -> Vec<Answer> {
            (0..count).flat_map(|n| [answer(n, 7, Phase::Before), answer(n, 7, Phase::After)]).collect()
        };
        assert_eq!(repeats_span(&across(SPANNING_MIN as u64)), Verdict::True);
        assert!(matches!(repeats_span(&across(SPANNING_MIN as u64 - 1)), Verdict::Unknown(_)));
    }
}
