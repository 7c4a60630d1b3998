//! What push consumers were given and may not have got.
//!
//! A renewed lease lasts as long as its client, which is right only once the client has its messages. The node that
//! answered the receive waits until the system at the client's end has acknowledged the answer, and confirms the lease
//! if it is still open by then. When this node dies before that, or the connection does, the lease ends by itself and
//! its messages come again.

use crate::broker::Node;
use crate::store::lease;
use crate::store::{ConsumerGroupId, LeaseId};
use parking_lot::Mutex;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{ConfirmLeases, LeaseName};
use raftmq_server::listener::Outgoing;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause between two looks, while there is something to look at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The connection has taken the last bytes of an answer this long after it was made.
const WRITTEN_AFTER: Duration = Duration::from_millis(50);
/// A client that finishes its messages within this needs no confirmation.
const OPEN_FOR: Duration = Duration::from_millis(300);
/// A group without a leader is asked again after this; meanwhile nobody looks at the connections.
const ASK_FOR: Duration = Duration::from_millis(500);
/// Leases of one command; the machine takes as many.
const LEASES_MAX: usize = 1_000;

/// An answer on its way.
struct Delivery {
    lease: LeaseName,
    given: Instant,
    outgoing: Outgoing,
    /// Bytes of the connection of which the answer is part.
    upto: Option<u64>,
    arrived: bool,
}

impl Delivery {
    /// Looks once more. False when the answer may never arrive.
    fn look(&mut self, now: Instant) -> bool {
        if self.arrived {
            return true;
        }
        if self.upto.is_none() && now.duration_since(self.given) >= WRITTEN_AFTER {
            self.upto = self.outgoing.written();
        }
        let Some(acknowledged) = self.outgoing.acknowledged() else { return false };
        self.arrived = self.upto.is_some_and(|upto| acknowledged >= upto);
        true
    }
}

/// The answers of this node to push consumers whose arrival is not certain yet.
#[derive(Default)]
pub(crate) struct Deliveries {
    under_way: Mutex<Vec<Delivery>>,
    added: Notify,
}

impl Deliveries {
    /// The answer that holds the messages of a lease was handed to the connection.
    pub(crate) fn gave(&self, lease: LeaseName, outgoing: Outgoing) {
        let delivery = Delivery { lease, given: Instant::now(), outgoing, upto: None, arrived: false };
        self.under_way.lock().push(delivery);
        self.added.notify_one();
    }

    /// These arrived, and nobody could be told.
    fn keep(&self, leases: &[LeaseName]) {
        let arrived = |lease: &LeaseName| Delivery {
            lease: *lease,
            given: Instant::now(),
            outgoing: Outgoing::default(),
            upto: None,
            arrived: true,
        };
        self.under_way.lock().extend(leases.iter().map(arrived));
    }

    /// Takes those that arrived at least `open_for` ago, and forgets those that may never.
    fn arrived(&self, open_for: Duration) -> Vec<LeaseName> {
        let now = Instant::now();
        let mut arrived = Vec::new();
        self.under_way.lock().retain_mut(|delivery| {
            if !delivery.look(now) {
                return false;
            }
            let due = delivery.arrived && now.duration_since(delivery.given) >= open_for;
            if due {
                arrived.push(delivery.lease);
            }
            !due
        });
        arrived
    }

    fn is_empty(&self) -> bool {
        self.under_way.lock().is_empty()
    }
}

/// Confirms leases until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let confirming = async {
        loop {
            if node.deliveries.is_empty() {
                node.deliveries.added.notified().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            confirm(&node, OPEN_FOR, ASK_FOR).await;
        }
    };
    stop.run_until_cancelled(confirming).await;
}

/// Confirms what has arrived by now: the node stops, and nobody else knows.
pub(crate) async fn finish(node: &Node, limit: Duration) {
    confirm(node, Duration::ZERO, limit).await;
}

async fn confirm(node: &Node, open_for: Duration, ask_for: Duration) {
    let arrived = node.deliveries.arrived(open_for);
    let state = node.group.state();
    let is_open = |name: &LeaseName| {
        let found = lease::lease(&state, ConsumerGroupId(name.consumer_group_id), LeaseId(name.lease_id));
        // Where the row cannot be read, the machine will say so.
        found.map_or(true, |lease| lease.is_some_and(|lease| lease.unconfirmed && !lease.ended))
    };
    let open: Vec<LeaseName> = arrived.into_iter().filter(is_open).collect();
    for leases in open.chunks(LEASES_MAX) {
        let command = ConfirmLeases { leases: leases.to_vec(), renew_max_ms: node.settings().grpc.renew_ms_max };
        let by = Some(Instant::now() + ask_for);
        if let Err(error) = node.proposer.submit(Kind::ConfirmLeases(command), Vec::new(), by).await {
            tracing::debug!(leases = leases.len(), %error, "deliveries could not be confirmed yet");
            node.deliveries.keep(leases);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Deliveries, LeaseName, OPEN_FOR};
    use raftmq_server::listener::Outgoing;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn what_was_given_on_a_connection_that_is_closed_did_not_arrive() {
        let deliveries = Deliveries::default();
        deliveries.gave(LeaseName { consumer_group_id: 1, lease_id: 2 }, Outgoing::default());
        tokio::time::advance(OPEN_FOR).await;
        assert!(!deliveries.is_empty());
        assert_eq!(deliveries.arrived(Duration::ZERO), []);
        assert!(deliveries.is_empty());
    }
}
