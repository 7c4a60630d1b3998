//! `updateTopicPerm`: what may be done with a topic.

use super::update_topic::{Wanted, ask_for, config_line, parse_permission, to_json};
use super::{PerGroup, Where, permission_text};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::{PutTopicRequest, TopicRouteRequest};
use serde_json::json;

/// Change whether a topic that exists may be written and read.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin updateTopicPerm -n localhost:9876 -c DefaultCluster -t TestTopic -p 4")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// 2 = write, 4 = read, 6 = both.
    #[arg(short = 'p', long = "perm", value_parser = parse_permission)]
    permission: u32,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let wanted = Wanted { read_queues: &None, write_queues: &None, permission: &Some(arguments.permission) };
    ask_for(directory, &arguments.topic, &wanted, &arguments.consent).await?;
    let mut report = PerGroup::default();
    for group in directory.groups(arguments.place.target()).await? {
        let changed = directory.on_group(&group, |mut node| {
            let (name, broker_group) = (arguments.topic.clone(), group.name.clone());
            let request = PutTopicRequest {
                name: name.clone(),
                permission: Some(arguments.permission),
                ..PutTopicRequest::default()
            };
            async move {
                let routes = node.topic_route(TopicRouteRequest { name: name.clone() }).await?.into_inner();
                let own = routes.broker_groups.into_iter().find(|route| route.broker_group == broker_group);
                let Some(before) = own.and_then(|own| own.topic) else {
                    return Err(tonic::Status::not_found(format!("it has no topic {name}; updateTopic creates one")));
                };
                Ok((before.permission, node.put_topic(request).await?.into_inner().topic.unwrap_or_default()))
            }
        });
        match changed.await {
            Ok((address, (before, topic))) => {
                let text = format!(
                    "update topic perm from {} to {} in {address} success.\n{}\n",
                    permission_text(before),
                    permission_text(topic.permission),
                    config_line(&topic)
                );
                let row =
                    json!({ "brokerName": group.name, "addr": address, "from": before, "topic": to_json(&topic) });
                report.done(&text, row);
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    Ok(report.outcome())
}
