//! Messages that wait for their time; some are recalled, most of those right before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use raftmq_proto::rocketmq as pb;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use super::{DRAINED_WITHIN, Kind, Report, Running, Scene, read};
use crate::client::{Consumer, Delivery, Producer, eventually, message};
use crate::cluster::Cluster;
use crate::invariant::{self, Verdict};
use crate::matrix::tally::{Crew, Least, Phase, Shared};
use crate::oracle::{History, Oracle, Sequence, message_id, sequence_of};

pub(super) const ROW: (&str, &str, &str) = (
    "delay",
    "messages wait 0.5 to 8 s; one in three is recalled, most right before their time",
    "none comes before its time by a clock that no fault touches; none is lost or comes twice; a recall that was answered \
     OK wins, one that was refused loses, never both and never neither",
);

const LEAST: Least = Least { before: 60, during: 10, after: 60 };
/// Recalls that win, and as many that lose.
const RACED_MIN: usize = 5;
const SENDERS: u64 = 3;
const RECEIVERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(50);
/// Delivery times are kept in whole milliseconds, and clocks of one machine are read one after the other.
const GRAIN_MS: u64 = 3;

/// What a recall was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Recall {
    /// OK.
    Won,
    /// That it cannot be had, at the first call.
    Lost(String),
    /// Nothing, or nothing that says what happened.
    Unknown,
}

/// A message that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    /// Ms since the Unix epoch.
    due_ms: u64,
    acknowledged: bool,
    recall: Option<Recall>,
}

/// Of each message when its first copy came, in ms since the Unix epoch.
type Came = BTreeMap<Sequence, u64>;

/// Holds when no message came before its time.
fn never_early(waiting: &BTreeMap<Sequence, Waiting>, came: &Came) -> Verdict {
    Verdict::of(came.iter().filter_map(|(sequence, came_ms)| {
        let due_ms = waiting.get(sequence)?.due_ms;
        (came_ms + GRAIN_MS < due_ms)
            .then(|| format!("message {sequence} came {} ms before its time", due_ms - came_ms))
    }))
}

/// Holds when each message came, or was recalled, as its recall was answered.
fn recall_or_delivery(waiting: &BTreeMap<Sequence, Waiting>, came: &Came) -> Verdict {
    Verdict::of(waiting.iter().filter_map(|(sequence, message)| {
        let comes = came.contains_key(sequence);
        match &message.recall {
            Some(Recall::Won) if comes => Some(format!("message {sequence} was recalled, and came")),
            Some(Recall::Lost(reason)) if !comes => {
                Some(format!("message {sequence} was not recalled ({reason}), and did not come"))
            }
            None if message.acknowledged && !comes => {
                Some(format!("message {sequence} was acknowledged and did not come"))
            }
            _ => None,
        }
    }))
}

/// Messages that must still come.
fn missing(waiting: &BTreeMap<Sequence, Waiting>, came: &Came) -> usize {
    let wanted = |message: &Waiting| message.acknowledged && matches!(message.recall, None | Some(Recall::Lost(_)));
    waiting.iter().filter(|(sequence, message)| wanted(message) && !came.contains_key(sequence)).count()
}

/// Recalls that won, and those that lost.
fn recalls(waiting: &BTreeMap<Sequence, Waiting>) -> (usize, usize) {
    let count = |wanted: fn(&Recall) -> bool| {
        waiting.values().filter(|message| message.recall.as_ref().is_some_and(wanted)).count()
    };
    (count(|recall| *recall == Recall::Won), count(|recall| matches!(recall, Recall::Lost(_))))
}

/// Whether recalls were close enough to the delivery times.
fn race(won: usize, lost: usize) -> Verdict {
    if won < RACED_MIN || lost < RACED_MIN {
        return Verdict::Unknown(format!("{won} recalls won and {lost} lost"));
    }
    Verdict::True
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Default)]
struct Log {
    oracle: Oracle,
    waiting: Mutex<BTreeMap<Sequence, Waiting>>,
    came: Mutex<Came>,
}

impl Log {
    fn change(&self, sequence: Sequence, change: impl FnOnce(&mut Waiting)) {
        if let Some(waiting) = self.waiting.lock().expect("no holder panics").get_mut(&sequence) {
            change(waiting);
        }
    }

    fn raced(&self) -> Verdict {
        let (won, lost) = recalls(&self.waiting.lock().expect("no holder panics"));
        race(won, lost)
    }

    fn missing(&self) -> usize {
        missing(&self.waiting.lock().expect("no holder panics"), &self.came.lock().expect("no holder panics"))
    }
}

pub(super) struct Delays {
    crew: Crew,
    log: Arc<Log>,
}

impl Delays {
    pub(super) async fn start(scene: &Scene, seed: u64) -> Result<Self> {
        let topic = Kind::Delay.topic();
        let mut delays = Self { crew: Crew::default(), log: Arc::default() };
        for _ in 0..RECEIVERS {
            let consumer = Consumer::new(&scene.access, &Kind::Delay.consumers(), &topic, "*", false)?;
            consumer.join(&topic).await;
            delays.crew.receiver(receive(consumer, delays.log.clone(), delays.crew.shared.clone()));
        }
        for number in 0..SENDERS {
            let producer = Arc::new(Producer::new(&scene.access, &[&topic])?);
            let (log, shared) = (delays.log.clone(), delays.crew.shared.clone());
            let random = StdRng::seed_from_u64(seed ^ number);
            delays.crew.sender(send(producer, number, log, shared, random));
        }
        Ok(delays)
    }
}

async fn send(producer: Arc<Producer>, number: u64, log: Arc<Log>, shared: Arc<Shared>, mut random: StdRng) {
    let topic = Kind::Delay.topic();
    let mut recalls = JoinSet::new();
    for sequence in (number..).step_by(SENDERS as usize) {
        if !shared.sends() {
            break;
        }
        let delay_ms = random.random_range(500..8_000);
        let due_ms = now_ms() + delay_ms;
        let mut message = message(&topic, &message_id(sequence), None, "later".into());
        let system = message.system_properties.get_or_insert_default();
        system.message_type = pb::MessageType::Delay.into();
        system.delivery_timestamp = Some((SystemTime::UNIX_EPOCH + Duration::from_millis(due_ms)).into());
        log.oracle.sending(sequence);
        let waiting = Waiting { due_ms, acknowledged: false, recall: None };
        log.waiting.lock().expect("no holder panics").insert(sequence, waiting);
        shared.tally.begin();
        match producer.send_messages(&topic, vec![message]).await {
            Ok(sent) => {
                log.oracle.sent(sequence, true, sent.calls);
                log.change(sequence, |waiting| waiting.acknowledged = true);
                shared.tally.done();
                let handle = sent.entries.first().map(|entry| entry.recall_handle.clone()).unwrap_or_default();
                if !handle.is_empty() && random.random_ratio(1, 3) {
                    // Around its time, or anywhere before it.
                    let at_ms = match random.random_ratio(3, 4) {
                        true => due_ms - 60 + random.random_range(0..100),
                        false => due_ms - random.random_range(0..delay_ms),
                    };
                    recalls.spawn(recall(producer.clone(), sequence, handle, at_ms, log.clone()));
                }
            }
            Err(failure) => log.oracle.sent(sequence, false, failure.calls),
        }
        tokio::time::sleep(PAUSE).await;
    }
    recalls.join_all().await;
}

async fn recall(producer: Arc<Producer>, sequence: Sequence, handle: String, at_ms: u64, log: Arc<Log>) {
    tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(now_ms()))).await;
    // Whatever happens to this task, the message may be gone from here on.
    log.change(sequence, |waiting| waiting.recall = Some(Recall::Unknown));
    let topic = Kind::Delay.topic();
    let first = producer.recall_within(&topic, &handle, 1).await;
    let outcome = match first {
        Ok(()) => Recall::Won,
        Err(failure) if !failure.may_pass() => Recall::Lost(failure.to_string()),
        // That it is too late now does not say that it was too late then.
        Err(_) => match producer.recall(&topic, &handle).await {
            Ok(()) => Recall::Won,
            Err(_) => Recall::Unknown,
        },
    };
    log.change(sequence, |waiting| waiting.recall = Some(outcome));
}

async fn receive(consumer: Consumer, log: Arc<Log>, shared: Arc<Shared>) {
    let see = |delivery: &Delivery| {
        if let Some(sequence) = sequence_of(delivery.message_id()) {
            log.came.lock().expect("no holder panics").entry(sequence).or_insert_with(now_ms);
        }
    };
    read(Kind::Delay, &consumer, &log.oracle, &shared, see).await;
}

#[tonic::async_trait(?Send)]
impl Running for Delays {
    async fn covered(&self, phase: Phase, limit: Duration) -> Result<()> {
        self.crew.shared.tally.reaches(phase, LEAST, limit).await?;
        if phase < Phase::After {
            return Ok(());
        }
        eventually("recalls win and lose", limit, async || self.log.raced() == Verdict::True).await
    }

    fn mark(&self, phase: Phase) {
        self.crew.shared.tally.mark(phase);
    }

    async fn finish(mut self: Box<Self>, _cluster: &Cluster) -> Result<Report> {
        self.crew.end_senders().await?;
        let deadline = Instant::now() + DRAINED_WITHIN;
        // What was recalled must not come at its time either.
        let last_ms = self.log.waiting.lock().expect("no holder panics").values().map(|message| message.due_ms).max();
        while (self.log.missing() > 0 || last_ms > Some(now_ms())) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.crew.end_receivers().await?;
        let history = self.log.oracle.history();
        let waiting = std::mem::take(&mut *self.log.waiting.lock().expect("no holder panics"));
        let came = std::mem::take(&mut *self.log.came.lock().expect("no holder panics"));
        let (won, lost) = recalls(&waiting);
        let raced = race(won, lost);
        let verdicts = vec![
            ("coverage", self.crew.shared.tally.coverage(LEAST)),
            ("recalls race", raced),
            ("never early", never_early(&waiting, &came)),
            ("recall or delivery", recall_or_delivery(&waiting, &came)),
            ("one copy", invariant::one_copy(&history)),
            ("acked never returns", invariant::acked_never_returns(&history)),
            ("no early redelivery", invariant::no_early_redelivery(&history)),
        ];
        let late = lateness(&waiting, &came, &history);
        let tally = &self.crew.shared.tally;
        let summary = format!("{} sent, {won} recalls won and {lost} lost, {late}; {tally}", waiting.len());
        Ok(Report { verdicts, summary })
    }
}

/// How late messages came.
fn lateness(waiting: &BTreeMap<Sequence, Waiting>, came: &Came, history: &History) -> String {
    let mut late: Vec<u64> =
        came.iter().filter_map(|(sequence, ms)| Some(ms.saturating_sub(waiting.get(sequence)?.due_ms))).collect();
    late.sort_unstable();
    let at = |part: usize| late.get(late.len() * part / 100).copied().unwrap_or_default();
    let last = late.last().copied().unwrap_or_default();
    format!("{} came, late by p50 {} ms, p99 {} ms, at most {last} ms", history.deliveries.len(), at(50), at(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(recall: Option<Recall>) -> BTreeMap<Sequence, Waiting> {
        [(1, Waiting { due_ms: 1_000, acknowledged: true, recall })].into()
    }

    #[test]
    fn an_early_message_is_seen() {
        assert_eq!(never_early(&waiting(None), &[(1, 1_000)].into()), Verdict::True);
        assert!(matches!(never_early(&waiting(None), &[(1, 990)].into()), Verdict::False(_)));
    }

    #[test]
    fn both_and_neither_of_recall_and_delivery_are_seen() {
        let (came, not): (Came, Came) = ([(1, 1_000)].into(), Came::new());
        for (recall, came, holds) in [
            (None, &came, true),
            (None, &not, false),
            (Some(Recall::Won), &not, true),
            (Some(Recall::Won), &came, false),
            (Some(Recall::Lost("late".into())), &came, true),
            (Some(Recall::Lost("late".into())), &not, false),
            (Some(Recall::Unknown), &came, true),
            (Some(Recall::Unknown), &not, true),
        ] {
            let verdict = recall_or_delivery(&waiting(recall.clone()), came);
            assert_eq!(verdict == Verdict::True, holds, "{recall:?}: {verdict}");
        }
    }
}
