//! `removePeer`: one member of a broker group fewer.

use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::members::{self, Place, node_id};
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::MemberToRemove;
use raftmq_proto::admin::change_members_request::Change;

/// Remove a member from a broker group, dead or alive; a leader hands leadership over first. A lost member is better
/// replaced: with one member fewer, fewer may be down.
#[derive(Debug, Args)]
#[command(
    visible_alias = "cleanBrokerMetadata",
    after_help = "Example: mqadmin removePeer -n localhost:9876 -c RaftCluster -b RaftNode00 -l n3 -y"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Its dLegerSelfId.
    #[arg(short = 'l', long = "label", value_name = "LABEL")]
    label: String,
    /// Its Raft id in hexadecimal, where several members have the label.
    #[arg(long = "node", value_name = "ID", value_parser = node_id)]
    node: Option<u64>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let label = &arguments.label;
    let group = arguments.place.group(directory).await?;
    let what = format!("{label} loses its vote and its place in broker group {}.", group.name);
    arguments.consent.need(&what)?;
    let member = MemberToRemove { label: label.clone(), node: arguments.node.unwrap_or(0) };
    let (group, done) = members::change(directory, &arguments.place, Change::Remove(member)).await?;
    Ok(members::outcome("removePeer", label, &group, &done, &format!("{label} is no member.")))
}
