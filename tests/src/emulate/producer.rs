//! The producer of an emulated client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use raftmq_proto::rocketmq::{self as pb, messaging_service_client::MessagingServiceClient, settings::PubSub};
use tonic::transport::Channel;

use super::{
    Habits, REQUEST_TIMEOUT, SEND_ATTEMPTS,
    session::{Checker, Failure, Link, Queue, Role, Session},
};
use crate::{client, load::resource};

type Stub = MessagingServiceClient<Channel>;

/// Sends messages.
pub struct Producer {
    session: Arc<Session>,
}

/// A message to be sent.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// Topic.
    pub topic: String,
    /// Body.
    pub body: Vec<u8>,
    /// Its tag, its key `key-N` and its property `sequence`.
    pub sequence: Option<(u64, &'static str)>,
    /// Messages of one group keep their order.
    pub message_group: Option<String>,
    /// When it is delivered, ms since the Unix epoch.
    pub delivery_ms: Option<i64>,
    /// How urgent it is.
    pub priority: Option<i32>,
    /// It is invisible until [`Producer::end`].
    pub half: bool,
}

/// What became of a message, and where.
pub struct Receipt {
    entry: pb::SendResultEntry,
    topic: String,
    link: Arc<Link>,
}

impl Producer {
    /// Starts one for `topic`.
    ///
    /// # Errors
    ///
    /// The topic has no route.
    pub async fn start(habits: &'static Habits, access: &str, topic: &str, checker: Option<Checker>) -> Result<Self> {
        let publishing = pb::Publishing { topics: vec![resource(topic)], ..Default::default() };
        let pub_sub = PubSub::Publishing(publishing);
        let role = Role { kind: pb::ClientType::Producer, group: None, pub_sub, checker };
        Ok(Self { session: Session::start(habits, access, role, &[topic]).await? })
    }

    /// Sends a message, up to three times, each over another queue of the route.
    ///
    /// # Errors
    ///
    /// It is larger than the broker's settings allow, or no call was answered OK.
    pub async fn send(&self, draft: &Draft) -> Result<Receipt> {
        let settings = self.session.settings();
        if let Some(PubSub::Publishing(publishing)) = &settings.pub_sub {
            let limit = publishing.max_body_size;
            let fits = limit <= 0 || draft.body.len() <= limit as usize;
            ensure!(fits, "the body exceeds {limit} bytes");
        }
        let message = self.message(draft);
        let route = self.session.route(&draft.topic).await?;
        let mut calls = 0;
        loop {
            calls += 1;
            let Some((queue, link)) = self.choose(&route, draft) else { anyhow::bail!("a route without queues") };
            let failure = match self.call(link, queue, message.clone()).await {
                Ok(entry) => return Ok(Receipt { entry, topic: draft.topic.clone(), link: link.clone() }),
                Err(failure) => failure,
            };
            link.isolate();
            if calls >= SEND_ATTEMPTS {
                return Err(failure.into());
            }
            if failure.code() == Some(pb::Code::TooManyRequests) {
                tokio::time::sleep(Duration::from_millis(10 << calls)).await;
            }
        }
    }

    /// The next queue of a broker that did not fail lately, or that of the message group.
    fn choose<'q>(&self, route: &'q [Queue], draft: &Draft) -> Option<&'q Queue> {
        if let Some(group) = draft.message_group.as_deref().filter(|_| self.session.habits.group_chooses_queue) {
            // Its own hash, another in each process.
            let hash = group
                .bytes()
                .fold(std::process::id() as usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
            return route.get(hash % route.len().max(1));
        }
        let healthy = (0..route.len()).filter_map(|_| self.session.turn(route)).find(|(_, link)| !link.is_isolated());
        healthy.or_else(|| self.session.turn(route))
    }

    async fn call(
        &self,
        link: &Link,
        queue: &pb::MessageQueue,
        mut message: pb::Message,
    ) -> Result<pb::SendResultEntry, Failure> {
        if let Some(system) = &mut message.system_properties {
            system.queue_id = queue.id;
        }
        let request = pb::SendMessageRequest { messages: vec![message] };
        let call = async |mut stub: Stub, request| stub.send_message(request).await;
        let mut answer = self.session.call(link, REQUEST_TIMEOUT, request, call).await?.into_inner();
        client::checked(answer.status.as_ref())?;
        let entries = answer.entries.len();
        match answer.entries.pop() {
            Some(entry) if entries == 1 => client::checked(entry.status.as_ref()).map(|()| entry),
            _ => Err(Failure::Code(pb::Code::Unspecified, format!("{entries} entries for a message"))),
        }
    }

    fn message(&self, draft: &Draft) -> pb::Message {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let timestamp = |ms: i64| prost_types::Timestamp {
            seconds: ms.div_euclid(1000),
            nanos: (ms.rem_euclid(1000) * 1_000_000) as i32,
        };
        // By its attributes, in this order.
        let message_type = match draft {
            Draft { delivery_ms: Some(_), .. } => pb::MessageType::Delay,
            Draft { message_group: Some(_), .. } => pb::MessageType::Fifo,
            Draft { priority: Some(_), .. } => pb::MessageType::Priority,
            Draft { half: true, .. } => pb::MessageType::Transaction,
            _ => pb::MessageType::Normal,
        };
        let sequence = draft.sequence;
        let system = pb::SystemProperties {
            tag: sequence.map(|(_, tag)| tag.to_string()),
            keys: sequence.iter().map(|(sequence, _)| format!("key-{sequence}")).collect(),
            message_id: format!("01{:012X}{:04X}{:016X}", rand::random::<u32>(), std::process::id() & 0xffff, number),
            body_encoding: pb::Encoding::Identity.into(),
            message_type: message_type.into(),
            born_timestamp: Some(timestamp(now_ms())),
            born_host: "localhost".into(),
            delivery_timestamp: draft.delivery_ms.map(timestamp),
            delivery_attempt: draft.delivery_ms.filter(|_| self.session.habits.attempt_of_delayed).map(|ms| ms as i32),
            message_group: draft.message_group.clone(),
            priority: draft.priority,
            ..Default::default()
        };
        let property = |(sequence, _): &(u64, _)| ("sequence".to_string(), sequence.to_string());
        pb::Message {
            topic: Some(resource(&draft.topic)),
            user_properties: sequence.iter().map(property).collect(),
            system_properties: Some(system),
            body: draft.body.clone().into(),
        }
    }

    /// Commits a half message, or rolls it back, at the broker that took it.
    ///
    /// # Errors
    ///
    /// The answer is not OK, or there is none.
    pub async fn end(&self, half: &Receipt, resolution: pb::TransactionResolution) -> Result<()> {
        let request = pb::EndTransactionRequest {
            topic: Some(resource(&half.topic)),
            message_id: half.entry.message_id.clone(),
            transaction_id: half.entry.transaction_id.clone(),
            resolution: resolution.into(),
            source: pb::TransactionSource::SourceClient.into(),
            trace_context: String::new(),
        };
        let call = async |mut stub: Stub, request| stub.end_transaction(request).await;
        let answer = self.session.call(&half.link, REQUEST_TIMEOUT, request, call).await?;
        Ok(client::checked(answer.into_inner().status.as_ref())?)
    }

    /// Ends it as this client does.
    pub async fn close(&self) {
        self.session.terminate().await;
    }
}

impl Receipt {
    /// The id of the message.
    pub fn message_id(&self) -> &str {
        &self.entry.message_id
    }
}

/// The wall clock, ms since the Unix epoch.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
