//! `sendMessage`: sends a message through the public API.

use super::public::{Client, check, on_group};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_proto::rocketmq::{Encoding, Message, MessageType, Resource, SendMessageRequest, SystemProperties};
use serde_json::json;

pub(super) use super::public::hosts;

/// Send a message; it is stored on a majority of a broker group when this returns.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin sendMessage -n localhost:9876 -t TestTopic -p hello")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The body, as text.
    #[arg(short = 'p', long = "body", allow_hyphen_values = true)]
    body: String,
    /// Keys, separated by spaces.
    #[arg(short = 'k', long = "keys", value_delimiter = ' ')]
    keys: Vec<String>,
    /// The tag.
    #[arg(short = 'c', long = "tags", value_name = "TAG")]
    tag: Option<String>,
    /// The broker group that gets it; left out, one that hosts the topic.
    #[arg(short = 'b', long = "broker", value_name = "NAME")]
    broker: Option<String>,
    /// Accepted and ignored: a broker group chooses the queue.
    #[arg(short = 'i', long = "qid", hide = true)]
    _queue: Option<u32>,
    /// How many times to send it.
    #[arg(long = "count", default_value_t = 1)]
    count: u32,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let groups = hosts(directory, &arguments.topic, arguments.broker.as_deref()).await?;
    let client = Client::new("mqadmin", directory.token.credentials.clone());
    let mut table = Table::new(&["#Broker Name", "#Offset", "#Send Result", "#MsgId"]);
    let mut rows = Vec::new();
    for (_, group) in (0..arguments.count).zip(groups.iter().cycle()) {
        let message = message(&client, arguments);
        let (address, answer) = on_group(directory, group, |mut node| {
            let request = client.request(SendMessageRequest { messages: vec![message.clone()] });
            async move { Ok(node.send_message(request).await?.into_inner()) }
        })
        .await?;
        check(&address, answer.status.as_ref())?;
        for entry in answer.entries {
            check(&address, entry.status.as_ref())?;
            table.row(vec![
                group.name.clone(),
                entry.offset.to_string(),
                "SEND_OK".to_owned(),
                entry.message_id.clone(),
            ]);
            rows.push(json!({ "brokerName": group.name, "offset": entry.offset, "msgId": entry.message_id }));
        }
    }
    Ok(Outcome::done(table.to_string(), rows.into()))
}

fn message(client: &Client, arguments: &Arguments) -> Message {
    let now_ms = crate::time::now_ms();
    let now = prost_types::Timestamp {
        seconds: i64::try_from(now_ms / 1_000).unwrap_or_default(),
        nanos: i32::try_from(now_ms % 1_000 * 1_000_000).unwrap_or_default(),
    };
    Message {
        topic: Some(Resource { resource_namespace: String::new(), name: arguments.topic.clone() }),
        system_properties: Some(SystemProperties {
            tag: arguments.tag.clone(),
            keys: arguments.keys.iter().filter(|key| !key.is_empty()).cloned().collect(),
            message_id: client.message_id(),
            body_encoding: Encoding::Identity.into(),
            message_type: MessageType::Normal.into(),
            born_timestamp: Some(now),
            born_host: "mqadmin".to_owned(),
            ..SystemProperties::default()
        }),
        body: arguments.body.clone().into_bytes().into(),
        ..Message::default()
    }
}
