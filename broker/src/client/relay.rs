//! Reaches a client through the member of the broker group that holds its stream.
//!
//! The node that wants to tell a client something tries its own streams first, then the other members: the one that
//! heard from the client last before the rest. A member that is asked looks at its own streams and passes nothing on.

use super::streams::{Heard, Told, Whom};
use crate::broker::Node;
use crate::command::{decode_message, encode_message};
use crate::forward::FORWARD_MESSAGE_BYTES_MAX;
use raft_store::NodeId;
use raftmq_proto::forward::forward_client::ForwardClient;
use raftmq_proto::forward::{
    ClientsRequest, ClientsResponse, ConnectedClient, OrphanedTransaction, PrintThreads, RelayRequest, RelayResponse,
    UnsubscribeLite, VerifyMessage, relay_request,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::Instant;
use tonic::Status;

/// Relays of other members that a node carries out at once.
const RELAYS_MAX: usize = 256;
/// A member that does not answer within this is passed over, unless its client is to answer too.
const MEMBER_WITHIN: Duration = Duration::from_secs(7);
/// A member that does not say within this who is connected to it is left out.
const LIST_WITHIN: Duration = Duration::from_secs(2);
/// What a member has heard by then is on its way back for so long.
const RETURN: Duration = Duration::from_millis(200);
/// The leader passes over members that it has not heard from for this long.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// Room for the relays of others.
pub(crate) struct Room(Semaphore);

impl Default for Room {
    fn default() -> Self {
        Room(Semaphore::new(RELAYS_MAX))
    }
}

/// Tells one client, wherever its stream is. `None` when nobody could be told by then.
pub(crate) async fn tell(node: &Node, whom: &Whom, told: &Told, by: Instant) -> Option<Heard> {
    if let Some(heard) = node.streams.tell(&node.registry, whom, told, by).await {
        return Some(heard);
    }
    for member in members(node, whom) {
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let within = if told.wants_answer() { left } else { left.min(MEMBER_WITHIN) };
        let request = to_wire(whom, told, within.saturating_sub(RETURN));
        match tokio::time::timeout(within, tell_member(node, member, request)).await {
            Ok(Ok(heard)) if heard.client_id.is_empty() => {}
            Ok(Ok(heard)) => return Some(Heard { client_id: heard.client_id, answer: heard.answer }),
            Ok(Err(status)) => {
                tracing::debug!(member = format_args!("{member:x}"), %status, "a member could not be asked for a client");
            }
            Err(_) => tracing::debug!(
                member = format_args!("{member:x}"),
                "a member did not say in time whether it has a client"
            ),
        }
    }
    None
}

/// The other members, in the order in which they are asked.
fn members(node: &Node, whom: &Whom) -> Vec<NodeId> {
    let holder = match whom {
        Whom::Client(client_id) => node.registry.holder(client_id),
        Whom::ProducerOf(_) => None,
    };
    let members = node.group.members().into_iter();
    let others = members.filter(|member| member.id != node.group.node());
    let heard = others.filter(|member| member.last_ack.is_none_or(|silent| silent < SILENT_FOR));
    let mut ids: Vec<NodeId> = heard.map(|member| member.id).collect();
    ids.sort_by_key(|id| Some(*id) != holder);
    ids
}

async fn tell_member(node: &Node, member: NodeId, request: RelayRequest) -> Result<RelayResponse, Status> {
    let channel = node.group.peer_channel(member).ok_or_else(|| Status::unavailable("it has no address"))?;
    let mut client = ForwardClient::new(channel).max_encoding_message_size(FORWARD_MESSAGE_BYTES_MAX);
    Ok(client.relay(request).await?.into_inner())
}

/// Live clients with a stream to any member, by id. A member that does not answer is left out.
pub(crate) async fn connected(node: &Node, wanted: ClientsRequest) -> Vec<ConnectedClient> {
    let others = node.group.members().into_iter().filter(|member| member.id != node.group.node());
    let asked = others.map(|member| {
        let wanted = wanted.clone();
        async move {
            let channel = node.group.peer_channel(member.id)?;
            let mut client = ForwardClient::new(channel).max_decoding_message_size(FORWARD_MESSAGE_BYTES_MAX);
            match tokio::time::timeout(LIST_WITHIN, client.clients(wanted)).await {
                Ok(Ok(listed)) => Some(listed.into_inner()),
                Ok(Err(status)) => {
                    tracing::debug!(member = member.label, %status, "a member does not say who is connected to it");
                    None
                }
                Err(_) => None,
            }
        }
    });
    let listed = futures::future::join_all(asked).await.into_iter().flatten();
    let all = listed.chain([connected_here(node, &wanted)]).flat_map(|listed| listed.clients);
    let clients: BTreeMap<String, ConnectedClient> = all.map(|client| (client.client_id.clone(), client)).collect();
    clients.into_values().collect()
}

/// Live clients with a stream to this node.
pub(crate) fn connected_here(node: &Node, wanted: &ClientsRequest) -> ClientsResponse {
    ClientsResponse { clients: node.streams.connected(&node.registry, wanted) }
}

/// Another member asks for one of this node's clients.
pub(crate) async fn relayed(node: &Node, request: RelayRequest) -> Result<RelayResponse, Status> {
    let _room = node.relays.0.try_acquire().map_err(|error| match error {
        TryAcquireError::NoPermits => {
            Status::resource_exhausted(format!("this node relays {RELAYS_MAX} commands to its clients already"))
        }
        TryAcquireError::Closed => Status::unavailable("this node stops"),
    })?;
    let by = Instant::now() + Duration::from_millis(request.timeout_ms.min(600_000));
    let (whom, told) = of_wire(request)?;
    let heard = node.streams.tell(&node.registry, &whom, &told, by).await;
    Ok(heard.map_or_else(RelayResponse::default, |Heard { client_id, answer }| RelayResponse { client_id, answer }))
}

fn to_wire(whom: &Whom, told: &Told, within: Duration) -> RelayRequest {
    RelayRequest {
        whom: Some(match whom {
            Whom::Client(client_id) => relay_request::Whom::ClientId(client_id.clone()),
            Whom::ProducerOf(topic) => relay_request::Whom::ProducerOf(topic.clone()),
        }),
        told: Some(match told {
            Told::Orphaned { transaction_id, message, stored_ms } => {
                relay_request::Told::OrphanedTransaction(OrphanedTransaction {
                    transaction_id: transaction_id.clone(),
                    message: encode_message(message),
                    stored_ms: *stored_ms,
                })
            }
            Told::Verify { message, stored_ms, queue, offset } => relay_request::Told::VerifyMessage(VerifyMessage {
                message: encode_message(message),
                stored_ms: *stored_ms,
                queue: *queue,
                offset: *offset,
            }),
            Told::PrintThreads => relay_request::Told::PrintThreads(PrintThreads {}),
            Told::Unsubscribe { lite_topic } => {
                relay_request::Told::UnsubscribeLite(UnsubscribeLite { lite_topic: lite_topic.clone() })
            }
        }),
        timeout_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
    }
}

#[allow(clippy::result_large_err, reason = "the type of errors is tonic's")]
fn of_wire(request: RelayRequest) -> Result<(Whom, Told), Status> {
    let unknown = || Status::invalid_argument("this node does not know what is to be told to whom");
    let unreadable = |error| Status::invalid_argument(format!("the message cannot be read: {error}"));
    let whom = match request.whom.ok_or_else(unknown)? {
        relay_request::Whom::ClientId(client_id) => Whom::Client(client_id),
        relay_request::Whom::ProducerOf(topic) => Whom::ProducerOf(topic),
    };
    let told = match request.told.ok_or_else(unknown)? {
        relay_request::Told::OrphanedTransaction(orphaned) => Told::Orphaned {
            transaction_id: orphaned.transaction_id,
            message: decode_message(orphaned.message).map_err(unreadable)?,
            stored_ms: orphaned.stored_ms,
        },
        relay_request::Told::VerifyMessage(verify) => Told::Verify {
            message: decode_message(verify.message).map_err(unreadable)?,
            stored_ms: verify.stored_ms,
            queue: verify.queue,
            offset: verify.offset,
        },
        relay_request::Told::PrintThreads(PrintThreads {}) => Told::PrintThreads,
        relay_request::Told::UnsubscribeLite(UnsubscribeLite { lite_topic }) => Told::Unsubscribe { lite_topic },
    };
    Ok((whom, told))
}

#[cfg(test)]
mod tests {
    use super::{Told, Whom, of_wire, to_wire};
    use raftmq_proto::command::StoredMessage;
    use raftmq_proto::forward::RelayRequest;
    use std::time::Duration;

    #[test]
    fn what_is_relayed_arrives_as_it_was() {
        let message =
            || StoredMessage { topic: "t".to_owned(), message_id: "01".to_owned(), ..StoredMessage::default() };
        let check = |whom: Whom, told: Told| {
            let wire = to_wire(&whom, &told, Duration::from_millis(7));
            assert_eq!(wire.timeout_ms, 7);
            assert_eq!(of_wire(wire).expect("whole"), (whom, told));
        };
        let orphaned = Told::Orphaned { transaction_id: "x".to_owned(), message: message(), stored_ms: 3 };
        check(Whom::Client("a".to_owned()), orphaned.clone());
        check(Whom::ProducerOf("t".to_owned()), orphaned);
        check(Whom::Client("a".to_owned()), Told::Verify { message: message(), stored_ms: 4, queue: 5, offset: 6 });
        check(Whom::Client("a".to_owned()), Told::PrintThreads);
        check(Whom::Client("a".to_owned()), Told::Unsubscribe { lite_topic: "l".to_owned() });
        assert!(of_wire(RelayRequest::default()).is_err());
    }
}
