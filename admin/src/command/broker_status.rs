//! `brokerStatus`: the figures of a node under RocketMQ's names, as far as there are such figures here.

use super::Where;
use crate::connect;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::time::now_ms;
use clap::Args;
use raftmq_proto::admin::{GroupStatusRequest, GroupStatusResponse};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Rates are taken over this.
const SPAN: Duration = Duration::from_secs(1);

/// Show the figures of a node, or of all nodes of a cluster.
///
/// Counts are since the start of the node, rates over the second in which it is asked. What is not known has no line.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin brokerStatus -n localhost:9876 -b 127.0.0.1:10911")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Two looks at a node, so long apart.
struct Looks {
    before: GroupStatusResponse,
    after: GroupStatusResponse,
    apart: Duration,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let addresses = arguments.place.nodes(directory).await?;
    let mut calls = JoinSet::new();
    for (place, address) in addresses.iter().enumerate() {
        let mut node = connect::admin(address, &directory.token)?;
        calls.spawn(async move {
            let began = Instant::now();
            let looks = async {
                let before = node.group_status(GroupStatusRequest {}).await?.into_inner();
                sleep(SPAN).await;
                Ok((before, node.group_status(GroupStatusRequest {}).await?.into_inner()))
            };
            let looks = looks.await.map(|(before, after)| Looks { before, after, apart: began.elapsed() });
            (place, looks)
        });
    }
    let mut seen = BTreeMap::new();
    while let Some(joined) = calls.join_next().await {
        if let Ok((place, looks)) = joined {
            seen.insert(place, looks);
        }
    }
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for (address, looks) in addresses.iter().zip(seen.into_values()) {
        let looks: Looks = match looks {
            Ok(looks) => looks,
            Err(status) => {
                failures.push(connect::at(address, &status));
                continue;
            }
        };
        let figures = figures(&looks, now_ms());
        // RocketMQ names the node where there may be several.
        let node = if addresses.len() > 1 { format!("{address:<24} ") } else { String::new() };
        for (key, value) in &figures {
            let _ = writeln!(text, "{node}{key:<32}: {value}");
        }
        let status = &looks.after;
        let figures: Map<_, _> = figures.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        rows.push(json!({
            "brokerName": status.broker_group,
            "label": status.label,
            "addr": address,
            "figures": figures,
        }));
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

/// By name.
fn figures(looks: &Looks, now_ms: u64) -> BTreeMap<&'static str, String> {
    let status = &looks.after;
    let mut figures = BTreeMap::new();
    figures.extend([
        ("brokerVersionDesc", format!("V{}", status.version.replace('.', "_"))),
        ("brokerRole", status.role.clone()),
        ("flushDiskType", format!("{}_FLUSH", status.flush.to_uppercase())),
        ("msgPutTotalTodayNow", status.messages_in.to_string()),
        ("msgGetTotalTodayNow", status.messages_out.to_string()),
        ("messagesSentAgain", status.messages_sent_again.to_string()),
        ("messageIdsReused", status.message_ids_reused.to_string()),
        ("topicNumber", status.topics.to_string()),
        ("consumerGroupNumber", status.consumer_groups.to_string()),
        ("commandVersion", status.command_version.to_string()),
        ("commandVersionKnown", status.command_version_known.to_string()),
        ("brokerPermission", if status.not_writable { "4" } else { "6" }.to_owned()),
        ("raftTerm", status.term.to_string()),
        ("raftLogBytes", status.log_bytes.to_string()),
    ]);
    for (key, index) in [
        ("raftLastIndex", status.last_index),
        ("raftCommittedIndex", status.committed_index),
        ("raftAppliedIndex", status.applied_index),
    ] {
        figures.extend(index.map(|index| (key, index.to_string())));
    }
    // 0 is how a node says that it does not know.
    for (key, value) in [
        ("earliestMessageTimeStamp", status.oldest_message_ms),
        ("fsyncP50Us", status.fsync_p50_us),
        ("fsyncP99Us", status.fsync_p99_us),
    ] {
        figures.extend((value != 0).then(|| (key, value.to_string())));
    }
    if status.disk_used_ratio > 0.0 {
        figures.insert("commitLogDiskRatio", format!("{:.4}", status.disk_used_ratio));
    }
    if status.uptime_ms > 0 {
        figures.insert("bootTimestamp", now_ms.saturating_sub(status.uptime_ms).to_string());
        figures.insert("runtime", runtime(status.uptime_ms / 1_000));
    }
    let leader = status.members.iter().find(|member| member.node == status.leader);
    figures.extend(leader.map(|leader| ("raftLeader", leader.label.clone())));
    if !status.trouble.is_empty() {
        figures.insert("trouble", status.trouble.clone());
    }
    // A node that started in between has counted from 0 again.
    if looks.before.boot == status.boot {
        let rate = |before: u64, after: u64| {
            // Messages of a second are far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            let messages = after.saturating_sub(before) as f64;
            format!("{:.2}", messages / looks.apart.as_secs_f64())
        };
        figures.insert("putTps", rate(looks.before.messages_in, status.messages_in));
        figures.insert("getTransferredTps", rate(looks.before.messages_out, status.messages_out));
    }
    figures
}

fn runtime(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    format!("[ {days} days, {hours} hours, {} minutes, {} seconds ]", seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(before: (u64, u64), after: (u64, u64)) -> Looks {
        let status = |(boot, messages_in): (u64, u64)| GroupStatusResponse {
            boot,
            messages_in,
            version: "0.1.0".to_owned(),
            flush: "sync".to_owned(),
            uptime_ms: 93_784_000,
            applied_index: Some(0),
            ..GroupStatusResponse::default()
        };
        Looks { before: status(before), after: status(after), apart: Duration::from_millis(2_000) }
    }

    #[test]
    fn figures_that_are_known() {
        let known = figures(&looks((7, 10), (7, 15)), 100_000_000);
        for (key, value) in [
            ("putTps", "2.50"),
            ("getTransferredTps", "0.00"),
            ("msgPutTotalTodayNow", "15"),
            ("brokerVersionDesc", "V0_1_0"),
            ("flushDiskType", "SYNC_FLUSH"),
            ("bootTimestamp", "6216000"),
            ("runtime", "[ 1 days, 2 hours, 3 minutes, 4 seconds ]"),
            ("raftAppliedIndex", "0"),
        ] {
            assert_eq!(known.get(key).map(String::as_str), Some(value), "{key}");
        }
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let known = figures(&looks((7, 10), (8, 2)), 0);
        for key in
            ["putTps", "commitLogDiskRatio", "earliestMessageTimeStamp", "fsyncP50Us", "raftLastIndex", "trouble"]
        {
            assert_eq!(known.get(key), None, "{key}");
        }
    }
}
