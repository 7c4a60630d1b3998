//! EndTransaction: the producer's word on a half message.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use crate::deliver::handle::message_id_hash;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{EndTransaction, WaitingMessage};
use raftmq_proto::rocketmq as v2;
use tonic::Request;

pub(super) async fn end(
    front: &Front,
    request: Request<v2::EndTransactionRequest>,
) -> Result<v2::EndTransactionResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller, &request)?;
    let resolution = request.resolution();
    let topic = convert::topic(request.topic)?.into_string();
    let handle = front.handles.parse_waiting(&request.transaction_id).map_err(|_| ApiError::TransactionId)?;
    let commit = match resolution {
        v2::TransactionResolution::Commit => true,
        v2::TransactionResolution::Rollback => false,
        v2::TransactionResolution::Unspecified => return Err(ApiError::Resolution),
    };
    let message = WaitingMessage {
        topic: topic.clone(),
        log_index: handle.log_index,
        slot: handle.slot,
        message_id_hash: message_id_hash(&request.message_id),
    };
    let end = EndTransaction { message: Some(message), commit };
    let reply = front.submit_told(Kind::EndTransaction(end), caller.answer_by()).await?;
    front.node.counters.ended(topic, commit, &reply);
    Ok(v2::EndTransactionResponse { status: Some(status::ok()) })
}
