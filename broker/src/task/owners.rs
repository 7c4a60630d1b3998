//! Settles who keeps the message groups of topics that were just made, by the rule of `namesrv/owners.rs`. Until then none
//! of their messages is stored.

use crate::broker::Node;
use crate::namesrv::{Step, hosts_in, row_of, step};
use crate::store::topic::topic;
use futures::{StreamExt, stream};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{FixOwners, Reply, Topic, reply};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Before the next look at what could not be settled; doubled with each further one.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(20);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(1);

/// What was decided is proposed within this time, or decided anew.
const PROPOSED_WITHIN: Duration = Duration::from_secs(2);

/// One question to a name server asks for so many; of more, others come next.
const TOPICS_MAX: usize = 1_000;

/// So many are proposed side by side.
const FIXES_MAX: usize = 64;

/// It is told that a topic waits once it has for this long.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// Settles whatever is open, until dropped.
pub(super) async fn run(node: &Node) {
    let mut open = node.reporter.open_topics();
    let mut waiting: BTreeMap<String, (Instant, String)> = BTreeMap::new();
    let mut again_after = AGAIN_AFTER_MIN;
    let mut first = 0_usize;
    loop {
        let mut names = open.borrow_and_update().clone();
        if names.len() > TOPICS_MAX {
            let turn = first % names.len();
            names.rotate_left(turn);
            names.truncate(TOPICS_MAX);
            first = first.wrapping_add(TOPICS_MAX);
        }
        waiting.retain(|name, _| names.contains(name));
        if names.is_empty() {
            again_after = AGAIN_AFTER_MIN;
            if open.changed().await.is_err() {
                return;
            }
            continue;
        }
        settle(node, &names, &mut waiting).await;
        tokio::select! {
            changed = open.changed() => match changed {
                Ok(()) => again_after = AGAIN_AFTER_MIN,
                Err(_) => return,
            },
            () = tokio::time::sleep(again_after) => again_after = (again_after * 2).min(AGAIN_AFTER_MAX),
        }
    }
}

/// One look, and what follows from it.
async fn settle(node: &Node, names: &[String], waiting: &mut BTreeMap<String, (Instant, String)>) {
    let routes = node.reporter.routes();
    // The rows first: they must stand in the answers as they are here.
    let rows: Vec<Topic> = names
        .iter()
        .filter_map(|name| topic(&node.group.state(), name).ok().flatten())
        .filter(|row| row.fifo_open)
        .collect();
    let answers = routes.ask_about(names).await;
    let (own, others) = (&node.config.broker_group, routes.others());
    let mut fixes = Vec::new();
    for row in rows {
        let table = if row.fifo_owners.is_empty() { vec![own.clone()] } else { row.fifo_owners.clone() };
        let decided = match hosts_in(own, &row, &answers, &others) {
            Ok(hosts) => step(&row.name, own, &table, &hosts),
            Err(why) => Step::Wait(why),
        };
        let (owners, settles) = match decided {
            Step::Take(owners) => (owners, false),
            Step::Settle(owners) => (owners, true),
            Step::Wait(why) => {
                tell(&row.name, why, waiting);
                continue;
            }
        };
        let fix = FixOwners {
            topic: row.name.clone(),
            id: row.id,
            from: row.fifo_owners,
            to: row_of(own, owners),
            settle: settles,
        };
        fixes.push(fix);
    }
    // Side by side: they share syncs. Each was decided on what its row was, and is refused once that is not so.
    stream::iter(fixes)
        .for_each_concurrent(FIXES_MAX, |fix| async move {
            let (topic, deadline) = (fix.topic.clone(), Some(Instant::now() + PROPOSED_WITHIN));
            let (from, to, settles) = (fix.from.clone(), fix.to.clone(), fix.settle);
            match node.proposer.submit(Kind::FixOwners(fix), Vec::new(), deadline).await {
                Ok(Reply { kind: Some(reply::Kind::Topic(row)), .. }) => {
                    // Otherwise it was decided on what the row is no longer.
                    if row.fifo_owners == to && row.fifo_open != settles {
                        let (from, to, by) = (from.join(","), to.join(","), &*node.config.broker_group);
                        let (name, version) = (&*topic, row.version);
                        tracing::info!(target: "audit", by, name, version, from, to, settles,
                            "the broker groups that keep the message groups of a topic were agreed on");
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, topic, "who keeps its message groups was not settled"),
            }
        })
        .await;
}

/// One line for each reason that holds a topic up for long.
fn tell(topic: &str, why: String, waiting: &mut BTreeMap<String, (Instant, String)>) {
    let (since, told) = waiting.entry(topic.to_owned()).or_insert_with(|| (Instant::now(), String::new()));
    if since.elapsed() >= TOLD_AFTER && *told != why {
        tracing::warn!(topic, why, "messages of message groups are refused: who keeps them is not agreed yet");
        *told = why;
    }
}
