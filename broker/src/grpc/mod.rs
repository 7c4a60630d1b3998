//! The public API: `apache.rocketmq.v2`, one line per RPC.
//!
//! A handler checks its request and turns it into a command or an answer, both pure; what acts is `propose`.
//! Business errors travel as a status in the reply's own type, with gRPC's status OK: clients take anything else
//! for a broken transport.

mod access;
mod ack;
mod admin;
mod caller;
mod client;
pub(crate) mod convert;
mod dead_letter;
mod dialect;
mod invisible;
mod lite;
mod offset;
mod oversize;
mod owner;
mod pull;
mod recall;
mod receive;
mod route;
mod send;
mod session;
pub(crate) mod status;
mod telemetry;
mod transaction;

use crate::broker::Node;
use crate::client::settings::KnownSettings;
use crate::deliver::handle::Handles;
use crate::namesrv::owners_of_new;
use crate::spans::{self, Span};
use access::Needs;
use bytes::Bytes;
use caller::Caller;
use raft_store::State;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{PutTopic, Refusal, Reply, Tick, Topic, reply};
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use raftmq_proto::rocketmq::admin_server::AdminServer;
use raftmq_proto::rocketmq::messaging_service_server::{MessagingService, MessagingServiceServer};
use raftmq_server::logs::Limited;
use status::ApiError;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::{LayerExt, Routes};
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapResponseLayer;

/// The services of the public port, until `closing`: polls and telemetry streams end then.
#[must_use]
pub fn routes(node: Arc<Node>, closing: CancellationToken) -> Routes {
    let inbound_bytes_max = node.config.grpc.max_inbound_bytes;
    let front = Arc::new(Front::new(node, closing));
    let admin = admin::Admin(front.clone());
    let messaging = MessagingServiceServer::new(Api(front))
        .max_decoding_message_size(inbound_bytes_max)
        .max_encoding_message_size(usize::MAX);
    let named = MapResponseLayer::new(move |answer| oversize::name_the_key(answer, inbound_bytes_max));
    Routes::new(named.named_layer(messaging)).add_service(AdminServer::new(admin))
}

/// What the handlers share.
pub(crate) struct Front {
    node: Arc<Node>,
    handles: Handles,
    settings: KnownSettings,
    /// What messages say about where they were stored.
    store_host: String,
    /// KiB of messages on their way to clients that may be added.
    delivering: Arc<Semaphore>,
    /// Calls without permission are logged so often.
    denials: Limited,
    /// How many lite topics clients began to receive in this second.
    lite_rate: lite::Rate,
    /// The way to other broker groups that keep message groups.
    owner_nodes: owner::Nodes,
    /// Polls, telemetry streams, and what looks after them.
    calls: TaskTracker,
    /// The public port takes no new work: polls and telemetry streams end.
    closing: CancellationToken,
}

impl Front {
    fn new(node: Arc<Node>, closing: CancellationToken) -> Front {
        let addresses = &node.config.addresses;
        Front {
            handles: Handles::of(&node.config.broker_group),
            settings: KnownSettings::default(),
            store_host: format!("{}:{}", addresses.host, addresses.grpc_port),
            delivering: Arc::new(Semaphore::new(node.config.grpc.deliver_bytes_max >> 10)),
            lite_rate: lite::Rate::default(),
            denials: Limited::every(Duration::from_secs(10)),
            owner_nodes: owner::Nodes::new(node.config.propose.inflight_bytes_max, node.reporter.dialer().clone()),
            calls: node.calls.clone(),
            closing,
            node,
        }
    }

    /// Lets a call in and notes its client: it must be permitted, and name its client.
    fn admit<'c>(&self, caller: &'c Caller, request: &impl Needs) -> Result<&'c str, ApiError> {
        self.permit(caller, request)?;
        let client_id = caller.client_id()?;
        self.node.registry.seen(client_id, caller.language());
        Ok(client_id)
    }

    /// Logs an error where it leaves the broker, and makes a status of it.
    fn log(&self, rpc: &'static str, error: ApiError) -> v2::Status {
        let status = error.status();
        let code = status::code_name(&status);
        if error.is_internal() {
            tracing::error!(rpc, code, %error, "a call failed");
        } else {
            tracing::debug!(rpc, code, %error, "a call is refused");
        }
        status
    }

    fn answer<A: StatusOnly>(&self, rpc: &'static str, outcome: Result<A, ApiError>) -> A {
        outcome.unwrap_or_else(|error| A::status_only(self.log(rpc, error)))
    }

    /// Has a command carried out; what it answers has been applied on this node.
    async fn submit(&self, kind: Kind, blobs: Vec<Bytes>, deadline: Option<Instant>) -> Result<reply::Kind, ApiError> {
        Front::carried_out(self.node.proposer.submit(kind, blobs, deadline).await?)
    }

    /// Has a command carried out whose answer says nothing but that.
    async fn submit_any(&self, kind: Kind, deadline: Option<Instant>) -> Result<(), ApiError> {
        self.submit_told(kind, deadline).await.map(drop)
    }

    /// The same, for whoever wants to know more than that it was carried out.
    async fn submit_told(&self, kind: Kind, deadline: Option<Instant>) -> Result<Reply, ApiError> {
        let reply = self.node.proposer.submit(kind, Vec::new(), deadline).await?;
        Front::refused(&reply).map_or(Ok(reply), Err)
    }

    fn refused(reply: &Reply) -> Option<ApiError> {
        match reply.refusal() {
            Refusal::Unspecified => None,
            refusal => Some(ApiError::refused(refusal, reply.detail.clone())),
        }
    }

    /// What a command was answered, unless it was refused.
    fn carried_out(reply: Reply) -> Result<reply::Kind, ApiError> {
        if let Some(error) = Front::refused(&reply) {
            return Err(error);
        }
        reply.kind.ok_or_else(|| ApiError::Internal("a command was carried out without an answer".to_owned()))
    }

    /// Room for messages of so many bytes on their way to a client; kept until the client has taken them.
    fn deliver(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let limit = self.node.config.grpc.deliver_bytes_max;
        let kib = u32::try_from((bytes.min(limit) >> 10).max(1)).unwrap_or(u32::MAX);
        self.delivering.clone().try_acquire_many_owned(kib).map_err(|_| ApiError::DeliveringFull { limit })
    }

    fn state(&self) -> State {
        self.node.group.state()
    }

    /// The topic's row. A node that lags may not have it yet: before it says no, it catches up.
    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>, ApiError> {
        if let Some(row) = crate::store::topic::topic(&self.state(), name.as_str())? {
            return Ok(Some(row));
        }
        // A command that has been applied here leaves this node with all that was acknowledged before it.
        if let Err(error) = self.submit_any(Kind::Tick(Tick {}), Some(Instant::now() + CATCH_UP)).await {
            tracing::debug!(topic = %name, %error, "a node that may lag says whether a topic exists");
        }
        Ok(crate::store::topic::topic(&self.state(), name.as_str())?)
    }

    /// Creates a topic on first use, if that is allowed; it takes messages of [every type](route::EVERY_TYPE) that a topic
    /// can mix.
    async fn create_topic(&self, name: &TopicName, caller: &Caller) -> Result<bool, ApiError> {
        let settings = self.node.settings();
        let config = &settings.grpc;
        if !config.auto_create_topic || !name.may_be_auto_created() {
            return Ok(false);
        }
        // A broker group that has the topic already keeps its message groups. While the row is open that is agreed on with
        // those that have the topic then; what is known here of others may be of one that was deleted.
        let fifo_open = self.node.makes_open_topics();
        let fifo_owners = if fifo_open {
            Vec::new()
        } else {
            let hosts = self.node.reporter.routes().of(name.as_str()).await;
            let owners = owners_of_new(name.as_str(), &self.node.config.broker_group, &hosts, Vec::new());
            owners.map_err(ApiError::OwnersDisagree)?
        };
        let topic = Topic {
            fifo_owners,
            fifo_open,
            name: name.to_string(),
            read_queues: config.default_topic_queues,
            write_queues: config.default_topic_queues,
            permission: crate::store::topic::READABLE | crate::store::topic::WRITABLE,
            message_types: route::EVERY_TYPE.iter().map(|kind| i32::from(*kind)).collect(),
            ..Topic::default()
        };
        self.submit_any(Kind::PutTopic(PutTopic { topic: Some(topic), create_only: true }), caller.answer_by()).await?;
        self.audit(caller, "topic created on its first use", name.as_str());
        Ok(true)
    }
}

/// How long a node that does not know a name tries to catch up with its leader.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Replies that say how the call went.
trait Answered {
    fn status(&self) -> Option<&v2::Status>;
}

/// Replies that can say nothing but a status.
trait StatusOnly {
    fn status_only(status: v2::Status) -> Self;
}

macro_rules! answered {
    ($($reply:ident),* $(,)?) => {$(
        impl Answered for v2::$reply {
            fn status(&self) -> Option<&v2::Status> {
                self.status.as_ref()
            }
        }
    )*};
}
answered!(SendMessageResponse, AckMessageResponse, ChangeInvisibleDurationResponse);

macro_rules! status_only {
    ($($reply:ident),* $(,)?) => {$(
        answered!($reply);

        impl StatusOnly for v2::$reply {
            #[allow(clippy::needless_update, reason = "some of the replies are nothing but a status")]
            fn status_only(status: v2::Status) -> Self {
                v2::$reply { status: Some(status), ..Default::default() }
            }
        }
    )*};
}
status_only!(
    QueryRouteResponse,
    HeartbeatResponse,
    QueryAssignmentResponse,
    ForwardMessageToDeadLetterQueueResponse,
    UpdateOffsetResponse,
    GetOffsetResponse,
    QueryOffsetResponse,
    EndTransactionResponse,
    NotifyClientTerminationResponse,
    RecallMessageResponse,
    SyncLiteSubscriptionResponse,
);

/// The service as tonic wants it.
struct Api(Arc<Front>);

impl Api {
    async fn answered<A: StatusOnly + Answered>(
        &self,
        rpc: &'static str,
        outcome: impl Future<Output = Result<A, ApiError>>,
    ) -> Answer<A> {
        self.timed(rpc, async { self.0.answer(rpc, outcome.await) }).await
    }

    async fn timed<A: Answered>(&self, rpc: &'static str, answer: impl Future<Output = A>) -> Answer<A> {
        let started = Instant::now();
        let serving = self.0.node.counters.serves(rpc);
        let answer = answer.await;
        drop(serving);
        let code = answer.status().map_or("CODE_UNSPECIFIED", status::code_name);
        self.0.node.counters.called(rpc, code, started.elapsed());
        Ok(Response::new(answer))
    }
}

impl Api {
    /// A call that is traced.
    async fn traced<A: Answered>(
        &self,
        mut span: Span,
        answer: Pin<Box<dyn Future<Output = Answer<A>> + Send + '_>>,
    ) -> Answer<A> {
        let context = span.context;
        // A client that waits no longer has its call dropped.
        span.failed = Some("CANCELLED");
        let mut span = scopeguard::guard(span, |span| self.0.node.tracer.end(span));
        let answer = spans::within(context, answer).await;
        let status = answer.as_ref().ok().and_then(|answer| answer.get_ref().status());
        span.failed = status.map(status::code_name).filter(|code| *code != "OK");
        answer
    }
}

type Answer<A> = Result<Response<A>, Status>;

#[tonic::async_trait]
impl MessagingService for Api {
    type ReceiveMessageStream = receive::Delivered;
    type PullMessageStream = pull::Pulled;
    type TelemetryStream = telemetry::Outbound;

    async fn query_route(&self, request: Request<v2::QueryRouteRequest>) -> Answer<v2::QueryRouteResponse> {
        self.answered("QueryRoute", route::query(&self.0, request)).await
    }

    async fn heartbeat(&self, request: Request<v2::HeartbeatRequest>) -> Answer<v2::HeartbeatResponse> {
        self.answered("Heartbeat", client::heartbeat(&self.0, request)).await
    }

    async fn send_message(&self, request: Request<v2::SendMessageRequest>) -> Answer<v2::SendMessageResponse> {
        // Apart, so that a call which is not traced is no larger for it.
        match self.0.node.tracer.send(request.get_ref(), owner::sender(request.metadata())) {
            None => self.timed("SendMessage", send::handle(&self.0, request)).await,
            Some(span) => self.traced(span, Box::pin(self.timed("SendMessage", send::handle(&self.0, request)))).await,
        }
    }

    async fn query_assignment(
        &self,
        request: Request<v2::QueryAssignmentRequest>,
    ) -> Answer<v2::QueryAssignmentResponse> {
        self.answered("QueryAssignment", route::assignment(&self.0, request)).await
    }

    async fn receive_message(&self, request: Request<v2::ReceiveMessageRequest>) -> Answer<Self::ReceiveMessageStream> {
        Ok(Response::new(receive::handle(&self.0, request)))
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Answer<v2::AckMessageResponse> {
        self.timed("AckMessage", ack::handle(&self.0, request)).await
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answer<v2::ForwardMessageToDeadLetterQueueResponse> {
        self.answered("ForwardMessageToDeadLetterQueue", dead_letter::handle(&self.0, request)).await
    }

    async fn pull_message(&self, request: Request<v2::PullMessageRequest>) -> Answer<Self::PullMessageStream> {
        Ok(Response::new(pull::handle(&self.0, request)))
    }

    async fn update_offset(&self, request: Request<v2::UpdateOffsetRequest>) -> Answer<v2::UpdateOffsetResponse> {
        self.answered("UpdateOffset", offset::update(&self.0, request)).await
    }

    async fn get_offset(&self, request: Request<v2::GetOffsetRequest>) -> Answer<v2::GetOffsetResponse> {
        self.answered("GetOffset", offset::get(&self.0, request)).await
    }

    async fn query_offset(&self, request: Request<v2::QueryOffsetRequest>) -> Answer<v2::QueryOffsetResponse> {
        self.answered("QueryOffset", offset::query(&self.0, request)).await
    }

    async fn end_transaction(&self, request: Request<v2::EndTransactionRequest>) -> Answer<v2::EndTransactionResponse> {
        self.answered("EndTransaction", transaction::end(&self.0, request)).await
    }

    async fn telemetry(&self, request: Request<Streaming<v2::TelemetryCommand>>) -> Answer<Self::TelemetryStream> {
        Ok(Response::new(telemetry::open(&self.0, request)))
    }

    async fn notify_client_termination(
        &self,
        request: Request<v2::NotifyClientTerminationRequest>,
    ) -> Answer<v2::NotifyClientTerminationResponse> {
        self.answered("NotifyClientTermination", client::terminated(&self.0, request)).await
    }

    async fn change_invisible_duration(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Answer<v2::ChangeInvisibleDurationResponse> {
        self.timed("ChangeInvisibleDuration", invisible::handle(&self.0, request)).await
    }

    async fn recall_message(&self, request: Request<v2::RecallMessageRequest>) -> Answer<v2::RecallMessageResponse> {
        self.answered("RecallMessage", recall::handle(&self.0, request)).await
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Answer<v2::SyncLiteSubscriptionResponse> {
        self.answered("SyncLiteSubscription", lite::sync(&self.0, request)).await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::config::{ALIASES, BrokerConfig, GrpcConfig};
    use raftmq_server::settings::Settings;

    /// The limits of a broker that is told nothing.
    pub(crate) fn limits() -> GrpcConfig {
        let settings = Settings::with_environment(ALIASES, |_| None);
        BrokerConfig::read(settings).expect("defaults are good").0.grpc
    }
}
