//! Proposes a Tick when the earliest deadline is due.

use crate::broker::Node;
use crate::store;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Tick, reply};
use std::time::Duration;

/// Looks again after this even when nothing seems due: cluster time may have stepped forward.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Deadlines within this of each other share a Tick.
const TOGETHER: Duration = Duration::from_millis(5);

/// Runs until the task is dropped.
pub(super) async fn run(node: &Node) {
    loop {
        let now = node.proposer.now();
        let horizon = now + u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(u64::MAX);
        let wait = match store::due::earliest(&node.group.state(), horizon) {
            Ok(due) => due.map_or(LOOK_EVERY, |due| Duration::from_millis(due.saturating_sub(now))),
            Err(error) => {
                tracing::error!(%error, "cannot read what is due");
                LOOK_EVERY
            }
        };
        if !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
                () = node.outlets.due.notified() => tokio::time::sleep(TOGETHER).await,
            }
            continue;
        }
        match node.proposer.submit(Kind::Tick(Tick {}), Vec::new(), None).await {
            Ok(reply) => {
                let more = matches!(reply.kind, Some(reply::Kind::Ticked(ticked)) if ticked.more);
                if !more {
                    // What was due by the entry's stamp is done; the estimate here may run a little ahead of it.
                    tokio::time::sleep(TOGETHER).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "tick was not carried out");
                tokio::time::sleep(TOGETHER).await;
            }
        }
    }
}
