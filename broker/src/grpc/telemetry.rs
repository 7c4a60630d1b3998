//! Telemetry: the stream on which a client tells its settings and hears ours, is told what others want of it, and
//! answers.

use super::Front;
use super::access::{Listening, Opening};
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use crate::client::settings::{ClientSettings, is_lite, overlay};
use crate::client::streams::{Order, Placed, Told};
use crate::filter::MessageFilter;
use crate::store::consumer_group::consumer_group;
use futures::StreamExt;
use prost::Message as _;
use raftmq_proto::forward::{ClientAnswer, ClientSubscription, ConnectedClient};
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use v2::telemetry_command::Command;

/// Commands on their way to a client that does not read them; then its stream waits.
const OUTBOUND_MAX: usize = 16;

/// A client's subscriptions are tried to be stored for so long; its next receive or heartbeat does it otherwise.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of what a client prints of its threads; more is cut.
const TRACE_BYTES_MAX: usize = 1 << 20;

/// What goes to the client.
pub(super) type Outbound = Pin<Box<dyn tokio_stream::Stream<Item = Result<v2::TelemetryCommand, Status>> + Send>>;

/// A command on its way, and who wants to know when the connection has taken it.
struct Sent {
    command: Result<v2::TelemetryCommand, Status>,
    taken: Option<oneshot::Sender<()>>,
}

impl From<Result<v2::TelemetryCommand, Status>> for Sent {
    fn from(command: Result<v2::TelemetryCommand, Status>) -> Sent {
        Sent { command, taken: None }
    }
}

/// Whether a client of this `x-mq-language` gains by being told to connect anew. Java does so, or says so to its
/// application (5.2.0), as Go does (5.1.4). Node.js (1.0.8) would open its stream again over the same connection, and
/// leave the old one with nobody to hear its errors, which then end the process. Rust (5.0.0) logs an error, and
/// Python (5.1.2) passes over it.
fn reconnects(language: &str) -> bool {
    ["JAVA", "GO"].contains(&language)
}

/// Opens the stream. It returns at once, so that the client has its headers before it has said anything.
pub(super) fn open(front: &Arc<Front>, request: Request<Streaming<v2::TelemetryCommand>>) -> Outbound {
    let (caller, inbound) = Caller::split(request);
    let (sender, outbound) = mpsc::channel(OUTBOUND_MAX);
    match front.admit(&caller, &Opening) {
        Ok(client_id) => {
            let (client_id, language) = (client_id.to_owned(), caller.language().to_owned());
            let stream = Stream { client_id, language, caller, sender };
            front.calls.spawn(stream.run(front.clone(), inbound));
        }
        // Business errors come as a command with nothing but a status, and the stream ends well.
        Err(error) => drop(sender.try_send(Ok(command(front.log("Telemetry", error), None)).into())),
    }
    Box::pin(ReceiverStream::new(outbound).map(|sent| {
        if let Some(taken) = sent.taken {
            let _ = taken.send(());
        }
        sent.command
    }))
}

fn command(status: v2::Status, command: Option<Command>) -> v2::TelemetryCommand {
    v2::TelemetryCommand { status: Some(status), command }
}

struct Stream {
    client_id: String,
    language: String,
    /// As the stream was opened; its proof is checked again with each settings.
    caller: Caller,
    sender: mpsc::Sender<Sent>,
}

impl Stream {
    async fn run(self, front: Arc<Front>, mut inbound: Streaming<v2::TelemetryCommand>) {
        let connection = front.settings.connected();
        let mut stream = front.node.streams.open(&self.client_id, connection);
        loop {
            let received = tokio::select! {
                received = inbound.message() => received,
                order = stream.order() => {
                    match order {
                        Some(order) => self.place(&front, order),
                        None => self.reconnect(),
                    }
                    continue;
                }
                () = self.sender.closed() => break,
                () = front.closing.cancelled() => {
                    // Its last word: this node stops, or has no vote any more.
                    self.reconnect();
                    break;
                }
            };
            // The client half-closed, or its connection broke: our half ends with it.
            let Ok(Some(received)) = received else { break };
            front.node.registry.seen(&self.client_id, &self.language);
            let status = received.status.unwrap_or_default();
            let settings = match received.command {
                Some(Command::Settings(settings)) => settings,
                Some(Command::ThreadStackTrace(trace)) => {
                    self.answered(&front, &trace.nonce, status, trace.thread_stack_trace);
                    continue;
                }
                Some(Command::VerifyMessageResult(result)) => {
                    self.answered(&front, &result.nonce, status, None);
                    continue;
                }
                // Node.js answers some commands with others.
                _ => continue,
            };
            let answer = match self.settings(&front, connection, settings) {
                Ok((settings, about)) => {
                    stream.settled(about);
                    Ok(command(status::ok(), Some(Command::Settings(settings))))
                }
                Err(error @ ApiError::Denied(_)) => Err(Ok(command(front.log("Telemetry", error), None))),
                Err(error) => Err(Err(Status::invalid_argument(front.log("Telemetry", error).message))),
            };
            let ends = answer.is_err();
            let answer = answer.map_or_else(|last| last, Ok);
            if self.sender.send(answer.into()).await.is_err() || ends {
                break;
            }
        }
        front.settings.disconnected(&self.client_id, connection);
    }

    /// Tells the client to connect anew, if it understands that. It gives no answer, and has until its next route
    /// otherwise, so that nobody waits for it.
    fn reconnect(&self) {
        if reconnects(&self.language) {
            let nonce = self.caller.arrived().elapsed().as_millis().to_string();
            let said = Command::ReconnectEndpointsCommand(v2::ReconnectEndpointsCommand { nonce });
            let _ = self.sender.try_send(Ok(v2::TelemetryCommand { status: None, command: Some(said) }).into());
        }
    }

    /// Writes what somebody wants the client to be told, unless it may not hear it or does not read.
    fn place(&self, front: &Front, Order { told, nonce, placed }: Order) {
        let said = match self.said(front, told, nonce) {
            Ok(said) => said,
            Err(error) => {
                tracing::debug!(client_id = self.client_id, %error, "a client may not be told what it was to be told");
                return;
            }
        };
        let (sender, taken) = oneshot::channel();
        let said = v2::TelemetryCommand { status: None, command: Some(said) };
        let outgoing = self.caller.outgoing();
        let Some(written) = outgoing.written() else { return };
        let upto = written.saturating_add(said.encoded_len() as u64);
        if self.sender.try_send(Sent { command: Ok(said), taken: Some(sender) }).is_ok() {
            let _ = placed.send(Placed { taken, outgoing, upto });
        }
    }

    /// What goes to the client, which may not have the permission any more that it had when it told its settings.
    fn said(&self, front: &Front, told: Told, nonce: String) -> Result<Command, ApiError> {
        let settings = front.settings.get(&self.client_id);
        let named = |topic: &str| {
            let name = || v2::Resource { name: topic.to_owned(), ..v2::Resource::default() };
            settings.as_ref().map_or_else(name, |settings| settings.resource_of(topic))
        };
        Ok(match told {
            Told::Orphaned { transaction_id, message, stored_ms } => {
                front.permit(&self.caller, &Listening::Producer(&message.topic))?;
                let topic = named(&message.topic);
                Command::RecoverOrphanedTransactionCommand(v2::RecoverOrphanedTransactionCommand {
                    message: Some(convert::shown(message, &topic, stored_ms)),
                    transaction_id,
                })
            }
            Told::Verify { message, stored_ms, queue, offset } => {
                front.permit(&self.caller, &Listening::Consumer(&message.topic))?;
                let topic = named(&message.topic);
                let mut message = convert::shown(message, &topic, stored_ms);
                if let Some(system) = &mut message.system_properties {
                    system.queue_id = i32::try_from(queue).unwrap_or(i32::MAX);
                    system.queue_offset = Some(i64::try_from(offset).unwrap_or(i64::MAX));
                }
                Command::VerifyMessageCommand(v2::VerifyMessageCommand { nonce, message: Some(message) })
            }
            Told::Unsubscribe { lite_topic } => {
                Command::NotifyUnsubscribeLiteCommand(v2::NotifyUnsubscribeLiteCommand { lite_topic })
            }
            Told::PrintThreads => Command::PrintThreadStackTraceCommand(v2::PrintThreadStackTraceCommand { nonce }),
        })
    }

    fn about(&self, settings: &ClientSettings) -> ConnectedClient {
        let agent = settings.agent.clone().unwrap_or_default();
        let version = self.caller.client_version();
        let subscription = |(topic, filter): &(TopicName, MessageFilter)| {
            let filter = filter.to_command();
            let is_sql = !filter.sql.is_empty();
            let expression = match filter.tags.as_slice() {
                _ if is_sql => filter.sql,
                [] => "*".to_owned(),
                tags => tags.join(" || "),
            };
            ClientSubscription { topic: topic.to_string(), expression, is_sql }
        };
        let consumer = settings.consumer.as_ref();
        ConnectedClient {
            client_id: self.client_id.clone(),
            language: self.language.clone(),
            version: if version.is_empty() { agent.version } else { version.to_owned() },
            hostname: agent.hostname,
            address: self.caller.address().map(|address| address.to_string()).unwrap_or_default(),
            consumer_group: consumer.map(|consumer| consumer.consumer_group.to_string()).unwrap_or_default(),
            subscriptions: consumer.map(|c| c.subscriptions.iter().map(subscription).collect()).unwrap_or_default(),
            publishes: settings.publishes.iter().map(|(topic, _)| topic.to_string()).collect(),
        }
    }

    fn answered(&self, front: &Front, nonce: &str, status: v2::Status, trace: Option<String>) {
        let mut thread_stack_trace = trace.unwrap_or_default();
        thread_stack_trace.truncate(thread_stack_trace.floor_char_boundary(TRACE_BYTES_MAX));
        let answer = ClientAnswer { code: status.code, message: status.message, thread_stack_trace };
        front.node.streams.answered(&self.client_id, nonce, answer);
    }

    /// Takes the client's settings and says what it gets back, and what others may know of it. Each is answered,
    /// repeats too.
    fn settings(
        &self,
        front: &Arc<Front>,
        connection: u64,
        settings: v2::Settings,
    ) -> Result<(v2::Settings, ConnectedClient), ApiError> {
        front.permit(&self.caller, &settings)?;
        let parsed = Arc::new(ClientSettings::parse(&settings, &front.node.settings().grpc)?);
        front.settings.put(&self.client_id, connection, parsed.clone());
        let about = self.about(&parsed);
        let mut row = None;
        if let Some(consumer) = &parsed.consumer {
            row = consumer_group(&front.node.group.state(), consumer.consumer_group.as_str())?;
        }
        // What a client of lite topics receives, it says by another call.
        if parsed.consumer.is_some() && !is_lite(parsed.client_type) {
            // The answer does not wait for the group: a client must be able to start while nobody leads.
            let (front, client_id, author) = (front.clone(), self.client_id.clone(), front.author(&self.caller));
            front.clone().calls.spawn(async move {
                let Some(consumer) = &parsed.consumer else { return };
                let deadline = Instant::now() + SESSION_TIMEOUT;
                if let Err(error) = front.replace_session(&client_id, consumer, &author, Some(deadline)).await {
                    tracing::debug!(client_id, %error, "the subscriptions of a client could not be stored");
                }
            });
        }
        Ok((overlay(settings, &self.language, &front.node.settings().grpc, row.as_ref()), about))
    }
}
