//! Between wire types and ours: names, times, filters, stored messages.

use super::status::ApiError;
use crate::config::GrpcConfig;
use crate::deliver::handle::upper_hex;
use crate::filter::MessageFilter;
use crate::filter::sql::SqlFilter;
use crate::filter::tag::TagFilter;
use md5::{Digest as _, Md5};
use prost_types::{Duration, Timestamp};
use raftmq_proto::command::{LeasedMessage, StoredMessage};
use raftmq_proto::name::{ConsumerGroup, TopicName, name_in};
use raftmq_proto::rocketmq as v2;

/// The topic that a request names.
pub(crate) fn topic(resource: Option<v2::Resource>) -> Result<TopicName, ApiError> {
    let resource = resource.unwrap_or_default();
    Ok(TopicName::parse_in(&resource.resource_namespace, resource.name)?)
}

/// The consumer group that a request names.
pub(crate) fn consumer_group(resource: Option<v2::Resource>) -> Result<ConsumerGroup, ApiError> {
    let resource = resource.unwrap_or_default();
    Ok(ConsumerGroup::parse_in(&resource.resource_namespace, resource.name)?)
}

/// The filter that a request or subscription carries; none means everything.
pub(crate) fn filter(
    expression: Option<&v2::FilterExpression>,
    limits: &GrpcConfig,
) -> Result<MessageFilter, ApiError> {
    let Some(expression) = expression else { return Ok(MessageFilter::all()) };
    let (value, limit) = (expression.expression.len(), limits.filter_expression_bytes_max);
    if value > limit {
        return Err(ApiError::FilterTooLong { value, limit });
    }
    match v2::FilterType::try_from(expression.r#type) {
        // Old clients leave the type out of the expression that takes everything.
        Ok(v2::FilterType::Tag | v2::FilterType::Unspecified) => {
            Ok(MessageFilter::Tags(TagFilter::parse(&expression.expression)?))
        }
        Ok(v2::FilterType::Sql) => Ok(MessageFilter::Sql(SqlFilter::parse(&expression.expression)?)),
        Err(_) => Err(ApiError::FilterType),
    }
}

/// The filter of an expression that comes without its type. Tags are words joined by `||`: what has more within one, such
/// as a blank, a quote, a parenthesis or a comparison, is SQL92.
pub(super) fn untyped_filter(expression: String, limits: &GrpcConfig) -> Result<MessageFilter, ApiError> {
    let no_word = |tag: &str| tag.contains(|c: char| c.is_whitespace() || "=<>()'\"".contains(c));
    let kind = match expression.split("||").map(str::trim).any(no_word) {
        true => v2::FilterType::Sql,
        false => v2::FilterType::Tag,
    };
    filter(Some(&v2::FilterExpression { r#type: kind.into(), expression }), limits)
}

/// Milliseconds since the Unix epoch; out of range becomes the nearest that can be said.
pub(crate) fn unix_ms(timestamp: &Timestamp) -> i64 {
    timestamp.seconds.saturating_mul(1000).saturating_add(i64::from(timestamp.nanos) / 1_000_000)
}

/// From milliseconds since the Unix epoch.
pub(crate) fn timestamp(ms: i64) -> Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).expect("less than a second");
    Timestamp { seconds: ms.div_euclid(1000), nanos }
}

/// Milliseconds; negative durations stay negative.
pub(crate) fn duration_ms(duration: &Duration) -> i64 {
    duration.seconds.saturating_mul(1000).saturating_add(i64::from(duration.nanos) / 1_000_000)
}

/// From milliseconds.
pub(crate) fn duration(ms: u64) -> Duration {
    let nanos = i32::try_from(ms % 1000 * 1_000_000).expect("less than a second");
    Duration { seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX), nanos }
}

/// What a delivered message shows beside what is stored.
pub(crate) struct Delivery<'d> {
    /// Topic that the client asked for, with the namespace it uses.
    pub topic: &'d v2::Resource,
    pub leased: &'d LeasedMessage,
    pub receipt_handle: String,
}

/// A stored message as a client sees it that has leased it.
pub(crate) fn delivered(stored: StoredMessage, delivery: Delivery<'_>) -> v2::Message {
    let leased = delivery.leased;
    let mut message = shown(stored, delivery.topic, leased.store_ms);
    if let Some(system) = &mut message.system_properties {
        system.receipt_handle = Some(delivery.receipt_handle);
        system.queue_id = i32::try_from(leased.queue).unwrap_or(i32::MAX);
        system.queue_offset = Some(i64::try_from(leased.offset).unwrap_or(i64::MAX));
        system.delivery_attempt = Some(i32::try_from(leased.attempt).unwrap_or(i32::MAX));
    }
    message
}

/// A stored message as a client sees it that has no lease of it. `topic` is the one that it lies in, as the client
/// names it; `stored_ms` is when it came there.
pub(crate) fn shown(stored: StoredMessage, topic: &v2::Resource, stored_ms: u64) -> v2::Message {
    let origin = name_in(&stored.topic, &topic.resource_namespace);
    // A dead letter is a message of the topic that it lies in; its own topic is where it comes from.
    let dead_letter_queue =
        (origin != topic.name).then(|| v2::DeadLetterQueue { topic: origin, message_id: stored.message_id.clone() });
    v2::Message {
        topic: Some(topic.clone()),
        user_properties: stored.properties.into_iter().map(|property| (property.key, property.value)).collect(),
        system_properties: Some(v2::SystemProperties {
            tag: stored.tag,
            keys: stored.keys,
            message_id: stored.message_id,
            // The only digest that every client computes alike.
            body_digest: Some(v2::Digest {
                r#type: v2::DigestType::Md5.into(),
                checksum: upper_hex(&Md5::digest(&stored.body)),
            }),
            body_encoding: stored.body_encoding,
            message_type: stored.message_type,
            born_timestamp: Some(timestamp(stored.born_ms)),
            born_host: stored.born_host,
            store_timestamp: Some(timestamp(i64::try_from(stored_ms).unwrap_or(i64::MAX))),
            store_host: stored.store_host,
            delivery_timestamp: stored.delivery_ms.map(timestamp),
            receipt_handle: None,
            queue_id: 0,
            queue_offset: None,
            invisible_duration: None,
            delivery_attempt: None,
            message_group: stored.message_group,
            trace_context: stored.trace_context,
            orphaned_transaction_recovery_duration: None,
            dead_letter_queue,
            lite_topic: stored.lite_topic,
            priority: stored.priority,
        }),
        body: stored.body,
    }
}

#[cfg(test)]
mod tests {
    use super::{Delivery, delivered, duration, duration_ms, filter, timestamp, unix_ms, untyped_filter};
    use crate::filter::MessageFilter;
    use crate::grpc::status::code_name;
    use crate::grpc::tests::limits;
    use bytes::Bytes;
    use raftmq_proto::command::{LeasedMessage, Property, StoredMessage};
    use raftmq_proto::rocketmq as v2;

    #[test]
    fn times() {
        for ms in [0, 1, 999, 1_000, 1_700_000_000_123, -1, -1_001] {
            assert_eq!(unix_ms(&timestamp(ms)), ms);
        }
        for ms in [0, 1, 999, 1_000, 43_200_001] {
            assert_eq!(duration_ms(&duration(ms)), i64::try_from(ms).expect("small"));
        }
        assert_eq!(unix_ms(&prost_types::Timestamp { seconds: i64::MAX, nanos: 1 }), i64::MAX);
        assert_eq!(duration_ms(&prost_types::Duration { seconds: -1, nanos: -500_000_000 }), -1_500);
    }

    #[test]
    fn filters() {
        let check = |kind: v2::FilterType, expression: &str, expected: &str| {
            let expression = v2::FilterExpression { r#type: kind.into(), expression: expression.to_owned() };
            let shown = match filter(Some(&expression), &limits()) {
                Ok(filter) => filter.to_command().tags.join(",") + &filter.to_command().sql,
                Err(error) => code_name(&error.status()).to_owned(),
            };
            assert_eq!(shown, expected, "{expression:?}");
        };
        check(v2::FilterType::Tag, "*", "");
        check(v2::FilterType::Tag, "", "");
        check(v2::FilterType::Tag, "b||a", "a,b");
        check(v2::FilterType::Tag, "||", "ILLEGAL_FILTER_EXPRESSION");
        check(v2::FilterType::Sql, "a = 1", "a = 1");
        check(v2::FilterType::Sql, "a = ", "ILLEGAL_FILTER_EXPRESSION");
        check(v2::FilterType::Sql, "", "ILLEGAL_FILTER_EXPRESSION");
        check(v2::FilterType::Sql, &format!("a = '{}'", "x".repeat(16 << 10)), "ILLEGAL_FILTER_EXPRESSION");
        check(v2::FilterType::Unspecified, "", "");
        assert!(filter(None, &limits()).is_ok());
    }

    #[test]
    fn filters_without_their_type() {
        let shown = |expression: &str| match untyped_filter(expression.to_owned(), &limits()) {
            Ok(MessageFilter::Tags(tags)) => format!("tags {}", tags.to_command().tags.join(",")),
            Ok(MessageFilter::Sql(sql)) => format!("sql {}", sql.text()),
            Err(error) => format!("{} {error}", code_name(&error.status())),
        };
        for (expression, expected) in [
            ("", "tags "),
            (" * ", "tags "),
            ("vip-1", "tags vip-1"),
            (" b || a.x||", "tags a.x,b"),
            ("TRUE", "tags TRUE"),
            ("price>10", "sql price>10"),
            ("note IS NULL", "sql note IS NULL"),
            ("TAGS IN ('a', 'b')", "sql TAGS IN ('a', 'b')"),
        ] {
            assert_eq!(shown(expression), expected);
        }
        let long = "x".repeat((16 << 10) + 1);
        for (expression, place) in [
            ("||", "\"||\" names no tag"),
            ("price > ", "line 1, column 9"),
            ("a = 1 AND\n(b = ", "line 2, column 6"),
            ("vip || price > 1", "line 1, column 5"),
            (long.as_str(), "has 16385 bytes"),
        ] {
            let shown = shown(expression);
            assert!(shown.starts_with("ILLEGAL_FILTER_EXPRESSION ") && shown.contains(place), "{shown}");
        }
    }

    fn stored() -> StoredMessage {
        StoredMessage {
            topic: "shop%orders".to_owned(),
            message_id: "01AB".to_owned(),
            tag: Some("paid".to_owned()),
            keys: vec!["k1".to_owned(), "k 2".to_owned()],
            properties: vec![Property { key: "a".to_owned(), value: "b".to_owned() }],
            body_encoding: v2::Encoding::Gzip.into(),
            message_type: v2::MessageType::Normal.into(),
            born_ms: 1_700_000_000_123,
            born_host: "10.0.0.7".to_owned(),
            store_host: "10.0.0.1:8081".to_owned(),
            trace_context: Some("00-1".to_owned()),
            message_group: None,
            delivery_ms: None,
            priority: None,
            lite_topic: None,
            body: Bytes::from_static(b"hello"),
        }
    }

    fn deliver(topic: &str) -> v2::Message {
        let topic = v2::Resource { resource_namespace: "shop".to_owned(), name: topic.to_owned() };
        let leased = LeasedMessage {
            item: 3,
            queue: 5,
            offset: 42,
            attempt: 2,
            log_index: 9,
            slot: 1,
            store_ms: 1_700_000_000_500,
        };
        delivered(stored(), Delivery { topic: &topic, leased: &leased, receipt_handle: "H".to_owned() })
    }

    #[test]
    fn a_delivered_message_is_what_was_sent() {
        let message = deliver("orders");
        let system = message.system_properties.expect("always there");
        assert_eq!(message.topic.expect("always there").name, "orders");
        assert_eq!(message.body, "hello");
        assert_eq!(message.user_properties.get("a").map(String::as_str), Some("b"));
        assert_eq!(system.keys, ["k1", "k 2"]);
        assert_eq!(system.body_digest.expect("always there").checksum, "5D41402ABC4B2A76B9719D911017C592");
        assert_eq!(system.body_encoding, i32::from(v2::Encoding::Gzip));
        assert_eq!((system.queue_id, system.queue_offset, system.delivery_attempt), (5, Some(42), Some(2)));
        assert_eq!(system.born_timestamp.as_ref().map(unix_ms), Some(1_700_000_000_123));
        assert_eq!(system.store_timestamp.as_ref().map(unix_ms), Some(1_700_000_000_500));
        assert_eq!(system.receipt_handle.as_deref(), Some("H"));
        assert_eq!(system.dead_letter_queue, None);
    }

    #[test]
    fn a_dead_letter_says_where_it_comes_from() {
        let message = deliver("%DLQ%billing");
        assert_eq!(message.topic.expect("always there").name, "%DLQ%billing");
        let origin = message.system_properties.and_then(|system| system.dead_letter_queue);
        assert_eq!(origin, Some(v2::DeadLetterQueue { topic: "orders".to_owned(), message_id: "01AB".to_owned() }));
    }
}
