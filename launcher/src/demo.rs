//! The demonstration: sequence numbers go in and come out while the leader is killed in the middle.
//!
//! Producers repeat a number until it is acknowledged, on another node each time, as SDKs do. Whatever was acknowledged
//! must come out; that and what came out twice is counted at the end.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use prost_types::Timestamp;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, INVISIBLE, create_topic},
    layout::{BROKER_GROUP, Layout},
    status,
    supervisor::{self, Event, Programs, Supervisor},
};

const TOPIC: &str = "Demonstration";
const CONSUMER_GROUP: &str = "DemonstrationConsumers";

/// Producers that send one message at a time, and consumers.
const PRODUCERS: usize = 16;
const CONSUMERS: usize = 3;

/// Load before the leader is killed, and after it.
const BEFORE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(6);

/// Fewer acknowledgements than this on either side of the kill prove nothing.
const ACKNOWLEDGED_MIN: usize = 100;

/// Until a first leader is there, and a next one.
const ELECTION_MAX: Duration = Duration::from_secs(30);

/// A message whose lease was lost with an answer comes back after its invisible duration; some time more to take it.
const DRAIN_MAX: Duration = Duration::from_secs(INVISIBLE.as_secs() + 20);

/// Pause before a failed call is repeated on the next node.
const REPEAT_PAUSE: Duration = Duration::from_millis(10);

/// How often each place in a queue was delivered.
type Deliveries = HashMap<(i32, i64), u64>;

/// What was seen by producers and consumers.
#[derive(Default)]
struct Seen {
    /// Sequence number and when it was acknowledged, in order of time.
    acknowledged: Mutex<Vec<(u64, Instant)>>,
    /// Sends that were repeated because their outcome was not known.
    repeated: AtomicU64,
    /// Per sequence number.
    delivered: Mutex<HashMap<u64, Deliveries>>,
    /// Receipt handles that a node refused.
    refused: AtomicU64,
}

/// What the demonstration found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Messages answered OK, and those of them before and after the kill.
    pub acknowledged: usize,
    /// See `acknowledged`.
    pub acknowledged_before: usize,
    /// See `acknowledged`.
    pub acknowledged_after: usize,
    /// Different sequence numbers that came out.
    pub delivered: usize,
    /// Acknowledged and never delivered.
    pub lost: usize,
    /// Stored twice, because a send was repeated.
    pub stored_twice: usize,
    /// Delivered again from the same place.
    pub delivered_again: u64,
    /// Longest time without an acknowledgement around the kill.
    pub gap: Duration,
}

/// Runs it in a temporary folder on free ports and prints the timeline. An error when anything acknowledged was lost,
/// or when too little happened to say so.
pub async fn run() -> anyhow::Result<()> {
    let data = std::env::temp_dir().join(format!("raftmq-demo-{}", std::process::id()));
    let outcome = run_in(&data).await;
    match &outcome {
        Ok(_) => drop(std::fs::remove_dir_all(&data)),
        Err(_) => println!("data and logs are kept in {}", data.display()),
    }
    outcome
}

async fn run_in(data: &Path) -> anyhow::Result<()> {
    let timeline = Timeline { start: Instant::now() };
    // It runs for seconds: nobody looks at pages.
    let layout = Layout { dashboard: None, ..Layout::on_free_ports(data)? };
    let (events, heard) = mpsc::channel(64);
    let supervisor = Supervisor::start(&layout, &Programs::beside_this_one()?, events)?;
    let narrator = tokio::spawn(narrate(timeline.clone(), heard));
    timeline.say(&format!("two name servers and three broker nodes started, data in {}", data.display()));
    let verdict = act(&timeline, &layout).await;
    supervisor.stop().await;
    narrator.await.context("the narrator ends when nobody speaks")?;
    let verdict = verdict?;
    println!("{}", report(&verdict));
    judge(&verdict)
}

/// The three acts: load, kill under load, drain.
async fn act(timeline: &Timeline, layout: &Layout) -> anyhow::Result<Verdict> {
    let leader = status::leader_after(layout, 0, ELECTION_MAX).await?;
    timeline.say(&format!("{} leads term {}", layout.brokers[leader.member].label, leader.term));
    let node = layout.brokers.first().context("a cluster has nodes")?;
    create_topic(&node.admin_address(), TOPIC).await?;

    let seen = Arc::new(Seen::default());
    let (stop_sending, stop_receiving) = (CancellationToken::new(), CancellationToken::new());
    let mut producers = JoinSet::new();
    let numbers = Arc::new(AtomicU64::new(0));
    for place in 0..PRODUCERS {
        let clients = clients(layout, &format!("demo-producer-{place}"))?;
        producers.spawn(produce(clients, place, numbers.clone(), seen.clone(), stop_sending.clone()));
    }
    let mut consumers = JoinSet::new();
    for place in 0..CONSUMERS {
        let clients = clients(layout, &format!("demo-consumer-{place}"))?;
        consumers.spawn(consume(clients, place, seen.clone(), stop_receiving.clone()));
    }
    timeline.say(&format!("{PRODUCERS} producers and {CONSUMERS} consumers at work, on all three nodes"));
    sleep(BEFORE).await;

    let killed_at = Instant::now();
    let label = &layout.brokers[leader.member].label;
    let pid = supervisor::kill(layout, label)?;
    timeline.say_at(killed_at, &format!("kill -9 {label}, the leader (process {pid})"));
    let next = status::leader_after(layout, leader.term, ELECTION_MAX).await?;
    timeline.say(&format!("{} leads term {}", layout.brokers[next.member].label, next.term));
    sleep(AFTER).await;
    stop_sending.cancel();
    while let Some(ended) = producers.join_next().await {
        ended.context("a producer does not panic")?;
    }
    let (gap, resumed_at) = longest_gap(&seen.acknowledged.lock(), killed_at);
    timeline.say_at(resumed_at, &format!("sends are answered OK again after {} ms", gap.as_millis()));
    timeline.say("producers stopped; waiting for what is still to be delivered");

    let deadline = Instant::now() + DRAIN_MAX;
    while missing(&seen) > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    stop_receiving.cancel();
    while let Some(ended) = consumers.join_next().await {
        ended.context("a consumer does not panic")?;
    }
    timeline.say("consumers stopped");
    let refused = seen.refused.load(Ordering::Relaxed);
    if refused > 0 {
        timeline.say(&format!("{refused} receipt handles were refused: their messages had come back meanwhile"));
    }
    Ok(verdict(&seen, killed_at, gap))
}

async fn produce(
    clients: Vec<Client>,
    place: usize,
    numbers: Arc<AtomicU64>,
    seen: Arc<Seen>,
    stop: CancellationToken,
) {
    let mut node = place % clients.len();
    while !stop.is_cancelled() {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        // A number that was begun is repeated until it is acknowledged, also after the end of the load.
        loop {
            let id = format!("01{number:030X}");
            match clients[node].send(TOPIC, &id, number.to_be_bytes().to_vec(), wall_clock()).await {
                Ok(()) => break,
                Err(_) => {
                    seen.repeated.fetch_add(1, Ordering::Relaxed);
                    node = (node + 1) % clients.len();
                    sleep(REPEAT_PAUSE).await;
                }
            }
        }
        seen.acknowledged.lock().push((number, Instant::now()));
    }
}

async fn consume(clients: Vec<Client>, place: usize, seen: Arc<Seen>, stop: CancellationToken) {
    let mut node = place % clients.len();
    while !stop.is_cancelled() {
        let received = tokio::select! {
            received = clients[node].receive(TOPIC, CONSUMER_GROUP) => received,
            () = stop.cancelled() => return,
        };
        let Ok(messages) = received else {
            node = (node + 1) % clients.len();
            sleep(REPEAT_PAUSE).await;
            continue;
        };
        if messages.is_empty() {
            continue;
        }
        {
            let mut delivered = seen.delivered.lock();
            for message in &messages {
                if let Ok(bytes) = message.body.as_slice().try_into() {
                    *delivered.entry(u64::from_be_bytes(bytes)).or_default().entry(message.place).or_default() += 1;
                }
            }
        }
        // A handle is valid on every node: what one node did not answer is acknowledged through the next.
        for _ in 0..clients.len() {
            match clients[node].ack(TOPIC, CONSUMER_GROUP, &messages).await {
                Ok(refused) => {
                    seen.refused.fetch_add(refused as u64, Ordering::Relaxed);
                    break;
                }
                Err(_) => node = (node + 1) % clients.len(),
            }
        }
    }
}

fn clients(layout: &Layout, id: &str) -> anyhow::Result<Vec<Client>> {
    layout.brokers.iter().map(|broker| Client::new(&broker.grpc_address(), id, BROKER_GROUP)).collect()
}

fn missing(seen: &Seen) -> usize {
    let delivered = seen.delivered.lock();
    seen.acknowledged.lock().iter().filter(|(number, _)| !delivered.contains_key(number)).count()
}

/// The longest time between two acknowledgements that ends after the kill, and when it ended.
fn longest_gap(acknowledged: &[(u64, Instant)], killed_at: Instant) -> (Duration, Instant) {
    let mut times: Vec<Instant> = acknowledged.iter().map(|(_, at)| *at).collect();
    times.sort_unstable();
    let pairs = times.windows(2).filter(|pair| pair[1] >= killed_at);
    pairs.map(|pair| (pair[1] - pair[0], pair[1])).max_by_key(|(gap, _)| *gap).unwrap_or((Duration::ZERO, killed_at))
}

fn verdict(seen: &Seen, killed_at: Instant, gap: Duration) -> Verdict {
    let delivered = seen.delivered.lock();
    let acknowledged = seen.acknowledged.lock();
    let numbers: HashSet<u64> = acknowledged.iter().map(|(number, _)| *number).collect();
    let before = acknowledged.iter().filter(|(_, at)| *at < killed_at).count();
    Verdict {
        acknowledged: numbers.len(),
        acknowledged_before: before,
        acknowledged_after: acknowledged.len() - before,
        delivered: delivered.len(),
        lost: numbers.iter().filter(|number| !delivered.contains_key(number)).count(),
        stored_twice: delivered.values().map(|places| places.len() - 1).sum(),
        delivered_again: delivered.values().flat_map(HashMap::values).map(|times| times - 1).sum(),
        gap,
    }
}

fn report(verdict: &Verdict) -> String {
    let Verdict { acknowledged, delivered, lost, stored_twice, delivered_again, .. } = verdict;
    format!(
        "\n  acknowledged  {acknowledged}\n  delivered     {delivered}\n  lost          {lost}\n  duplicated    {} \
         ({stored_twice} sent again without knowing the outcome, {delivered_again} delivered again without an acknowledgement)",
        *stored_twice as u64 + delivered_again
    )
}

fn judge(verdict: &Verdict) -> anyhow::Result<()> {
    if verdict.lost > 0 {
        bail!("{} acknowledged messages were lost", verdict.lost);
    }
    if verdict.acknowledged_before < ACKNOWLEDGED_MIN || verdict.acknowledged_after < ACKNOWLEDGED_MIN {
        bail!(
            "{} acknowledgements before the kill and {} after it are too few to prove anything",
            verdict.acknowledged_before,
            verdict.acknowledged_after
        );
    }
    Ok(())
}

#[derive(Clone)]
struct Timeline {
    start: Instant,
}

impl Timeline {
    fn say(&self, what: &str) {
        self.say_at(Instant::now(), what);
    }

    fn say_at(&self, at: Instant, what: &str) {
        println!("{:8.3} s  {what}", (at - self.start).as_secs_f64());
    }
}

async fn narrate(timeline: Timeline, mut heard: mpsc::Receiver<Event>) {
    while let Some(event) = heard.recv().await {
        match event {
            Event::Started { label, pid, again: true } => timeline.say(&format!("{label} runs again, process {pid}")),
            Event::Started { again: false, .. } => {}
            Event::Died { label, how, .. } => timeline.say(&format!("{label} {how}")),
            Event::CannotStart { label, error } => timeline.say(&format!("{label} cannot start: {error}")),
        }
    }
}

/// For the messages' birth times, which are the client's to say.
#[allow(clippy::disallowed_methods)]
fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        time::{Duration, Instant},
    };

    use super::{Seen, judge, longest_gap, verdict};

    #[test]
    fn the_gap_is_the_longest_one_that_ends_after_the_kill() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let acknowledged: Vec<(u64, Instant)> =
            [0, 900, 1000, 1010, 1400, 1410].iter().enumerate().map(|(i, ms)| (i as u64, at(*ms))).collect();
        assert_eq!(longest_gap(&acknowledged, at(1005)), (Duration::from_millis(390), at(1400)));
    }

    #[test]
    fn lost_and_duplicated_are_counted() {
        let seen = Seen::default();
        let start = Instant::now();
        seen.acknowledged.lock().extend([(1, start), (2, start), (3, start)]);
        seen.delivered.lock().insert(1, HashMap::from([((0, 7), 1), ((1, 3), 1)]));
        seen.delivered.lock().insert(2, HashMap::from([((0, 8), 3)]));
        let verdict = verdict(&seen, start, Duration::ZERO);
        assert_eq!((verdict.acknowledged, verdict.delivered, verdict.lost), (3, 2, 1));
        assert_eq!((verdict.stored_twice, verdict.delivered_again), (1, 2));
        assert!(judge(&verdict).expect_err("one is lost").to_string().contains("1 acknowledged messages were lost"));
    }
}
