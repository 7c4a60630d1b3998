//! The public Admin service: its RPCs answer that they are not there yet, each in its own reply type.

use super::status::ApiError;
use raftmq_proto::rocketmq as v2;
use raftmq_proto::rocketmq::admin_server;
use tonic::{Request, Response, Status};

/// The service as tonic wants it.
pub(super) struct Admin;

macro_rules! not_yet {
    ($($rpc:ident($request:ident) -> $reply:ident as $name:literal;)*) => {
        #[allow(clippy::needless_update, reason = "some of the replies are nothing but a status")]
        #[tonic::async_trait]
        impl admin_server::Admin for Admin {
            $(async fn $rpc(&self, _: Request<v2::$request>) -> Result<Response<v2::$reply>, Status> {
                let status = Some(ApiError::NotImplemented($name).status());
                Ok(Response::new(v2::$reply { status, ..Default::default() }))
            })*

            async fn change_log_level(
                &self,
                _: Request<v2::ChangeLogLevelRequest>,
            ) -> Result<Response<v2::ChangeLogLevelResponse>, Status> {
                // The only reply without a status.
                let remark = ApiError::NotImplemented("ChangeLogLevel").to_string();
                Ok(Response::new(v2::ChangeLogLevelResponse { remark }))
            }
        }
    };
}

not_yet! {
    describe_topic_status(DescribeTopicStatusRequest) -> DescribeTopicStatusResponse as "DescribeTopicStatus";
    list_subscription(ListSubscriptionRequest) -> ListSubscriptionResponse as "ListSubscription";
    describe_subscription(DescribeSubscriptionRequest) -> DescribeSubscriptionResponse as "DescribeSubscription";
    delete_subscription(DeleteSubscriptionRequest) -> DeleteSubscriptionResponse as "DeleteSubscription";
    describe_group_accumulation(DescribeGroupAccumulationRequest) -> DescribeGroupAccumulationResponse
        as "DescribeGroupAccumulation";
    list_consumer_connection(ListConsumerConnectionRequest) -> ListConsumerConnectionResponse
        as "ListConsumerConnection";
    reset_group_offset(ResetGroupOffsetRequest) -> ResetGroupOffsetResponse as "ResetGroupOffset";
    query_message(ListMessageRequest) -> ListMessageResponse as "QueryMessage";
    print_thread_stack_trace(PrintThreadStackTraceRequest) -> PrintThreadStackTraceResponse as "PrintThreadStackTrace";
    verify_message(VerifyMessageRequest) -> VerifyMessageResponse as "VerifyMessage";
    admin_send_message(AdminSendMessageRequest) -> AdminSendMessageResponse as "AdminSendMessage";
    get_consumer_running_info(GetConsumerRunningInfoRequest) -> GetConsumerRunningInfoResponse
        as "GetConsumerRunningInfo";
    get_topic_route(GetTopicRouteRequest) -> GetTopicRouteResponse as "GetTopicRoute";
    query_time_span(QueryTimeSpanRequest) -> QueryTimeSpanResponse as "QueryTimeSpan";
    get_proxy_runtime_stats(GetProxyRuntimeStatsRequest) -> GetProxyRuntimeStatsResponse as "GetProxyRuntimeStats";
}
