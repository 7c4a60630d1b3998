//! What the members of a local broker group say of themselves.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::bail;
use raftmq_proto::admin::{GroupStatusRequest, GroupStatusResponse, admin_client::AdminClient};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Endpoint;

use crate::layout::{BrokerNode, Layout};

/// A node that says nothing for this long counts as down.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Between two looks at a cluster that is expected to change.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What each member says, in the layout's order; `None` for one that does not answer.
#[derive(Debug, Clone)]
pub struct GroupView {
    /// One per broker node.
    pub members: Vec<Option<GroupStatusResponse>>,
}

/// A leader, as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderView {
    /// Place in the layout's brokers.
    pub member: usize,
    /// The term it leads.
    pub term: u64,
}

/// Asks every node at once.
pub async fn look(layout: &Layout) -> GroupView {
    let mut asking = JoinSet::new();
    for (place, broker) in layout.brokers.iter().enumerate() {
        let address = broker.admin_address();
        asking.spawn(async move { (place, timeout(ANSWER_MAX, ask(address)).await.ok().flatten()) });
    }
    let mut members = vec![None; layout.brokers.len()];
    while let Some(answered) = asking.join_next().await {
        if let Ok((place, answer)) = answered {
            members[place] = answer;
        }
    }
    GroupView { members }
}

/// Waits for a leader of a later term than `after_term`.
pub async fn leader_after(layout: &Layout, after_term: u64, within: Duration) -> anyhow::Result<LeaderView> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(leader) = look(layout).await.leader().filter(|leader| leader.term > after_term) {
            return Ok(leader);
        }
        if Instant::now() > deadline {
            bail!(
                "the broker group has no leader after {} s; see the logs in {}",
                within.as_secs(),
                layout.data.join("logs").display()
            );
        }
        sleep(LOOK_PAUSE).await;
    }
}

async fn ask(address: String) -> Option<GroupStatusResponse> {
    let channel = Endpoint::from_shared(format!("http://{address}")).ok()?.connect().await.ok()?;
    let answer = AdminClient::new(channel).group_status(GroupStatusRequest {}).await.ok()?;
    Some(answer.into_inner())
}

impl GroupView {
    /// The member that leads the highest term.
    pub fn leader(&self) -> Option<LeaderView> {
        let leading = self.members.iter().enumerate().filter_map(|(member, status)| {
            let status = status.as_ref()?;
            (status.role == "leader").then_some(LeaderView { member, term: status.term })
        });
        leading.max_by_key(|leader| leader.term)
    }

    /// The command that admits an empty node, as the node says it.
    pub fn admission(&self, label: &str) -> Option<String> {
        let node = self.members.iter().flatten().find(|status| status.label == label)?;
        let at = node.trouble.find("mqadmin ")?;
        node.trouble.get(at..).map(str::to_owned)
    }

    /// The table that `raftmq-cluster status` prints.
    pub fn table(&self, layout: &Layout) -> String {
        let leader = self.leader().and_then(|leader| self.members[leader.member].as_ref());
        let mut rows = vec![
            ["node", "role", "term", "committed", "applied", "behind", "pid", "clients", "mqadmin"].map(str::to_owned),
        ];
        for (broker, status) in layout.brokers.iter().zip(&self.members) {
            rows.push(row(layout, broker, status.as_ref(), leader));
        }
        let mut table = align(&rows);
        if leader.is_none() {
            table.push_str("no leader: nothing can be sent or received until a majority of the nodes runs\n");
        }
        table
    }
}

fn row(
    layout: &Layout,
    broker: &BrokerNode,
    status: Option<&GroupStatusResponse>,
    leader: Option<&GroupStatusResponse>,
) -> [String; 9] {
    let pid = layout.pid(&broker.label).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let (role, term, committed, applied, behind) = match status {
        None => ("down".to_owned(), None, None, None, None),
        Some(status) => {
            let last = leader.and_then(|leader| leader.committed_index);
            let behind = last.map(|last| last.saturating_sub(status.applied_index.unwrap_or_default()));
            (status.role.clone(), Some(status.term), status.committed_index, status.applied_index, behind)
        }
    };
    [
        broker.label.clone(),
        role,
        number(term),
        number(committed),
        number(applied),
        number(behind),
        pid,
        broker.grpc_address(),
        broker.admin_address(),
    ]
}

/// Columns as wide as their widest cell, two blanks between.
pub fn align<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use raftmq_proto::admin::GroupStatusResponse;

    use super::{GroupView, LeaderView};
    use crate::layout::Layout;

    fn member(role: &str, term: u64, applied: u64) -> Option<GroupStatusResponse> {
        Some(GroupStatusResponse {
            role: role.to_owned(),
            term,
            committed_index: Some(applied),
            applied_index: Some(applied),
            ..Default::default()
        })
    }

    #[test]
    fn the_leader_is_whoever_leads_the_highest_term() {
        let view = GroupView { members: vec![member("leader", 3, 5), None, member("leader", 4, 9)] };
        assert_eq!(view.leader(), Some(LeaderView { member: 2, term: 4 }));
        let view = GroupView { members: vec![member("follower", 3, 5), None, None] };
        assert_eq!(view.leader(), None);
    }

    #[test]
    fn an_empty_node_says_how_to_admit_it() {
        let trouble = "n0 belongs to a group already; run: mqadmin replacePeer -l n1".to_owned();
        let empty = GroupStatusResponse { label: "n1".to_owned(), trouble, ..Default::default() };
        let view = GroupView { members: vec![member("leader", 3, 5), Some(empty), None] };
        assert_eq!(view.admission("n1").as_deref(), Some("mqadmin replacePeer -l n1"));
        assert_eq!(view.admission("n2"), None);
    }

    #[test]
    fn the_table_shows_who_is_behind_and_who_is_down() {
        let view = GroupView { members: vec![member("leader", 4, 90), member("follower", 4, 83), None] };
        let table = view.table(&Layout::standard(Path::new("/nowhere")));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>()[..6], ["n1", "follower", "4", "83", "83", "7"]);
        assert_eq!(lines[3].split_whitespace().collect::<Vec<_>>()[..3], ["n2", "down", "-"]);
        assert!(lines[1].ends_with("127.0.0.1:8081  127.0.0.1:30911"));
    }
}
