//! What clients did and were told, in the order of one clock: the only witness that invariants hear.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::client::Delivery;

/// Number of a message within a run; part of its id.
pub type Sequence = u64;

/// Broker group, queue and offset: one stored copy of a message.
pub type Place = (String, i32, i64);

/// A send, from its first call to its outcome.
#[derive(Debug, Clone)]
pub struct SendRecord {
    /// Just before the first call.
    pub started: Duration,
    /// When it was answered OK; none when it was not.
    pub acknowledged: Option<Duration>,
    /// Calls made: a message may be stored at most so often.
    pub calls: usize,
}

/// What became of a delivery in its client's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nobody acknowledged it.
    Left,
    /// Its acknowledgement was answered OK at this time.
    Acknowledged(Duration),
    /// Its acknowledgement was refused, with the reason.
    Refused(Duration, String),
    /// Nobody answered its acknowledgement: it may come back, and may not.
    Unknown,
    /// Its lease was changed to end at this time at the earliest.
    Changed(Duration),
}

/// One delivery of one stored copy.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// Message.
    pub sequence: Sequence,
    /// As the server counted.
    pub attempt: i32,
    /// The lease cannot have begun before: the receive had not been called, or the message not been sent.
    pub leased_after: Duration,
    /// When the client had it in hands.
    pub received: Duration,
    /// Length of the lease.
    pub invisible: Duration,
    /// What became of it.
    pub fate: Fate,
}

/// Everything that one run's clients did and were told.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By sequence.
    pub sends: BTreeMap<Sequence, SendRecord>,
    /// By stored copy, in the order of receipt.
    pub deliveries: HashMap<Place, Vec<DeliveryRecord>>,
    /// When the fault had struck, the last time if it has several parts.
    pub fault: Option<Duration>,
    /// Send calls under way just before it struck.
    pub in_flight_at_fault: usize,
    /// Sends that were acknowledged before the fault, or its first part.
    pub acknowledged_before: usize,
    /// Sends that were acknowledged and were begun after the fault: what a dead node answered in its last moment, and
    /// what came between two parts of the fault, is not among them.
    pub acknowledged_after: usize,
    /// First deliveries of messages whose sends were begun after the fault.
    pub delivered_after: usize,
}

/// Writes the [`History`]. Shared by all clients of a run.
pub struct Oracle {
    zero: Instant,
    history: Mutex<History>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self { zero: Instant::now(), history: Mutex::default() }
    }
}

/// The id of message `sequence`; [`sequence_of`] undoes it.
pub fn message_id(sequence: Sequence) -> String {
    format!("S{sequence:016X}")
}

/// See [`message_id`].
pub fn sequence_of(message_id: &str) -> Option<Sequence> {
    Sequence::from_str_radix(message_id.strip_prefix('S')?, 16).ok()
}

impl Oracle {
    /// Since the run began.
    pub fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.zero)
    }

    /// A send is about to make its first call.
    pub fn sending(&self, sequence: Sequence) {
        let started = self.now();
        let record = SendRecord { started, acknowledged: None, calls: usize::MAX };
        self.write(|history| history.sends.insert(sequence, record));
    }

    /// A send ended after `calls` calls.
    pub fn sent(&self, sequence: Sequence, ok: bool, calls: usize) {
        let now = self.now();
        self.write(|history| {
            let Some(send) = history.sends.get_mut(&sequence) else { return };
            send.calls = calls;
            send.acknowledged = ok.then_some(now);
            match history.fault {
                None if ok => history.acknowledged_before += 1,
                Some(fault) if ok && send.started >= fault => history.acknowledged_after += 1,
                _ => {}
            }
        });
    }

    /// A client has a message in hands. Returns false for one that this run did not send.
    pub fn received(&self, delivery: &Delivery) -> bool {
        let Some(sequence) = sequence_of(delivery.message_id()) else { return false };
        let called = self.at(delivery.called);
        let received = self.at(delivery.received);
        self.write(|history| {
            let Some(send) = history.sends.get(&sequence) else { return false };
            if delivery.attempt() == 1 && history.fault.is_some_and(|fault| send.started >= fault) {
                history.delivered_after += 1;
            }
            let record = DeliveryRecord {
                sequence,
                attempt: delivery.attempt(),
                leased_after: called.max(send.started),
                received,
                invisible: delivery.invisible,
                fate: Fate::Left,
            };
            history.deliveries.entry(delivery.place()).or_default().push(record);
            true
        })
    }

    /// The fate of a delivery that was received before.
    pub fn fate(&self, delivery: &Delivery, fate: Fate) {
        let received = self.at(delivery.received);
        self.write(|history| {
            let records = history.deliveries.entry(delivery.place()).or_default();
            let record =
                records.iter_mut().find(|record| record.received == received && record.attempt == delivery.attempt());
            if let Some(record) = record {
                record.fate = fate;
            }
        });
    }

    /// The fault, or another part of it, has struck by now; `in_flight` sends were under way just before.
    pub fn struck(&self, in_flight: usize) {
        let now = self.now();
        self.write(|history| {
            history.fault = Some(now);
            history.in_flight_at_fault = in_flight;
            history.acknowledged_after = 0;
            history.delivered_after = 0;
        });
    }

    /// Sends acknowledged so far: after the fault if it has struck, and else before it.
    pub fn acknowledged(&self) -> usize {
        self.write(|history| match history.fault {
            None => history.acknowledged_before,
            Some(_) => history.acknowledged_after,
        })
    }

    /// Messages that were sent after the fault and delivered so far.
    pub fn delivered_after(&self) -> usize {
        self.write(|history| history.delivered_after)
    }

    /// Acknowledged messages of which no copy was delivered so far.
    pub fn missing(&self) -> usize {
        self.write(|history| history.undelivered().len())
    }

    /// Delivered copies that must still come back: the last that was heard of them is no acknowledgement, nor one
    /// that may have been carried out.
    pub fn open(&self) -> usize {
        self.write(|history| {
            let open = |records: &&Vec<DeliveryRecord>| {
                let over = |record: &DeliveryRecord| matches!(record.fate, Fate::Acknowledged(_) | Fate::Unknown);
                !records.iter().any(over)
            };
            history.deliveries.values().filter(open).count()
        })
    }

    /// Everything so far.
    pub fn history(&self) -> History {
        self.write(|history| history.clone())
    }

    fn write<A>(&self, change: impl FnOnce(&mut History) -> A) -> A {
        change(&mut self.history.lock().expect("no holder panics"))
    }
}

impl History {
    /// Acknowledged messages of which no copy was ever delivered.
    pub fn undelivered(&self) -> Vec<Sequence> {
        let delivered: std::collections::HashSet<Sequence> =
            self.deliveries.values().flatten().map(|record| record.sequence).collect();
        let sends = self.sends.iter().filter(|(_, send)| send.acknowledged.is_some());
        sends.map(|(sequence, _)| *sequence).filter(|sequence| !delivered.contains(sequence)).collect()
    }
}
