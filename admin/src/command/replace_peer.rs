//! `replacePeer`: an empty node takes the place of a member of a broker group.

use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::members::{self, NewNode, Place};
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::change_members_request::Change;

/// Give an empty node the place of the member with its label, dead or alive: it gets the log first, then the vote of the
/// other. Its own log has the line.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin replacePeer -n localhost:9876 -c RaftCluster -b RaftNode00 -l n1 --node 3fa9c01b22d17e55 --disk 0d7f2c9be1a84c55a6b3f0d2417e98aa --address 192.168.1.3:40911 -y"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    node: NewNode,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let newcomer = arguments.node.newcomer();
    let label = &newcomer.label;
    let group = arguments.place.group(directory).await?;
    let old = group.nodes.iter().find(|node| node.member && node.label == *label && node.node != newcomer.node);
    if let Some(old) = old {
        let what = format!(
            "Node {:x} loses its place as {label} of broker group {} to node {:x}, and must not come back.",
            old.node, group.name, newcomer.node
        );
        arguments.consent.need(&what)?;
    }
    let text = format!("{label} is node {:x} now.", newcomer.node);
    let label = label.clone();
    let (group, done) = members::change(directory, &arguments.place, Change::Replace(newcomer)).await?;
    Ok(members::outcome("replacePeer", &label, &group, &done, &text))
}
