//! ChangeInvisibleDuration: a lease is replaced by another with a new end, which is also how clients give back.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use crate::config::GrpcConfig;
use crate::deliver::handle::Handles;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{ChangeInvisible, reply};
use raftmq_proto::rocketmq as v2;
use tonic::Request;

pub(super) async fn handle(
    front: &Front,
    request: Request<v2::ChangeInvisibleDurationRequest>,
) -> v2::ChangeInvisibleDurationResponse {
    // Clients take the handle of the answer before they look at its status: an error gives back theirs.
    let receipt_handle = request.get_ref().receipt_handle.clone();
    match change(front, request).await {
        Ok(response) => response,
        Err(error) => {
            let status = front.log("ChangeInvisibleDuration", error);
            v2::ChangeInvisibleDurationResponse { status: Some(status), receipt_handle }
        }
    }
}

async fn change(
    front: &Front,
    request: Request<v2::ChangeInvisibleDurationRequest>,
) -> Result<v2::ChangeInvisibleDurationResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller, &request)?;
    let command = draft(&request, front.handles, &front.node.settings().grpc)?;
    let reply = front.submit(Kind::ChangeInvisible(command), Vec::new(), caller.answer_by()).await?;
    let reply::Kind::Invisible(invisible) = reply else {
        return Err(ApiError::Internal(format!("a change of an invisible duration was answered with {reply:?}")));
    };
    // A lease that ends at once may leave no handle behind; the old one then stands for it.
    let receipt_handle = match &invisible.handle {
        Some(handle) => front.handles.text(handle),
        None => request.receipt_handle,
    };
    Ok(v2::ChangeInvisibleDurationResponse { status: Some(status::ok()), receipt_handle })
}

fn draft(
    request: &v2::ChangeInvisibleDurationRequest,
    ours: Handles,
    limits: &GrpcConfig,
) -> Result<ChangeInvisible, ApiError> {
    let topic = convert::topic(request.topic.clone())?;
    let consumer_group = convert::consumer_group(request.group.clone())?;
    let value_ms = request.invisible_duration.as_ref().map_or(0, convert::duration_ms);
    let max_ms = limits.invisible_ms_max;
    let invisible_ms = u64::try_from(value_ms).ok().filter(|ms| *ms <= max_ms).ok_or(ApiError::InvisibleTime {
        value_ms,
        min_ms: 0,
        max_ms,
        keys: "maxInvisibleTimeMillis",
    })?;
    Ok(ChangeInvisible {
        consumer_group: consumer_group.into_string(),
        topic: topic.into_string(),
        handle: Some(ours.parse(&request.receipt_handle)?),
        invisible_ms,
        suspend: request.suspend(),
    })
}

#[cfg(test)]
mod tests {
    use super::draft;
    use crate::deliver::handle::Handles;
    use crate::grpc::status::code_name;
    use crate::grpc::tests::limits;
    use raftmq_proto::command::Handle;
    use raftmq_proto::rocketmq as v2;

    #[test]
    fn durations_and_handles() {
        let ours = Handles::of("RaftNode00");
        let good = ours.text(&Handle { lease_id: 7, ..Handle::default() });
        let check = |handle: &str, seconds: i64, expected: &str| {
            let resource = |name: &str| Some(v2::Resource { name: name.to_owned(), ..v2::Resource::default() });
            let request = v2::ChangeInvisibleDurationRequest {
                group: resource("billing"),
                topic: resource("orders"),
                receipt_handle: handle.to_owned(),
                invisible_duration: Some(prost_types::Duration { seconds, nanos: 0 }),
                ..Default::default()
            };
            let shown = match draft(&request, ours, &limits()) {
                Ok(command) => format!("{} ms", command.invisible_ms),
                Err(error) => code_name(&error.status()).to_owned(),
            };
            assert_eq!(shown, expected, "{handle:?} {seconds} s");
        };
        check(&good, 0, "0 ms");
        check(&good, 30, "30000 ms");
        check(&good, 43_200, "43200000 ms");
        check(&good, 43_201, "ILLEGAL_INVISIBLE_TIME");
        check(&good, -1, "ILLEGAL_INVISIBLE_TIME");
        check(&good, i64::MAX, "ILLEGAL_INVISIBLE_TIME");
        check("forged", 30, "INVALID_RECEIPT_HANDLE");
    }
}
