//! Message groups: one message of each at a time, in order, and one group that nobody finishes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use raftmq_proto::rocketmq as pb;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{DRAINED_WITHIN, Kind, LEASE, POLL, Report, Running, Scene};
use crate::client::{Consumer, Delivery, Producer, message};
use crate::cluster::Cluster;
use crate::invariant::Verdict;
use crate::matrix::tally::{Crew, Least, Phase, Shared};
use crate::oracle::{message_id, sequence_of};

pub(super) const ROW: (&str, &str, &str) = (
    "fifo",
    "60 message groups, each sent in order; one delivery in 40 fails; the first message of one group is held to the end",
    "of each message group: deliveries in the order of its sends, the next one only after the ack of the one before, a \
     failed one again before its successors; all come; none waits for the group that is held",
);

const LEAST: Least = Least { before: 200, during: 20, after: 200 };
const MESSAGE_GROUPS: u64 = 60;
const SENDERS: u64 = 6;
const RECEIVERS: u64 = 4;
/// Nobody finishes its first message until the end.
const HELD: u64 = 0;
const HELD_LEASE: Duration = Duration::from_secs(300);
const FAILS_ONE_IN: u32 = 40;
const COMES_BACK: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(20);
/// Messages of a group have the numbers from so many times the group on.
const STRIDE: u64 = 1 << 32;

/// What was seen of message groups, in this order. A message is a group and a number.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A send was answered OK.
    Sent { group: u64, number: u64 },
    /// A client has it.
    Delivered { group: u64, number: u64, queue: i32, offset: i64, attempt: i32 },
    /// Its ack is about to be sent.
    Acknowledging { group: u64, number: u64 },
    /// And was answered OK.
    Acknowledged { group: u64, number: u64 },
}

/// The newest delivery of a message group.
#[derive(Debug, Clone, Copy)]
struct Newest {
    number: u64,
    queue: i32,
    offset: i64,
    attempt: i32,
    acknowledging: bool,
    acknowledged: bool,
}

/// Holds when every message group was delivered and acknowledged in the order in which it was sent.
fn in_order(events: &[Event]) -> Verdict {
    let mut newest: BTreeMap<u64, Newest> = BTreeMap::new();
    let mut wrong = Vec::new();
    for event in events {
        match *event {
            Event::Sent { .. } => {}
            Event::Delivered { group, number, queue, offset, attempt } => {
                let seen = Newest { number, queue, offset, attempt, acknowledging: false, acknowledged: false };
                let known = newest.insert(group, seen);
                if let Some(reason) = out_of_order(known, seen) {
                    wrong.push(format!("message group {group}: {reason}"));
                }
            }
            Event::Acknowledging { group, number } | Event::Acknowledged { group, number } => {
                if let Some(newest) = newest.get_mut(&group).filter(|newest| newest.number == number) {
                    newest.acknowledging = true;
                    newest.acknowledged |= matches!(event, Event::Acknowledged { .. });
                }
            }
        }
    }
    Verdict::of(wrong)
}

fn out_of_order(known: Option<Newest>, seen: Newest) -> Option<String> {
    let Some(known) = known else {
        return (seen.number != 0).then(|| format!("{seen:?} comes first"));
    };
    let wrong = if known.queue != seen.queue {
        "is in another queue than"
    } else if known.offset == seen.offset && known.acknowledged {
        "comes back after the ack of"
    } else if known.offset == seen.offset && seen.attempt <= known.attempt {
        "is delivered again as"
    } else if known.offset == seen.offset {
        return None;
    } else if !known.acknowledging {
        "is out while nobody acknowledges"
    } else if seen.offset < known.offset || seen.number != known.number + 1 {
        "does not follow"
    } else {
        return None;
    };
    Some(format!("{seen:?} {wrong} {known:?}"))
}

/// Messages whose sends were acknowledged and that were not delivered and acknowledged, by group.
fn unfinished(events: &[Event]) -> BTreeMap<u64, u64> {
    let (mut sent, mut finished) = (BTreeMap::new(), BTreeMap::new());
    for event in events {
        match *event {
            Event::Sent { group, number } => sent.insert(group, number),
            Event::Acknowledging { group, number } => finished.insert(group, number),
            _ => None,
        };
    }
    let left = |(group, last): (u64, u64)| {
        let finished = finished.get(&group).map_or(0, |number| number + 1);
        (finished <= last).then(|| (group, last + 1 - finished))
    };
    sent.into_iter().filter_map(left).collect()
}

/// Holds when every acknowledged send was delivered.
fn all_came(events: &[Event]) -> Verdict {
    Verdict::of(
        unfinished(events).into_iter().map(|(group, left)| format!("{left} of message group {group} did not come")),
    )
}

/// The held message.
struct Held {
    delivery: Delivery,
    handle: String,
}

#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    held: Mutex<Option<Held>>,
    /// The held one may be finished.
    released: Mutex<bool>,
}

impl Log {
    fn push(&self, event: Event) {
        self.events.lock().expect("no holder panics").push(event);
    }

    fn unfinished(&self) -> BTreeMap<u64, u64> {
        unfinished(&self.events.lock().expect("no holder panics"))
    }
}

pub(super) struct Fifo {
    crew: Crew,
    log: Arc<Log>,
    consumer: Arc<Consumer>,
}

impl Fifo {
    pub(super) async fn start(scene: &Scene, seed: u64) -> Result<Self> {
        let (topic, consumers) = (Kind::Fifo.topic(), Kind::Fifo.consumers());
        let consumer = Arc::new(Consumer::new(&scene.access, &consumers, &topic, "*", false)?);
        consumer.join(&topic).await;
        let mut fifo = Self { crew: Crew::default(), log: Arc::default(), consumer };
        for number in 0..RECEIVERS {
            let random = StdRng::seed_from_u64(seed ^ number);
            fifo.crew.receiver(receive(fifo.consumer.clone(), fifo.log.clone(), fifo.crew.shared.clone(), random));
        }
        for number in 0..SENDERS {
            let groups = (0..MESSAGE_GROUPS).filter(|group| group % SENDERS == number).collect();
            let producer = Producer::new(&scene.access, &[&topic])?;
            fifo.crew.sender(send(producer, groups, fifo.log.clone(), fifo.crew.shared.clone()));
        }
        Ok(fifo)
    }
}

async fn send(producer: Producer, groups: Vec<u64>, log: Arc<Log>, shared: Arc<Shared>) {
    for number in 0.. {
        for group in &groups {
            let topic = Kind::Fifo.topic();
            let mut message = message(&topic, &message_id(group * STRIDE + number), None, "in order".into());
            if let Some(system) = &mut message.system_properties {
                system.message_group = Some(format!("account-{group}"));
                system.message_type = pb::MessageType::Fifo.into();
            }
            // A producer that keeps an order does not go on before it knows.
            shared.tally.begin();
            while producer.send_messages(&topic, vec![message.clone()]).await.is_err() {
                if !shared.sends() {
                    return;
                }
                shared.tally.begin();
            }
            log.push(Event::Sent { group: *group, number });
            if !shared.sends() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn receive(consumer: Arc<Consumer>, log: Arc<Log>, shared: Arc<Shared>, mut random: StdRng) {
    while shared.receives() {
        let Ok(deliveries) = consumer.receive(&Kind::Fifo.topic(), 32, LEASE, POLL).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut work = Vec::new();
        for delivery in deliveries {
            let Some(sequence) = sequence_of(delivery.message_id()) else { continue };
            let (group, number) = (sequence / STRIDE, sequence % STRIDE);
            let ((_, queue, offset), attempt) = (delivery.place(), delivery.attempt());
            log.push(Event::Delivered { group, number, queue, offset, attempt });
            let holds = (group, number) == (HELD, 0) && !*log.released.lock().expect("no holder panics");
            let fails = attempt == 1 && random.random_ratio(1, FAILS_ONE_IN);
            if !holds && !fails {
                log.push(Event::Acknowledging { group, number });
            }
            let (consumer, log, shared) = (&consumer, &log, &shared);
            work.push(async move {
                if holds {
                    // When that fails it comes back, and is held again.
                    if let Ok(handle) = consumer.change_invisible(&delivery, HELD_LEASE).await {
                        *log.held.lock().expect("no holder panics") = Some(Held { delivery, handle });
                    }
                    return;
                }
                shared.tally.begin();
                if fails {
                    let _ = consumer.change_invisible(&delivery, COMES_BACK).await;
                } else if consumer.ack(&delivery).await.is_ok() {
                    log.push(Event::Acknowledged { group, number });
                    shared.tally.done();
                }
            });
        }
        futures::future::join_all(work).await;
    }
}

#[tonic::async_trait(?Send)]
impl Running for Fifo {
    async fn covered(&self, phase: Phase, limit: Duration) -> Result<()> {
        self.crew.shared.tally.reaches(phase, LEAST, limit).await
    }

    fn mark(&self, phase: Phase) {
        self.crew.shared.tally.mark(phase);
    }

    async fn finish(mut self: Box<Self>, _cluster: &Cluster) -> Result<Report> {
        self.crew.end_senders().await?;
        let deadline = Instant::now() + DRAINED_WITHIN;
        while self.log.unfinished().keys().any(|group| *group != HELD) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let blocked: Vec<u64> = self.log.unfinished().into_keys().filter(|group| *group != HELD).collect();
        let held_up = blocked.iter().map(|group| format!("message group {group} stands still behind another"));
        let held_up = Verdict::of(held_up);

        *self.log.released.lock().expect("no holder panics") = true;
        let held = self.log.held.lock().expect("no holder panics").take();
        if let Some(Held { delivery, handle }) = held {
            let events = || self.log.events.lock().expect("no holder panics").clone();
            let passed = |event: &Event| matches!(event, Event::Delivered { group: HELD, number: 1.., .. });
            ensure!(!events().iter().any(passed), "a successor of the held message was delivered: {delivery:?}");
            self.log.push(Event::Acknowledging { group: HELD, number: 0 });
            if self.consumer.ack_handle(&delivery, &handle).await.is_ok() {
                self.log.push(Event::Acknowledged { group: HELD, number: 0 });
            }
        }
        let deadline = Instant::now() + DRAINED_WITHIN;
        while !self.log.unfinished().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.crew.end_receivers().await?;
        let events = std::mem::take(&mut *self.log.events.lock().expect("no holder panics"));
        let verdicts = vec![
            ("coverage", self.crew.shared.tally.coverage(LEAST)),
            ("in order", in_order(&events)),
            ("all came", all_came(&events)),
            ("no group waits for another", held_up),
        ];
        let sent = events.iter().filter(|event| matches!(event, Event::Sent { .. })).count();
        Ok(Report { verdicts, summary: format!("{sent} sent; {}", self.crew.shared.tally) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sN` sent, `dN` or `dN.A` delivered as attempt A, `aN` about to be acknowledged and acknowledged.
    fn events(words: &str) -> Vec<Event> {
        let mut events = Vec::new();
        for word in words.split_whitespace() {
            let (number, attempt) = word[1..].split_once('.').unwrap_or((&word[1..], "1"));
            let (group, number) = (5, number.parse().expect("a number"));
            match &word[..1] {
                "s" => events.push(Event::Sent { group, number }),
                "d" => events.push(Event::Delivered {
                    group,
                    number,
                    queue: 2,
                    offset: 10 * number as i64,
                    attempt: attempt.parse().expect("a number"),
                }),
                _ => events.extend([Event::Acknowledging { group, number }, Event::Acknowledged { group, number }]),
            }
        }
        events
    }

    #[track_caller]
    fn order(words: &str, holds: bool) {
        let verdict = in_order(&events(words));
        assert_eq!(verdict == Verdict::True, holds, "{words}: {verdict}");
    }

    #[test]
    fn what_is_out_of_order_is_seen() {
        order("d0 a0 d1 d1.2 a1 d2 a2", true);
        order("d0 a0 d2 a2", false);
        order("d0 a0 d1 a1 d0 a0", false);
        order("d0 d1", false);
        order("d0 d0", false);
        order("d0 a0 d0.2", false);
        order("d1 a1", false);
        let mut elsewhere = events("d0 a0 d1");
        if let Some(Event::Delivered { queue, .. }) = elsewhere.last_mut() {
            *queue = 3;
        }
        assert!(matches!(in_order(&elsewhere), Verdict::False(_)));
    }

    #[test]
    fn what_did_not_come_is_seen() {
        assert_eq!(all_came(&events("s0 d0 a0 s1 d1 a1")), Verdict::True);
        assert!(matches!(all_came(&events("s0 d0 a0 s1")), Verdict::False(_)));
        assert!(matches!(all_came(&events("s0")), Verdict::False(_)));
    }
}
