//! Unique sends, received and acknowledged by competing consumers; one in fifty is left to come back.

use std::time::Duration;

use anyhow::Result;

use super::{Kind, LEASE, Report, Running, Scene};
use crate::cluster::Cluster;
use crate::invariant;
use crate::matrix::tally::Phase;
use crate::workload::{Options, Workload};

pub(super) const ROW: (&str, &str, &str) = (
    "queue",
    "unique sends; receive and ack by competing consumers, one in 50 is left",
    "every acknowledged send is delivered; none comes back that was acknowledged; a second delivery only after the lease \
     of the first; stored at most as often as it was sent; no lease is left",
);

/// The clients of the other fault tests, without handles that are held: [`super::lease`] has those.
pub(super) struct Queue {
    workload: Workload,
}

impl Queue {
    pub(super) async fn start(scene: &Scene) -> Result<Self> {
        let options = Options {
            topic: Kind::Queue.topic(),
            group: Kind::Queue.consumers(),
            pause: Duration::from_millis(100),
            invisible: LEASE,
            hold: 0,
            ..Options::default()
        };
        Ok(Self { workload: Workload::start(&scene.access, options).await? })
    }
}

#[tonic::async_trait(?Send)]
impl Running for Queue {
    async fn covered(&self, phase: Phase, limit: Duration) -> Result<()> {
        match phase {
            Phase::Before => self.workload.acknowledged(invariant::ACKNOWLEDGED_MIN, limit).await,
            // What was under way at the fault is counted at it.
            Phase::During => Ok(()),
            Phase::After => self.workload.goes_on(invariant::ACKNOWLEDGED_MIN, limit).await,
        }
    }

    async fn brace(&self) -> Result<()> {
        self.workload.brace().await
    }

    fn mark(&self, phase: Phase) {
        if phase == Phase::During {
            self.workload.strike(|| ());
            self.workload.relax();
        }
    }

    async fn finish(self: Box<Self>, cluster: &Cluster) -> Result<Report> {
        let outcome = self.workload.finish().await?;
        let (summary, mut verdicts) = (outcome.summary, outcome.verdicts);
        let (consumers, topic) = (Kind::Queue.consumers(), Kind::Queue.topic());
        let leased =
            invariant::nothing_stays_leased(cluster, 0, &consumers, &topic, LEASE + Duration::from_secs(10)).await;
        verdicts.push(("nothing stays leased", leased));
        Ok(Report { verdicts, summary })
    }
}
