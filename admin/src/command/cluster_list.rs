//! `clusterList`: every broker node, its role and load.

use crate::directory::{Directory, Group, Target};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::now_ms;
use clap::Args;
use raftmq_admin_client::look::{Seen, lags, leader, look};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// List broker nodes: #BID is 0 for the leader of its group.
///
/// After RocketMQ's columns stand role, term and how many log entries each member is behind the leader. What is not known
/// is shown as -: all figures of a node that does not answer, and RocketMQ's figures of thread pools, its timer wheel and its
/// page cache (#Timer(Progress), #PCWait(ms)), of which there are none here.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin clusterList -n localhost:9876")]
pub(crate) struct Arguments {
    /// Only this cluster.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Also list each leader's view of its peers.
    #[arg(short = 'm', long = "moreStats")]
    more: bool,
    /// Accepted and ignored: the list is printed once.
    #[arg(short = 'i', long = "interval", hide = true)]
    _interval: Option<u64>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let groups = match &arguments.cluster {
        Some(cluster) => directory.groups(Target::Cluster(cluster)).await?,
        None => directory.all().await?,
    };
    let mut table = Table::new(&[
        "#Cluster Name",
        "#Broker Name",
        "#BID",
        "#Addr",
        "#Version",
        "#InTPS(LOAD)",
        "#OutTPS(LOAD)",
        "#Timer(Progress)",
        "#PCWait(ms)",
        "#Hour",
        "#SPACE",
        "#ACTIVATED",
        "#Role",
        "#Term",
        "#Lag",
        "#Label",
    ]);
    let mut peers = Table::new(&["#Broker Name", "#Label", "#Addr", "#Voter", "#Matched", "#Lag", "#LastAck(ms)"]);
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for group in groups {
        let (seen, silent) = look(directory, &group).await?;
        failures.extend(silent);
        let (leader, term) = leader(&group, &seen);
        let lags = lags(leader, &seen);
        let troubled = seen.iter().filter_map(|seen| seen.live.as_ref()).filter(|status| !status.trouble.is_empty());
        let past = seen.iter().filter_map(|seen| seen.live.as_ref()).any(|status| status.not_writable);
        failures.extend(
            past.then(|| format!("producers are led past broker group {} (addWritePerm leads them back)", group.name)),
        );
        failures.extend(troubled.map(|status| format!("{} of {} says: {}", status.label, group.name, status.trouble)));
        for (id, seen) in broker_ids(leader, &seen, |seen| seen.node.node) {
            let row = Row::new(&group, id, seen, leader, term, &lags);
            rows.push(row.json());
            table.row(row.cells());
        }
        let leading = seen.iter().find(|seen| seen.node.node == leader).and_then(|seen| seen.live.as_ref());
        for member in leading.into_iter().flat_map(|status| &status.members) {
            peers.row(vec![
                group.name.clone(),
                member.label.clone(),
                member.admin.clone(),
                member.voter.to_string(),
                member.matched.map(|matched| matched.to_string()).unwrap_or_default(),
                member.lag.map(|lag| lag.to_string()).unwrap_or_default(),
                member.last_ack_ms.map(|ms| ms.to_string()).unwrap_or_default(),
            ]);
        }
    }
    let text = if arguments.more { format!("{table}\n{peers}") } else { table.to_string() };
    // A node that is down is a finding of this command, not a failure of it.
    for failure in failures {
        eprintln!("mqadmin: {failure}");
    }
    Ok(Outcome::done(text, rows.into()))
}

/// RocketMQ's broker ids: 0 for the leader, for others their place in the list from 1, so that a script that looks
/// for 0 finds whom it means.
pub(super) fn broker_ids<T>(leader: u64, members: &[T], node: impl Fn(&T) -> u64) -> Vec<(usize, &T)> {
    let mut ids: Vec<(usize, &T)> = members
        .iter()
        .enumerate()
        .map(|(place, member)| (if node(member) == leader { 0 } else { place + 1 }, member))
        .collect();
    ids.sort_by_key(|(id, _)| *id);
    ids
}

struct Row<'a> {
    group: &'a Group,
    id: usize,
    seen: &'a Seen,
    role: String,
    term: u64,
    lag: Option<u64>,
}

impl<'a> Row<'a> {
    fn new(group: &'a Group, id: usize, seen: &'a Seen, leader: u64, term: u64, lags: &BTreeMap<u64, u64>) -> Row<'a> {
        let node = seen.node.node;
        let role = match &seen.live {
            // It has not heard of its successor yet.
            Some(status) if status.role == "leader" && node != leader => "follower".to_owned(),
            Some(status) => status.role.clone(),
            None => "down".to_owned(),
        };
        let term = match &seen.live {
            Some(status) => status.term,
            None if node == leader => term,
            None => seen.node.term,
        };
        // A leader that does not answer leads nobody, as far as anybody knows.
        let lag = if node == leader && seen.live.is_some() { Some(0) } else { lags.get(&node).copied() };
        Row { group, id, seen, role, term, lag }
    }

    fn version(&self) -> String {
        let live = self.seen.live.as_ref().map(|status| status.version.as_str());
        match live.unwrap_or(&self.seen.node.program) {
            "" => String::new(),
            version => format!("V{}", version.replace('.', "_")),
        }
    }

    /// How long messages are kept so far; `None` where that is not known.
    fn hours(&self) -> Option<f64> {
        let oldest = self.seen.live.as_ref().map(|status| status.oldest_message_ms).filter(|oldest| *oldest > 0)?;
        // Hours to two digits: what a float loses of the milliseconds does not show.
        #[allow(clippy::cast_precision_loss)]
        let ms = now_ms().saturating_sub(oldest) as f64;
        Some(ms / 3_600_000.0)
    }

    /// Part of the disk in use; `None` where that is not known.
    fn space(&self) -> Option<f64> {
        self.seen.live.as_ref().map(|status| status.disk_used_ratio).filter(|ratio| *ratio > 0.0)
    }

    fn cells(&self) -> Vec<String> {
        let live = self.seen.live.as_ref();
        // What RocketMQ says there of its queues of calls, of which there are none here.
        let rate =
            |rate: Option<f64>, queues: &str| rate.map_or_else(String::new, |rate| format!("{rate:.2}({queues})"));
        vec![
            self.group.cluster.clone(),
            self.group.name.clone(),
            self.id.to_string(),
            self.seen.node.admin.clone(),
            self.version(),
            rate(live.map(|live| live.in_rate), "-,-"),
            rate(live.map(|live| live.out_rate), "-,-|-,-"),
            String::new(),
            String::new(),
            self.hours().map(|hours| format!("{hours:.2}")).unwrap_or_default(),
            self.space().map(|ratio| format!("{ratio:.4}")).unwrap_or_default(),
            self.seen.live.is_some().to_string(),
            self.role.clone(),
            self.term.to_string(),
            self.lag.map(|lag| lag.to_string()).unwrap_or_default(),
            self.seen.node.label.clone(),
        ]
    }

    fn json(&self) -> Value {
        let node = &self.seen.node;
        let live = self.seen.live.as_ref();
        json!({
            "cluster": self.group.cluster,
            "brokerName": self.group.name,
            "brokerId": self.id,
            "addr": node.admin,
            "grpc": node.grpc,
            "peer": node.peer,
            "label": node.label,
            "node": format!("{:x}", node.node),
            "version": self.version(),
            "inTps": live.map(|live| live.in_rate),
            "outTps": live.map(|live| live.out_rate),
            "hour": self.hours(),
            "space": self.space(),
            "activated": self.seen.live.is_some(),
            "reportedLately": node.alive,
            "member": node.member,
            "voter": node.voter,
            "role": self.role,
            "term": self.term,
            "lag": self.lag,
            "applied": live.and_then(|live| live.applied_index),
            "committed": live.and_then(|live| live.committed_index),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Node;
    use raftmq_proto::admin::GroupStatusResponse;

    fn node(node: u64) -> Node {
        let admin = format!("127.0.0.1:3091{node}");
        Node { node, label: format!("n{node}"), admin, member: true, voter: true, ..Node::default() }
    }

    fn status(node: u64, role: &str, term: u64) -> Option<GroupStatusResponse> {
        let member = |node: u64, lag: u64| raftmq_proto::admin::Member {
            node,
            lag: Some(lag),
            ..raftmq_proto::admin::Member::default()
        };
        let members = if role == "leader" { vec![member(1, 0), member(2, 0), member(3, 7)] } else { Vec::new() };
        Some(GroupStatusResponse {
            node,
            role: role.to_owned(),
            term,
            members,
            version: "0.1.0".to_owned(),
            in_rate: 12.345,
            disk_used_ratio: 0.25,
            ..GroupStatusResponse::default()
        })
    }

    #[test]
    fn the_leader_of_the_highest_term_has_number_0() {
        let group = Group { cluster: "C".to_owned(), name: "G".to_owned(), leader: 1, term: 3, ..Group::default() };
        let seen = vec![
            // Stopped, woken up, and not yet told.
            Seen { node: node(1), live: status(1, "leader", 3) },
            Seen { node: node(2), live: status(2, "leader", 4) },
            Seen { node: node(3), live: None },
        ];
        let (leader, term) = leader(&group, &seen);
        assert_eq!((leader, term), (2, 4));
        let lags = lags(leader, &seen);
        let lines: Vec<String> = broker_ids(leader, &seen, |seen| seen.node.node)
            .into_iter()
            .map(|(id, seen)| Row::new(&group, id, seen, leader, term, &lags).cells().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "C G 0 127.0.0.1:30912 V0_1_0 12.35(-,-) 0.00(-,-|-,-)    0.2500 true leader 4 0 n2",
                "C G 1 127.0.0.1:30911 V0_1_0 12.35(-,-) 0.00(-,-|-,-)    0.2500 true follower 3 0 n1",
                "C G 3 127.0.0.1:30913        false down 0 7 n3",
            ]
        );
        let down = Row::new(&group, 3, &seen[2], leader, term, &lags).json();
        for figure in ["inTps", "outTps", "hour", "space", "applied", "committed"] {
            assert!(down[figure].is_null(), "{figure}: {down}");
        }
    }
}
