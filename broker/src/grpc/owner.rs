//! Which broker group keeps a message group, and how a send gets there when its client called another one.
//!
//! A topic in several broker groups has fixed owners for the slots of its message groups (`store/fifo.rs`). Clients pick
//! queues by hashes of their own, so a FIFO message may come to any of the groups: a node that is not of the owner hands
//! it over to one that is, as the call that the client made, and passes the answer back. It is handed over once: there
//! it is stored or refused. While nobody of the owner can be reached it is refused, and stored nowhere else.

use super::Front;
use super::caller::Caller;
use super::status::ApiError;
use crate::spans::{self, Context, Sender};
use crate::store::fifo::{owner_of, slot_of};
use parking_lot::Mutex;
use raftmq_proto::command::Topic;
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_server::dial::Dialer;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::metadata::{KeyRef, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Header of a call that was handed over.
const HANDED_OVER: &str = "x-raftmq-handed-over";

/// Header with the span that a call which was handed over is within, as W3C has it.
const TRACEPARENT: &str = "traceparent";

/// For a call without a deadline, as clients have it.
const TIMEOUT: Duration = Duration::from_secs(3);
/// A send waits for an agreement at most this long, and looks for it so often.
const AGREED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// To connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that failed is asked after the others for this long.
const FAILED_LATELY: Duration = Duration::from_secs(5);
/// Nodes whose channels are kept.
const NODES_MAX: usize = 512;

/// Whether a node of another broker group handed a call over.
pub(super) fn is_handed_over(caller: &Caller) -> bool {
    caller.metadata().contains_key(HANDED_OVER)
}

/// Who sent a call, for its span.
pub(super) fn sender(metadata: &MetadataMap) -> Sender {
    if !metadata.contains_key(HANDED_OVER) {
        return Sender::Client;
    }
    let parent = metadata.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    Sender::Node(parent.and_then(Context::sampled))
}

impl Front {
    /// For each message, by the hash of its message group (0 for none), the broker group that stores it: `None` for this
    /// one. `None` for all when the topic, or what is known of other broker groups, names nobody but this one.
    ///
    /// With `create`, a topic that does not exist may be made.
    ///
    /// # Errors
    /// When broker groups disagree on who keeps the message groups of the topic, or have not agreed yet.
    pub(super) async fn owners(
        &self,
        name: &TopicName,
        hashes: impl Iterator<Item = u64>,
        (caller, create): (&Caller, bool),
    ) -> Result<Option<Vec<Option<String>>>, ApiError> {
        let hashes: Vec<u64> = hashes.collect();
        if hashes.iter().all(|hash| *hash == 0) {
            return Ok(None);
        }
        let own = &self.node.config.broker_group;
        let row = match self.topic(name).await? {
            // Before anything is stored in it, it must be agreed on.
            None if create && self.create_topic(name, caller).await? => self.topic(name).await?,
            known => known,
        };
        let Some(row) = row else { return Ok(None) };
        let Some(row) = self.agreed(name, row, caller).await? else { return Ok(None) };
        let owners: Vec<&str> = match row.fifo_owners.is_empty() {
            true => vec![own],
            false => row.fifo_owners.iter().map(String::as_str).collect(),
        };
        if let Some((other, theirs)) = self.node.reporter.routes().disagrees(name.as_str(), &owners) {
            return Err(ApiError::OwnersDisagree(format!(
                "broker groups {own} and {other} disagree on who keeps the message groups of topic {name} ({} and {}): to \
                 keep their order, none is stored; delete the topic in both, and create it again with mqadmin updateTopic -c",
                owners.join(", "),
                theirs.join(", ")
            )));
        }
        if row.fifo_owners.is_empty() {
            return Ok(None);
        }
        let owner = |hash| owner_of(&row.fifo_owners, hash).filter(|owner| hash != 0 && owner != own);
        Ok(Some(hashes.into_iter().map(|hash| owner(hash).map(str::to_owned)).collect()))
    }
}

impl Front {
    /// The topic once it is agreed who keeps its message groups, which takes a moment after it was made; `None` when it is
    /// gone by then.
    async fn agreed(&self, name: &TopicName, row: Topic, caller: &Caller) -> Result<Option<Topic>, ApiError> {
        let longest = Instant::now() + AGREED_WITHIN;
        let until = caller.answer_by().map_or(longest, |until| until.min(longest));
        let mut row = row;
        while row.fifo_open {
            if Instant::now() >= until {
                return Err(ApiError::OwnersDisagree(format!(
                    "the broker groups have not agreed yet who keeps the message groups of topic {name}: to keep their order, \
                     none is stored until then; name servers must answer, and broker groups that have the topic be up"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(newer) = self.topic(name).await? else { return Ok(None) };
            row = newer;
        }
        Ok(Some(row))
    }
}

/// The nodes of other broker groups that calls are handed over to.
pub(super) struct Nodes {
    nodes: Mutex<HashMap<String, Node>>,
    /// KiB of messages that may be handed over at a time.
    room: Arc<Semaphore>,
    bytes_max: usize,
    dialer: Dialer,
}

#[derive(Clone)]
struct Node {
    channel: Channel,
    failed: Option<Instant>,
}

impl Nodes {
    /// With at most so many bytes of messages on their way.
    pub(super) fn new(bytes_max: usize, dialer: Dialer) -> Nodes {
        let room = Arc::new(Semaphore::new((bytes_max >> 10).min(Semaphore::MAX_PERMITS)));
        Nodes { nodes: Mutex::default(), room, bytes_max, dialer }
    }

    /// Has messages, which are all of `topic` and of message groups that `owner` keeps, stored there.
    ///
    /// # Errors
    /// When no node of `owner` can be reached, or too much is on its way. What it answers is passed back as it is.
    pub(super) async fn send(
        &self,
        front: &Front,
        caller: &Caller,
        (topic, owner): (&TopicName, &str),
        messages: Vec<v2::Message>,
    ) -> Result<v2::SendMessageResponse, ApiError> {
        let bytes: usize = messages.iter().map(prost::Message::encoded_len).sum();
        let kib = u32::try_from((bytes.min(self.bytes_max) >> 10).max(1)).unwrap_or(u32::MAX);
        let _room = self.room.try_acquire_many(kib).map_err(|_| ApiError::OwnersBusy { limit: self.bytes_max })?;
        let until = caller.answer_by().unwrap_or_else(|| caller.arrived() + TIMEOUT);
        let routes = front.node.reporter.routes();
        let mut addresses = routes.members_of(owner);
        if addresses.is_empty() {
            // Of a broker group that has just come, this node may not have heard yet.
            routes.ask(topic.as_str()).await;
            addresses = routes.members_of(owner);
        }
        let addresses = self.in_order(addresses, &messages);
        let mut why = "no name server has told where it is".to_owned();
        let count = addresses.len();
        for (number, address) in addresses.into_iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let Some(channel) = self.channel(&address) else {
                why = format!("{address} is no address");
                continue;
            };
            // One that hangs leaves time for another; what it has taken it refuses after its deadline, and what both
            // take is stored once.
            let within = if number + 1 < count { left / 2 } else { left };
            let mut request = Request::new(v2::SendMessageRequest { messages: messages.clone() });
            hand_over(caller.metadata(), request.metadata_mut());
            request.set_timeout(within);
            let mut client = MessagingServiceClient::new(channel).max_encoding_message_size(usize::MAX);
            let answer = tokio::time::timeout(within, client.send_message(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            self.note(&address, answer.is_ok());
            let answer = match answer.map(Response::into_inner) {
                Ok(answer) => answer,
                Err(status) => {
                    why = format!("{address}: {}", status.message());
                    continue;
                }
            };
            if let Some(said) = not_taken(&answer) {
                why = format!("{address}: {said}");
                continue;
            }
            if answer.entries.len() != messages.len() {
                let entries = answer.entries.len();
                let what = format!("{address} answered {} messages with {entries} entries", messages.len());
                return Err(ApiError::Internal(what));
            }
            return Ok(answer);
        }
        let (owner, slot) = (owner.to_owned(), slot_of(first_hash(&messages)));
        Err(ApiError::OwnerAway { owner, slot, topic: topic.to_string(), why })
    }

    /// The addresses of an owner: those that failed lately last, the others beginning with one that differs from message
    /// group to message group, but not from send to send: its messages come to one node, one after the other.
    fn in_order(&self, mut addresses: Vec<String>, messages: &[v2::Message]) -> Vec<String> {
        if !addresses.is_empty() {
            let first = usize::try_from(first_hash(messages) >> 32).unwrap_or_default() % addresses.len();
            addresses.rotate_left(first);
        }
        let nodes = self.nodes.lock();
        let failed = |address: &String| {
            let node = nodes.get(address);
            node.is_some_and(|node| node.failed.is_some_and(|at| at.elapsed() < FAILED_LATELY))
        };
        addresses.sort_by_key(failed);
        addresses
    }

    fn channel(&self, address: &str) -> Option<Channel> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(address) {
            return Some(node.channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(false)
            .tcp_nodelay(true);
        let channel = self.dialer.channel(&endpoint, address);
        if nodes.len() >= NODES_MAX {
            nodes.clear();
        }
        nodes.insert(address.to_owned(), Node { channel: channel.clone(), failed: None });
        Some(channel)
    }

    fn note(&self, address: &str, answered: bool) {
        if let Some(node) = self.nodes.lock().get_mut(address) {
            node.failed = (!answered).then(Instant::now);
        }
    }
}

/// Why a node that answers did not take the messages, where another one may: it stops, or lags behind and does not know
/// the topic.
fn not_taken(answer: &v2::SendMessageResponse) -> Option<&str> {
    let codes = [v2::Code::HaNotAvailable, v2::Code::TopicNotFound].map(i32::from);
    answer.status.as_ref().filter(|status| codes.contains(&status.code)).map(|status| status.message.as_str())
}

/// What the client said of itself goes with its messages, its signature too.
fn hand_over(from: &MetadataMap, to: &mut MetadataMap) {
    for name in from.keys() {
        let KeyRef::Ascii(name) = name else { continue };
        if !name.as_str().starts_with("x-mq-") && name.as_str() != "authorization" {
            continue;
        }
        for value in from.get_all(name) {
            to.append(name.clone(), value.clone());
        }
    }
    to.insert(HANDED_OVER, MetadataValue::from_static("1"));
    // What the messages say stays: consumers go by it.
    if let Some(Ok(context)) = spans::current().map(|context| context.to_string().parse()) {
        to.insert(TRACEPARENT, context);
    }
}

fn first_hash(messages: &[v2::Message]) -> u64 {
    let system = messages.first().and_then(|message| message.system_properties.as_ref());
    system.map_or(0, |system| super::send::message_group_hash(system, v2::MessageType::Fifo))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::caller::tests::caller;

    #[test]
    fn what_the_client_said_goes_with_its_messages() {
        let caller = caller(&[
            ("x-mq-client-id", "h@1"),
            ("authorization", "MQv2-HMAC-SHA1 x"),
            ("grpc-timeout", "3S"),
            ("user-agent", "grpc-java"),
            ("traceparent", "the client's own"),
        ]);
        assert!(!is_handed_over(&caller));
        let mut handed = MetadataMap::new();
        hand_over(caller.metadata(), &mut handed);
        let mut names: Vec<_> = handed
            .keys()
            .filter_map(|name| match name {
                KeyRef::Ascii(name) => Some(name.as_str()),
                KeyRef::Binary(_) => None,
            })
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "x-mq-client-id", HANDED_OVER]);
        assert_eq!((sender(caller.metadata()), sender(&handed)), (Sender::Client, Sender::Node(None)));
    }

    #[tokio::test]
    async fn the_span_of_the_call_goes_with_its_messages() {
        let span = Context::fresh();
        let handing = Box::pin(async {
            let mut handed = MetadataMap::new();
            hand_over(&MetadataMap::new(), &mut handed);
            handed
        });
        let handed = spans::within(span, handing).await;
        assert_eq!(sender(&handed), Sender::Node(Some(span)));
    }

    #[tokio::test]
    async fn a_node_that_failed_is_asked_last() {
        let nodes = Nodes::new(1 << 20, Dialer::default());
        let addresses = || ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"].map(str::to_owned).to_vec();
        let order = nodes.in_order(addresses(), &[]);
        assert_eq!(order, addresses());
        for address in &order[..2] {
            nodes.channel(address).expect("an address");
            nodes.note(address, false);
        }
        nodes.note(&order[1], true);
        assert_eq!(nodes.in_order(addresses(), &[]), ["10.0.0.2:1", "10.0.0.3:1", "10.0.0.1:1"]);
        assert!(nodes.channel("no address").is_none());
    }
}
