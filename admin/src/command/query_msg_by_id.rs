//! `queryMsgById` and `queryMsgByUniqueKey`: a message by its id, and which consumer groups have come past it.

use super::consumer_progress::queues_of;
use super::message::{self, resource};
use super::public::{check, on_group_admin};
use super::search::{End, Patience, Search, search};
use super::send_message::hosts;
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::time::point;
use clap::Args;
use raftmq_proto::admin::QueueProgress;
use raftmq_proto::rocketmq::list_message_request::SearchKey;
use raftmq_proto::rocketmq::{Message, VerifyMessageRequest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Show messages by their ids, and which consumer groups have come past them.
///
/// There is no index of ids. The ids of RocketMQ's clients tell when they were made, and the log is read from then on;
/// for other ids it is read from its beginning.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin queryMsgById -n localhost:9876 -t TestTopic -i 0156F7E71C361B21BC0A8C49F800000000"
)]
pub(crate) struct ById {
    #[command(flatten)]
    subject: Subject,
    /// Accepted and ignored: a body is shown as text where it is text, otherwise in hexadecimal.
    #[arg(short = 'f', long = "bodyFormat", hide = true)]
    _format: Option<String>,
    /// Not supported: sendMessage sends a message.
    #[arg(short = 's', long = "sendMessage", hide = true, action = clap::ArgAction::Set)]
    send: Option<bool>,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Show a message by the id that its client gave it, as queryMsgById does, in a time where that is known.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin queryMsgByUniqueKey -n localhost:9876 -t TestTopic -i 0156F7E71C361B21BC0A8C49F800000000"
)]
pub(crate) struct ByUniqueKey {
    #[command(flatten)]
    subject: Subject,
    /// Stored then or later: ms since 1970, or yyyy-MM-dd#HH:mm:ss:SSS in UTC.
    #[arg(short = 's', long = "startTime", value_name = "TIME", value_parser = point)]
    start: Option<u64>,
    /// Stored then or earlier.
    #[arg(short = 'e', long = "endTime", value_name = "TIME", value_parser = point)]
    end: Option<u64>,
    /// Accepted and ignored: an id names one message.
    #[arg(short = 'a', long = "showAll", hide = true)]
    _all: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Which messages, and who is to process them.
#[derive(Debug, Args)]
struct Subject {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The message id; several are separated by commas.
    #[arg(short = 'i', long = "msgId", value_name = "ID", value_delimiter = ',', required = true)]
    ids: Vec<String>,
    /// With -d: have a client of this consumer group process the message, and show what it says.
    #[arg(short = 'g', long = "consumerGroup", value_name = "GROUP", requires = "client")]
    consumer_group: Option<String>,
    /// With -g: the client, as consumerConnection names it.
    #[arg(short = 'd', long = "clientId", value_name = "CLIENT", requires = "consumer_group")]
    client: Option<String>,
    /// Accepted and ignored: the topic says where to look.
    #[arg(short = 'c', long = "cluster", hide = true)]
    _cluster: Option<String>,
    #[command(flatten)]
    patience: Patience,
}

pub(crate) async fn by_id(directory: &Directory, arguments: &ById) -> Result<Outcome, AdminError> {
    if arguments.send == Some(true) {
        return Err(AdminError::Usage(
            "-s sends the message once more, which this version does not; sendMessage sends one".to_owned(),
        ));
    }
    show(directory, &arguments.subject, None, None).await
}

pub(crate) async fn by_unique_key(directory: &Directory, arguments: &ByUniqueKey) -> Result<Outcome, AdminError> {
    show(directory, &arguments.subject, arguments.start, arguments.end).await
}

async fn show(
    directory: &Directory,
    subject: &Subject,
    from_ms: Option<u64>,
    until_ms: Option<u64>,
) -> Result<Outcome, AdminError> {
    let groups = hosts(directory, &subject.topic, None).await?;
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for id in &subject.ids {
        let key = Some(SearchKey::MessageId(id.clone()));
        let wanted = Search { topic: subject.topic.clone(), key, from_ms, until_ms, ..Search::default() };
        let (mut found, mut reasons) = (None, Vec::new());
        for group in &groups {
            let end = search(directory, group, &wanted, subject.patience.until(), |message| {
                found = Some(message);
                ControlFlow::Break(())
            });
            match end.await {
                Ok(End::Late) => reasons.push(subject.patience.gave_up(&group.name)),
                Ok(_) => {}
                Err(error) => reasons.push(super::failure(&group.name, &error)),
            }
            if let Some(message) = &found {
                let (shown, row) = describe(directory, group, subject, id, message).await?;
                text += &shown;
                rows.push(row);
                break;
            }
        }
        if found.is_none() {
            if reasons.is_empty() {
                reasons.push(format!("no broker group has a message {id} in topic {}", subject.topic));
            }
            failures.extend(reasons);
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

async fn describe(
    directory: &Directory,
    group: &Group,
    subject: &Subject,
    id: &str,
    message: &Message,
) -> Result<(String, Value), AdminError> {
    let tracks = tracks(directory, group, &subject.topic, message).await?;
    let mut text = message::details(&group.name, message) + &track_lines(&tracks);
    let mut row = message::to_json(&group.name, message);
    row["tracks"] =
        tracks.into_iter().map(|(group, track)| json!({ "consumerGroup": group, "trackType": track })).collect();
    if let (Some(consumer_group), Some(client)) = (&subject.consumer_group, &subject.client) {
        let said = process(directory, group, subject, id, consumer_group, client).await?;
        text += &format!("{client} of {consumer_group} says: {said}\n");
        row["clientSays"] = said.into();
    }
    text.push('\n');
    Ok((text, row))
}

/// What became of a message with each consumer group that reads its topic.
async fn tracks(
    directory: &Directory,
    group: &Group,
    topic: &str,
    message: &Message,
) -> Result<BTreeMap<String, &'static str>, AdminError> {
    let queues = match queues_of(directory, group, "", topic).await {
        Err(AdminError::Refused { code: tonic::Code::NotFound, .. }) => Vec::new(),
        queues => queues?,
    };
    let properties = message.system_properties.clone().unwrap_or_default();
    let place =
        u32::try_from(properties.queue_id).ok().zip(properties.queue_offset.and_then(|at| u64::try_from(at).ok()));
    Ok(place.map(|(queue, offset)| judge(&queues, queue, offset)).unwrap_or_default())
}

/// A message below the progress was handed out. It is finished for sure when nothing of the topic is with a client or
/// waits for another attempt: which messages those are is not told.
fn judge(queues: &[QueueProgress], queue: u32, offset: u64) -> BTreeMap<String, &'static str> {
    let mut open: BTreeMap<&str, u64> = BTreeMap::new();
    for known in queues {
        *open.entry(&known.consumer_group).or_default() += known.in_flight + known.retrying;
    }
    // A sum over lite topics says nothing of one message.
    let at = queues.iter().filter(|known| known.queue == queue && known.lite_topics == 0);
    at.map(|known| {
        let open = open.get(known.consumer_group.as_str()).copied().unwrap_or_default();
        let track = match (offset < known.progress, open) {
            (false, _) => "NOT_CONSUME_YET",
            (true, 0) => "CONSUMED",
            (true, _) => "CONSUMED_OR_RETRYING",
        };
        (known.consumer_group.clone(), track)
    })
    .collect()
}

fn track_lines(tracks: &BTreeMap<String, &'static str>) -> String {
    let line = |(group, track): (&String, &&str)| format!("MessageTrack [consumerGroup={group}, trackType={track}]\n");
    tracks.iter().map(line).collect()
}

/// Has a client process the message; what it says.
async fn process(
    directory: &Directory,
    group: &Group,
    subject: &Subject,
    message_id: &str,
    consumer_group: &str,
    client: &str,
) -> Result<String, AdminError> {
    let request = VerifyMessageRequest {
        deployment_name: None,
        client_id: client.to_owned(),
        group: resource(consumer_group),
        topic: resource(&subject.topic),
        message_id: message_id.to_owned(),
    };
    let (address, answer) = on_group_admin(directory, group, |mut node| {
        let request = request.clone();
        async move { Ok(node.verify_message(request).await?.into_inner()) }
    })
    .await?;
    use raftmq_proto::rocketmq::Code::{FailedToConsumeMessage, Ok as Done};
    let status = answer.status.clone().unwrap_or_default();
    if !matches!(status.code(), Done | FailedToConsumeMessage) {
        check(&address, Some(&status))?;
    }
    let said = format!("{} {}", status.code().as_str_name(), status.message);
    Ok(said.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_message() {
        let queue = |group: &str, queue, progress, in_flight, retrying| QueueProgress {
            consumer_group: group.to_owned(),
            topic: "T".to_owned(),
            queue,
            broker_offset: 10,
            progress,
            in_flight,
            retrying,
            ..QueueProgress::default()
        };
        let queues = [
            queue("behind", 0, 10, 0, 0),
            queue("behind", 1, 3, 0, 0),
            queue("past", 0, 0, 0, 0),
            queue("past", 1, 4, 0, 0),
            queue("retries", 0, 0, 0, 1),
            queue("retries", 1, 4, 0, 0),
            queue("other", 0, 4, 0, 0),
        ];
        let tracks = judge(&queues, 1, 3);
        let expected = [("behind", "NOT_CONSUME_YET"), ("past", "CONSUMED"), ("retries", "CONSUMED_OR_RETRYING")];
        assert_eq!(tracks.iter().map(|(group, track)| (group.as_str(), *track)).collect::<Vec<_>>(), expected);
        assert!(track_lines(&tracks).starts_with("MessageTrack [consumerGroup=behind, trackType=NOT_CONSUME_YET]\n"));
    }
}
