//! `raftmq.admin.v1`: what mqadmin asks of this node, on `listenPort`.
//!
//! Changes are commands like any other: they come back when they are committed and applied here. Reads see what was
//! acknowledged before them, unless the caller asks for less. Who calls is logged with every change: from this machine
//! anybody may, from elsewhere whoever shows the `adminToken`; with `authenticationEnabled`, a user that may administer
//! and nobody else.

mod access;
mod catalog;
pub(crate) mod door;
mod explain;
mod figures;
mod half;
mod inspect;
mod lite;
mod members;
pub(crate) mod progress;
pub(crate) mod reset;
mod status;
mod timers;
mod traffic;
mod upkeep;
mod waiting;

pub(crate) use status::{disk_used_ratio, lonely};
pub(crate) use traffic::Traffic;

use crate::broker::Node;
use crate::propose::SubmitError;
use crate::store::StateError;
use door::Caller;
use raft_store::State;
use raftmq_proto::admin::admin_server::{Admin, AdminServer};
use raftmq_proto::admin::{
    ChangeMembersRequest, ChangeMembersResponse, ConsumerProgressRequest, ConsumerProgressResponse, DeleteAclRequest,
    DeleteAclResponse, DeleteConsumerGroupRequest, DeleteConsumerGroupResponse, DeleteTopicRequest,
    DeleteTopicResponse, DeleteUserRequest, DeleteUserResponse, DescribeLiteRequest, DescribeLiteResponse, DumpRequest,
    DumpResponse, EndTransactionRequest, EndTransactionResponse, ExplainMessageRequest, ExplainMessageResponse,
    FlushRowsRequest, FlushRowsResponse, GetConfigRequest, GetConfigResponse, GetConsumerGroupRequest,
    GetConsumerGroupResponse, GetWaitingMessageRequest, GetWaitingMessageResponse, GroupStatusRequest,
    GroupStatusResponse, ListAclsRequest, ListAclsResponse, ListClientsRequest, ListClientsResponse,
    ListConsumerGroupsRequest, ListConsumerGroupsResponse, ListHalfMessagesRequest, ListHalfMessagesResponse,
    ListTimersRequest, ListTimersResponse, ListTopicsRequest, ListTopicsResponse, ListUsersRequest, ListUsersResponse,
    PutAclRequest, PutAclResponse, PutConsumerGroupRequest, PutConsumerGroupResponse, PutTopicRequest,
    PutTopicResponse, PutUserRequest, PutUserResponse, ResetOffsetRequest, ResetOffsetResponse, SetWritableRequest,
    SetWritableResponse, TopicFiguresRequest, TopicFiguresResponse, TopicRouteRequest, TopicRouteResponse,
    TopicStatusRequest, TopicStatusResponse, TransferLeaderRequest, TransferLeaderResponse, TrimLogRequest,
    TrimLogResponse, UpdateConfigRequest, UpdateConfigResponse,
};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Refusal, Reply, Tick};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Response, Status};

/// A change, or a read that wants to see everything, waits this long for a leader.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows in one part of an answer.
const PART_ROWS_MAX: usize = 1_000;

/// The service.
pub(crate) struct AdminService {
    node: Arc<Node>,
}

impl AdminService {
    /// The service behind the check of who calls.
    pub(crate) fn routes(node: Arc<Node>) -> Routes {
        let keeper = node.clone();
        let guard = door::guard(node.config.admin_token.clone(), move |metadata, peer| {
            let access = &keeper.access;
            access.is_on().then(|| access.administrator(metadata, peer, || keeper.group.state()))
        });
        Routes::new(InterceptedService::new(AdminServer::new(AdminService { node }), guard))
    }

    fn broker_group(&self) -> String {
        self.node.config.broker_group.clone()
    }

    /// Has a change carried out, and logs it with its caller.
    async fn change(&self, what: &str, name: &str, caller: &Caller, kind: Kind) -> Result<Reply, Status> {
        let reply = self.submit(kind).await;
        let outcome = match &reply {
            Ok(_) => "done",
            Err(status) => status.message(),
        };
        tracing::info!(target: "audit", user = caller.name, address = caller.address, name, outcome, "{what}");
        reply
    }

    async fn submit(&self, kind: Kind) -> Result<Reply, Status> {
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        let reply = self.node.proposer.submit(kind, Vec::new(), Some(deadline)).await.map_err(not_submitted)?;
        match reply.refusal() {
            Refusal::Unspecified => Ok(reply),
            refusal => Err(refused(refusal, reply.detail)),
        }
    }

    /// Returns when this node has applied everything that was acknowledged before the call, by having a command of
    /// its own carried out that changes nothing.
    async fn catch_up(&self, stale: bool) -> Result<(), Status> {
        if stale { Ok(()) } else { self.submit(Kind::Tick(Tick {})).await.map(drop) }
    }

    /// Reads rows off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        rows: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, Status> {
        let node = self.node.clone();
        match tokio::task::spawn_blocking(move || rows(&node.group.state())).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(Status::internal(format!("rows cannot be read: {error}"))),
            Err(error) => Err(Status::internal(format!("reading rows failed: {error}"))),
        }
    }
}

/// Whether a row that a change was to be made of was changed meanwhile, and there is time to begin anew: of two changes
/// at the same time, neither may take the other back.
fn is_outdated<T>(outcome: &Result<T, Status>, deadline: Instant) -> bool {
    outcome.as_ref().is_err_and(|status| status.code() == Code::Aborted) && Instant::now() < deadline
}

fn not_submitted(error: SubmitError) -> Status {
    match error {
        SubmitError::Overloaded { .. } => Status::resource_exhausted(error.to_string()),
        SubmitError::Deadline | SubmitError::Closed => Status::unavailable(error.to_string()),
        SubmitError::Version { .. } => Status::failed_precondition(error.to_string()),
    }
}

fn refused(refusal: Refusal, detail: String) -> Status {
    let detail = if detail.is_empty() { refusal.as_str_name().to_owned() } else { detail };
    match refusal {
        Refusal::TopicNotFound
        | Refusal::ConsumerGroupNotFound
        | Refusal::UserNotFound
        | Refusal::AclNotFound
        | Refusal::HalfMessageNotFound => Status::not_found(detail),
        Refusal::InvalidArgument | Refusal::NotSupported => Status::invalid_argument(detail),
        Refusal::AlreadyExists => Status::already_exists(detail),
        Refusal::DeadlinePassed | Refusal::StaleBoot => Status::unavailable(detail),
        Refusal::ChangedMeanwhile => Status::aborted(detail),
        _ => Status::failed_precondition(detail),
    }
}

type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An answer in parts of bounded size; one empty part when there is nothing.
fn in_parts<R: Send + 'static, T: Send + 'static>(
    rows: Vec<R>,
    part: impl Fn(Vec<R>) -> T + Send + 'static,
) -> Parts<T> {
    let mut rows = rows.into_iter().peekable();
    let mut first = true;
    Box::pin(tokio_stream::iter(std::iter::from_fn(move || {
        let wanted = std::mem::take(&mut first) || rows.peek().is_some();
        wanted.then(|| Ok(part(rows.by_ref().take(PART_ROWS_MAX).collect())))
    })))
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn put_topic(&self, request: Request<PutTopicRequest>) -> Result<Response<PutTopicResponse>, Status> {
        let caller = Caller::of(&request);
        self.put_topic(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        let caller = Caller::of(&request);
        self.delete_topic(request.into_inner(), &caller).await.map(Response::new)
    }

    type ListTopicsStream = Parts<ListTopicsResponse>;

    async fn list_topics(
        &self,
        request: Request<ListTopicsRequest>,
    ) -> Result<Response<Self::ListTopicsStream>, Status> {
        self.list_topics(request.into_inner()).await.map(Response::new)
    }

    async fn topic_route(&self, request: Request<TopicRouteRequest>) -> Result<Response<TopicRouteResponse>, Status> {
        self.topic_route(request.into_inner()).await.map(Response::new)
    }

    async fn topic_status(
        &self,
        request: Request<TopicStatusRequest>,
    ) -> Result<Response<TopicStatusResponse>, Status> {
        self.topic_status(request.into_inner()).await.map(Response::new)
    }

    type TopicFiguresStream = Parts<TopicFiguresResponse>;

    async fn topic_figures(
        &self,
        request: Request<TopicFiguresRequest>,
    ) -> Result<Response<Self::TopicFiguresStream>, Status> {
        self.topic_figures(request.into_inner()).await.map(Response::new)
    }

    async fn describe_lite(
        &self,
        request: Request<DescribeLiteRequest>,
    ) -> Result<Response<DescribeLiteResponse>, Status> {
        self.describe_lite(request.into_inner()).await.map(Response::new)
    }

    async fn put_consumer_group(
        &self,
        request: Request<PutConsumerGroupRequest>,
    ) -> Result<Response<PutConsumerGroupResponse>, Status> {
        let caller = Caller::of(&request);
        self.put_consumer_group(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn delete_consumer_group(
        &self,
        request: Request<DeleteConsumerGroupRequest>,
    ) -> Result<Response<DeleteConsumerGroupResponse>, Status> {
        let caller = Caller::of(&request);
        self.delete_consumer_group(request.into_inner(), &caller).await.map(Response::new)
    }

    type ListConsumerGroupsStream = Parts<ListConsumerGroupsResponse>;

    async fn list_consumer_groups(
        &self,
        request: Request<ListConsumerGroupsRequest>,
    ) -> Result<Response<Self::ListConsumerGroupsStream>, Status> {
        self.list_consumer_groups(request.into_inner()).await.map(Response::new)
    }

    async fn get_consumer_group(
        &self,
        request: Request<GetConsumerGroupRequest>,
    ) -> Result<Response<GetConsumerGroupResponse>, Status> {
        self.get_consumer_group(request.into_inner()).await.map(Response::new)
    }

    type ConsumerProgressStream = Parts<ConsumerProgressResponse>;

    async fn consumer_progress(
        &self,
        request: Request<ConsumerProgressRequest>,
    ) -> Result<Response<Self::ConsumerProgressStream>, Status> {
        self.consumer_progress(request.into_inner()).await.map(Response::new)
    }

    async fn reset_offset(
        &self,
        request: Request<ResetOffsetRequest>,
    ) -> Result<Response<ResetOffsetResponse>, Status> {
        let caller = Caller::of(&request);
        self.reset_offset(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn explain_message(
        &self,
        request: Request<ExplainMessageRequest>,
    ) -> Result<Response<ExplainMessageResponse>, Status> {
        self.explain_message(request.into_inner()).await.map(Response::new)
    }

    async fn list_half_messages(
        &self,
        request: Request<ListHalfMessagesRequest>,
    ) -> Result<Response<ListHalfMessagesResponse>, Status> {
        self.list_half_messages(request.into_inner()).await.map(Response::new)
    }

    async fn end_transaction(
        &self,
        request: Request<EndTransactionRequest>,
    ) -> Result<Response<EndTransactionResponse>, Status> {
        let caller = Caller::of(&request);
        self.end_transaction(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn group_status(&self, _: Request<GroupStatusRequest>) -> Result<Response<GroupStatusResponse>, Status> {
        self.group_status().await.map(Response::new)
    }

    async fn get_config(&self, _: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        Ok(Response::new(self.get_config()))
    }

    async fn update_config(
        &self,
        request: Request<UpdateConfigRequest>,
    ) -> Result<Response<UpdateConfigResponse>, Status> {
        let caller = Caller::of(&request);
        self.update_config(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn list_timers(&self, request: Request<ListTimersRequest>) -> Result<Response<ListTimersResponse>, Status> {
        self.list_timers(request.into_inner()).await.map(Response::new)
    }

    async fn get_waiting_message(
        &self,
        request: Request<GetWaitingMessageRequest>,
    ) -> Result<Response<GetWaitingMessageResponse>, Status> {
        self.get_waiting_message(request.into_inner()).await.map(Response::new)
    }

    type ListClientsStream = Parts<ListClientsResponse>;

    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Result<Response<Self::ListClientsStream>, Status> {
        Ok(Response::new(self.list_clients(request.into_inner()).await))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let caller = Caller::of(&request);
        self.transfer_leader(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn set_writable(
        &self,
        request: Request<SetWritableRequest>,
    ) -> Result<Response<SetWritableResponse>, Status> {
        let caller = Caller::of(&request);
        self.set_writable(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn trim_log(&self, request: Request<TrimLogRequest>) -> Result<Response<TrimLogResponse>, Status> {
        let caller = Caller::of(&request);
        self.trim_log(&caller).await.map(Response::new)
    }

    async fn flush_rows(&self, request: Request<FlushRowsRequest>) -> Result<Response<FlushRowsResponse>, Status> {
        let caller = Caller::of(&request);
        self.flush_rows(&caller).await.map(Response::new)
    }

    type ChangeMembersStream = Parts<ChangeMembersResponse>;

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<Self::ChangeMembersStream>, Status> {
        let caller = Caller::of(&request);
        self.change_members(request.into_inner(), caller).map(Response::new)
    }

    async fn put_user(&self, request: Request<PutUserRequest>) -> Result<Response<PutUserResponse>, Status> {
        let caller = Caller::of(&request);
        self.put_user(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<DeleteUserResponse>, Status> {
        let caller = Caller::of(&request);
        self.delete_user(request.into_inner(), &caller).await.map(Response::new)
    }

    type ListUsersStream = Parts<ListUsersResponse>;

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<Self::ListUsersStream>, Status> {
        self.list_users(request.into_inner()).await.map(Response::new)
    }

    async fn put_acl(&self, request: Request<PutAclRequest>) -> Result<Response<PutAclResponse>, Status> {
        let caller = Caller::of(&request);
        self.put_acl(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn delete_acl(&self, request: Request<DeleteAclRequest>) -> Result<Response<DeleteAclResponse>, Status> {
        let caller = Caller::of(&request);
        self.delete_acl(request.into_inner(), &caller).await.map(Response::new)
    }

    type ListAclsStream = Parts<ListAclsResponse>;

    async fn list_acls(&self, request: Request<ListAclsRequest>) -> Result<Response<Self::ListAclsStream>, Status> {
        self.list_acls(request.into_inner()).await.map(Response::new)
    }

    async fn dump(&self, request: Request<DumpRequest>) -> Result<Response<DumpResponse>, Status> {
        self.dump(request.into_inner()).await.map(Response::new)
    }
}
