//! Telemetry: the stream on which a client tells its settings and hears ours.

use super::Front;
use super::access::Opening;
use super::caller::Caller;
use super::status::{self, ApiError};
use crate::client::settings::{ClientSettings, overlay};
use crate::store::consumer_group::consumer_group;
use raftmq_proto::rocketmq as v2;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use v2::telemetry_command::Command;

/// Commands on their way to a client that does not read them; then its stream waits.
const OUTBOUND_MAX: usize = 16;

/// A client's subscriptions are tried to be stored for so long; its next receive or heartbeat does it otherwise.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What goes to the client.
pub(super) type Outbound = ReceiverStream<Result<v2::TelemetryCommand, Status>>;
type Sender = mpsc::Sender<Result<v2::TelemetryCommand, Status>>;

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
        Err(error) => drop(sender.try_send(Ok(command(front.log("Telemetry", error), None)))),
    }
    ReceiverStream::new(outbound)
}

fn command(status: v2::Status, command: Option<Command>) -> v2::TelemetryCommand {
    v2::TelemetryCommand { status: Some(status), command }
}

struct Stream {
    client_id: String,
    language: String,
    /// As the stream was opened; its proof is checked again with each settings.
    caller: Caller,
    sender: Sender,
}

impl Stream {
    async fn run(self, front: Arc<Front>, mut inbound: Streaming<v2::TelemetryCommand>) {
        let connection = front.settings.connected();
        loop {
            let received = tokio::select! {
                received = inbound.message() => received,
                () = self.sender.closed() => break,
                () = front.closing.cancelled() => break,
            };
            // The client half-closed, or its connection broke: our half ends with it.
            let Ok(Some(received)) = received else { break };
            front.node.registry.seen(&self.client_id, &self.language);
            // Everything else answers commands that we do not send.
            let Some(Command::Settings(settings)) = received.command else { continue };
            let answer = match self.settings(&front, connection, settings) {
                Ok(settings) => Ok(command(status::ok(), Some(Command::Settings(settings)))),
                Err(error @ ApiError::Denied(_)) => Err(Ok(command(front.log("Telemetry", error), None))),
                Err(error) => Err(Err(Status::invalid_argument(front.log("Telemetry", error).message))),
            };
            let ends = answer.is_err();
            let answer = answer.map_or_else(|last| last, Ok);
            if self.sender.send(answer).await.is_err() || ends {
                break;
            }
        }
        front.settings.disconnected(&self.client_id, connection);
    }

    /// Takes the client's settings and says what it gets back. Each is answered, repeats too.
    fn settings(&self, front: &Arc<Front>, connection: u64, settings: v2::Settings) -> Result<v2::Settings, ApiError> {
        front.permit(&self.caller, &settings)?;
        let parsed = Arc::new(ClientSettings::parse(&settings, &front.node.config.grpc)?);
        front.settings.put(&self.client_id, connection, parsed.clone());
        let mut row = None;
        if let Some(consumer) = &parsed.consumer {
            row = consumer_group(&front.node.group.state(), consumer.consumer_group.as_str())?;
            // The answer does not wait for the group: a client must be able to start while nobody leads.
            let (front, client_id) = (front.clone(), self.client_id.clone());
            front.clone().calls.spawn(async move {
                let Some(consumer) = &parsed.consumer else { return };
                let deadline = Instant::now() + SESSION_TIMEOUT;
                if let Err(error) = front.replace_session(&client_id, consumer, Some(deadline)).await {
                    tracing::debug!(client_id, %error, "the subscriptions of a client could not be stored");
                }
            });
        }
        Ok(overlay(settings, &self.language, &front.node.config.grpc, row.as_ref()))
    }
}
