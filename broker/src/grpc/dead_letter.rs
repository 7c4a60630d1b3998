//! ForwardMessageToDeadLetterQueue: a consumer gives a message up; it becomes a dead letter at once.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use raftmq_proto::command::DeadLetter;
use raftmq_proto::command::command::Kind;
use raftmq_proto::rocketmq as v2;
use tonic::Request;

pub(super) async fn handle(
    front: &Front,
    request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
) -> Result<v2::ForwardMessageToDeadLetterQueueResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller, &request)?;
    let command = DeadLetter {
        consumer_group: convert::consumer_group(request.group)?.into_string(),
        topic: convert::topic(request.topic)?.into_string(),
        handle: Some(front.handles.parse(&request.receipt_handle)?),
    };
    front.submit_any(Kind::DeadLetter(command), caller.answer_by()).await?;
    Ok(v2::ForwardMessageToDeadLetterQueueResponse { status: Some(status::ok()) })
}
