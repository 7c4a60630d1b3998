//! The little of the API that the demonstration needs: create a topic, send, receive, acknowledge, on one node.
//!
//! It speaks as an SDK does and to whatever node it was given; it repeats nothing by itself.

use std::{collections::HashMap, str::FromStr, time::Duration};

use anyhow::{Context, bail};
use prost_types::Timestamp;
use raftmq_proto::admin::{PutTopicRequest, admin_client::AdminClient};
use raftmq_proto::rocketmq::{
    AckMessageEntry, AckMessageRequest, Broker, Code, Encoding, FilterExpression, FilterType, Message, MessageQueue,
    MessageType, ReceiveMessageRequest, Resource, SendMessageRequest, Status, SystemProperties,
    messaging_service_client::MessagingServiceClient, receive_message_response::Content,
};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

/// As long as SDKs wait for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a receive waits for messages.
const POLLING: Duration = Duration::from_secs(5);

/// Messages of one receive.
const BATCH: i32 = 32;

/// Messages that are not acknowledged come back after this: the shortest time the API allows.
pub const INVISIBLE: Duration = Duration::from_secs(10);

/// A client on one node.
#[derive(Clone)]
pub struct Client {
    calls: MessagingServiceClient<Channel>,
    id: MetadataValue<Ascii>,
    broker_group: String,
}

/// A message that was received and waits for its acknowledgement.
#[derive(Debug, Clone)]
pub struct Received {
    /// What the producer sent.
    pub body: Vec<u8>,
    /// Which queue it lies in, and where.
    pub place: (i32, i64),
    message_id: String,
    receipt_handle: String,
}

/// Creates a topic through any node's admin address; one that exists stays as it is.
pub async fn create_topic(admin_address: &str, topic: &str) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{admin_address}"))?.connect().await?;
    let request = PutTopicRequest { name: topic.to_owned(), ..Default::default() };
    AdminClient::new(channel).put_topic(request).await.context("the topic cannot be created")?;
    Ok(())
}

impl Client {
    /// A client of the node at `address`; connects with the first call, and again whenever the connection is lost.
    pub fn new(address: &str, id: &str, broker_group: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_str(&format!("http://{address}"))?
            .connect_timeout(Duration::from_millis(500))
            .tcp_nodelay(true);
        Ok(Self {
            calls: MessagingServiceClient::new(endpoint.connect_lazy()),
            id: id.parse().context("a client id is ASCII")?,
            broker_group: broker_group.to_owned(),
        })
    }

    /// Sends one message; an error leaves open whether it was stored.
    pub async fn send(&self, topic: &str, message_id: &str, body: Vec<u8>, born: Timestamp) -> anyhow::Result<()> {
        let properties = SystemProperties {
            message_id: message_id.to_owned(),
            message_type: MessageType::Normal.into(),
            body_encoding: Encoding::Identity.into(),
            born_timestamp: Some(born),
            born_host: "localhost".to_owned(),
            ..Default::default()
        };
        let message = Message {
            topic: Some(named(topic)),
            user_properties: HashMap::new(),
            system_properties: Some(properties),
            body: body.into(),
        };
        let request = self.request(SendMessageRequest { messages: vec![message] }, REQUEST_TIMEOUT);
        let answer = self.calls.clone().send_message(request).await?.into_inner();
        expect_ok(answer.status.as_ref())
    }

    /// Receives what is there, or waits a few seconds for something. Empty when nothing came.
    pub async fn receive(&self, topic: &str, consumer_group: &str) -> anyhow::Result<Vec<Received>> {
        let queue = MessageQueue {
            topic: Some(named(topic)),
            id: -1,
            broker: Some(Broker { name: self.broker_group.clone(), ..Default::default() }),
            ..Default::default()
        };
        let message = ReceiveMessageRequest {
            group: Some(named(consumer_group)),
            message_queue: Some(queue),
            filter_expression: Some(FilterExpression { r#type: FilterType::Tag.into(), expression: "*".to_owned() }),
            batch_size: BATCH,
            invisible_duration: Some(seconds(INVISIBLE)),
            auto_renew: false,
            long_polling_timeout: Some(seconds(POLLING)),
            attempt_id: None,
        };
        let request = self.request(message, POLLING + REQUEST_TIMEOUT);
        let mut answers = self.calls.clone().receive_message(request).await?.into_inner();
        let mut received = Vec::new();
        while let Some(answer) = answers.message().await? {
            match answer.content {
                Some(Content::Status(status)) if status.code == i32::from(Code::MessageNotFound) => {}
                Some(Content::Status(status)) => expect_ok(Some(&status))?,
                Some(Content::Message(message)) => received.push(Received::from_message(message)?),
                Some(Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        Ok(received)
    }

    /// Acknowledges messages of one topic; says how many were refused.
    pub async fn ack(&self, topic: &str, consumer_group: &str, messages: &[Received]) -> anyhow::Result<usize> {
        let entries = messages.iter().map(|message| AckMessageEntry {
            message_id: message.message_id.clone(),
            receipt_handle: message.receipt_handle.clone(),
            lite_topic: None,
        });
        let message = AckMessageRequest {
            group: Some(named(consumer_group)),
            topic: Some(named(topic)),
            entries: entries.collect(),
        };
        let answer = self.calls.clone().ack_message(self.request(message, REQUEST_TIMEOUT)).await?.into_inner();
        let refused = answer.entries.iter().filter(|entry| expect_ok(entry.status.as_ref()).is_err()).count();
        if answer.entries.is_empty() {
            expect_ok(answer.status.as_ref())?;
        }
        Ok(refused)
    }

    fn request<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        let headers = request.metadata_mut();
        headers.insert("x-mq-client-id", self.id.clone());
        for (name, value) in [("x-mq-language", "RUST"), ("x-mq-client-version", "5.0.0"), ("x-mq-protocol", "v2")] {
            headers.insert(name, MetadataValue::from_static(value));
        }
        request
    }
}

impl Received {
    fn from_message(message: Message) -> anyhow::Result<Self> {
        let properties = message.system_properties.context("a delivered message has system properties")?;
        Ok(Self {
            body: message.body.to_vec(),
            place: (properties.queue_id, properties.queue_offset.unwrap_or_default()),
            message_id: properties.message_id,
            receipt_handle: properties.receipt_handle.context("a delivered message has a receipt handle")?,
        })
    }
}

fn expect_ok(status: Option<&Status>) -> anyhow::Result<()> {
    match status {
        Some(status) if status.code == i32::from(Code::Ok) => Ok(()),
        Some(status) => {
            let code = Code::try_from(status.code)
                .map_or_else(|_| status.code.to_string(), |code| code.as_str_name().to_owned());
            bail!("{code}: {}", status.message)
        }
        None => bail!("an answer without a status"),
    }
}

fn named(name: &str) -> Resource {
    Resource { resource_namespace: String::new(), name: name.to_owned() }
}

fn seconds(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}
