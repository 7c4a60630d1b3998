//! Heartbeat and NotifyClientTermination: whether a client lives.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use crate::client::settings::{is_lite, served};
use raftmq_proto::command::EndSession;
use raftmq_proto::command::command::Kind;
use raftmq_proto::rocketmq as v2;
use tonic::Request;

pub(super) async fn heartbeat(
    front: &Front,
    request: Request<v2::HeartbeatRequest>,
) -> Result<v2::HeartbeatResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    let client_id = front.admit(&caller, &request)?;
    let known = front.settings.get(client_id);
    // What a client told on its telemetry stream counts; one that this node has never heard of is taken at its word.
    let client_type = known.as_ref().map_or(request.client_type(), |known| known.client_type);
    served(client_type)?;
    if client_type != v2::ClientType::Producer {
        convert::consumer_group(request.group)?;
    }
    if let Some(consumer) = known.as_ref().and_then(|known| known.consumer.as_ref())
        && !is_lite(client_type)
        && let Err(error) = front.renew_session(client_id, consumer, &caller).await
    {
        // The client lives all the same, and its next heartbeat tries again.
        tracing::debug!(client_id, %error, "the subscriptions of a client could not be renewed");
    }
    Ok(v2::HeartbeatResponse { status: Some(status::ok()) })
}

pub(super) async fn terminated(
    front: &Front,
    request: Request<v2::NotifyClientTerminationRequest>,
) -> Result<v2::NotifyClientTerminationResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    let client_id = front.admit(&caller, &request)?;
    front.may_end(&caller, client_id)?;
    // Producers send an empty group.
    let group = request.group.filter(|group| !group.name.is_empty());
    if group.is_some() {
        convert::consumer_group(group)?;
    }
    let producer = front.settings.get(client_id).is_some_and(|known| known.client_type == v2::ClientType::Producer);
    front.settings.ended(client_id);
    front.node.registry.ended(client_id);
    front.node.streams.ended(client_id);
    if !producer {
        let command = Kind::EndSession(EndSession { client_id: client_id.to_owned(), term: 0 });
        front.submit_any(command, caller.answer_by()).await?;
    }
    Ok(v2::NotifyClientTerminationResponse { status: Some(status::ok()) })
}
