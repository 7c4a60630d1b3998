//! `selfTest`: a message through every node, out and back.

use super::public::{Client, check};
use crate::connect::{self, messaging};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_admin_client::message::resource;
use raftmq_proto::rocketmq::receive_message_response::Content;
use raftmq_proto::rocketmq::{
    AckMessageEntry, AckMessageRequest, Broker, FilterExpression, FilterType, Message, MessageQueue,
    ReceiveMessageRequest, SendMessageRequest,
};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;

/// A topic for this. RocketMQ's own, SELF_TEST_TOPIC, is a name that clients may not use.
const TOPIC: &str = "TOOLS_SELF_TEST";
const GROUP: &str = "TOOLS_SELF_TEST";
/// How long a message that was stored is looked for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Send a message through every node, receive it there, acknowledge it, and show how long each took.
///
/// It takes topic TOOLS_SELF_TEST and consumer group TOOLS_SELF_TEST; make them first where brokers may not.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin selfTest -n localhost:9876")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: super::Where,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let client = Client::new("mqadmin", directory.token.credentials.clone());
    let mut table = Table::new(&["#Broker Name", "#Label", "#Client Addr", "#Send(ms)", "#Receive(ms)", "#Ack(ms)"]);
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for group in directory.groups(arguments.place.target()).await? {
        for node in group.nodes.iter().filter(|node| !node.grpc.is_empty()) {
            match through(directory, &client, &group, &node.grpc).await {
                Ok(took) => {
                    let [send, receive, ack] = took.map(|took| format!("{:.2}", took.as_secs_f64() * 1_000.0));
                    let json = json!({
                        "brokerName": group.name, "label": node.label, "addr": node.grpc, "ok": true,
                        "sendMs": send, "receiveMs": receive, "ackMs": ack,
                    });
                    table.row(vec![group.name.clone(), node.label.clone(), node.grpc.clone(), send, receive, ack]);
                    rows.push(json);
                }
                Err(error) => {
                    rows.push(json!({
                        "brokerName": group.name, "label": node.label, "addr": node.grpc, "ok": false,
                        "error": error.to_string(),
                    }));
                    failures.push(format!("{} of {}: {error}", node.label, group.name));
                }
            }
        }
    }
    Ok(Outcome { text: table.to_string(), json: rows.into(), failures })
}

/// How long a send, the way back, and the acknowledgement took.
async fn through(
    directory: &Directory,
    client: &Client,
    group: &Group,
    address: &str,
) -> Result<[Duration; 3], AdminError> {
    let mut node = messaging(address, &directory.token)?;
    let refused = |status: &tonic::Status| AdminError::Unknown(connect::at(address, status));
    let message = super::probe::message(client, TOPIC, 16);
    let id = message.system_properties.as_ref().map(|system| system.message_id.clone()).unwrap_or_default();
    let began = Instant::now();
    let request = client.request(SendMessageRequest { messages: vec![message] });
    let answer = node.send_message(request).await.map_err(|status| refused(&status))?.into_inner();
    check(address, answer.status.as_ref())?;
    let sent = began.elapsed();

    let began = Instant::now();
    loop {
        // Messages of an earlier run that was broken off are in front of it.
        let messages = receive(directory, client, group, address).await?;
        let received = began.elapsed();
        let acked = Instant::now();
        let entries: Vec<AckMessageEntry> = messages.iter().filter_map(entry).collect();
        let found = entries.iter().any(|entry| entry.message_id == id);
        if !entries.is_empty() {
            let request = AckMessageRequest { group: resource(GROUP), topic: resource(TOPIC), entries };
            let answer =
                node.ack_message(client.request(request)).await.map_err(|status| refused(&status))?.into_inner();
            check(address, answer.status.as_ref())?;
        }
        if found {
            return Ok([sent, received, acked.elapsed()]);
        }
        if began.elapsed() > PATIENCE {
            return Err(AdminError::Unknown(format!(
                "{address}: message {id} was stored and not delivered within {} s",
                PATIENCE.as_secs()
            )));
        }
    }
}

fn entry(message: &Message) -> Option<AckMessageEntry> {
    let system = message.system_properties.as_ref()?;
    Some(AckMessageEntry {
        message_id: system.message_id.clone(),
        receipt_handle: system.receipt_handle.clone()?,
        ..AckMessageEntry::default()
    })
}

async fn receive(
    directory: &Directory,
    client: &Client,
    group: &Group,
    address: &str,
) -> Result<Vec<Message>, AdminError> {
    let mut request = client.request(ReceiveMessageRequest {
        group: resource(GROUP),
        message_queue: Some(MessageQueue {
            topic: resource(TOPIC),
            id: -1,
            broker: Some(Broker { name: group.name.clone(), id: 0, endpoints: None }),
            ..MessageQueue::default()
        }),
        filter_expression: Some(FilterExpression { r#type: FilterType::Tag.into(), expression: "*".to_owned() }),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    });
    request.set_timeout(Duration::from_secs(10));
    let failed = |status: &tonic::Status| AdminError::Unknown(connect::at(address, status));
    let mut parts = messaging(address, &directory.token)?
        .receive_message(request)
        .await
        .map_err(|status| failed(&status))?
        .into_inner();
    let mut messages = Vec::new();
    while let Some(part) = parts.next().await {
        match part.map_err(|status| failed(&status))?.content {
            Some(Content::Message(message)) => messages.push(message),
            Some(Content::Status(status)) if status.code() == raftmq_proto::rocketmq::Code::MessageNotFound => {}
            Some(Content::Status(status)) => check(address, Some(&status))?,
            Some(Content::DeliveryTimestamp(_)) | None => {}
        }
    }
    Ok(messages)
}
