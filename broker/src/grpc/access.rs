//! What each call wants to do, and whether its caller may. [`Front::admit`] is the one door: a handler cannot take a
//! call in without saying what it is for.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::status::ApiError;
use crate::access::rule::Kind;
use crate::access::{Denied, Need, Permit};
use crate::machine::TICK_ROWS_MAX;
use crate::store;
use raftmq_proto::command::AclAction;
use raftmq_proto::rocketmq as v2;
use std::net::SocketAddr;

const PUBLISH: &[AclAction] = &[AclAction::Pub];
const SUBSCRIBE: &[AclAction] = &[AclAction::Sub];
const EITHER: &[AclAction] = &[AclAction::Pub, AclAction::Sub];

/// A request whose caller needs permission.
pub(super) trait Needs {
    /// Everything that the call wants to do; names that are none are errors of their own.
    fn needs(&self) -> Result<Vec<Need>, ApiError>;
}

/// Who changes metadata, for the audit log.
#[derive(Debug, Default)]
pub(super) struct Author {
    /// Empty without access control.
    user: String,
    address: Option<SocketAddr>,
}

impl Author {
    /// The author of a call that was permitted.
    pub(super) fn of(caller: &Caller, permit: Option<&Permit>) -> Author {
        let user = permit.map(|permit| permit.identity.user.clone()).unwrap_or_default();
        Author { user, address: caller.address() }
    }

    pub(super) fn audit(&self, client_id: &str, what: &'static str, name: &str) {
        let user = &*self.user;
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(target: "audit", user, address, client_id, name, "{what}");
    }
}

/// A consumer group was made by whoever uses it first.
pub(super) const GROUP_CREATED: &str = "consumer group created on its first use";

/// The same by a client of lite topics, whose consumer group receives those of one topic alone.
pub(super) const GROUP_BOUND: &str = "consumer group created on its first use and bound to a topic";

/// A stream is opened: whoever is known may. What comes on it is looked at as it comes.
pub(super) struct Opening;

impl Front {
    /// Whether the caller may do what a request is for; `None` where nothing is checked.
    pub(super) fn permit(&self, caller: &Caller, request: &impl Needs) -> Result<Option<Permit>, ApiError> {
        let access = &self.node.access;
        if !access.is_on() {
            return Ok(None);
        }
        // Who calls comes first: a stranger learns nothing about names.
        let identity = access.identify(caller.metadata(), caller.peer(), || self.state());
        let permit = identity.map_err(ApiError::from).and_then(|identity| {
            let needs = if access.config().authorization { request.needs()? } else { Vec::new() };
            Ok(access.permit(identity, needs, || self.state())?)
        });
        if let Err(error @ ApiError::Denied(_)) = &permit
            && let Some(suppressed) = self.denials.pass()
        {
            let address = caller.address().map(|address| address.to_string()).unwrap_or_default();
            tracing::warn!(target: "audit", address, suppressed, reason = %error, "a call is refused");
        }
        permit.map(Some)
    }

    /// Whether what a call was permitted still is, after a while.
    pub(super) fn still(&self, permit: Option<&Permit>) -> Result<(), ApiError> {
        let Some(permit) = permit else { return Ok(()) };
        Ok(self.node.access.holds(permit, || self.state())?)
    }

    /// Logs a change of metadata with who made it.
    pub(super) fn audit(&self, caller: &Caller, what: &'static str, name: &str) {
        self.author(caller).audit(caller.client_id().unwrap_or_default(), what, name);
    }

    /// Who a change of metadata by this call is made by.
    pub(super) fn author(&self, caller: &Caller) -> Author {
        let identity = self.node.access.is_on().then(|| {
            self.node.access.identify(caller.metadata(), caller.peer(), || self.state()).map(|identity| identity.user)
        });
        Author { user: identity.and_then(Result::ok).unwrap_or_default(), address: caller.address() }
    }

    /// Ending a client takes its leases away: whoever does it must have permission for all of its consumer groups.
    pub(super) fn may_end(&self, caller: &Caller, client_id: &str) -> Result<(), ApiError> {
        if !self.node.access.is_on() {
            return Ok(());
        }
        let state = self.state();
        let mut groups = Vec::new();
        for (_, id, _) in store::session::sessions_of(&state, client_id, TICK_ROWS_MAX)? {
            groups.extend(store::consumer_group::name(&state, id)?);
        }
        self.permit(caller, &Groups(groups)).map(drop)
    }
}

struct Groups(Vec<String>);

impl Needs for Groups {
    fn needs(&self) -> Result<Vec<Need>, ApiError> {
        let need = |name: &String| Need { actions: SUBSCRIBE, kind: Kind::Group, name: name.clone() };
        Ok(self.0.iter().map(need).collect())
    }
}

impl Needs for Opening {
    fn needs(&self) -> Result<Vec<Need>, ApiError> {
        Ok(Vec::new())
    }
}

/// A client is shown a message of a topic on its stream.
pub(super) enum Listening<'t> {
    /// Because it publishes to it.
    Producer(&'t str),
    /// Because it receives from it.
    Consumer(&'t str),
}

impl Needs for Listening<'_> {
    fn needs(&self) -> Result<Vec<Need>, ApiError> {
        let (actions, name) = match self {
            Listening::Producer(name) => (PUBLISH, name),
            Listening::Consumer(name) => (SUBSCRIBE, name),
        };
        Ok(vec![Need { actions, kind: Kind::Topic, name: (*name).to_owned() }])
    }
}

fn topic(actions: &'static [AclAction], resource: &Option<v2::Resource>) -> Result<Need, ApiError> {
    Ok(Need { actions, kind: Kind::Topic, name: convert::topic(resource.clone())?.into_string() })
}

fn group(resource: &Option<v2::Resource>) -> Result<Need, ApiError> {
    let name = convert::consumer_group(resource.clone())?.into_string();
    Ok(Need { actions: SUBSCRIBE, kind: Kind::Group, name })
}

fn topic_of(queue: &Option<v2::MessageQueue>) -> Result<Need, ApiError> {
    topic(SUBSCRIBE, &queue.as_ref().and_then(|queue| queue.topic.clone()))
}

/// Producers name no consumer group.
fn group_if_any(resource: &Option<v2::Resource>) -> Result<Vec<Need>, ApiError> {
    match resource {
        Some(named) if !named.name.is_empty() => Ok(vec![group(resource)?]),
        _ => Ok(Vec::new()),
    }
}

macro_rules! needs {
    ($($request:ident($given:ident) => [$($need:expr),*];)*) => {$(
        impl Needs for v2::$request {
            fn needs(&self) -> Result<Vec<Need>, ApiError> {
                let $given = self;
                Ok(vec![$($need?),*])
            }
        }
    )*};
}
needs! {
    QueryRouteRequest(r) => [topic(EITHER, &r.topic)];
    QueryAssignmentRequest(r) => [topic(SUBSCRIBE, &r.topic), group(&r.group)];
    ReceiveMessageRequest(r) => [topic_of(&r.message_queue), group(&r.group)];
    AckMessageRequest(r) => [topic(SUBSCRIBE, &r.topic), group(&r.group)];
    ChangeInvisibleDurationRequest(r) => [topic(SUBSCRIBE, &r.topic), group(&r.group)];
    ForwardMessageToDeadLetterQueueRequest(r) => [topic(SUBSCRIBE, &r.topic), group(&r.group)];
    PullMessageRequest(r) => [topic_of(&r.message_queue), group(&r.group)];
    UpdateOffsetRequest(r) => [topic_of(&r.message_queue), group(&r.group)];
    GetOffsetRequest(r) => [topic_of(&r.message_queue), group(&r.group)];
    QueryOffsetRequest(r) => [topic_of(&r.message_queue)];
    EndTransactionRequest(r) => [topic(PUBLISH, &r.topic)];
    RecallMessageRequest(r) => [topic(PUBLISH, &r.topic)];
    SyncLiteSubscriptionRequest(r) => [topic(SUBSCRIBE, &r.topic), group(&r.group)];
}

impl Needs for v2::SendMessageRequest {
    fn needs(&self) -> Result<Vec<Need>, ApiError> {
        let mut needs: Vec<Need> = Vec::with_capacity(1);
        for message in &self.messages {
            let need = topic(PUBLISH, &message.topic)?;
            if !needs.contains(&need) {
                needs.push(need);
            }
        }
        Ok(needs)
    }
}

impl Needs for v2::HeartbeatRequest {
    fn needs(&self) -> Result<Vec<Need>, ApiError> {
        match self.client_type() {
            v2::ClientType::Producer => Ok(Vec::new()),
            _ => group_if_any(&self.group),
        }
    }
}

impl Needs for v2::NotifyClientTerminationRequest {
    fn needs(&self) -> Result<Vec<Need>, ApiError> {
        group_if_any(&self.group)
    }
}

impl Needs for v2::Settings {
    fn needs(&self) -> Result<Vec<Need>, ApiError> {
        use v2::settings::PubSub;
        match &self.pub_sub {
            None => Ok(Vec::new()),
            Some(PubSub::Publishing(publishing)) => {
                publishing.topics.iter().map(|named| topic(PUBLISH, &Some(named.clone()))).collect()
            }
            Some(PubSub::Subscription(subscription)) => {
                let topics = subscription.subscriptions.iter().map(|entry| topic(SUBSCRIBE, &entry.topic));
                std::iter::once(group(&subscription.group)).chain(topics).collect()
            }
        }
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Rows(error) => error.into(),
            denied => ApiError::Denied(denied),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Needs;
    use raftmq_proto::rocketmq as v2;
    use v2::settings::PubSub;

    fn named(name: &str) -> Option<v2::Resource> {
        Some(v2::Resource { resource_namespace: String::new(), name: name.to_owned() })
    }

    fn queue(name: &str) -> Option<v2::MessageQueue> {
        Some(v2::MessageQueue { topic: named(name), ..v2::MessageQueue::default() })
    }

    fn check(request: &impl Needs, expected: &str) {
        let shown = match request.needs() {
            Ok(needs) => {
                let word = |need: &crate::access::Need| {
                    let actions: Vec<_> = need.actions.iter().map(|action| action.as_str_name()).collect();
                    format!("{} {:?} {}", actions.join("|"), need.kind, need.name)
                };
                needs.iter().map(word).collect::<Vec<_>>().join(", ")
            }
            Err(error) => super::super::status::code_name(&error.status()).to_owned(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_calls_want() {
        check(&v2::QueryRouteRequest { topic: named("t"), ..Default::default() }, "PUB|SUB Topic t");
        let message = |topic: &str| v2::Message { topic: named(topic), ..Default::default() };
        let send = |topics: &[&str]| v2::SendMessageRequest { messages: topics.iter().map(|t| message(t)).collect() };
        check(&send(&["t", "t"]), "PUB Topic t");
        check(&send(&["t", "u"]), "PUB Topic t, PUB Topic u");
        check(&send(&["a.b"]), "ILLEGAL_TOPIC");
        check(
            &v2::ReceiveMessageRequest { group: named("g"), message_queue: queue("t"), ..Default::default() },
            "SUB Topic t, SUB Group g",
        );
        check(
            &v2::AckMessageRequest { group: named("g"), topic: named("t"), ..Default::default() },
            "SUB Topic t, SUB Group g",
        );
        check(&v2::AckMessageRequest { topic: named("t"), ..Default::default() }, "ILLEGAL_CONSUMER_GROUP");
        check(&v2::RecallMessageRequest { topic: named("t"), ..Default::default() }, "PUB Topic t");
        check(&v2::EndTransactionRequest { topic: named("t"), ..Default::default() }, "PUB Topic t");
        check(&v2::QueryOffsetRequest { message_queue: queue("t"), ..Default::default() }, "SUB Topic t");
        let space = Some(v2::Resource { resource_namespace: "shop".to_owned(), name: "t".to_owned() });
        check(&v2::QueryRouteRequest { topic: space, ..Default::default() }, "PUB|SUB Topic shop%t");
    }

    #[test]
    fn clients_without_a_consumer_group_need_none() {
        let heartbeat =
            |client_type: v2::ClientType, group| v2::HeartbeatRequest { group, client_type: client_type.into() };
        check(&heartbeat(v2::ClientType::Producer, named("")), "");
        check(&heartbeat(v2::ClientType::PushConsumer, named("g")), "SUB Group g");
        check(&v2::NotifyClientTerminationRequest { group: None }, "");
        check(&v2::NotifyClientTerminationRequest { group: named("g") }, "SUB Group g");
    }

    #[test]
    fn settings_want_all_that_they_name() {
        let settings = |pub_sub| v2::Settings { pub_sub: Some(pub_sub), ..Default::default() };
        let topics = ["t", "u"].map(|topic| named(topic).expect("given")).to_vec();
        check(
            &settings(PubSub::Publishing(v2::Publishing { topics, ..Default::default() })),
            "PUB Topic t, PUB Topic u",
        );
        let entry = |topic| v2::SubscriptionEntry { topic: named(topic), expression: None };
        let subscription =
            v2::Subscription { group: named("g"), subscriptions: vec![entry("t"), entry("u")], ..Default::default() };
        check(&settings(PubSub::Subscription(subscription)), "SUB Group g, SUB Topic t, SUB Topic u");
        check(&v2::Settings::default(), "");
    }
}
