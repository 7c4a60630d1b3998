//! `updateSubGroup`: creates a consumer group in every broker group, or changes it there.

use super::{Attribute, PerGroup, Where, parse_attribute, split};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use clap::Args;
use raftmq_proto::admin::{ConsumerGroup, PutConsumerGroupRequest};
use serde_json::{Value, json};

/// Create a consumer group, or change it.
///
/// Returns when every broker group has committed it. What is not given stays as it is; a new one is enabled, not
/// ordered, and retries a message 16 times.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin updateSubGroup -n localhost:9876 -c DefaultCluster -g YourConsumerGroup -r 16"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The consumer group.
    #[arg(short = 'g', long = "groupName")]
    group: String,
    /// Whether its members get messages.
    #[arg(short = 's', long = "consumeEnable", value_name = "BOOL", action = clap::ArgAction::Set)]
    consume_enable: Option<bool>,
    /// Deliveries after the first before a message goes to the dead letter topic.
    #[arg(short = 'r', long = "retryMaxTimes", value_name = "TIMES", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    retry_max: Option<u32>,
    /// Whether messages are consumed in order.
    #[arg(short = 'o', long = "consumeMessageOrderly", value_name = "BOOL", action = clap::ArgAction::Set)]
    ordered: Option<bool>,
    /// +key=value sets an attribute, -key takes one away.
    #[arg(
        long = "attributes",
        value_delimiter = ',',
        value_parser = parse_attribute,
        allow_hyphen_values = true
    )]
    attributes: Vec<Attribute>,
    /// Accepted and ignored: a group that never received starts at the oldest message.
    #[arg(short = 'm', long = "consumeFromMinEnable", hide = true, action = clap::ArgAction::Set)]
    _from_min: Option<bool>,
    /// Accepted and ignored: the gRPC clients do not broadcast.
    #[arg(short = 'd', long = "consumeBroadcastEnable", hide = true, action = clap::ArgAction::Set)]
    _broadcast: Option<bool>,
    /// Accepted and ignored: retries need no queues here.
    #[arg(short = 'q', long = "retryQueueNums", hide = true)]
    _retry_queues: Option<u32>,
    /// Accepted and ignored: any member of a broker group serves.
    #[arg(short = 'i', long = "brokerId", hide = true)]
    _broker_id: Option<u64>,
    /// Accepted and ignored: any member of a broker group serves.
    #[arg(short = 'w', long = "whichBrokerWhenConsumeSlowly", hide = true)]
    _which_broker: Option<u64>,
    /// Accepted and ignored: clients need not be notified of one another.
    #[arg(short = 'a', long = "notifyConsumerIdsChanged", hide = true, action = clap::ArgAction::Set)]
    _notify: Option<bool>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    if arguments.consume_enable == Some(false) {
        arguments.consent.ask(&format!("Members of consumer group {} get no more messages.", arguments.group))?;
    }
    let (attributes, remove_attributes) = split(&arguments.attributes);
    let request = PutConsumerGroupRequest {
        name: arguments.group.clone(),
        consume_enable: arguments.consume_enable,
        ordered: arguments.ordered,
        retry_max: arguments.retry_max,
        attributes,
        remove_attributes,
    };
    let mut report = PerGroup::default();
    for group in directory.groups(arguments.place.target()).await? {
        let put = directory.on_group(&group, |mut node| {
            let request = request.clone();
            async move { Ok(node.put_consumer_group(request).await?.into_inner()) }
        });
        match put.await {
            Ok((address, answer)) => {
                let consumer_group = answer.consumer_group.unwrap_or_default();
                let text =
                    format!("create subscription group to {address} success.\n{}\n", config_line(&consumer_group));
                report.done(
                    &text,
                    json!({
                        "brokerName": group.name,
                        "addr": address,
                        "created": answer.created,
                        "group": to_json(&consumer_group),
                    }),
                );
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    Ok(report.outcome())
}

/// As RocketMQ prints a consumer group.
pub(super) fn config_line(group: &ConsumerGroup) -> String {
    let mut attributes: Vec<String> = group.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    attributes.sort_unstable();
    format!(
        "SubscriptionGroupConfig [groupName={}, consumeEnable={}, consumeFromMinEnable=true, \
         consumeBroadcastEnable=false, consumeMessageOrderly={}, retryMaxTimes={}, attributes={{{}}}, version={}]",
        group.name,
        group.consume_enable,
        group.ordered,
        group.retry_max,
        attributes.join(", "),
        group.version
    )
}

/// A consumer group for programs.
pub(super) fn to_json(group: &ConsumerGroup) -> Value {
    json!({
        "groupName": group.name,
        "consumeEnable": group.consume_enable,
        "consumeMessageOrderly": group.ordered,
        "retryMaxTimes": group.retry_max,
        "attributes": group.attributes,
        "version": group.version,
        "createdMs": group.created_ms,
        "updatedMs": group.updated_ms,
    })
}
