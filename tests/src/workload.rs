//! Clients that go through a fault: senders, receivers that acknowledge most at once, some just after the fault, and leave
//! some, and holders that keep handles from long before the fault for after it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{
    client::{Consumer, Delivery, Failure, Producer},
    cluster::Cluster,
    invariant::{self, Held, Verdict},
    oracle::{Fate, Oracle, message_id},
};

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Topic; it must exist.
    pub topic: String,
    /// Consumer group.
    pub group: String,
    /// Senders, each with one message under way.
    pub senders: usize,
    /// What a sender waits after each message, but not around the fault.
    pub pause: Duration,
    /// Receive loops.
    pub receivers: usize,
    /// Of each lease; the public API's minimum is 10 s.
    pub invisible: Duration,
    /// One in so many deliveries of a first attempt is left to come back.
    pub leave_one_in: u64,
    /// Deliveries whose handles are kept through the fault. Half of them are renewed before it, and of those a few
    /// ([`TRIED`]) are there for handles that must acknowledge nothing after it.
    pub hold: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            topic: "orders".into(),
            group: "billing".into(),
            senders: 128,
            pause: Duration::from_millis(50),
            receivers: 6,
            invisible: Duration::from_secs(10),
            leave_one_in: 50,
            hold: 64,
        }
    }
}

/// Held deliveries that nobody acknowledges after the fault but with handles that are not theirs. They come back.
pub const TRIED: usize = 2;

/// Lease of what is held: longer than any run.
const HELD_LEASE: Duration = Duration::from_secs(300);

/// Deliveries that receivers keep at a time before the fault strikes, to acknowledge them after it.
const SPANNING_MAX: usize = 64;

/// How long they keep each: the lease, and the time that an election takes, must not be over then.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// After the end of its lease, by when a group that was down answers an acknowledgement.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// A delivery under a lease that outlasts the fault.
struct Kept {
    /// With the handle that is valid.
    delivery: Delivery,
    /// The handle before its lease was changed, if it was.
    superseded: Option<String>,
}

/// Clients under way.
pub struct Workload {
    /// What they were told.
    pub oracle: Arc<Oracle>,
    options: Options,
    access: Vec<SocketAddr>,
    shared: Arc<Shared>,
    held: Vec<Kept>,
    stranger: Consumer,
    senders: JoinSet<()>,
    receivers: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    in_flight: AtomicUsize,
    hurry: AtomicBool,
    /// Deliveries kept now until the fault strikes.
    spanning: AtomicUsize,
    /// How often a part of the fault has struck.
    strikes: AtomicUsize,
    senders_over: AtomicBool,
    receivers_over: AtomicBool,
    strangers: AtomicUsize,
    last_failure: Mutex<Option<String>>,
}

impl Workload {
    /// Holds some handles, then starts senders and receivers. `access` is what an application would be configured with.
    ///
    /// # Errors
    ///
    /// The messages whose handles are to be held cannot be sent and received.
    pub async fn start(access: &[SocketAddr], options: Options) -> Result<Self> {
        let oracle = Arc::new(Oracle::default());
        let shared = Arc::new(Shared::default());
        let stranger = Consumer::new(access, &format!("{}-strangers", options.group), &options.topic, "*", false)?;
        stranger.join(&options.topic).await;
        let held = hold(access, &options, &oracle, &shared).await?;
        let mut workload = Self {
            oracle,
            options,
            access: access.to_vec(),
            shared,
            held,
            stranger,
            senders: JoinSet::new(),
            receivers: JoinSet::new(),
        };
        workload.start_receivers()?;
        workload.start_senders()?;
        Ok(workload)
    }

    fn start_senders(&mut self) -> Result<()> {
        let producer = Arc::new(Producer::new(&self.access, &[&self.options.topic])?);
        for _ in 0..self.options.senders {
            let (producer, oracle, shared) = (producer.clone(), self.oracle.clone(), self.shared.clone());
            let options = self.options.clone();
            self.senders.spawn(async move {
                while !shared.senders_over.load(Ordering::Relaxed) {
                    let sequence = shared.next.fetch_add(1, Ordering::Relaxed);
                    oracle.sending(sequence);
                    shared.in_flight.fetch_add(1, Ordering::Relaxed);
                    let outcome = producer.send(&options.topic, &message_id(sequence), None, body(sequence)).await;
                    shared.in_flight.fetch_sub(1, Ordering::Relaxed);
                    match outcome {
                        Ok(sent) => oracle.sent(sequence, true, sent.calls),
                        Err(failure) => {
                            oracle.sent(sequence, false, failure.calls);
                            *shared.last_failure.lock().expect("no holder panics") = Some(failure.to_string());
                        }
                    }
                    if !shared.hurry.load(Ordering::Relaxed) {
                        tokio::time::sleep(options.pause).await;
                    }
                }
            });
        }
        Ok(())
    }

    fn start_receivers(&mut self) -> Result<()> {
        // Two processes' worth of consumers.
        let consumers = [self.consumer(&self.options.group)?, self.consumer(&self.options.group)?].map(Arc::new);
        for receiver in 0..self.options.receivers {
            let consumer = consumers[receiver % consumers.len()].clone();
            let (oracle, shared, options) = (self.oracle.clone(), self.shared.clone(), self.options.clone());
            self.receivers.spawn(async move {
                let mut count = 0_u64;
                let mut kept = JoinSet::new();
                while !shared.receivers_over.load(Ordering::Relaxed) {
                    let wait = Duration::from_secs(5);
                    let deliveries = match consumer.receive(&options.topic, 32, options.invisible, wait).await {
                        Ok(deliveries) => deliveries,
                        Err(failure) => {
                            *shared.last_failure.lock().expect("no holder panics") = Some(failure.to_string());
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            continue;
                        }
                    };
                    let mut acks = Vec::new();
                    for delivery in &deliveries {
                        if !oracle.received(delivery) {
                            shared.strangers.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        count += 1;
                        if delivery.attempt() == 1 && count.is_multiple_of(options.leave_one_in) {
                            continue;
                        }
                        let before = shared.hurry.load(Ordering::Relaxed);
                        if before && count % 2 == 1 && shared.spanning.load(Ordering::Relaxed) < SPANNING_MAX {
                            shared.spanning.fetch_add(1, Ordering::Relaxed);
                            kept.spawn(span(consumer.clone(), oracle.clone(), shared.clone(), delivery.clone()));
                            continue;
                        }
                        acks.push(acknowledge(&consumer, &oracle, delivery));
                    }
                    futures::future::join_all(acks).await;
                }
                kept.join_all().await;
            });
        }
        Ok(())
    }

    /// What each held handle, and those that are none, are answered after the fault.
    async fn use_handles(&mut self) -> Result<Vec<Held>> {
        let consumer = self.consumer(&self.options.group)?;
        let mut held = Vec::new();
        let mut tried = 0;
        for Kept { delivery, superseded } in std::mem::take(&mut self.held) {
            let mut wrong = Vec::new();
            if let Some(superseded) = &superseded
                && let Err(answer) = invariant::refused(consumer.ack_handle(&delivery, superseded).await)
            {
                wrong.push(format!("superseded {superseded}: {answer}"));
            }
            let refused = if superseded.is_some() && tried < TRIED {
                tried += 1;
                wrong.extend(invariant::forgeries(&consumer, &self.stranger, &delivery).await);
                // Only its own handle can do this; then nobody has it, and it must come back.
                change(&consumer, &self.oracle, &delivery, self.options.invisible).await.err()
            } else {
                acknowledge(&consumer, &self.oracle, &delivery).await.err().map(|failure| failure.to_string())
            };
            held.push(Held { delivery, refused, wrong });
        }
        Ok(held)
    }

    fn consumer(&self, group: &str) -> Result<Consumer> {
        Consumer::new(&self.access, group, &self.options.topic, "*", false)
    }

    /// Waits until `count` sends have been acknowledged that were begun since the fault, or since the start if it has not
    /// happened.
    ///
    /// # Errors
    ///
    /// They were not within `limit`.
    pub async fn acknowledged(&self, count: usize, limit: Duration) -> Result<()> {
        self.reaches("sends were acknowledged", count, limit, || self.oracle.acknowledged()).await
    }

    /// Waits until `count` more sends are acknowledged than there are now, after the fault.
    ///
    /// # Errors
    ///
    /// They were not within `limit`.
    pub async fn goes_on(&self, count: usize, limit: Duration) -> Result<()> {
        self.acknowledged(self.oracle.acknowledged() + count, limit).await
    }

    /// Waits until `count` more messages that were sent after the fault are delivered than there are now.
    ///
    /// # Errors
    ///
    /// They were not within `limit`.
    pub async fn delivers(&self, count: usize, limit: Duration) -> Result<()> {
        let count = self.oracle.delivered_after() + count;
        self.reaches("messages were delivered", count, limit, || self.oracle.delivered_after()).await
    }

    async fn reaches(&self, what: &str, count: usize, limit: Duration, counted: impl Fn() -> usize) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let so_far = counted();
            if so_far >= count {
                return Ok(());
            }
            if Instant::now() > deadline {
                let failure = self.shared.last_failure.lock().expect("no holder panics").clone();
                bail!(
                    "{so_far} of {count} {what} within {limit:?}; the last failure: {}",
                    failure.unwrap_or_else(|| "none".into())
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for enough acknowledgements, hurries all senders, and injects the fault while their calls are under way:
    /// `inject` does the fault, or each part of it, in a [`Workload::strike`].
    ///
    /// # Errors
    ///
    /// There were not enough acknowledgements, or the fault could not be injected, or never struck.
    pub async fn fault<A>(&self, inject: impl AsyncFnOnce() -> Result<A>) -> Result<A> {
        self.brace().await?;
        let before = self.shared.strikes.load(Ordering::Relaxed);
        let outcome = inject().await;
        self.relax();
        let struck = self.shared.strikes.load(Ordering::Relaxed) > before;
        ensure!(struck || outcome.is_err(), "nobody said when the fault struck");
        outcome
    }

    /// What of [`Workload::fault`] comes before the fault, which must follow soon.
    ///
    /// # Errors
    ///
    /// There were not enough acknowledgements.
    pub async fn brace(&self) -> Result<()> {
        self.acknowledged(invariant::ACKNOWLEDGED_MIN, Duration::from_secs(60)).await?;
        self.shared.hurry.store(true, Ordering::Relaxed);
        let enough = |count: &AtomicUsize, least: usize| count.load(Ordering::Relaxed) >= least;
        let ready = || {
            // A few answers may come at once in the moment of the fault.
            enough(&self.shared.in_flight, (invariant::IN_FLIGHT_MIN + 20).min(self.options.senders))
                && enough(&self.shared.spanning, invariant::SPANNING_MIN)
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !ready() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Does `part`, which is the fault or the last step that makes it one: a signal, a cut. The calls under way are counted
    /// just before it, and what is to count as after the fault must begin when it is done. Of several strikes the last
    /// one counts.
    pub fn strike<A>(&self, part: impl FnOnce() -> A) -> A {
        let in_flight = self.shared.in_flight.load(Ordering::Relaxed);
        let outcome = part();
        self.oracle.struck(in_flight);
        self.shared.strikes.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// What of [`Workload::fault`] comes after the fault.
    pub fn relax(&self) {
        self.shared.hurry.store(false, Ordering::Relaxed);
    }

    /// Waits for enough acknowledgements after the fault, stops the senders, acknowledges the held handles, and
    /// receives until everything acknowledged was delivered and everything delivered is acknowledged.
    ///
    /// # Errors
    ///
    /// Sends do not go on, or what was left does not come back.
    pub async fn finish(mut self) -> Result<Outcome> {
        let covered = self.acknowledged(invariant::ACKNOWLEDGED_MIN, Duration::from_secs(60)).await;
        covered.context("coverage: UNKNOWN: too little happened after the fault")?;
        self.shared.senders_over.store(true, Ordering::Relaxed);
        let held = self.use_handles().await?;
        while self.senders.join_next().await.is_some() {}
        let deadline = Instant::now() + self.options.invisible + Duration::from_secs(45);
        while (self.oracle.missing() > 0 || self.oracle.open() > 0) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.shared.receivers_over.store(true, Ordering::Relaxed);
        // The last polls end first: a message that wrongly comes back would show in them.
        while self.receivers.join_next().await.is_some() {}
        let history = self.oracle.history();
        let strangers = self.shared.strangers.load(Ordering::Relaxed);
        ensure!(strangers == 0, "{strangers} deliveries of messages that nobody sent");
        let open = self.oracle.open();
        let mut verdicts = vec![
            ("coverage", invariant::coverage(&history)),
            ("acked is delivered", invariant::acked_is_delivered(&history)),
            ("acked never returns", invariant::acked_never_returns(&history)),
            ("no early redelivery", invariant::no_early_redelivery(&history)),
            ("handles last as long as leases", invariant::handles_last(&history)),
            ("stored once", invariant::stored_once(&history)),
        ];
        if self.options.hold > 0 {
            verdicts.push(("handles survive", invariant::handles_survive(&held)));
            verdicts.push(("handles span the fault", invariant::handles_span(&history, self.options.invisible)));
        }
        let left = (open > 0).then(|| format!("{open} delivered messages were left and did not come back"));
        verdicts.push(("what is left comes back", Verdict::of(left)));
        let sends = history.sends.len();
        let unacknowledged = history.sends.values().filter(|send| send.acknowledged.is_none()).count();
        let gap = write_gap(&history.sends.values().filter_map(|send| send.acknowledged).collect::<Vec<_>>());
        let summary = format!(
            "{sends} sent ({unacknowledged} not acknowledged), {} copies delivered, {} acknowledged before and {} after \
             the fault with {} under way, {} fresh handles used after it, longest write gap {gap:?}",
            history.deliveries.len(),
            history.acknowledged_before,
            history.acknowledged_after,
            history.in_flight_at_fault,
            invariant::spanning(&history, self.options.invisible).len(),
        );
        Ok(Outcome { verdicts, summary, gap, unacknowledged, options: self.options })
    }
}

/// What a run proved.
pub struct Outcome {
    /// By property.
    pub verdicts: Vec<(&'static str, Verdict)>,
    /// Counts, for people.
    pub summary: String,
    /// Longest time between two acknowledged sends.
    pub gap: Duration,
    /// Sends that failed.
    pub unacknowledged: usize,
    options: Options,
}

impl Outcome {
    /// Adds that the replicas agree, prints everything, and fails unless every verdict is true.
    ///
    /// # Errors
    ///
    /// A verdict is false or unknown; the error has the end of every node's log.
    pub async fn judge(self, name: &str, cluster: &Cluster) -> Result<()> {
        self.judge_replicas(name, cluster, cluster.options.nodes).await
    }

    /// As [`Outcome::judge`] where only `replicas` nodes of each group are expected to have the data.
    ///
    /// # Errors
    ///
    /// As [`Outcome::judge`].
    pub async fn judge_replicas(mut self, name: &str, cluster: &Cluster, replicas: usize) -> Result<()> {
        for group in 0..cluster.options.groups {
            let filled = &invariant::FILLED_BY_CONSUMERS;
            let verdict = invariant::replicas_agree_on(cluster, group, replicas, filled).await;
            self.verdicts.push(("replicas agree", verdict));
            let Options { group: consumers, topic, invisible, .. } = &self.options;
            let limit = *invisible + Duration::from_secs(10);
            let verdict = invariant::nothing_stays_leased(cluster, group, consumers, topic, limit).await;
            self.verdicts.push(("nothing stays leased", verdict));
        }
        println!("{name}: {}", self.summary);
        for (property, verdict) in &self.verdicts {
            println!("{name}: {property}: {verdict}");
        }
        let failed: Vec<String> = self
            .verdicts
            .iter()
            .filter(|(_, verdict)| *verdict != Verdict::True)
            .map(|(property, verdict)| format!("{property}: {verdict}"))
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        let logs: String = (0..cluster.options.groups).map(|group| cluster.log_tails(group)).collect();
        bail!("{name}: {}\n{logs}", failed.join("\n"))
    }
}

/// Acknowledges a delivery and writes down what became of it.
pub(crate) async fn acknowledge(consumer: &Consumer, oracle: &Oracle, delivery: &Delivery) -> Result<(), Failure> {
    let outcome = consumer.ack(delivery).await;
    let fate = match &outcome {
        Ok(()) => Fate::Acknowledged(oracle.now()),
        Err(failure) if failure.may_pass() => Fate::Unknown,
        Err(failure) => Fate::Refused(oracle.now(), failure.to_string()),
    };
    oracle.fate(delivery, fate);
    outcome
}

/// Keeps a delivery until the fault strikes, or for [`KEPT_FOR`], and acknowledges it then until there is an answer, which is
/// a refusal when the lease has ended before anybody could give one.
async fn span(consumer: Arc<Consumer>, oracle: Arc<Oracle>, shared: Arc<Shared>, delivery: Delivery) {
    let struck = || shared.strikes.load(Ordering::Relaxed);
    let before = struck();
    while struck() == before && delivery.received.elapsed() < KEPT_FOR {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    shared.spanning.fetch_sub(1, Ordering::Relaxed);
    while acknowledge(&consumer, &oracle, &delivery).await.is_err_and(|failure| failure.may_pass())
        && delivery.received.elapsed() < delivery.invisible + ANSWERED_WITHIN
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Makes the lease of `delivery` end after `invisible` from now; gives the new handle, or why it was refused.
async fn change(
    consumer: &Consumer,
    oracle: &Oracle,
    delivery: &Delivery,
    invisible: Duration,
) -> Result<String, String> {
    let ends = oracle.now() + invisible.mul_f64(1.0 - invariant::SLEW);
    let changed = consumer.change_invisible(delivery, invisible).await;
    oracle.fate(delivery, Fate::Changed(ends));
    changed.map_err(|failure| failure.to_string())
}

/// Sends messages before the run and takes them under leases that outlast it, every second of them renewed.
async fn hold(access: &[SocketAddr], options: &Options, oracle: &Oracle, shared: &Shared) -> Result<Vec<Kept>> {
    if options.hold == 0 {
        return Ok(Vec::new());
    }
    let producer = Producer::new(access, &[&options.topic])?;
    let consumer = Consumer::new(access, &options.group, &options.topic, "*", false)?;
    consumer.join(&options.topic).await;
    for _ in 0..options.hold {
        let sequence = shared.next.fetch_add(1, Ordering::Relaxed);
        oracle.sending(sequence);
        let sent = producer.send(&options.topic, &message_id(sequence), None, body(sequence)).await?;
        oracle.sent(sequence, true, sent.calls);
    }
    let mut held = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while held.len() < options.hold {
        ensure!(Instant::now() < deadline, "only {} of {} messages came to be held", held.len(), options.hold);
        for delivery in consumer.receive(&options.topic, 32, HELD_LEASE, Duration::from_secs(5)).await? {
            ensure!(oracle.received(&delivery), "a message that nobody sent");
            if held.len() % 2 == 0 {
                held.push(Kept { delivery, superseded: None });
                continue;
            }
            let renewed = change(&consumer, oracle, &delivery, HELD_LEASE).await.map_err(anyhow::Error::msg)?;
            let superseded = Some(delivery.handle().to_owned());
            held.push(Kept { delivery: delivery.with_handle(renewed), superseded });
        }
    }
    Ok(held)
}

fn body(sequence: u64) -> Bytes {
    let mut body = vec![b'.'; 200];
    body[..8].copy_from_slice(&sequence.to_be_bytes());
    body.into()
}

/// Longest time between two neighbours.
fn write_gap(acknowledged: &[Duration]) -> Duration {
    let mut times = acknowledged.to_vec();
    times.sort();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
