//! Leases that are held for most of their time, renewed, acknowledged late, or left to end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use super::{DRAINED_WITHIN, Kind, LEASE, POLL, Report, Running, Scene};
use crate::client::{Consumer, Delivery, Failure, Producer, eventually};
use crate::cluster::Cluster;
use crate::invariant::{self, SLEW, Verdict};
use crate::matrix::tally::{Crew, Least, Phase, Shared};
use crate::oracle::{Fate, Oracle, message_id};
use crate::workload::acknowledge;

pub(super) const ROW: (&str, &str, &str) = (
    "lease",
    "leases are held, renewed, acknowledged late with the handle of the last renewal, tried with an older one, or left",
    "nobody gets a message while another's lease of it is valid; a handle acknowledges for as long as its lease, on every \
     node and across failovers; a superseded one does nothing; what is left comes back",
);

const LEAST: Least = Least { before: 60, during: 10, after: 60 };
/// Handles that were issued before the fault and used after it.
const SPANNING_MIN: usize = 5;
/// Lease of what is kept through the fault.
const KEPT: Duration = Duration::from_secs(300);
/// Messages of a receive: handed out as a lease, used one by one.
const BATCH: i32 = 8;
const RECEIVERS: u64 = 4;
const PAUSE: Duration = Duration::from_millis(25);

/// A handle that was used, and the answer.
#[derive(Debug, Clone)]
pub(super) struct Use {
    message: String,
    what: &'static str,
    /// It had been superseded before.
    superseded: bool,
    /// Its lease ends then, or later.
    ends: Duration,
    /// When it was answered.
    answered: Duration,
    /// Refused for good, with the reason. What was not answered is not here.
    refused: Option<String>,
    issued: Phase,
    used: Phase,
}

/// Holds when every handle worked while its lease was valid, and no superseded one did.
fn handles_are_valid(uses: &[Use]) -> Verdict {
    let wrong = uses.iter().filter_map(|used| {
        let Use { message, what, answered, ends, .. } = used;
        match (&used.refused, used.superseded) {
            (Some(reason), false) if answered < ends => {
                Some(format!("{what} of {message} was refused {:?} before its lease ends: {reason}", *ends - *answered))
            }
            (None, true) => Some(format!("{what} of {message} was carried out by a superseded handle")),
            _ => None,
        }
    });
    Verdict::of(wrong)
}

/// Whether enough handles were issued before the fault and used after it.
fn handles_span(uses: &[Use]) -> Verdict {
    let spans = |used: &&Use| used.issued == Phase::Before && used.used > Phase::Before && used.refused.is_none();
    let spanning = uses.iter().filter(spans).count();
    if spanning < SPANNING_MIN {
        return Verdict::Unknown(format!("{spanning} handles were issued before the fault and used after it"));
    }
    Verdict::True
}

pub(super) struct Leases {
    crew: Crew,
    oracle: Arc<Oracle>,
    uses: Arc<Mutex<Vec<Use>>>,
    kept: Arc<AtomicUsize>,
}

/// One client's hands.
#[derive(Clone)]
struct Hands {
    consumer: Arc<Consumer>,
    oracle: Arc<Oracle>,
    shared: Arc<Shared>,
    uses: Arc<Mutex<Vec<Use>>>,
    kept: Arc<AtomicUsize>,
}

impl Leases {
    pub(super) async fn start(scene: &Scene, seed: u64) -> Result<Self> {
        let (topic, consumers) = (Kind::Lease.topic(), Kind::Lease.consumers());
        let mut leases =
            Self { crew: Crew::default(), oracle: Arc::default(), uses: Arc::default(), kept: Arc::default() };
        for number in 0..RECEIVERS {
            let consumer = Consumer::new(&scene.access, &consumers, &topic, "*", false)?;
            consumer.join(&topic).await;
            let hands = Hands {
                consumer: Arc::new(consumer),
                oracle: leases.oracle.clone(),
                shared: leases.crew.shared.clone(),
                uses: leases.uses.clone(),
                kept: leases.kept.clone(),
            };
            leases.crew.receiver(hands.receive(StdRng::seed_from_u64(seed ^ number)));
        }
        let producer = Producer::new(&scene.access, &[&topic])?;
        let (oracle, shared) = (leases.oracle.clone(), leases.crew.shared.clone());
        leases.crew.sender(async move {
            for sequence in 0.. {
                if !shared.sends() {
                    return;
                }
                oracle.sending(sequence);
                match producer.send(&topic, &message_id(sequence), None, "leased".into()).await {
                    Ok(sent) => oracle.sent(sequence, true, sent.calls),
                    Err(failure) => oracle.sent(sequence, false, failure.calls),
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(leases)
    }
}

impl Hands {
    async fn receive(self, mut random: StdRng) {
        let mut held = JoinSet::new();
        while self.shared.receives() {
            match self.consumer.receive(&Kind::Lease.topic(), BATCH, LEASE, POLL).await {
                Ok(deliveries) => {
                    for delivery in deliveries.into_iter().filter(|delivery| self.oracle.received(delivery)) {
                        held.spawn(self.clone().hold(delivery, StdRng::seed_from_u64(random.random())));
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            while held.try_join_next().is_some() {}
        }
        held.join_all().await;
    }

    /// What a client does with one delivery.
    async fn hold(self, delivery: Delivery, mut random: StdRng) {
        let issued = self.shared.tally.phase();
        let ends = self.oracle.now().saturating_sub(delivery.called.elapsed()) + LEASE.mul_f64(1.0 - SLEW);
        let part = |random: &mut StdRng, percent: std::ops::Range<u32>| LEASE * random.random_range(percent) / 100;
        if issued == Phase::Before && delivery.attempt() == 1 && random.random_ratio(1, 8) {
            return self.keep(&delivery, ends).await;
        }
        match random.random_range(0..100) {
            0..15 if delivery.attempt() == 1 => {}
            0..55 => {
                tokio::time::sleep(part(&mut random, 0..10)).await;
                self.ack(&delivery, ends, issued).await;
            }
            55..75 => {
                tokio::time::sleep(part(&mut random, 75..92)).await;
                self.ack(&delivery, ends, issued).await;
            }
            _ => {
                tokio::time::sleep(part(&mut random, 20..60)).await;
                let Some((renewed, ends)) = self.renew(&delivery, LEASE, ends, issued).await else { return };
                let issued = self.shared.tally.phase();
                if random.random() {
                    let outcome = self.consumer.ack_handle(&renewed, delivery.handle()).await;
                    self.note(&delivery, "an ack", true, ends, issued, outcome.err());
                }
                tokio::time::sleep(part(&mut random, 50..85)).await;
                self.ack(&renewed, ends, issued).await;
            }
        }
    }

    /// Renewed for longer than any fault, and used after it.
    async fn keep(&self, delivery: &Delivery, ends: Duration) {
        let Some((kept, ends)) = self.renew(delivery, KEPT, ends, Phase::Before).await else { return };
        self.kept.fetch_add(1, Ordering::Relaxed);
        while self.shared.tally.phase() < Phase::After {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Nobody waits for its lease to end.
        while !self.ack(&kept, ends, Phase::Before).await && self.shared.receives() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether it was answered.
    async fn ack(&self, delivery: &Delivery, ends: Duration, issued: Phase) -> bool {
        self.shared.tally.begin();
        let outcome = acknowledge(&self.consumer, &self.oracle, delivery).await;
        let answered = !outcome.as_ref().is_err_and(Failure::may_pass);
        self.note(delivery, "the ack", false, ends, issued, outcome.err());
        answered
    }

    /// The delivery with its new handle and the end of its lease, when the answer says so. When there is none the
    /// message comes back in the end: nobody knows which handle is valid.
    async fn renew(
        &self,
        delivery: &Delivery,
        lease: Duration,
        ends: Duration,
        issued: Phase,
    ) -> Option<(Delivery, Duration)> {
        self.shared.tally.begin();
        let until = self.oracle.now() + lease.mul_f64(1.0 - SLEW);
        let outcome = self.consumer.change_invisible(delivery, lease).await;
        if outcome.is_ok() {
            self.oracle.fate(delivery, Fate::Changed(until));
        }
        self.note(delivery, "the renewal", false, ends, issued, outcome.as_ref().err().cloned());
        outcome.ok().map(|handle| (delivery.with_handle(handle), until))
    }

    fn note(
        &self,
        delivery: &Delivery,
        what: &'static str,
        superseded: bool,
        ends: Duration,
        issued: Phase,
        failure: Option<Failure>,
    ) {
        if failure.is_none() && !superseded {
            self.shared.tally.done();
        }
        if failure.as_ref().is_some_and(Failure::may_pass) {
            return;
        }
        self.uses.lock().expect("no holder panics").push(Use {
            message: format!("{} (attempt {})", delivery.message_id(), delivery.attempt()),
            what,
            superseded,
            ends,
            answered: self.oracle.now(),
            refused: failure.map(|failure| failure.to_string()),
            issued,
            used: self.shared.tally.phase(),
        });
    }
}

#[tonic::async_trait(?Send)]
impl Running for Leases {
    async fn covered(&self, phase: Phase, limit: Duration) -> Result<()> {
        self.crew.shared.tally.reaches(phase, LEAST, limit).await?;
        let kept = async || self.kept.load(Ordering::Relaxed) >= SPANNING_MIN;
        eventually("enough leases are kept for after the fault", limit, kept).await
    }

    fn mark(&self, phase: Phase) {
        self.crew.shared.tally.mark(phase);
    }

    async fn finish(mut self: Box<Self>, cluster: &Cluster) -> Result<Report> {
        self.crew.end_senders().await?;
        let deadline = Instant::now() + LEASE * 2 + DRAINED_WITHIN;
        while self.oracle.missing() > 0 || self.oracle.open() > 0 {
            let (missing, open) = (self.oracle.missing(), self.oracle.open());
            ensure!(
                Instant::now() < deadline,
                "{missing} messages did not come, {open} that were left did not come back"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.crew.end_receivers().await?;
        let history = self.oracle.history();
        let uses = std::mem::take(&mut *self.uses.lock().expect("no holder panics"));
        let (consumers, topic) = (Kind::Lease.consumers(), Kind::Lease.topic());
        let limit = LEASE + Duration::from_secs(10);
        let verdicts = vec![
            ("coverage", self.crew.shared.tally.coverage(LEAST)),
            ("handles span the fault", handles_span(&uses)),
            ("acked is delivered", invariant::acked_is_delivered(&history)),
            ("acked never returns", invariant::acked_never_returns(&history)),
            ("no early redelivery", invariant::no_early_redelivery(&history)),
            ("handles are valid", handles_are_valid(&uses)),
            ("nothing stays leased", invariant::nothing_stays_leased(cluster, 0, &consumers, &topic, limit).await),
        ];
        let summary =
            format!("{} messages, {} handles used; {}", history.sends.len(), uses.len(), self.crew.shared.tally);
        Ok(Report { verdicts, summary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(superseded: bool, answered: u64, refused: Option<&str>) -> Use {
        Use {
            message: "S1".into(),
            what: "the ack",
            superseded,
            ends: Duration::from_secs(10),
            answered: Duration::from_secs(answered),
            refused: refused.map(str::to_owned),
            issued: Phase::Before,
            used: Phase::After,
        }
    }

    #[test]
    fn a_handle_that_is_refused_early_and_one_that_works_too_long_are_seen() {
        assert_eq!(handles_are_valid(&[used(false, 9, None), used(true, 9, Some("INVALID"))]), Verdict::True);
        assert_eq!(handles_are_valid(&[used(false, 11, Some("INVALID"))]), Verdict::True);
        assert!(matches!(handles_are_valid(&[used(false, 9, Some("INVALID"))]), Verdict::False(_)));
        assert!(matches!(handles_are_valid(&[used(true, 9, None)]), Verdict::False(_)));
    }

    #[test]
    fn handles_that_were_all_used_on_one_side_of_the_fault_prove_nothing() {
        let across = vec![used(false, 9, None); SPANNING_MIN];
        assert_eq!(handles_span(&across), Verdict::True);
        assert!(matches!(handles_span(&across[1..]), Verdict::Unknown(_)));
        let before: Vec<Use> = across.into_iter().map(|used| Use { used: Phase::Before, ..used }).collect();
        assert!(matches!(handles_span(&before), Verdict::Unknown(_)));
    }
}
