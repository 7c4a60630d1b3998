//! This node in its broker group: status, leadership, checksums of the rows.

use super::AdminService;
use super::door::Caller;
use crate::broker::Node;
use crate::config::FlushDiskType;
use crate::store::machine::is_writable;
use crate::store::{key, retention};
use raft_store::{GroupStatus, LogId, NodeId, ReadState, Role, TransferError};
use raftmq_proto::admin::{
    DiskMarks, DumpRequest, DumpResponse, GroupStatusResponse, Member, TableDump, TermStart, TransferLeaderRequest,
    TransferLeaderResponse,
};
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;
use xxhash_rust::xxh3::Xxh3;

/// Leadership is handed over when a follower is level for a moment: under load that may take a few tries.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
const TRANSFER_PAUSE: Duration = Duration::from_millis(50);
/// A leader that no majority has answered for this long leads nobody.
const LONELY_AFTER: Duration = Duration::from_secs(1);
/// A dump waits this long for an index to be applied.
const APPLIED_TIMEOUT: Duration = Duration::from_secs(10);
const APPLIED_PAUSE: Duration = Duration::from_millis(5);
/// Terms of one answer.
const TERMS_MAX: usize = 100;

impl AdminService {
    pub(super) async fn group_status(&self) -> Result<GroupStatusResponse, Status> {
        let node = &self.node;
        let status = node.group.status();
        let consumer_groups = self
            .read(|state| {
                let mut count = 0;
                state.scan(key::CONSUMER_GROUP, b"n", &key::after(b"n"), &mut |_, _| {
                    count += 1;
                    ControlFlow::Continue(())
                })?;
                Ok(count)
            })
            .await?;
        let traffic = node.outlets.traffic.look(Instant::now());
        let (oldest_ms, writable) =
            self.read(|state| Ok((retention::kept_since_ms(state)?, is_writable(state)?))).await?;
        let trouble = trouble(&status);
        let log_disk = node.config.log_dir.as_deref().unwrap_or(&node.config.store_dir);
        Ok(GroupStatusResponse {
            role: role(&status).to_owned(),
            cluster: status.cluster,
            broker_group: status.group,
            label: status.label,
            node: status.node,
            boot: status.boot,
            term: status.term.0,
            leader: status.leader.unwrap_or(0),
            vote_term: status.vote.term,
            vote_node: status.vote.node,
            last_index: status.last.map(|index| index.0),
            committed_index: status.committed.map(|id| id.index),
            applied_index: status.applied.map(|id| id.index),
            purged_index: status.purged.map(|id| id.index),
            members: status.members.into_iter().map(|member| self.with_version(member, status.leader)).collect(),
            fsync_p50_us: micros(status.fsync_p50),
            fsync_p99_us: micros(status.fsync_p99),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log_bytes: status.log_bytes,
            flush: match node.config.flush {
                FlushDiskType::Sync => "sync",
                FlushDiskType::Async => "async",
            }
            .to_owned(),
            topics: node.reporter.topic_count(),
            consumer_groups,
            disk_used_ratio: disk_used_ratio(log_disk),
            disk: disk_marks(node, log_disk),
            messages_in: traffic.stored,
            messages_out: traffic.leased,
            messages_sent_again: traffic.sent_again,
            message_ids_reused: traffic.ids_reused,
            in_rate: traffic.rates.0,
            out_rate: traffic.rates.1,
            trouble,
            uptime_ms: u64::try_from(node.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            latencies: node.counters.recent(),
            terms: terms(node.group.terms()),
            oldest_message_ms: oldest_ms.unwrap_or_default(),
            not_writable: !writable,
            command_version: node.proposer.version(),
            command_version_known: *node.config.versions.end(),
        })
    }

    /// A member, on a leader with the version that it reported.
    fn with_version(&self, member: raft_store::Member, leader: Option<NodeId>) -> Member {
        let own = self.node.group.node();
        let known =
            if member.id == own { Some(*self.node.config.versions.end()) } else { self.node.builds.knows(member.id) };
        Member { command_version_known: known.filter(|_| leader == Some(own)), ..to_member(member) }
    }

    pub(super) async fn transfer_leader(
        &self,
        request: TransferLeaderRequest,
        caller: &Caller,
    ) -> Result<TransferLeaderResponse, Status> {
        let group = &self.node.group;
        let members = group.members();
        let wanted = match (request.node, request.label.as_str()) {
            (0, "") => None,
            (0, label) => {
                let found = members.iter().find(|member| member.label == label);
                Some(found.ok_or_else(|| Status::not_found(format!("no member is labelled {label}")))?.id)
            }
            (node, _) => Some(node),
        };
        let (from, before) = (group.node(), group.leadership());
        if before.leads && wanted == Some(from) {
            return Ok(TransferLeaderResponse { from, to: from, term: before.term.0 });
        }
        let deadline = Instant::now() + TRANSFER_TIMEOUT;
        let outcome = loop {
            match group.transfer_leadership(wanted).await {
                Err(TransferError::NobodyLevel | TransferError::TimedOut(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(TRANSFER_PAUSE).await;
                }
                outcome => break outcome,
            }
        };
        let logged = outcome.as_ref().map_or_else(ToString::to_string, |to| format!("{to:x} leads"));
        tracing::info!(
            target: "audit",
            user = caller.name,
            address = caller.address,
            outcome = logged,
            "leadership transfer asked for"
        );
        match outcome {
            Ok(to) => Ok(TransferLeaderResponse { from, to, term: group.leadership().term.0 }),
            Err(TransferError::NotLeader { leader }) => {
                let leader = leader.and_then(|leader| members.into_iter().find(|member| member.id == leader));
                Err(Status::unavailable(match leader {
                    Some(leader) => {
                        format!("this node does not lead; ask {} at {}", leader.label, leader.addresses.admin)
                    }
                    None => "this node does not lead, and knows of no leader".to_owned(),
                }))
            }
            Err(error @ TransferError::NotVoter(_)) => Err(Status::invalid_argument(error.to_string())),
            Err(error @ (TransferError::NobodyLevel | TransferError::TimedOut(_))) => {
                Err(Status::failed_precondition(format!("{error}; haStatus shows who lags")))
            }
            Err(error @ TransferError::Closed) => Err(Status::unavailable(error.to_string())),
        }
    }

    pub(super) async fn dump(&self, request: DumpRequest) -> Result<DumpResponse, Status> {
        let deadline = Instant::now() + APPLIED_TIMEOUT;
        loop {
            let applied = self.node.group.status().applied.map_or(0, |id| id.index);
            if applied >= request.at_least {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Status::deadline_exceeded(format!(
                    "applied up to {applied} only, not {}, within {} s",
                    request.at_least,
                    APPLIED_TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(APPLIED_PAUSE).await;
        }
        let (applied, tables) = self
            .read(|state| {
                let mut tables: Vec<Sum> = state.tables().iter().map(|name| Sum::new(name)).collect();
                let mut place = 0;
                let applied = state.visit_all(&mut |table, key, value| {
                    while tables.get(place).is_some_and(|sum| sum.name != table) {
                        place += 1;
                    }
                    if let Some(sum) = tables.get_mut(place) {
                        sum.add(key, value);
                    }
                })?;
                Ok((applied, tables))
            })
            .await?;
        Ok(DumpResponse {
            broker_group: self.broker_group(),
            node: self.node.group.node(),
            applied_index: applied.map_or(0, |id| id.index),
            tables: tables.into_iter().map(Sum::finish).collect(),
        })
    }
}

/// Rows of a table, summed up.
struct Sum {
    name: &'static str,
    rows: u64,
    bytes: u64,
    hash: Xxh3,
}

impl Sum {
    fn new(name: &'static str) -> Sum {
        Sum { name, rows: 0, bytes: 0, hash: Xxh3::new() }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        for part in [key, value] {
            let length = part.len() as u64;
            self.bytes += length;
            self.hash.update(&length.to_le_bytes());
            self.hash.update(part);
        }
    }

    fn finish(self) -> TableDump {
        TableDump { name: self.name.to_owned(), rows: self.rows, bytes: self.bytes, hash: self.hash.digest() }
    }
}

/// Why the node is not of use, in a sentence; empty when all is well.
fn trouble(status: &GroupStatus) -> String {
    let full = status.shortage.as_ref().map(|short| {
        let (folder, free, needed) = (&short.folder, short.free_bytes, short.needed_bytes);
        format!("the disk is full: {free} bytes are free in {folder}, sends need {needed}")
    });
    let halted = status.halted.as_ref().map(|reason| format!("stopped: {reason}"));
    halted.or_else(|| status.waiting.clone()).or_else(|| lonely(status)).or(full).unwrap_or_default()
}

/// Why a leader leads nobody, when it does not. One that has the only vote need not be answered.
pub(crate) fn lonely(status: &GroupStatus) -> Option<String> {
    if status.members.iter().filter(|member| member.voter).count() == 1 {
        return None;
    }
    let since = status.quorum_ack.filter(|since| status.role == Role::Leader && *since > LONELY_AFTER)?;
    Some(format!("no majority has answered this leader for {} ms", since.as_millis()))
}

fn terms(first: Vec<LogId>) -> Vec<TermStart> {
    let from = first.len().saturating_sub(TERMS_MAX);
    let start = |id: &LogId| TermStart { term: id.term, node: id.node, first_index: id.index };
    first[from..].iter().map(start).collect()
}

fn role(status: &GroupStatus) -> &'static str {
    match status.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Removed => "removed",
        Role::Stopped => "stopped",
    }
}

pub(super) fn to_member(member: raft_store::Member) -> Member {
    Member {
        node: member.id,
        label: member.label,
        grpc: member.addresses.grpc,
        admin: member.addresses.admin,
        peer: member.addresses.peer,
        voter: member.voter,
        matched: member.matched.map(|index| index.0),
        lag: member.lag,
        last_ack_ms: member.last_ack.map(|elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)),
        command_version_known: None,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The disk under a folder with its marks; none when the system does not say how full it is.
fn disk_marks(node: &Node, folder: &std::path::Path) -> Option<DiskMarks> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    let settings = node.settings();
    let percent = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Some(DiskMarks {
        // As df counts: what is kept for root is neither used nor available.
        total_bytes: bytes(disk.f_blocks.saturating_sub(disk.f_bfree).saturating_add(disk.f_bavail)),
        free_bytes: bytes(disk.f_bavail),
        send_free_bytes_min: node.config.segment_bytes.saturating_add(node.config.disk_free_bytes_min),
        clean_percent: percent(settings.retention.disk_percent_max),
        force_percent: percent(settings.retention.force_percent),
    })
}

/// Part of the disk under a folder that is in use; 0 when the system does not say.
pub(crate) fn disk_used_ratio(folder: &std::path::Path) -> f64 {
    // Blocks of any disk are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    match rustix::fs::statvfs(folder) {
        Ok(disk) if disk.f_blocks > 0 => {
            // As df counts: what is kept for root is neither used nor available.
            let used = disk.f_blocks.saturating_sub(disk.f_bfree) as f64;
            used / (used + disk.f_bavail as f64)
        }
        _ => 0.0,
    }
}
