//! `setConsumeMode`: POP or pull, for a topic and a consumer group.

use super::{PerGroup, Where};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::{Args, ValueEnum};
use raftmq_proto::admin::{GetConsumerGroupRequest, TopicStatusRequest};
use serde_json::json;

/// How messages come to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Leased, every queue to every member.
    #[value(name = "POP")]
    Pop,
    /// By offset, each queue to one member.
    #[value(name = "PULL")]
    Pull,
}

/// Choose between POP and pull for a topic and a consumer group: POP is what every consumer group has.
///
/// RocketMQ's brokers choose for clients of its remoting protocol, of which there are none here. A gRPC client that
/// receives gets messages of every queue by leases, which is POP with all queues shared; one that pulls by offset may do
/// so beside it. So POP changes nothing, once topic and consumer group are there, and PULL is refused.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin setConsumeMode -n localhost:9876 -c DefaultCluster -t TestTopic -g YourConsumerGroup -m POP"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The topic.
    #[arg(short = 't', long = "topicName")]
    topic: String,
    /// The consumer group.
    #[arg(short = 'g', long = "groupName")]
    group: String,
    /// POP or PULL.
    #[arg(short = 'm', long = "mode", ignore_case = true)]
    mode: Mode,
    /// Accepted and ignored: every queue is shared among all members.
    #[arg(short = 'q', long = "popShareQueueNum", hide = true, allow_hyphen_values = true)]
    _shared: Option<i64>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    if arguments.mode == Mode::Pull {
        return Err(AdminError::Usage(
            "PULL is not chosen here: a client pulls by offset when it calls PullMessage, whatever its consumer group is, \
             and one that receives gets messages of every queue"
                .to_owned(),
        ));
    }
    let mut report = PerGroup::default();
    for group in directory.groups(arguments.place.target()).await? {
        let found = directory.read_group(&group, |mut node, stale| {
            let topic = TopicStatusRequest { name: arguments.topic.clone(), stale };
            let consumer_group = GetConsumerGroupRequest { name: arguments.group.clone(), stale };
            async move {
                node.get_consumer_group(consumer_group).await?;
                node.topic_status(topic).await.map(drop)
            }
        });
        match found.await {
            Ok((address, ())) => report.done(
                &format!(
                    "set consume mode to {address} success. topic[{}], group[{}], mode[POP]\n",
                    arguments.topic, arguments.group
                ),
                json!({
                    "brokerName": group.name,
                    "addr": address,
                    "topic": arguments.topic,
                    "group": arguments.group,
                    "mode": "POP",
                }),
            ),
            Err(error) => report.failed(&group.name, &error),
        }
    }
    Ok(report.outcome())
}
