//! What clients do while something goes wrong, and what they must have seen: a file each, with its checker and the proof
//! that the checker notices.

mod delay;
mod fifo;
mod idempotent;
mod lease;
mod queue;
mod register;
mod transaction;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::tally::{Phase, Shared};
use crate::client::{Consumer, Delivery};
use crate::cluster::{Administration, Cluster};
use crate::invariant::Verdict;
use crate::oracle::Oracle;
use crate::workload::acknowledge;

/// Of each lease; the public API's minimum.
const LEASE: Duration = Duration::from_secs(10);
/// Of each receive; the broker's minimum.
const POLL: Duration = Duration::from_secs(5);
/// Everything that is to come has come within this, once the group is whole: a lease whose delivery was lost ends first.
const DRAINED_WITHIN: Duration = Duration::from_secs(45);

/// A workload of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sends and receives.
    Queue,
    /// Leases that are held, renewed and acknowledged late.
    Lease,
    /// Message groups.
    Fifo,
    /// Messages that wait for their time, and are recalled.
    Delay,
    /// Half messages, their ends, and questions about them.
    Transaction,
    /// Messages that are sent again.
    Idempotent,
    /// Settings of a topic and of a consumer group.
    Register,
}

/// What the workloads have of the group.
pub struct Scene {
    /// What an application would be configured with.
    pub access: Vec<SocketAddr>,
    /// In the order of the nodes.
    pub administrations: Vec<Administration>,
}

impl Scene {
    /// Of this group.
    ///
    /// # Errors
    ///
    /// An address is none.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let administrations = cluster.administrations(Duration::from_secs(4))?;
        Ok(Self { access: cluster.access(0), administrations })
    }
}

/// A workload under way.
#[tonic::async_trait(?Send)]
pub trait Running: Send + Sync {
    /// Waits until enough has happened in a phase for the run to prove something.
    async fn covered(&self, phase: Phase, limit: Duration) -> Result<()>;
    /// The fault comes next: calls are to be under way when it does.
    async fn brace(&self) -> Result<()> {
        Ok(())
    }
    /// From now on it is this phase.
    fn mark(&self, phase: Phase);
    /// Ends, drains and judges.
    async fn finish(self: Box<Self>, cluster: &Cluster) -> Result<Report>;
}

/// What a workload proved.
#[derive(Debug)]
pub struct Report {
    /// By property.
    pub verdicts: Vec<(&'static str, Verdict)>,
    /// Counts, for people.
    pub summary: String,
}

impl Report {
    /// All properties together, each counterexample under the name of its property.
    pub fn verdict(self) -> Verdict {
        let named = self.verdicts.into_iter().map(|(property, verdict)| match verdict {
            Verdict::False(reasons) => Verdict::False(vec![format!("{property}: {}", reasons.join("; "))]),
            Verdict::Unknown(reason) => Verdict::Unknown(format!("{property}: {reason}")),
            Verdict::True => Verdict::True,
        });
        named.fold(Verdict::True, Verdict::and)
    }
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Kind; 7] =
        [Self::Queue, Self::Lease, Self::Fifo, Self::Delay, Self::Transaction, Self::Idempotent, Self::Register];

    /// As in `WORKLOAD=`.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What clients do, and what is checked, for people.
    pub fn meaning(self) -> (&'static str, &'static str) {
        let (_, does, checks) = self.row();
        (does, checks)
    }

    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Queue => queue::ROW,
            Self::Lease => lease::ROW,
            Self::Fifo => fifo::ROW,
            Self::Delay => delay::ROW,
            Self::Transaction => transaction::ROW,
            Self::Idempotent => idempotent::ROW,
            Self::Register => register::ROW,
        }
    }

    /// The workload of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Makes its topic and consumer group.
    ///
    /// # Errors
    ///
    /// No node takes them.
    pub async fn prepare(self, cluster: &Cluster) -> Result<()> {
        let message_type = match self {
            Self::Fifo => "FIFO",
            Self::Delay => "DELAY",
            Self::Transaction => "TRANSACTION",
            _ => "NORMAL",
        };
        cluster.put_topic(&self.topic(), 4, Some(message_type)).await?;
        cluster.put_consumer_group(&self.consumers(), false, None).await
    }

    /// Starts its clients.
    ///
    /// # Errors
    ///
    /// They cannot begin.
    pub async fn start(self, scene: &Scene, seed: u64) -> Result<Box<dyn Running>> {
        Ok(match self {
            Self::Queue => Box::new(queue::Queue::start(scene).await?),
            Self::Lease => Box::new(lease::Leases::start(scene, seed).await?),
            Self::Fifo => Box::new(fifo::Fifo::start(scene, seed).await?),
            Self::Delay => Box::new(delay::Delays::start(scene, seed).await?),
            Self::Transaction => Box::new(transaction::Transactions::start(scene, seed).await?),
            Self::Idempotent => Box::new(idempotent::Again::start(scene, seed).await?),
            Self::Register => Box::new(register::Registers::start(scene, seed)?),
        })
    }

    fn topic(self) -> String {
        format!("matrix-{}", self.name())
    }

    fn consumers(self) -> String {
        format!("readers-of-{}", self.name())
    }
}

/// What the group of every run is configured with: the workloads may run side by side.
pub fn settings() -> Vec<(String, String)> {
    transaction::SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Receives and acknowledges until receivers end; `see` is shown every delivery first.
async fn read(kind: Kind, consumer: &Consumer, oracle: &Oracle, shared: &Shared, see: impl Fn(&Delivery)) {
    while shared.receives() {
        match consumer.receive(&kind.topic(), 32, LEASE, POLL).await {
            Ok(deliveries) => {
                deliveries.iter().for_each(&see);
                let known = deliveries.iter().filter(|delivery| oracle.received(delivery));
                futures::future::join_all(known.map(|delivery| acknowledge(consumer, oracle, delivery))).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
