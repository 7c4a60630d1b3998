//! Settings: what a client tells about itself, and what it is told in return.
//!
//! They are kept for as long as the connection that brought them, and nothing depends on having them: a client that
//! this node has never heard of is served from its request and its consumer group's row. So a restarted node, or one
//! that a client turns to after a failover, needs no settings before it works.

use crate::config::GrpcConfig;
use crate::filter::MessageFilter;
use crate::grpc::convert;
use crate::grpc::status::ApiError;
use crate::store::consumer_group::RETRY_MAX_DEFAULT;
use crate::store::lite;
use parking_lot::Mutex;
use raftmq_proto::command::ConsumerGroup as ConsumerGroupRow;
use raftmq_proto::name::{ConsumerGroup, TopicName, name_in};
use raftmq_proto::rocketmq as v2;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The clients' own default.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Topics of one client that are remembered without its having named them.
const RECEIVED_MAX: usize = 256;

/// Delays before each further delivery, in seconds; the last one repeats.
const BACKOFF_S: [u64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200];
/// The same for clients that only understand a first delay, a longest one and a factor.
const BACKOFF_INITIAL_MS: u64 = 5_000;
const BACKOFF_MAX_MS: u64 = 7_200_000;
const BACKOFF_FACTOR: f32 = 2.0;

/// What a client subscribes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Consumer {
    pub consumer_group: ConsumerGroup,
    pub subscriptions: Vec<(TopicName, MessageFilter)>,
}

/// What a client told about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientSettings {
    pub client_type: v2::ClientType,
    pub request_timeout: Duration,
    /// Topics that a producer publishes to, and the namespaces in which it names them.
    pub publishes: Vec<(TopicName, String)>,
    /// Set for consumers.
    pub consumer: Option<Consumer>,
    /// How it calls itself, for whoever asks who is there.
    pub agent: Option<v2::Ua>,
}

impl ClientSettings {
    /// Checks and takes what matters of a client's settings.
    pub(crate) fn parse(settings: &v2::Settings, limits: &GrpcConfig) -> Result<ClientSettings, ApiError> {
        use v2::settings::PubSub;
        let mut publishes = Vec::new();
        let consumer = match &settings.pub_sub {
            None => return Err(ApiError::NoSettings),
            Some(PubSub::Publishing(publishing)) => {
                for topic in &publishing.topics {
                    publishes.push((convert::topic(Some(topic.clone()))?, topic.resource_namespace.clone()));
                }
                None
            }
            Some(PubSub::Subscription(subscription)) => {
                let consumer_group = convert::consumer_group(subscription.group.clone())?;
                let entry = |entry: &v2::SubscriptionEntry| {
                    Ok((convert::topic(entry.topic.clone())?, convert::filter(entry.expression.as_ref(), limits)?))
                };
                let subscriptions = subscription.subscriptions.iter().map(entry).collect::<Result<_, ApiError>>()?;
                Some(Consumer { consumer_group, subscriptions })
            }
        };
        let told = settings.client_type();
        let client_type = match (told, &consumer) {
            // Not every client says what it is.
            (v2::ClientType::Unspecified, None) => v2::ClientType::Producer,
            (v2::ClientType::Unspecified, Some(_)) => v2::ClientType::SimpleConsumer,
            _ => told,
        };
        served(client_type)?;
        let request_timeout = settings.request_timeout.as_ref().map(convert::duration_ms);
        let request_timeout = request_timeout.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
        let request_timeout = request_timeout.map_or(REQUEST_TIMEOUT, Duration::from_millis);
        Ok(ClientSettings { client_type, request_timeout, publishes, consumer, agent: settings.user_agent.clone() })
    }

    /// The name under which a producer knows a topic. One that it did not name is taken for one of the namespace that
    /// it uses otherwise.
    pub(crate) fn resource_of(&self, topic: &str) -> v2::Resource {
        let named = self.publishes.iter().find(|(known, _)| known.as_str() == topic).or(self.publishes.first());
        let namespace = named.map_or_else(
            || topic.split_once('%').map_or("", |(namespace, _)| namespace),
            |(_, namespace)| namespace.as_str(),
        );
        let name = name_in(topic, namespace);
        // Where the namespace is another, the full name stands alone.
        let resource_namespace = if name == topic { String::new() } else { namespace.to_owned() };
        v2::Resource { resource_namespace, name }
    }
}

/// Whether clients of this type are served.
pub(crate) fn served(client_type: v2::ClientType) -> Result<(), ApiError> {
    match client_type {
        v2::ClientType::Producer
        | v2::ClientType::PushConsumer
        | v2::ClientType::SimpleConsumer
        | v2::ClientType::LitePushConsumer
        | v2::ClientType::LiteSimpleConsumer => Ok(()),
        other => Err(ApiError::ClientType(other.as_str_name())),
    }
}

/// Whether clients of this type receive lite topics.
pub(crate) fn is_lite(client_type: v2::ClientType) -> bool {
    matches!(client_type, v2::ClientType::LitePushConsumer | v2::ClientType::LiteSimpleConsumer)
}

/// A client that is connected to this node.
struct Client {
    /// The connection that brought the settings.
    connection: u64,
    settings: Arc<ClientSettings>,
    /// What it received without having said that it subscribes to it; some clients never say.
    received: Vec<(ConsumerGroup, TopicName, MessageFilter)>,
}

/// The settings of the clients that are connected to this node.
#[derive(Default)]
pub(crate) struct KnownSettings {
    connections: AtomicU64,
    clients: Mutex<HashMap<String, Client>>,
}

impl KnownSettings {
    /// A number for a new connection.
    pub(crate) fn connected(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps what a client told on a connection; the newest connection of a client wins.
    pub(crate) fn put(&self, client_id: &str, connection: u64, settings: Arc<ClientSettings>) {
        let says = settings.consumer.as_ref().is_some_and(|consumer| !consumer.subscriptions.is_empty());
        let mut clients = self.clients.lock();
        match clients.get_mut(client_id) {
            Some(client) => {
                client.connection = connection;
                client.settings = settings;
                if says {
                    client.received.clear();
                }
            }
            None => {
                clients.insert(client_id.to_owned(), Client { connection, settings, received: Vec::new() });
            }
        }
    }

    /// What the client told last.
    pub(crate) fn get(&self, client_id: &str) -> Option<Arc<ClientSettings>> {
        self.clients.lock().get(client_id).map(|client| client.settings.clone())
    }

    /// Everything that a client subscribes to in a consumer group, as far as this node knows, now that it receives
    /// from `topic` with `filter`.
    pub(crate) fn received(
        &self,
        client_id: &str,
        consumer_group: &ConsumerGroup,
        topic: &TopicName,
        filter: &MessageFilter,
    ) -> Consumer {
        let mut subscriptions = vec![(topic.clone(), filter.clone())];
        if let Some(client) = self.clients.lock().get_mut(client_id) {
            client.received.retain(|(group, known, _)| group != consumer_group || known != topic);
            if client.received.len() >= RECEIVED_MAX {
                client.received.remove(0);
            }
            client.received.push((consumer_group.clone(), topic.clone(), filter.clone()));
            let told = client.settings.consumer.iter().filter(|consumer| consumer.consumer_group == *consumer_group);
            let told = told.flat_map(|consumer| consumer.subscriptions.iter().cloned());
            let received = client.received.iter().filter(|(group, ..)| group == consumer_group);
            let received = received.map(|(_, topic, filter)| (topic.clone(), filter.clone()));
            for subscription in received.chain(told) {
                if !subscriptions.iter().any(|(known, _)| *known == subscription.0) {
                    subscriptions.push(subscription);
                }
            }
        }
        Consumer { consumer_group: consumer_group.clone(), subscriptions }
    }

    /// A connection ended: forgets what came on it, unless the client has told more on another since.
    pub(crate) fn disconnected(&self, client_id: &str, connection: u64) {
        let mut clients = self.clients.lock();
        if clients.get(client_id).is_some_and(|client| client.connection == connection) {
            clients.remove(client_id);
        }
    }

    /// The client said that it ends.
    pub(crate) fn ended(&self, client_id: &str) {
        self.clients.lock().remove(client_id);
    }
}

/// The settings that a client gets back: its own, with the server's values over them. `consumer_group` is the row
/// of the group that it consumes for, if there is one.
pub(crate) fn overlay(
    mut settings: v2::Settings,
    language: &str,
    config: &GrpcConfig,
    consumer_group: Option<&ConsumerGroupRow>,
) -> v2::Settings {
    use v2::retry_policy::Strategy;
    use v2::settings::PubSub;
    let second = settings.user_agent.as_ref().map_or(1, second_of);
    let lite = is_lite(settings.client_type());
    match &mut settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            publishing.validate_message_type = config.check_message_type;
            publishing.max_body_size = i32::try_from(config.max_message_bytes).unwrap_or(i32::MAX);
            let (initial, max, multiplier) = config.producer_backoff;
            settings.backoff_policy = Some(v2::RetryPolicy {
                max_attempts: config.producer_attempts_max,
                strategy: Some(Strategy::ExponentialBackoff(exponential(initial * second, max * second, multiplier))),
            });
        }
        Some(PubSub::Subscription(subscription)) => {
            subscription.fifo = Some(consumer_group.is_some_and(|row| row.ordered));
            subscription.receive_batch_size = Some(i32::try_from(config.receive_batch_max).unwrap_or(i32::MAX));
            subscription.long_polling_timeout = Some(convert::duration(config.long_polling_ms_max));
            if lite {
                let quota = lite::client_quota(consumer_group);
                subscription.lite_subscription_quota = Some(i32::try_from(quota).unwrap_or(i32::MAX));
                subscription.max_lite_topic_size = Some(i32::try_from(config.lite_topic_bytes).unwrap_or(i32::MAX));
            }
            let retry_max = consumer_group.map_or(RETRY_MAX_DEFAULT, |row| row.retry_max);
            settings.backoff_policy = Some(v2::RetryPolicy {
                max_attempts: i32::try_from(retry_max).unwrap_or(i32::MAX).saturating_add(1),
                strategy: Some(if understands_steps(language) {
                    Strategy::CustomizedBackoff(v2::CustomizedBackoff {
                        next: BACKOFF_S.iter().map(|seconds| convert::duration(seconds * 1000)).collect(),
                    })
                } else {
                    let (initial, max) = (BACKOFF_INITIAL_MS * second, BACKOFF_MAX_MS * second);
                    Strategy::ExponentialBackoff(exponential(initial, max, BACKOFF_FACTOR))
                }),
            });
        }
        None => {}
    }
    // Nobody collects what clients measure.
    settings.metric = Some(v2::Metric { on: false, endpoints: None });
    settings
}

fn exponential(initial_ms: u64, max_ms: u64, multiplier: f32) -> v2::ExponentialBackoff {
    let (initial, max) = (Some(convert::duration(initial_ms)), Some(convert::duration(max_ms)));
    v2::ExponentialBackoff { initial, max, multiplier }
}

/// Node.js (which calls itself HTTP) takes a list of delays for none at all: it would forward the first failure of
/// a FIFO message to the dead letter queue.
fn understands_steps(language: &str) -> bool {
    !["HTTP", "NODE_JS"].iter().any(|name| language.eq_ignore_ascii_case(name))
}

/// What to call a second in a client's backoff. Node.js up to 1.0.8 waits for as many milliseconds as it is told
/// seconds, and would be through all attempts of a message in no time.
fn second_of(client: &v2::Ua) -> u64 {
    let patch = client.version.strip_prefix("1.0.").and_then(|patch| patch.parse::<u32>().ok());
    let counts_milliseconds = client.language() == v2::Language::NodeJs && patch.is_some_and(|patch| patch <= 8);
    if counts_milliseconds { 1000 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::{
        BACKOFF_S, ClientSettings, ConsumerGroup, KnownSettings, MessageFilter, TopicName, overlay, second_of,
    };
    use crate::filter::tag::TagFilter;
    use crate::grpc::convert::duration;
    use crate::grpc::status::code_name;
    use crate::grpc::tests::limits;
    use raftmq_proto::command::ConsumerGroup as ConsumerGroupRow;
    use raftmq_proto::rocketmq as v2;
    use std::sync::Arc;
    use std::time::Duration;
    use v2::retry_policy::Strategy;
    use v2::settings::PubSub;

    fn resource(name: &str) -> v2::Resource {
        v2::Resource { name: name.to_owned(), ..v2::Resource::default() }
    }

    fn producer(topics: &[&str]) -> v2::Settings {
        let topics = topics.iter().map(|name| resource(name)).collect();
        let publishing = v2::Publishing { topics, ..v2::Publishing::default() };
        v2::Settings { pub_sub: Some(PubSub::Publishing(publishing)), ..v2::Settings::default() }
    }

    fn consumer(group: &str, subscriptions: &[(&str, &str)]) -> v2::Settings {
        let entry = |(topic, expression): &(&str, &str)| v2::SubscriptionEntry {
            topic: Some(resource(topic)),
            expression: Some(v2::FilterExpression {
                r#type: v2::FilterType::Tag.into(),
                expression: (*expression).to_owned(),
            }),
        };
        let subscription = v2::Subscription {
            group: Some(resource(group)),
            subscriptions: subscriptions.iter().map(entry).collect(),
            ..v2::Subscription::default()
        };
        v2::Settings { pub_sub: Some(PubSub::Subscription(subscription)), ..v2::Settings::default() }
    }

    fn check(settings: &v2::Settings, expected: &str) {
        let shown = match ClientSettings::parse(settings, &limits()) {
            Ok(parsed) => parsed.client_type.as_str_name(),
            Err(error) => code_name(&error.status()),
        };
        assert_eq!(shown, expected, "{settings:?}");
    }

    #[test]
    fn what_clients_tell() {
        let typed = |client_type: v2::ClientType| v2::Settings {
            client_type: Some(client_type.into()),
            ..consumer("billing", &[("orders", "*")])
        };
        check(&producer(&[]), "PRODUCER");
        check(&producer(&["orders"]), "PRODUCER");
        check(&producer(&["a.b"]), "ILLEGAL_TOPIC");
        check(&consumer("billing", &[]), "SIMPLE_CONSUMER");
        check(&typed(v2::ClientType::PushConsumer), "PUSH_CONSUMER");
        check(&typed(v2::ClientType::PullConsumer), "UNRECOGNIZED_CLIENT_TYPE");
        check(&typed(v2::ClientType::LitePushConsumer), "LITE_PUSH_CONSUMER");
        check(&consumer("", &[]), "ILLEGAL_CONSUMER_GROUP");
        check(&consumer("billing", &[("orders", "||")]), "ILLEGAL_FILTER_EXPRESSION");
        check(&v2::Settings::default(), "BAD_REQUEST");
    }

    #[test]
    fn a_topic_has_the_name_that_its_producer_gives_it() {
        let check = |topics: &[(&str, &str)], topic: &str, expected: (&str, &str)| {
            let named = topics.iter().map(|(namespace, name)| v2::Resource {
                resource_namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
            });
            let publishing = v2::Publishing { topics: named.collect(), ..v2::Publishing::default() };
            let settings = v2::Settings { pub_sub: Some(PubSub::Publishing(publishing)), ..v2::Settings::default() };
            let resource = ClientSettings::parse(&settings, &limits()).expect("good").resource_of(topic);
            assert_eq!((resource.resource_namespace.as_str(), resource.name.as_str()), expected, "{topics:?} {topic}");
        };
        check(&[("", "orders")], "orders", ("", "orders"));
        check(&[("", "a%b")], "a%b", ("", "a%b"));
        check(&[("shop", "orders")], "shop%orders", ("shop", "orders"));
        check(&[("shop", "orders")], "shop%other", ("shop", "other"));
        check(&[("shop", "orders")], "inn%other", ("", "inn%other"));
        check(&[], "orders", ("", "orders"));
        check(&[], "shop%orders", ("shop", "orders"));
    }

    #[test]
    fn the_request_timeout_has_a_default() {
        let timeout =
            |settings: &v2::Settings| ClientSettings::parse(settings, &limits()).expect("good").request_timeout;
        assert_eq!(timeout(&producer(&[])), Duration::from_secs(3));
        let told = v2::Settings { request_timeout: Some(duration(1_500)), ..producer(&[]) };
        assert_eq!(timeout(&told), Duration::from_millis(1_500));
    }

    #[test]
    fn producers_are_told_their_limits() {
        let settings = overlay(producer(&["orders"]), "JAVA", &limits(), None);
        let Some(PubSub::Publishing(publishing)) = settings.pub_sub else { unreachable!("echoed") };
        assert_eq!(publishing.topics, [resource("orders")]);
        assert_eq!((publishing.max_body_size, publishing.validate_message_type), (4 << 20, true));
        let policy = settings.backoff_policy.expect("set");
        assert_eq!(policy.max_attempts, 3);
        let backoff =
            v2::ExponentialBackoff { initial: Some(duration(10)), max: Some(duration(1_000)), multiplier: 2.0 };
        assert_eq!(policy.strategy, Some(Strategy::ExponentialBackoff(backoff)));
    }

    #[test]
    fn consumers_get_the_strategy_that_they_understand() {
        let check = |language: &str, row: Option<&ConsumerGroupRow>, expected: (i32, bool, Option<usize>)| {
            let settings = overlay(consumer("billing", &[]), language, &limits(), row);
            let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { unreachable!("echoed") };
            assert_eq!(subscription.receive_batch_size, Some(32));
            assert_eq!(subscription.long_polling_timeout, Some(duration(20_000)));
            let policy = settings.backoff_policy.expect("set");
            let steps = match policy.strategy.expect("set") {
                Strategy::CustomizedBackoff(steps) => Some(steps.next.len()),
                Strategy::ExponentialBackoff(_) => None,
            };
            assert_eq!((policy.max_attempts, subscription.fifo.expect("set"), steps), expected, "{language}");
        };
        let steps = Some(BACKOFF_S.len());
        check("PYTHON", None, (17, false, steps));
        check("JAVA", None, (17, false, steps));
        check("", None, (17, false, steps));
        check("HTTP", None, (17, false, None));
        let row = ConsumerGroupRow { ordered: true, retry_max: 3, ..ConsumerGroupRow::default() };
        check("GO", Some(&row), (4, true, steps));
    }

    #[test]
    fn only_clients_of_lite_topics_are_told_how_many() {
        let told = |client_type: v2::ClientType, row: Option<&ConsumerGroupRow>| {
            let settings = v2::Settings { client_type: Some(client_type.into()), ..consumer("billing", &[]) };
            let Some(PubSub::Subscription(told)) = overlay(settings, "JAVA", &limits(), row).pub_sub else {
                unreachable!("echoed")
            };
            (told.lite_subscription_quota, told.max_lite_topic_size)
        };
        assert_eq!(told(v2::ClientType::PushConsumer, None), (None, None));
        assert_eq!(told(v2::ClientType::LitePushConsumer, None), (Some(2_000), Some(64)));
        let attributes = [("lite.sub.client.quota".to_owned(), "7".to_owned())].into();
        let row = ConsumerGroupRow { attributes, ..ConsumerGroupRow::default() };
        assert_eq!(told(v2::ClientType::LiteSimpleConsumer, Some(&row)), (Some(7), Some(64)));
    }

    #[test]
    fn the_newest_connection_of_a_client_wins() {
        let known = KnownSettings::default();
        let settings = Arc::new(ClientSettings::parse(&producer(&[]), &limits()).expect("good"));
        let (first, second) = (known.connected(), known.connected());
        known.put("c", first, settings.clone());
        known.put("c", second, settings);
        known.disconnected("c", first);
        assert!(known.get("c").is_some());
        known.disconnected("c", second);
        assert!(known.get("c").is_none());
    }

    #[test]
    fn what_a_client_receives_adds_to_what_it_told() {
        let known = KnownSettings::default();
        let group = ConsumerGroup::parse("billing").expect("a good name");
        let receive = |client_id: &str, topic: &str, expression: &str| {
            let topic = TopicName::parse(topic).expect("a good name");
            let filter = MessageFilter::Tags(TagFilter::parse(expression).expect("a good expression"));
            let consumer = known.received(client_id, &group, &topic, &filter);
            let shown = consumer.subscriptions.iter();
            let mut shown: Vec<_> =
                shown.map(|(topic, filter)| format!("{topic}:{}", filter.to_command().tags.join("|"))).collect();
            shown.sort();
            shown.join(" ")
        };
        let put = |settings: &v2::Settings| {
            known.put("c", 1, Arc::new(ClientSettings::parse(settings, &limits()).expect("good")));
        };
        assert_eq!(receive("unknown", "a", "x"), "a:x");
        assert_eq!(receive("unknown", "b", "*"), "b:");
        put(&consumer("billing", &[]));
        assert_eq!(receive("c", "a", "x"), "a:x");
        assert_eq!(receive("c", "b", "*"), "a:x b:");
        put(&consumer("billing", &[]));
        assert_eq!(receive("c", "a", "y"), "a:y b:");
        put(&consumer("billing", &[("d", "z")]));
        assert_eq!(receive("c", "b", "*"), "b: d:z");
        assert_eq!(receive("c", "d", "z"), "b: d:z");
    }

    #[test]
    fn a_second_of_node_is_a_thousand() {
        let check = |language: v2::Language, version: &str, expected: u64| {
            let client = v2::Ua { language: language.into(), version: version.to_owned(), ..Default::default() };
            assert_eq!(second_of(&client), expected, "{language:?} {version}");
        };
        check(v2::Language::NodeJs, "1.0.8", 1000);
        check(v2::Language::NodeJs, "1.0.9", 1);
        check(v2::Language::NodeJs, "1.1.0", 1);
        check(v2::Language::Java, "1.0.8", 1);
    }
}
