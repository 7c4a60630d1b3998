//! ReceiveMessage: a long poll that ends in a lease, and the stream that carries its messages.
//!
//! ```text
//! ask ─► look ─┬─ something there ─► Lease ─► bodies ─► stream ─► read to its end by the client: delivered
//!        ▲     └─ nothing ─► wait        │                    └─ dropped before that: given back
//!        └──────────── woken ◄───────────┘ granted nothing
//! ```
//!
//! A task of its own carries each poll, because a lease that was asked for must be looked after when the client has
//! gone away meanwhile: whatever it grants then is made visible again at once, and counts as no attempt.

use super::Front;
use super::access::{Author, GROUP_BOUND};
use super::caller::{Caller, DEADLINE_MARGIN};
use super::convert::{self, Delivery};
use super::lite;
use super::status::{self, ApiError};
use crate::access::Permit;
use crate::client::settings::REQUEST_TIMEOUT;
use crate::config::GrpcConfig;
use crate::deliver::judge::{self, Judge};
use crate::deliver::read::Reader;
use crate::filter::{FilterRow, MessageFilter};
use crate::propose::SubmitError;
use crate::store::consumer_group::consumer_group;
use crate::store::lease::{of_receive, receive_digest};
use crate::store::lite::may_receive;
use crate::store::topic::READABLE;
use crate::store::{self, ConsumerGroupId, TopicId};
use futures::future::join_all;
use prost::Message as _;
use raft_store::ReadState;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{
    Ack, ChangeInvisible, Handle, Judgement, Lease, LeaseName, Leased, LeasedApart, LeasedMessage, Reply, reply,
};
use raftmq_proto::name::{ConsumerGroup, TopicName};
use raftmq_proto::rocketmq as v2;
use raftmq_server::listener::Outgoing;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::{Request, Status};
use v2::receive_message_response::Content;

/// A poll ends this long before its time is over.
const POLL_MARGIN: Duration = Duration::from_millis(50);
/// However short a poll is to be, there is time to be granted a lease.
const POLL_SHORTEST: Duration = Duration::from_millis(250);
/// Versions from here on know the code for an illegal polling time; the comparison is one of texts.
const KNOWS_POLLING_CODE: &str = "5.0.3";
/// Clients take no larger response message unless they lift their library's limit, and fail the whole receive on one.
const RESPONSE_BYTES_MAX: usize = 4 << 20;
/// Clients that do lift it.
const TAKES_ANY_SIZE: [&str; 4] = ["JAVA", "GO", "CPP", "PYTHON"];
/// Bodies up to this size fit whatever stands beside them.
const BODY_BYTES_SAFE: usize = 3 << 20;
/// Bodies of one answer; one message goes in any case, what is left goes to the next receive.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Messages that are judged before others get a turn.
const TURN_MESSAGES: u32 = 32;
/// A message that its client cannot take comes back after this, to another one or, in the end, as a dead letter.
const PASSED_OVER_MS: u64 = 10_000;

/// What a client asks for, checked.
#[derive(Debug)]
struct Ask {
    consumer_group: ConsumerGroup,
    topic: TopicName,
    /// The topic as the client writes it.
    resource: v2::Resource,
    filter: MessageFilter,
    /// What rows keep of it.
    row: FilterRow,
    messages_max: u32,
    /// Invisible duration in ms; `None` when the server renews the lease.
    invisible_ms: Option<u64>,
    attempt_id: String,
    client_id: String,
    /// The client takes response messages of any size.
    takes_any_size: bool,
    /// What the caller may do; `None` where nothing is checked.
    permit: Option<Permit>,
    /// Who is said to have made what the first receive makes.
    author: Author,
    /// When the poll ends without messages.
    end: Instant,
    /// The connection that the answer goes to.
    outgoing: Outgoing,
}

/// What the checks need to know of the caller.
struct Asker<'c> {
    client_id: &'c str,
    language: &'c str,
    version: &'c str,
    arrived: Instant,
    deadline: Option<Instant>,
    /// From its settings, or the default of all clients.
    request_timeout: Duration,
}

pub(super) fn handle(front: &Arc<Front>, request: Request<v2::ReceiveMessageRequest>) -> Delivered {
    let (caller, request) = Caller::split(request);
    match prepare(front, &caller, request) {
        Ok(ask) => {
            let (answer, waiting) = oneshot::channel();
            front.calls.spawn(poll(front.clone(), ask, answer));
            Delivered { state: State::Waiting(waiting) }
        }
        Err(error) => Delivered { state: State::sending(empty(front, error)) },
    }
}

fn prepare(front: &Front, caller: &Caller, request: v2::ReceiveMessageRequest) -> Result<Ask, ApiError> {
    let client_id = front.admit(caller, &request)?;
    let permit = front.permit(caller, &request)?;
    let known = front.settings.get(client_id);
    let asker = Asker {
        client_id,
        language: caller.language(),
        version: caller.client_version(),
        arrived: caller.arrived(),
        deadline: caller.deadline(),
        request_timeout: known.map_or(REQUEST_TIMEOUT, |known| known.request_timeout),
    };
    let ask = ask(request, &asker, &front.node.settings().grpc)?;
    Ok(Ask { author: Author::of(caller, permit.as_ref()), permit, outgoing: caller.outgoing(), ..ask })
}

fn ask(request: v2::ReceiveMessageRequest, asker: &Asker<'_>, limits: &GrpcConfig) -> Result<Ask, ApiError> {
    let wanted_ms = request.long_polling_timeout.as_ref().map(convert::duration_ms);
    let polling = polling_time(wanted_ms, asker, limits)?;
    let resource = request.message_queue.and_then(|queue| queue.topic).unwrap_or_default();
    let topic = convert::topic(Some(resource.clone()))?;
    let consumer_group = convert::consumer_group(request.group)?;
    let invisible_ms = match request.auto_renew {
        true => None,
        false => Some(invisible_ms(request.invisible_duration.as_ref(), limits)?),
    };
    let filter = convert::filter(request.filter_expression.as_ref(), limits)?;
    let batch = u32::try_from(request.batch_size).unwrap_or_default();
    let end = (asker.arrived + polling).checked_sub(POLL_MARGIN).unwrap_or(asker.arrived);
    Ok(Ask {
        row: filter.row(),
        filter,
        consumer_group,
        topic,
        resource,
        messages_max: batch.clamp(1, limits.receive_batch_max),
        invisible_ms,
        attempt_id: request.attempt_id.unwrap_or_default(),
        client_id: asker.client_id.to_owned(),
        takes_any_size: TAKES_ANY_SIZE.iter().any(|name| asker.language.eq_ignore_ascii_case(name)),
        permit: None,
        author: Author::default(),
        outgoing: Outgoing::default(),
        end: asker.deadline.map_or(end, |deadline| end.min(deadline - DEADLINE_MARGIN.min(polling / 2))),
    })
}

/// How long the poll may last, from the arrival of the call.
fn polling_time(wanted_ms: Option<i64>, asker: &Asker<'_>, limits: &GrpcConfig) -> Result<Duration, ApiError> {
    let (min, max) =
        (Duration::from_millis(limits.long_polling_ms_min), Duration::from_millis(limits.long_polling_ms_max));
    let max = max.max(min);
    let left = asker.deadline.map(|deadline| deadline.saturating_duration_since(asker.arrived));
    let wanted = match wanted_ms {
        Some(ms) => Duration::from_millis(u64::try_from(ms).unwrap_or_default()),
        None => left.map_or(max, |left| left.saturating_sub(asker.request_timeout / 2)),
    };
    let polling = wanted.clamp(min, max);
    match left {
        Some(left) if polling > left && left < min => Err(ApiError::PollingTime {
            left_ms: left.as_millis(),
            min_ms: limits.long_polling_ms_min,
            code_known: !asker.version.is_empty() && asker.version >= KNOWS_POLLING_CODE,
        }),
        Some(left) => Ok(polling.max(POLL_SHORTEST).min(left)),
        None => Ok(polling.max(POLL_SHORTEST)),
    }
}

fn invisible_ms(duration: Option<&prost_types::Duration>, limits: &GrpcConfig) -> Result<u64, ApiError> {
    let value_ms = duration.map_or(0, convert::duration_ms);
    let (min_ms, max_ms) = (limits.invisible_ms_min, limits.invisible_ms_max);
    u64::try_from(value_ms).ok().filter(|ms| (min_ms..=max_ms).contains(ms)).ok_or(ApiError::InvisibleTime {
        value_ms,
        min_ms,
        max_ms,
        keys: "minInvisibleTimeMillisForRecv, maxInvisibleTimeMillis",
    })
}

/// Messages that are leased and ready to go, or the reason why there are none.
struct Answer {
    responses: Vec<v2::ReceiveMessageResponse>,
    given_back: Option<GiveBack>,
    /// Their share of what may be on its way to clients.
    room: Option<OwnedSemaphorePermit>,
}

/// A lease that was asked for. It is waited for to its end in any case: what it grants must not be lost.
type Asked = oneshot::Receiver<Reply>;

enum Outcome {
    /// The client gets an answer.
    Answer(Answer),
    /// The poll is over, but a lease may still be granted.
    Late(Asked),
}

async fn poll(front: Arc<Front>, ask: Ask, mut answer: oneshot::Sender<Answer>) {
    match serve(&front, &ask, &mut answer).await {
        Ok(Outcome::Answer(found)) => {
            // A client that has gone away drops the messages, which gives them back.
            drop(answer.send(found));
        }
        Ok(Outcome::Late(asked)) => {
            drop(answer.send(empty(&front, ApiError::NothingNew)));
            if let Ok(Reply { kind: Some(kind), .. }) = asked.await
                && let Ok(granted) = Granted::of(kind)
            {
                GiveBack::new(&front, &ask, &granted.leases).now().await;
            }
        }
        Err(error) => drop(answer.send(empty(&front, error))),
    }
}

async fn serve(front: &Arc<Front>, ask: &Ask, client: &mut oneshot::Sender<Answer>) -> Result<Outcome, ApiError> {
    let waiters = &front.node.waiters;
    let named = (ask.client_id.as_str(), ask.topic.as_str(), ask.consumer_group.as_str());
    let is_lite = lite::is_lite(&front.state(), ask.topic.as_str())?;
    if is_lite && ask.filter != MessageFilter::all() {
        return Err(ApiError::LiteFilter);
    }
    let mut waiter = match is_lite {
        true => waiters.enter_lite(named.0, named.1, named.2, &ask.filter)?,
        false => waiters.enter(named.0, named.1, named.2, &ask.filter)?,
    };
    while !waiter.is_ended() {
        waiter.look();
        let looked = Instant::now();
        let serving = front.node.counters.serves("ReceiveMessage");
        let mut again = false;
        front.still(ask.permit.as_ref())?;
        // Before anything arrives, so that no other member's receive skips what this one waits for.
        let wanted = if is_lite {
            worth_asking_lite(front, ask)?
        } else {
            subscribe(front, ask).await?;
            worth_asking(front, ask).await?
        };
        if let Some(wanted) = wanted {
            // Otherwise its session has made the consumer group.
            let makes_group = is_lite && consumer_group(&front.state(), ask.consumer_group.as_str())?.is_none();
            let asked = front.node.proposer.enqueue(lease(front, ask, wanted), Vec::new(), Some(ask.end))?;
            let Granted { leases, more } = match granted(asked, ask).await {
                Ok(granted) => granted?,
                Err(late) => return Ok(Outcome::Late(late)),
            };
            if makes_group {
                let name = format!("{} to {}", ask.consumer_group, ask.topic);
                ask.author.audit(&ask.client_id, GROUP_BOUND, &name);
            }
            let messages: usize = leases.iter().map(|leased| leased.messages.len()).sum();
            if messages >= ask.messages_max as usize || more {
                waiter.pass_on();
            }
            if waiter.is_ended() {
                GiveBack::new(front, ask, &leases).now().await;
                break;
            }
            again = more;
            if messages > 0 {
                if let Some(found) = read(front, ask, &leases, looked).await? {
                    // Without the wait for messages, which is the producers' affair.
                    front.node.counters.called("ReceiveMessage", "OK", looked.elapsed());
                    return Ok(Outcome::Answer(found));
                }
                again = true;
            }
        }
        if again && Instant::now() < ask.end && !client.is_closed() {
            continue;
        }
        drop(serving);
        let ended = waiter.ended();
        tokio::select! {
            () = ended => {}
            () = waiter.wait() => {}
            () = tokio::time::sleep_until(ask.end) => return Err(ApiError::NothingNew),
            () = front.closing.cancelled() => return Err(ApiError::NothingNew),
            () = client.closed() => return Err(ApiError::NothingNew),
        }
    }
    // The client said that it ends, or was silent for so long that it is taken for dead. What this poll was woken
    // for is another's.
    waiter.pass_on();
    Err(ApiError::NothingNew)
}

/// Sees to it that the replicated rules know this client's filter.
async fn subscribe(front: &Front, ask: &Ask) -> Result<(), ApiError> {
    if front.is_subscribed(&ask.client_id, ask.consumer_group.as_str(), ask.topic.as_str(), &ask.row)? {
        return Ok(());
    }
    let consumer = front.settings.received(&ask.client_id, &ask.consumer_group, &ask.topic, &ask.filter);
    match front.put_session(&ask.client_id, &consumer, &ask.author, Some(ask.end)).await {
        // Nobody leads, or not fast enough: there is nothing to lease either.
        Err(error) if error.is_deadline() => Err(ApiError::NothingNew),
        outcome => outcome,
    }
}

/// What a lease is asked for, beside what the client says.
#[derive(Default)]
struct Wanted {
    /// What an SQL filter says of what is to be leased.
    judgement: Option<Judgement>,
    /// Lite topics that have a message.
    lite_topics: Vec<u64>,
}

/// What to ask for. `None`: this node sees nothing to lease. Where it knows too little, the replicated rules answer.
async fn worth_asking(front: &Front, ask: &Ask) -> Result<Option<Wanted>, ApiError> {
    let judge = {
        let state = front.state();
        let in_any_case = asks_in_any_case(&state, ask)?;
        let (consumer_group, topic) = (ask.consumer_group.as_str(), ask.topic.as_str());
        let MessageFilter::Sql(filter) = &ask.filter else {
            let worth = in_any_case || store::available(&state, consumer_group, topic, &ask.row)?;
            return Ok(worth.then(Wanted::default));
        };
        let receive = judge::Receive { consumer_group, topic, filter, messages_max: ask.messages_max };
        match judge::judge(&state, receive, rand::random())? {
            None if in_any_case => Judge::of_nothing(filter),
            None => return Ok(None),
            Some(judge) => judge,
        }
    };
    let judgement = Some(judged(front, ask, judge).await);
    Ok(Some(Wanted { judgement, ..Wanted::default() }))
}

/// The same for lite topics.
fn worth_asking_lite(front: &Front, ask: &Ask) -> Result<Option<Wanted>, ApiError> {
    let state = front.state();
    let named = (ask.client_id.as_str(), ask.consumer_group.as_str(), ask.topic.as_str());
    let found = lite::candidates(&state, named, ask.messages_max)?;
    let found = if found.is_none() && asks_in_any_case(&state, ask)? { Some(Vec::new()) } else { found };
    Ok(found.map(|lite_topics| Wanted { lite_topics, ..Wanted::default() }))
}

async fn judged(front: &Front, ask: &Ask, mut judge: Judge) -> Judgement {
    let mut reader = Reader::new(&front.node.group);
    let mut judged = 0_u32;
    while let Some(place) = judge.next_place() {
        let message = reader.look(&place).await;
        if let Err(error) = &message {
            tracing::error!(topic = %ask.topic, offset = place.offset, %error, "a message cannot be read");
        }
        judge.judge(&place, message.ok().as_ref());
        judged += 1;
        if judged.is_multiple_of(TURN_MESSAGES) {
            tokio::task::yield_now().await;
        }
    }
    judge.finish()
}

/// Whether the replicated rules have an answer whatever is there to lease.
fn asks_in_any_case(state: &impl ReadState, ask: &Ask) -> Result<bool, ApiError> {
    let group = consumer_group(state, ask.consumer_group.as_str())?;
    let Some(group) = group.filter(|group| group.consume_enable) else { return Ok(true) };
    let topic = store::topic::topic(state, ask.topic.as_str())?;
    let Some(topic) = topic.filter(|topic| topic.permission & READABLE != 0) else { return Ok(true) };
    if !may_receive(&group, &topic) {
        return Ok(true);
    }
    // The reply to the same receive was lost on its way: its messages are to be had again.
    let renewed = ask.invisible_ms.is_none();
    let receive = receive_digest(TopicId(topic.id), renewed, &ask.client_id, &ask.attempt_id);
    Ok(receive != 0 && !of_receive(state, ConsumerGroupId(group.id), receive)?.is_empty())
}

fn lease(front: &Front, ask: &Ask, Wanted { judgement, lite_topics }: Wanted) -> Kind {
    let settings = front.node.settings();
    let limits = &settings.grpc;
    Kind::Lease(Lease {
        consumer_group: ask.consumer_group.as_str().to_owned(),
        topic: ask.topic.as_str().to_owned(),
        client_id: ask.client_id.clone(),
        filter: judgement.is_none().then(|| ask.filter.to_command()),
        messages_max: ask.messages_max,
        invisible_ms: ask.invisible_ms.unwrap_or_default(),
        renewed: ask.invisible_ms.is_none(),
        renew_max_ms: limits.renew_ms_max,
        nonce: rand::random(),
        attempt_id: ask.attempt_id.clone(),
        create_consumer_group: limits.auto_create_subscription_group,
        confirm_ms: limits.confirm_ms,
        judgement,
        lite_topics,
    })
}

/// What a receive was granted: a lease, or one for each of several lite topics.
#[derive(Default)]
struct Granted {
    leases: Vec<Leased>,
    /// There is more to look at.
    more: bool,
}

impl Granted {
    fn of(kind: reply::Kind) -> Result<Granted, ApiError> {
        match kind {
            reply::Kind::Leased(leased) => Ok(Granted { more: leased.more, leases: vec![leased] }),
            reply::Kind::LeasedApart(LeasedApart { leases, more }) => Ok(Granted { leases, more }),
            other => Err(ApiError::Internal(format!("a lease was answered with {other:?}"))),
        }
    }
}

/// Waits for the lease until the poll ends; after that it comes too late.
async fn granted(mut asked: Asked, ask: &Ask) -> Result<Result<Granted, ApiError>, Asked> {
    let Ok(reply) = tokio::time::timeout_at(ask.end, &mut asked).await else { return Err(asked) };
    Ok(reply.map_err(|_| SubmitError::Closed.into()).and_then(|reply| match Front::carried_out(reply) {
        Ok(kind) => Granted::of(kind),
        // The poll was over before the group came to it.
        Err(error) if error.is_deadline() => Ok(Granted::default()),
        Err(error) => Err(error),
    }))
}

/// Reads the bodies of leases and makes the answer of it; `None` when no message of it can go to this client.
async fn read(front: &Arc<Front>, ask: &Ask, leases: &[Leased], looked: Instant) -> Result<Option<Answer>, ApiError> {
    let mut given_back = GiveBack::new(front, ask, leases);
    let mut responses = Vec::with_capacity(given_back.handles.len() + 2);
    responses.push(response(Content::Status(status::ok())));
    let mut aside = Aside::default();
    let (mut bytes, mut spans) = (0, Vec::new());
    {
        let mut reader = Reader::new(&front.node.group);
        let mut messages = Vec::with_capacity(given_back.handles.len());
        for leased in leases {
            messages.extend(leased.messages.iter().map(|message| (message, handle_of(leased, message))));
        }
        for (message, handle) in messages {
            let stored = match reader.read(message).await {
                Ok(stored) => stored,
                Err(error) => {
                    // A replica that has it may deliver it next time.
                    tracing::error!(topic = %ask.topic, queue = message.queue, offset = message.offset, %error,
                        "a message cannot be read");
                    aside.unreadable.push(handle);
                    continue;
                }
            };
            if !ask.filter.matches(&stored) {
                aside.unwanted.push(handle);
                continue;
            }
            let body_bytes = stored.body.len();
            if bytes > 0 && bytes + body_bytes > ANSWER_BYTES_MAX {
                aside.too_many.push(handle);
                continue;
            }
            let span = front.node.tracer.of_message("ReceiveMessage", &stored, looked);
            let receipt_handle = front.handles.text(&handle);
            let delivery = Delivery { topic: &ask.resource, leased: message, receipt_handle };
            let response = response(Content::Message(convert::delivered(stored, delivery)));
            if !ask.takes_any_size && body_bytes > BODY_BYTES_SAFE && response.encoded_len() > RESPONSE_BYTES_MAX {
                tracing::warn!(topic = %ask.topic, queue = message.queue, offset = message.offset, client = ask.client_id,
                    "a message is larger than this client takes ({RESPONSE_BYTES_MAX} bytes with its properties)");
                aside.too_large.push(handle);
                continue;
            }
            bytes += body_bytes;
            responses.push(response);
            spans.extend(span.map(|span| {
                let span = span.says("messaging.consumer.group.name", ask.consumer_group.as_str());
                span.says("rocketmq.attempt", u64::from(message.attempt))
            }));
        }
    }
    let room = front.deliver(bytes)?;
    front.settle(ask, aside).await;
    if responses.len() == 1 {
        given_back.forget();
        return Ok(None);
    }
    given_back.holds = (responses.len() as u64 - 1, bytes as u64);
    responses.push(ends_at(front));
    spans.into_iter().for_each(|span| front.node.tracer.end(span));
    Ok(Some(Answer { responses, given_back: Some(given_back), room: Some(room) }))
}

/// Messages of a lease that are not delivered.
#[derive(Default)]
struct Aside {
    /// They only share the hash of a wanted tag.
    unwanted: Vec<Handle>,
    /// The client takes no response of this size.
    too_large: Vec<Handle>,
    /// This node cannot read them.
    unreadable: Vec<Handle>,
    /// The answer is long enough.
    too_many: Vec<Handle>,
}

fn handle_of(leased: &Leased, message: &LeasedMessage) -> Handle {
    Handle {
        consumer_group_id: leased.consumer_group_id,
        lease_id: leased.lease_id,
        item: message.item,
        nonce: leased.nonce,
    }
}

impl Front {
    /// Acknowledges what nobody wants and gives the rest back.
    async fn settle(&self, ask: &Ask, aside: Aside) {
        let (consumer_group, topic) = (ask.consumer_group.to_string(), ask.topic.to_string());
        let change = |handle, invisible_ms, suspend| {
            let (consumer_group, topic) = (consumer_group.clone(), topic.clone());
            let handle = Some(handle);
            Kind::ChangeInvisible(ChangeInvisible { consumer_group, topic, handle, invisible_ms, suspend })
        };
        let mut commands: Vec<_> = aside.too_large.into_iter().map(|it| change(it, PASSED_OVER_MS, false)).collect();
        commands.extend(aside.unreadable.into_iter().map(|handle| change(handle, PASSED_OVER_MS, true)));
        commands.extend(aside.too_many.into_iter().map(|handle| change(handle, 0, true)));
        if !aside.unwanted.is_empty() {
            commands.push(Kind::Ack(Ack { consumer_group, topic, handles: aside.unwanted }));
        }
        for outcome in join_all(commands.into_iter().map(|command| self.submit_any(command, None))).await {
            if let Err(error) = outcome {
                tracing::debug!(%error, "messages that a receive left out could not be settled");
            }
        }
    }
}

/// The messages of a lease, made visible again unless the client got them.
struct GiveBack {
    front: Arc<Front>,
    runtime: runtime::Handle,
    consumer_group: String,
    topic: String,
    handles: Vec<Handle>,
    /// Messages in the answer, and bytes of their bodies.
    holds: (u64, u64),
    /// The leases are renewed, and their answer goes to this connection.
    renewed: Vec<(LeaseName, Outgoing)>,
}

impl GiveBack {
    fn new(front: &Arc<Front>, ask: &Ask, leases: &[Leased]) -> GiveBack {
        let handles = |leased: &Leased| -> Vec<Handle> {
            leased.messages.iter().map(|message| handle_of(leased, message)).collect()
        };
        let renewed = leases.iter().filter(|leased| ask.invisible_ms.is_none() && !leased.messages.is_empty());
        GiveBack {
            front: front.clone(),
            runtime: runtime::Handle::current(),
            consumer_group: ask.consumer_group.to_string(),
            topic: ask.topic.to_string(),
            handles: leases.iter().flat_map(handles).collect(),
            holds: (0, 0),
            renewed: renewed
                .map(|leased| {
                    let lease = LeaseName { consumer_group_id: leased.consumer_group_id, lease_id: leased.lease_id };
                    (lease, ask.outgoing.clone())
                })
                .collect(),
        }
    }

    /// They were settled otherwise.
    fn forget(mut self) {
        self.handles.clear();
    }

    /// All of them are on their way to the client.
    fn gave(mut self) {
        self.handles.clear();
        let (messages, bytes) = self.holds;
        self.front.node.counters.received(&self.topic, &self.consumer_group, messages, bytes);
        for (lease, outgoing) in std::mem::take(&mut self.renewed) {
            self.front.node.deliveries.gave(lease, outgoing);
        }
    }

    async fn now(mut self) {
        let handles = std::mem::take(&mut self.handles);
        let (front, consumer_group, topic) = (self.front.clone(), self.consumer_group.clone(), self.topic.clone());
        give_back(front, consumer_group, topic, handles).await;
    }
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let handles = std::mem::take(&mut self.handles);
        let (consumer_group, topic) = (std::mem::take(&mut self.consumer_group), std::mem::take(&mut self.topic));
        let given_back = give_back(self.front.clone(), consumer_group, topic, handles);
        self.front.calls.spawn_on(given_back, &self.runtime);
    }
}

async fn give_back(front: Arc<Front>, consumer_group: String, topic: String, handles: Vec<Handle>) {
    tracing::debug!(topic, consumer_group, messages = handles.len(), "a receive was not read to its end");
    let commands = handles.into_iter().map(|handle| {
        Kind::ChangeInvisible(ChangeInvisible {
            consumer_group: consumer_group.clone(),
            topic: topic.clone(),
            handle: Some(handle),
            invisible_ms: 0,
            suspend: true,
        })
    });
    for outcome in join_all(commands.map(|command| front.submit_any(command, None))).await {
        if let Err(error) = outcome {
            tracing::debug!(%error, "a message could not be given back; it comes back when its lease ends");
        }
    }
}

fn response(content: Content) -> v2::ReceiveMessageResponse {
    v2::ReceiveMessageResponse { content: Some(content) }
}

/// The last response of every stream.
fn ends_at(front: &Front) -> v2::ReceiveMessageResponse {
    let wall = i64::try_from(front.node.clock.wall()).unwrap_or(i64::MAX);
    response(Content::DeliveryTimestamp(convert::timestamp(wall)))
}

fn refusal(front: &Front, error: ApiError) -> Vec<v2::ReceiveMessageResponse> {
    vec![response(Content::Status(front.log("ReceiveMessage", error))), ends_at(front)]
}

fn empty(front: &Front, error: ApiError) -> Answer {
    Answer { responses: refusal(front, error), given_back: None, room: None }
}

/// The stream of one receive: a status, the messages, the time.
pub(super) struct Delivered {
    state: State,
}

enum State {
    Waiting(oneshot::Receiver<Answer>),
    Sending {
        responses: std::vec::IntoIter<v2::ReceiveMessageResponse>,
        given_back: Option<GiveBack>,
        _room: Option<OwnedSemaphorePermit>,
    },
}

impl State {
    fn sending(Answer { responses, given_back, room }: Answer) -> State {
        State::Sending { responses: responses.into_iter(), given_back, _room: room }
    }
}

impl Stream for Delivered {
    type Item = Result<v2::ReceiveMessageResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let State::Waiting(answer) = &mut self.state {
            let Poll::Ready(answer) = Pin::new(answer).poll(cx) else { return Poll::Pending };
            let Ok(answer) = answer else {
                self.state = State::sending(Answer { responses: Vec::new(), given_back: None, room: None });
                return Poll::Ready(Some(Err(Status::unavailable("this node is shutting down"))));
            };
            self.state = State::sending(answer);
        }
        let State::Sending { responses, given_back, .. } = &mut self.state else { return Poll::Ready(None) };
        match responses.next() {
            Some(response) => Poll::Ready(Some(Ok(response))),
            None => {
                // All of it has been taken.
                if let Some(delivered) = given_back.take() {
                    delivered.gave();
                }
                Poll::Ready(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Asker, ask};
    use crate::grpc::status::code_name;
    use crate::grpc::tests::limits;
    use raftmq_proto::rocketmq as v2;
    use std::time::Duration;
    use tokio::time::Instant;

    fn resource(name: &str) -> Option<v2::Resource> {
        Some(v2::Resource { name: name.to_owned(), ..v2::Resource::default() })
    }

    fn request() -> v2::ReceiveMessageRequest {
        v2::ReceiveMessageRequest {
            group: resource("billing"),
            message_queue: Some(v2::MessageQueue { topic: resource("orders"), ..v2::MessageQueue::default() }),
            batch_size: 16,
            invisible_duration: Some(crate::grpc::convert::duration(30_000)),
            ..v2::ReceiveMessageRequest::default()
        }
    }

    fn asker(deadline_ms: Option<u64>, version: &str) -> Asker<'_> {
        let arrived = Instant::now();
        Asker {
            client_id: "c",
            language: "JAVA",
            version,
            arrived,
            deadline: deadline_ms.map(|ms| arrived + Duration::from_millis(ms)),
            request_timeout: Duration::from_secs(3),
        }
    }

    /// After how many ms the poll ends, or the code of the refusal.
    fn check_polling(wanted_ms: Option<u64>, deadline_ms: Option<u64>, version: &str, expected: &str) {
        let asker = asker(deadline_ms, version);
        let request = v2::ReceiveMessageRequest {
            long_polling_timeout: wanted_ms.map(crate::grpc::convert::duration),
            ..request()
        };
        let shown = match ask(request, &asker, &limits()) {
            Ok(ask) => (ask.end - asker.arrived).as_millis().to_string(),
            Err(error) => code_name(&error.status()).to_owned(),
        };
        assert_eq!(shown, expected, "wanted {wanted_ms:?}, deadline {deadline_ms:?}, version {version:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn polls_end_before_the_deadline_and_within_the_limits() {
        check_polling(Some(20_000), Some(23_000), "5.2.0", "19950");
        check_polling(Some(30_000), Some(33_000), "5.2.0", "19950");
        check_polling(Some(1_000), Some(10_000), "5.2.0", "4950");
        check_polling(Some(20_000), Some(20_000), "5.2.0", "19900");
        check_polling(Some(40_000), Some(40_000), "5.2.0", "19950");
        check_polling(Some(20_000), Some(6_000), "5.2.0", "5900");
        check_polling(Some(20_000), None, "5.2.0", "19950");
        // Without a wish: what is left of the deadline less half of the request timeout.
        check_polling(None, Some(13_000), "5.2.0", "11450");
        check_polling(None, Some(5_500), "5.2.0", "4950");
        check_polling(None, None, "5.2.0", "19950");
        check_polling(Some(1_000), Some(4_000), "5.2.0", "ILLEGAL_POLLING_TIME");
        check_polling(Some(1_000), Some(4_000), "5.0.3", "ILLEGAL_POLLING_TIME");
        check_polling(Some(1_000), Some(4_000), "5.0.2", "BAD_REQUEST");
        check_polling(Some(1_000), Some(4_000), "", "BAD_REQUEST");
    }

    #[tokio::test(start_paused = true)]
    async fn checks_and_codes() {
        let check = |expected: &str, change: &dyn Fn(&mut v2::ReceiveMessageRequest)| {
            let mut request = request();
            change(&mut request);
            let shown = match ask(request, &asker(Some(23_000), "5.2.0"), &limits()) {
                Ok(ask) => format!("{} {:?} {:?}", ask.messages_max, ask.invisible_ms, ask.filter.to_command().tags),
                Err(error) => code_name(&error.status()).to_owned(),
            };
            assert_eq!(shown, expected);
        };
        let duration = |ms: u64| Some(crate::grpc::convert::duration(ms));
        let expression = |kind: v2::FilterType, text: &str| {
            Some(v2::FilterExpression { r#type: kind.into(), expression: text.to_owned() })
        };
        check("16 Some(30000) []", &|_| ());
        check("32 Some(30000) []", &|request| request.batch_size = 1_000);
        check("1 Some(30000) []", &|request| request.batch_size = 0);
        check("1 Some(30000) []", &|request| request.batch_size = -1);
        check("ILLEGAL_TOPIC", &|request| request.message_queue = None);
        check("ILLEGAL_CONSUMER_GROUP", &|request| request.group = None);
        check("16 Some(10000) []", &|request| request.invisible_duration = duration(10_000));
        check("ILLEGAL_INVISIBLE_TIME", &|request| request.invisible_duration = duration(9_999));
        check("ILLEGAL_INVISIBLE_TIME", &|request| request.invisible_duration = duration(43_200_001));
        check("ILLEGAL_INVISIBLE_TIME", &|request| request.invisible_duration = None);
        check("16 None []", &|request| {
            request.auto_renew = true;
            request.invisible_duration = None;
        });
        check("16 Some(30000) [\"a\"]", &|request| request.filter_expression = expression(v2::FilterType::Tag, "a"));
        check("ILLEGAL_FILTER_EXPRESSION", &|request| {
            request.filter_expression = expression(v2::FilterType::Tag, "||");
        });
        check("16 Some(30000) []", &|request| request.filter_expression = expression(v2::FilterType::Sql, "a = 1"));
        check("ILLEGAL_FILTER_EXPRESSION", &|request| {
            request.filter_expression = expression(v2::FilterType::Sql, "a = ");
        });
    }
}
