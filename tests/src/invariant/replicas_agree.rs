//! Every replica has the same rows at the same applied index.

use std::time::{Duration, Instant};

use raftmq_proto::admin::{DumpRequest, DumpResponse};

use super::Verdict;
use crate::cluster::Cluster;

/// The table that the store keeps for itself.
const OWN_TABLE: &str = "raft";

/// Dumps the state of the running nodes of a group, `replicas` at least, until all are of one applied index, and
/// compares them.
pub async fn replicas_agree(cluster: &Cluster, group: usize, replicas: usize) -> Verdict {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut last = String::from("no node runs");
    while Instant::now() < deadline {
        match dump(cluster, group).await {
            Ok(dumps) => {
                let indexes: Vec<u64> = dumps.iter().map(|dump| dump.applied_index).collect();
                if indexes.windows(2).all(|pair| pair[0] == pair[1]) {
                    return compare(&dumps, replicas);
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

fn compare(dumps: &[DumpResponse], replicas: usize) -> Verdict {
    if dumps.len() < replicas {
        return Verdict::Unknown(format!("{} of {replicas} replicas run", dumps.len()));
    }
    let first = &dumps[0];
    // How far the state is, and who the members are, is never empty.
    let of_queues = first.tables.iter().filter(|table| table.name != OWN_TABLE);
    if of_queues.map(|table| table.rows).sum::<u64>() == 0 {
        return Verdict::False(vec!["every table is empty".into()]);
    }
    let differences = dumps[1..].iter().flat_map(|other| {
        let tables = first.tables.iter().map(|table| {
            let twin = other.tables.iter().find(|twin| twin.name == table.name);
            (table, twin.map(|twin| (twin.rows, twin.bytes, twin.hash)))
        });
        tables.filter(|(table, twin)| *twin != Some((table.rows, table.bytes, table.hash))).map(|(table, twin)| {
            let mine = (table.rows, table.bytes, table.hash);
            let (one, two) = (first.node, other.node);
            format!("{} at {}: {mine:?} on {one:x}, {twin:?} on {two:x}", table.name, first.applied_index)
        })
    });
    Verdict::of(differences)
}
