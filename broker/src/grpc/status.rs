//! From errors to the wire: the one table of RocketMQ codes, and the only file of the broker that names them.

use crate::access::Denied;
use crate::deliver::handle::HandleError;
use crate::deliver::wait::PollingFull;
use crate::filter::sql::SqlError;
use crate::filter::tag::NoTags;
use crate::propose::SubmitError;
use crate::store::StateError;
use raftmq_proto::command::Refusal;
use raftmq_proto::name::{NameError, Named};
use raftmq_proto::rocketmq::{Code, MessageType, Status};

/// Why a call is refused. The text is what the client shows its user: it names the limit, the value and, where there
/// is one, the configuration key that changes the limit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("client id cannot be empty: the header x-mq-client-id is missing")]
    ClientIdRequired,
    #[error("the request has no {0}")]
    Missing(&'static str),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("no message to send")]
    NoMessages,
    #[error("the call has {value} messages, but the limit is {limit} (sendBatchMessagesMax)")]
    TooManyMessages { value: usize, limit: usize },
    #[error("topic in message is not same: all messages of a call go to one topic")]
    SeveralTopics,
    #[error("the body of the message is empty")]
    BodyEmpty,
    #[error("the body has {value} bytes, but the limit is {limit} (maxMessageSize)")]
    BodyTooLarge { value: usize, limit: usize },
    #[error("the message has {value} user properties, but the limit is {limit} (userPropertyMaxNum)")]
    TooManyProperties { value: usize, limit: usize },
    #[error(
        "user properties, tag and keys of the message have {value} bytes, but the limit is {limit} (maxUserPropertySize)"
    )]
    PropertiesTooLarge { value: usize, limit: usize },
    #[error("the property key {0:?} is reserved for the system")]
    PropertyReserved(String),
    #[error("the property {0:?} has a control character in its key or value")]
    PropertyControl(String),
    #[error("the tag {tag:?} {fault}")]
    Tag { tag: String, fault: &'static str },
    #[error("the message key {key:?} {fault}")]
    Key { key: String, fault: &'static str },
    #[error("the message has no message id")]
    MessageIdBlank,
    #[error(
        "the orphaned transaction recovery duration is {value_s} s, but the limit is {limit_s} s (maxTransactionRecoverySecond)"
    )]
    RecoveryTooLong { value_s: i64, limit_s: i64 },
    #[error("the delivery time is {ahead_ms} ms ahead, but the limit is {limit_ms} ms (maxDelayTimeMillis)")]
    DeliveryTooLate { ahead_ms: i64, limit_ms: i64 },
    #[error("a priority of {0} is less than 0")]
    PriorityNegative(i32),
    #[error("the message group {group:?} {fault}")]
    MessageGroup { group: String, fault: String },
    #[error("the lite topic {name:?} {fault}")]
    LiteTopic { name: String, fault: String },
    #[error(
        "a client of consumer group {consumer_group} receives at most {limit} lite topics, not {value}; raise its attribute \
         lite.sub.client.quota"
    )]
    LiteQuota { consumer_group: String, value: usize, limit: u64 },
    #[error(
        "busy: the clients of this node begin to receive {limit} lite topics a second, the limit; raise \
         maxSyncLiteSubscriptionRate"
    )]
    LiteRate { limit: u32 },
    #[error("the offset {0} is less than 0")]
    OffsetNegative(i64),
    #[error("lite topics are received as a whole: the filter must take everything")]
    LiteFilter,
    #[error("topic {topic} takes {takes}, but the message is {sent}")]
    TypeConflict { topic: String, takes: String, sent: &'static str },
    #[error("topic {0} does not exist; create it, or set autoCreateTopicEnable")]
    TopicNotFound(String),
    #[error("no readable queue in topic {0}")]
    NoReadableQueue(String),
    #[error("an invisible duration of {value_ms} ms is not within {min_ms} to {max_ms} ms ({keys})")]
    InvisibleTime { value_ms: i64, min_ms: u64, max_ms: u64, keys: &'static str },
    #[error(
        "{left_ms} ms are left until the deadline of the call, too few for a long poll of at least {min_ms} ms \
         (grpcClientConsumerMinLongPollingTimeoutMillis)"
    )]
    PollingTime { left_ms: u128, min_ms: u64, code_known: bool },
    #[error(transparent)]
    Filter(#[from] NoTags),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("the filter expression has {value} bytes, but the limit is {limit}; raise filterExpressionBytesMax")]
    FilterTooLong { value: usize, limit: usize },
    #[error("unknown type of filter expression: only TAG and SQL are understood")]
    FilterType,
    #[error(transparent)]
    PollingFull(#[from] PollingFull),
    #[error(
        "busy: clients have {limit} bytes of messages on the way to them; raise deliverInflightBytesMax or read faster"
    )]
    DeliveringFull { limit: usize },
    #[error(transparent)]
    Handle(#[from] HandleError),
    #[error("the transaction id is blank, or none that this broker group gave out")]
    TransactionId,
    #[error("a transaction is committed or rolled back, nothing else")]
    Resolution,
    #[error("cannot serve a client of type {0}")]
    ClientType(&'static str),
    #[error("there is no publishing or subscription data in settings")]
    NoSettings,
    #[error("no new message")]
    NothingNew,
    #[error("queue {queue} of topic {topic} does not exist in broker group {broker_group}")]
    QueueNotFound { topic: String, queue: i32, broker_group: String },
    #[error("offset {offset} is not within {min} to {next}; the nearest is {nearest}")]
    OffsetOutOfRange { offset: i64, min: u64, next: u64, nearest: u64 },
    #[error("the consumer group has stored no offset for this queue")]
    NoOffset,
    #[error(transparent)]
    Denied(Denied),
    #[error("{0}")]
    NoAdministrator(&'static str),
    #[error("no live client {0} has a stream to any member of this broker group")]
    NoClient(String),
    #[error("client {0} was told, and does not answer")]
    ClientSilent(String),
    #[error("topic {0} keeps no such message")]
    NoSuchMessage(String),
    #[error("{0}")]
    OwnersDisagree(String),
    #[error(
        "broker group {owner} keeps slot {slot} of the message groups of topic {topic}, and takes nothing now ({why}): to \
         keep their order, messages of this slot are stored nowhere else"
    )]
    OwnerAway { owner: String, slot: u64, topic: String, why: String },
    #[error(
        "busy: {limit} bytes of messages are on their way to other broker groups; raise requestInflightBytesMax or send \
         slower"
    )]
    OwnersBusy { limit: usize },
    #[error("{0}")]
    DiskFull(std::sync::Arc<str>),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The replicated rules refused the command.
    #[error("{detail}")]
    Refused { refusal: Refusal, detail: String },
    /// What should not happen; the text says what did.
    #[error("internal error: {0}")]
    Internal(String),
}

impl ApiError {
    /// From a reply of the replicated rules, which may say why in words.
    pub(crate) fn refused(refusal: Refusal, detail: String) -> ApiError {
        let detail = if detail.is_empty() { refusal.as_str_name().to_lowercase().replace('_', " ") } else { detail };
        ApiError::Refused { refusal, detail }
    }

    /// Somebody who runs this node should look.
    pub(crate) fn is_internal(&self) -> bool {
        self.code() == Code::InternalServerError
    }

    pub(crate) fn is_topic_not_found(&self) -> bool {
        self.code() == Code::TopicNotFound
    }

    /// The time of the call was over first.
    pub(crate) fn is_deadline(&self) -> bool {
        self.code() == Code::ProxyTimeout
    }

    /// The status that goes on the wire.
    pub(crate) fn status(&self) -> Status {
        Status { code: self.code().into(), message: self.to_string() }
    }

    fn code(&self) -> Code {
        match self {
            ApiError::ClientIdRequired => Code::ClientIdRequired,
            ApiError::Missing(_) => Code::BadRequest,
            ApiError::Name(error) => match named(error) {
                Named::Topic => Code::IllegalTopic,
                Named::ConsumerGroup => Code::IllegalConsumerGroup,
                Named::BrokerGroup | Named::Namespace => Code::BadRequest,
            },
            ApiError::NoMessages | ApiError::SeveralTopics => Code::MessageCorrupted,
            ApiError::TooManyMessages { .. } => Code::PayloadTooLarge,
            ApiError::BodyEmpty => Code::MessageBodyEmpty,
            ApiError::BodyTooLarge { .. } => Code::MessageBodyTooLarge,
            ApiError::TooManyProperties { .. } | ApiError::PropertiesTooLarge { .. } => Code::MessagePropertiesTooLarge,
            ApiError::PropertyReserved(_) | ApiError::PropertyControl(_) => Code::IllegalMessagePropertyKey,
            ApiError::Tag { .. } => Code::IllegalMessageTag,
            ApiError::Key { .. } => Code::IllegalMessageKey,
            ApiError::MessageIdBlank => Code::IllegalMessageId,
            ApiError::RecoveryTooLong { .. } => Code::BadRequest,
            ApiError::DeliveryTooLate { .. } => Code::IllegalDeliveryTime,
            ApiError::PriorityNegative(_) => Code::BadRequest,
            ApiError::MessageGroup { .. } => Code::IllegalMessageGroup,
            ApiError::LiteTopic { .. } => Code::IllegalLiteTopic,
            ApiError::LiteQuota { .. } => Code::LiteSubscriptionQuotaExceeded,
            ApiError::OffsetNegative(_) => Code::IllegalOffset,
            ApiError::TypeConflict { .. } => Code::MessagePropertyConflictWithType,
            ApiError::TopicNotFound(_) => Code::TopicNotFound,
            ApiError::NoReadableQueue(_) => Code::Forbidden,
            ApiError::InvisibleTime { .. } => Code::IllegalInvisibleTime,
            ApiError::PollingTime { code_known: true, .. } => Code::IllegalPollingTime,
            ApiError::PollingTime { code_known: false, .. } => Code::BadRequest,
            ApiError::Filter(_)
            | ApiError::Sql(_)
            | ApiError::FilterTooLong { .. }
            | ApiError::FilterType
            | ApiError::LiteFilter => Code::IllegalFilterExpression,
            ApiError::PollingFull(_)
            | ApiError::DeliveringFull { .. }
            | ApiError::OwnersBusy { .. }
            | ApiError::LiteRate { .. }
            | ApiError::DiskFull(_) => Code::TooManyRequests,
            // Clients try again, at another node where they can.
            ApiError::OwnersDisagree(_) | ApiError::OwnerAway { .. } => Code::HaNotAvailable,
            ApiError::Handle(_) => Code::InvalidReceiptHandle,
            ApiError::TransactionId => Code::InvalidTransactionId,
            ApiError::Resolution => Code::BadRequest,
            ApiError::ClientType(_) => Code::UnrecognizedClientType,
            ApiError::NoSettings => Code::BadRequest,
            ApiError::NothingNew => Code::MessageNotFound,
            ApiError::QueueNotFound { .. } => Code::BadRequest,
            ApiError::OffsetOutOfRange { .. } => Code::IllegalOffset,
            ApiError::NoOffset => Code::OffsetNotFound,
            ApiError::Denied(Denied::NoProof(_) | Denied::NotProven(_)) => Code::Unauthorized,
            ApiError::Denied(Denied::NotAllowed { .. } | Denied::NoAdministrator(_)) => Code::Forbidden,
            ApiError::Denied(Denied::Rows(_)) => Code::InternalServerError,
            ApiError::NoAdministrator(_) => Code::Forbidden,
            ApiError::NoClient(_) => Code::NotFound,
            ApiError::ClientSilent(_) => Code::ProxyTimeout,
            ApiError::NoSuchMessage(_) => Code::MessageNotFound,
            ApiError::Submit(SubmitError::Overloaded { .. }) => Code::TooManyRequests,
            ApiError::Submit(SubmitError::Deadline) => Code::ProxyTimeout,
            // Clients turn to the next endpoint.
            ApiError::Submit(SubmitError::Closed | SubmitError::Version { .. }) => Code::HaNotAvailable,
            ApiError::Refused { refusal, .. } => refused(*refusal),
            ApiError::Internal(_) => Code::InternalServerError,
        }
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        ApiError::Internal(error.to_string())
    }
}

fn named(error: &NameError) -> Named {
    match error {
        NameError::Blank(named)
        | NameError::TooLong { named, .. }
        | NameError::Character { named, .. }
        | NameError::System { named, .. } => *named,
    }
}

fn refused(refusal: Refusal) -> Code {
    match refusal {
        Refusal::TopicNotFound => Code::TopicNotFound,
        Refusal::ConsumerGroupNotFound => Code::ConsumerGroupNotFound,
        Refusal::NotWritable | Refusal::NotReadable | Refusal::ConsumerGroupDisabled => Code::Forbidden,
        Refusal::MessageTypeMismatch => Code::MessagePropertyConflictWithType,
        Refusal::InvalidHandle => Code::InvalidReceiptHandle,
        Refusal::DeadlinePassed => Code::ProxyTimeout,
        // Clients wait a little before they try again.
        Refusal::DiskFull | Refusal::RateLimited => Code::TooManyRequests,
        Refusal::InvalidArgument => Code::BadRequest,
        Refusal::OffsetOutOfRange => Code::IllegalOffset,
        Refusal::NotSupported => Code::NotImplemented,
        Refusal::TimerNotFound => Code::MessageNotFound,
        Refusal::HalfMessageNotFound | Refusal::AlreadyCommitted | Refusal::AlreadyRolledBack => {
            Code::InvalidTransactionId
        }
        // The topic was made anew between this node's look and the append: tried again, it goes to whom it should.
        Refusal::NotOwner => Code::HaNotAvailable,
        Refusal::LiteBoundElsewhere => Code::IllegalTopic,
        Refusal::LiteGroupMismatch => Code::IllegalConsumerGroup,
        Refusal::LiteTopicQuota => Code::LiteTopicQuotaExceeded,
        Refusal::LiteSubscriptionQuota => Code::LiteSubscriptionQuotaExceeded,
        Refusal::IllegalLiteTopic => Code::IllegalLiteTopic,
        Refusal::StillSubscribed => Code::PreconditionFailed,
        // A name that was taken between two commands, and a batch of an earlier boot: neither is the client's doing.
        Refusal::Unspecified
        | Refusal::AlreadyExists
        | Refusal::StaleBoot
        | Refusal::ChangedMeanwhile
        | Refusal::UserNotFound
        | Refusal::AclNotFound => Code::InternalServerError,
    }
}

/// The status of a call or entry that was carried out.
pub(crate) fn ok() -> Status {
    Status { code: Code::Ok.into(), message: "OK".to_owned() }
}

/// The status over several entries: theirs when they agree.
pub(crate) fn common<'e>(mut entries: impl Iterator<Item = &'e Status>) -> Status {
    let Some(first) = entries.next() else {
        return ApiError::Missing("entries").status();
    };
    if entries.all(|entry| entry.code == first.code) {
        first.clone()
    } else {
        Status { code: Code::MultipleResults.into(), message: "entries have different results".to_owned() }
    }
}

/// A type's name as it stands in a topic's attribute `message.type`.
pub(crate) fn type_name(message_type: MessageType) -> &'static str {
    message_type.as_str_name()
}

/// The name of a status's code, for logs and tests.
pub(crate) fn code_name(status: &Status) -> &'static str {
    Code::try_from(status.code).map_or("UNKNOWN", |code| code.as_str_name())
}

#[cfg(test)]
mod tests {
    use super::{ApiError, code_name, common, ok};
    use crate::deliver::handle::HandleError;
    use crate::propose::SubmitError;
    use raftmq_proto::command::Refusal;
    use raftmq_proto::name::{ConsumerGroup, TopicName};

    #[test]
    fn errors_and_their_codes() {
        let check = |error: ApiError, code: &str, text: &str| {
            let status = error.status();
            assert_eq!((code_name(&status), status.message.as_str()), (code, text), "{error:?}");
        };
        check(
            ApiError::from(TopicName::parse("a.b").expect_err("a dot")),
            "ILLEGAL_TOPIC",
            "the name of the topic contains '.', but only letters, digits and % | _ - are allowed",
        );
        check(
            ApiError::from(ConsumerGroup::parse("CID_RMQ_SYS_x").expect_err("the system's")),
            "ILLEGAL_CONSUMER_GROUP",
            "cannot access system consumer group CID_RMQ_SYS_x",
        );
        check(
            ApiError::BodyTooLarge { value: 5, limit: 4 },
            "MESSAGE_BODY_TOO_LARGE",
            "the body has 5 bytes, but the limit is 4 (maxMessageSize)",
        );
        check(
            ApiError::Submit(SubmitError::Overloaded { limit: 10, value: 12, key: "requestInflightBytesMax" }),
            "TOO_MANY_REQUESTS",
            "busy: 12 bytes of unanswered requests, the limit is 10; raise requestInflightBytesMax or send slower",
        );
        check(HandleError::Malformed.into(), "INVALID_RECEIPT_HANDLE", "the receipt handle is malformed");
        check(ApiError::refused(Refusal::InvalidHandle, String::new()), "INVALID_RECEIPT_HANDLE", "invalid handle");
        check(ApiError::refused(Refusal::TopicNotFound, "no t".to_owned()), "TOPIC_NOT_FOUND", "no t");
        check(ApiError::refused(Refusal::DiskFull, "full".to_owned()), "TOO_MANY_REQUESTS", "full");
        let away =
            ApiError::OwnerAway { owner: "B".to_owned(), slot: 7, topic: "t".to_owned(), why: "gone".to_owned() };
        check(
            away,
            "HA_NOT_AVAILABLE",
            "broker group B keeps slot 7 of the message groups of topic t, and takes nothing now (gone): to keep their \
             order, messages of this slot are stored nowhere else",
        );
        check(ApiError::DiskFull("full".into()), "TOO_MANY_REQUESTS", "full");
        check(ApiError::NothingNew, "MESSAGE_NOT_FOUND", "no new message");
    }

    #[test]
    fn entries_share_a_status_or_say_that_they_do_not() {
        let bad = ApiError::from(HandleError::Malformed).status();
        let check = |entries: &[_], expected: &str| assert_eq!(code_name(&common(entries.iter())), expected);
        check(&[ok()], "OK");
        check(&[ok(), ok()], "OK");
        check(&[bad.clone(), bad.clone()], "INVALID_RECEIPT_HANDLE");
        check(&[ok(), bad], "MULTIPLE_RESULTS");
        check(&[], "BAD_REQUEST");
    }
}
