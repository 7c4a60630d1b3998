//! RecallMessage: takes a message back before its delivery time.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::send::type_conflict;
use super::status::{self, ApiError};
use crate::deliver::read::Reader;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{LeasedMessage, Recall, WaitingMessage};
use raftmq_proto::rocketmq as v2;
use tonic::Request;

pub(super) async fn handle(
    front: &Front,
    request: Request<v2::RecallMessageRequest>,
) -> Result<v2::RecallMessageResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller, &request)?;
    let topic = convert::topic(request.topic)?;
    let row = front.topic(&topic).await?.ok_or_else(|| ApiError::TopicNotFound(topic.to_string()))?;
    if !row.message_types.contains(&v2::MessageType::Delay.into()) {
        return Err(type_conflict(&topic, &row.message_types, v2::MessageType::Delay));
    }
    let handle = front.handles.parse_waiting(&request.recall_handle)?;
    let message = WaitingMessage {
        topic: topic.into_string(),
        log_index: handle.log_index,
        slot: handle.slot,
        message_id_hash: handle.message_id_hash,
    };
    let recall = Recall { message: Some(message), delivery_ms: handle.delivery_ms };
    front.submit_any(Kind::Recall(recall), caller.answer_by()).await?;
    let place = LeasedMessage { log_index: handle.log_index, slot: handle.slot, ..LeasedMessage::default() };
    let message_id = match Reader::new(&front.node.group).read(&place).await {
        Ok(stored) => stored.message_id,
        // It is recalled all the same.
        Err(error) => {
            tracing::warn!(%error, "the id of a recalled message cannot be read");
            String::new()
        }
    };
    Ok(v2::RecallMessageResponse { status: Some(status::ok()), message_id })
}
