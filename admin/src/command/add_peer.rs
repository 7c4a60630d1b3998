//! `addPeer`: one more member of a broker group.

use crate::directory::Directory;
use crate::error::AdminError;
use crate::members::{self, NewNode, Place};
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::change_members_request::Change;

/// Add a member to a broker group: an empty node, which gets the log first and then a vote. Its own log has the line.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin addPeer -n localhost:9876 -c RaftCluster -b RaftNode00 -l n3 --node 3fa9c01b22d17e55 --disk 0d7f2c9be1a84c55a6b3f0d2417e98aa --address 192.168.1.4:40911"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    node: NewNode,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let label = &arguments.node.label;
    let (group, done) = members::change(directory, &arguments.place, Change::Add(arguments.node.newcomer())).await?;
    Ok(members::outcome("addPeer", label, &group, &done, &format!("{label} is a member.")))
}
