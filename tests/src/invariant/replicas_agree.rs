//! Every replica has the same rows at the same applied index.

use std::time::{Duration, Instant};

use raftmq_proto::admin::{DumpRequest, DumpResponse};

use super::Verdict;
use crate::cluster::Cluster;

/// Tables that no group with a topic has empty.
const ALWAYS_FILLED: [&str; 3] = ["machine", "node", "topic"];

/// Tables that are not empty where messages were sent, received, acknowledged and left just before.
pub const FILLED_BY_CONSUMERS: [&str; 12] = [
    "machine",
    "node",
    "topic",
    "consumer_group",
    "queue",
    "message",
    "subscription",
    "progress",
    "lease",
    "deadline",
    "sent",
    "retention",
];

/// Dumps the state of the running nodes of a group, `replicas` at least, until all are of one applied index, and
/// compares them.
pub async fn replicas_agree(cluster: &Cluster, group: usize, replicas: usize) -> Verdict {
    replicas_agree_on(cluster, group, replicas, &ALWAYS_FILLED).await
}

/// As [`replicas_agree`], where the tables `filled` must have rows: replicas that have all forgotten theirs agree too.
pub async fn replicas_agree_on(cluster: &Cluster, group: usize, replicas: usize, filled: &[&str]) -> Verdict {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut last = String::from("no node runs");
    while Instant::now() < deadline {
        match dump(cluster, group).await {
            Ok(dumps) => {
                let indexes: Vec<u64> = dumps.iter().map(|dump| dump.applied_index).collect();
                if indexes.windows(2).all(|pair| pair[0] == pair[1]) {
                    return compare(&dumps, replicas, filled);
                }
                last = format!("applied indexes {indexes:?}");
            }
            Err(failure) => last = format!("{failure:#}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Verdict::Unknown(format!("the replicas were never seen at one applied index: {last}"))
}

async fn dump(cluster: &Cluster, group: usize) -> anyhow::Result<Vec<DumpResponse>> {
    let mut dumps: Vec<DumpResponse> = Vec::new();
    for number in cluster.running(group) {
        let at_least = dumps.iter().map(|dump| dump.applied_index).max().unwrap_or_default();
        let mut client = cluster.admin_client(number).await?;
        dumps.push(client.dump(DumpRequest { at_least }).await?.into_inner());
    }
    Ok(dumps)
}

fn compare(dumps: &[DumpResponse], replicas: usize, filled: &[&str]) -> Verdict {
    if dumps.len() < replicas {
        return Verdict::Unknown(format!("{} of {replicas} replicas run", dumps.len()));
    }
    let first = &dumps[0];
    let rows = |name: &str| first.tables.iter().find(|table| table.name == name).map_or(0, |table| table.rows);
    let empty = filled.iter().filter(|name| rows(name) == 0).map(|name| format!("the table {name} is empty"));
    let differences = dumps[1..].iter().flat_map(|other| {
        let (one, two) = (first.node, other.node);
        let mut names: Vec<&str> = first.tables.iter().chain(&other.tables).map(|table| table.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(move |name| {
            let of = |dump: &DumpResponse| {
                let table = dump.tables.iter().find(|table| table.name == name);
                table.map(|table| (table.rows, table.bytes, table.hash))
            };
            let (mine, theirs) = (of(first), of(other));
            let at = first.applied_index;
            (mine != theirs).then(|| format!("{name} at {at}: {mine:?} on {one:x}, {theirs:?} on {two:x}"))
        })
    });
    Verdict::of(empty.chain(differences))
}

#[cfg(test)]
mod tests {
    use raftmq_proto::admin::TableDump;

    use super::*;

    fn dump(node: u64, tables: &[(&str, u64)]) -> DumpResponse {
        let table =
            |(name, rows): &(&str, u64)| TableDump { name: (*name).to_owned(), rows: *rows, ..Default::default() };
        DumpResponse { node, tables: tables.iter().map(table).collect(), ..Default::default() }
    }

    #[test]
    fn what_differs_and_what_all_have_lost_is_seen() {
        let check = |one: &[(&str, u64)], two: &[(&str, u64)], expected: &str| {
            let verdict = compare(&[dump(1, one), dump(2, two)], 2, &["queue"]).to_string();
            assert!(verdict.starts_with(expected), "{one:?}, {two:?}: {verdict}");
        };
        check(&[("queue", 1), ("lease", 0)], &[("queue", 1), ("lease", 0)], "true");
        check(&[("queue", 0), ("lease", 1)], &[("queue", 0), ("lease", 1)], "FALSE: the table queue is empty");
        check(&[("lease", 1)], &[("lease", 1)], "FALSE: the table queue is empty");
        check(&[("queue", 1)], &[("queue", 2)], "FALSE: queue at 0");
        check(&[("queue", 1)], &[("queue", 1), ("lease", 1)], "FALSE: lease at 0");
        assert!(matches!(compare(&[dump(1, &[("queue", 1)])], 2, &[]), Verdict::Unknown(_)));
    }
}
