//! The public Admin service. Who may administer through `raftmq.admin.v1` may do it here, and nobody else: anybody on
//! this machine and whoever shows the `adminToken`, or, with access control, a user that may administer.
//!
//! What is answered comes from the state machine, from the log, and from the clients' streams on all members.

mod client;
mod message;
mod progress;
mod topic;

use super::caller::Caller;
use super::status::ApiError;
use super::{Front, StatusOnly};
use crate::admin::door;
use crate::store::StateError;
use raft_store::State;
use raftmq_proto::rocketmq as v2;
use raftmq_proto::rocketmq::admin_server;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

/// A caller that names no deadline waits for so long.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl Front {
    /// Lets an administrator in.
    fn administer(&self, caller: &Caller) -> Result<(), ApiError> {
        let access = &self.node.access;
        let refused = if access.is_on() {
            let outcome = access.administrator(caller.metadata(), caller.peer(), || self.state());
            outcome.map(drop).map_err(ApiError::from)
        } else {
            let token = self.node.config.admin_token.as_deref();
            let way_in = door::way_in(token, caller.metadata(), caller.peer());
            way_in.map(drop).map_err(ApiError::NoAdministrator)
        };
        if let Err(error) = &refused
            && let Some(suppressed) = self.denials.pass()
        {
            let address = caller.address().map(|address| address.to_string()).unwrap_or_default();
            tracing::warn!(target: "audit", address, suppressed, reason = %error, "an administrator's call is refused");
        }
        refused
    }
}

/// When an answer must be on its way.
fn answer_by(caller: &Caller) -> Instant {
    caller.answer_by().unwrap_or_else(|| caller.arrived() + ANSWER_WITHIN)
}

/// This node has applied everything that was acknowledged before the call.
async fn fresh(front: &Front, caller: &Caller) -> Result<(), ApiError> {
    front.catch_up(Some(answer_by(caller))).await
}

/// Reads rows off the async threads.
async fn rows<T: Send + 'static>(
    front: &Front,
    read: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
) -> Result<T, ApiError> {
    let state = front.state();
    match tokio::task::spawn_blocking(move || read(&state)).await {
        Ok(rows) => Ok(rows?),
        Err(error) => Err(ApiError::Internal(format!("reading rows did not end well: {error}"))),
    }
}

/// The service as tonic wants it.
pub(super) struct Admin(pub(super) Arc<Front>);

macro_rules! answers {
    ($($rpc:ident($request:ident) -> $reply:ident as $name:literal by $handler:path;)*) => {
        $(impl StatusOnly for v2::$reply {
            #[allow(clippy::needless_update, reason = "some of the replies are nothing but a status")]
            fn status_only(status: v2::Status) -> Self {
                v2::$reply { status: Some(status), ..Default::default() }
            }
        })*

        #[tonic::async_trait]
        impl admin_server::Admin for Admin {
            $(async fn $rpc(&self, request: Request<v2::$request>) -> Result<Response<v2::$reply>, Status> {
                let (caller, request) = Caller::split(request);
                let outcome = match self.0.administer(&caller) {
                    Ok(()) => $handler(&self.0, &caller, request).await,
                    Err(error) => Err(error),
                };
                Ok(Response::new(self.0.answer($name, outcome)))
            })*

            async fn change_log_level(
                &self,
                request: Request<v2::ChangeLogLevelRequest>,
            ) -> Result<Response<v2::ChangeLogLevelResponse>, Status> {
                let (caller, request) = Caller::split(request);
                // The only reply without a status.
                let remark = match self.0.administer(&caller).map(|()| change_log_level(&self.0, &caller, request)) {
                    Ok(remark) => remark,
                    Err(error) => self.0.log("ChangeLogLevel", error).message,
                };
                Ok(Response::new(v2::ChangeLogLevelResponse { remark }))
            }
        }
    };
}

answers! {
    describe_topic_status(DescribeTopicStatusRequest) -> DescribeTopicStatusResponse as "DescribeTopicStatus"
        by topic::describe;
    list_subscription(ListSubscriptionRequest) -> ListSubscriptionResponse as "ListSubscription"
        by client::subscriptions;
    describe_subscription(DescribeSubscriptionRequest) -> DescribeSubscriptionResponse as "DescribeSubscription"
        by client::members;
    delete_subscription(DeleteSubscriptionRequest) -> DeleteSubscriptionResponse as "DeleteSubscription"
        by progress::forget;
    describe_group_accumulation(DescribeGroupAccumulationRequest) -> DescribeGroupAccumulationResponse
        as "DescribeGroupAccumulation" by progress::accumulated;
    list_consumer_connection(ListConsumerConnectionRequest) -> ListConsumerConnectionResponse
        as "ListConsumerConnection" by client::connections;
    reset_group_offset(ResetGroupOffsetRequest) -> ResetGroupOffsetResponse as "ResetGroupOffset" by progress::reset;
    query_message(ListMessageRequest) -> ListMessageResponse as "QueryMessage" by message::query;
    print_thread_stack_trace(PrintThreadStackTraceRequest) -> PrintThreadStackTraceResponse as "PrintThreadStackTrace"
        by client::threads;
    verify_message(VerifyMessageRequest) -> VerifyMessageResponse as "VerifyMessage" by message::verify;
    admin_send_message(AdminSendMessageRequest) -> AdminSendMessageResponse as "AdminSendMessage" by message::send;
    get_consumer_running_info(GetConsumerRunningInfoRequest) -> GetConsumerRunningInfoResponse
        as "GetConsumerRunningInfo" by client::running;
    get_topic_route(GetTopicRouteRequest) -> GetTopicRouteResponse as "GetTopicRoute" by topic::route;
    query_time_span(QueryTimeSpanRequest) -> QueryTimeSpanResponse as "QueryTimeSpan" by progress::time_span;
    get_proxy_runtime_stats(GetProxyRuntimeStatsRequest) -> GetProxyRuntimeStatsResponse as "GetProxyRuntimeStats"
        by topic::figures;
}

fn change_log_level(front: &Front, caller: &Caller, request: v2::ChangeLogLevelRequest) -> String {
    use v2::change_log_level_request::Level;
    let level = match request.level() {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    front.audit(caller, "log level changed", level);
    match raftmq_server::logs::change(level) {
        Ok(()) => format!("{} logs {level} and above", front.node.config.label),
        Err(error) => error,
    }
}
