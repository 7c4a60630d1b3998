//! SyncLiteSubscription: which lite topics a client receives.
//!
//! Clients send every change to all endpoints that they know, and all that they receive every 30 s. What the rows say
//! already needs no command, unless they have heard nothing for so long that it would lapse.

use super::Front;
use super::access::GROUP_BOUND;
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use crate::machine::LITE_NAMES_MAX;
use crate::store::lite::{self, CLIENT_QUOTA_SLACK, LAPSE_MS, LiteClient};
use crate::store::topic::{name, topic};
use crate::store::{ConsumerGroupId, StateError, TopicId, consumer_group};
use parking_lot::Mutex;
use raft_store::ReadState;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::lite_start::At;
use raftmq_proto::command::{LiteStart, PutLiteSubscription};
use raftmq_proto::rocketmq as v2;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Request;
use v2::LiteSubscriptionAction as Action;

/// A client that says again what it receives is not written down again within this.
const FRESH_MS: u64 = LAPSE_MS / 3;

/// Lite topics of one client that are looked at.
const SUBSCRIPTIONS_MAX: usize = lite::SUBSCRIPTIONS_MAX as usize;

/// How many lite topics the clients of this node began to receive within a second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    second: Mutex<Option<(Instant, u32)>>,
}

impl Rate {
    /// Counts so many, unless the second had too many before.
    fn take(&self, count: usize, limit: u32) -> Result<(), ApiError> {
        let mut second = self.second.lock();
        let now = Instant::now();
        let (began, taken) = second.filter(|(began, _)| now - *began < Duration::from_secs(1)).unwrap_or((now, 0));
        if taken >= limit {
            return Err(ApiError::LiteRate { limit });
        }
        *second = Some((began, taken.saturating_add(u32::try_from(count).unwrap_or(u32::MAX))));
        Ok(())
    }
}

/// Checks the name of a lite topic.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_name(name: &str, bytes_max: usize) -> Result<(), ApiError> {
    let fault = if name.trim().is_empty() {
        "has a blank name".to_owned()
    } else if name.len() > bytes_max {
        format!("has a name of {} bytes, but the limit is {bytes_max} (maxLiteTopicSize)", name.len())
    } else if let Some(found) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"_-".contains(*c)) {
        format!("contains {found:?}, but only letters, digits and _ - are allowed")
    } else {
        return Ok(());
    };
    Err(ApiError::LiteTopic { name: name.to_owned(), fault })
}

/// What is to change for a client.
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    add: Vec<String>,
    remove: Vec<String>,
}

/// What the rows say of a client.
struct Known {
    client: Option<LiteClient>,
    receives: BTreeSet<String>,
}

fn known(state: &impl ReadState, client_id: &str, group: &str, parent: TopicId) -> Result<Known, StateError> {
    let group = consumer_group::consumer_group(state, group)?.map(|row| ConsumerGroupId(row.id));
    let Some(group) = group else { return Ok(Known { client: None, receives: BTreeSet::new() }) };
    let mut receives = BTreeSet::new();
    for id in lite::subscriptions(state, client_id, group, parent, SUBSCRIPTIONS_MAX)? {
        receives.extend(name(state, id)?.as_deref().and_then(lite::lite_name).map(str::to_owned));
    }
    Ok(Known { client: lite::client(state, client_id, group, parent)?, receives })
}

impl Known {
    /// What is to change so that the client receives what it says; `None` when nothing is, and nothing would lapse soon.
    fn change(&self, action: Action, names: BTreeSet<String>, now_ms: u64) -> Option<Change> {
        let (add, remove) = match action {
            Action::PartialAdd => (names.difference(&self.receives).cloned().collect(), Vec::new()),
            Action::CompleteAdd => (
                names.difference(&self.receives).cloned().collect(),
                self.receives.difference(&names).cloned().collect(),
            ),
            // This node may not have heard yet of one that another node wrote down.
            Action::PartialRemove => (Vec::new(), names.into_iter().collect()),
            Action::CompleteRemove => (Vec::new(), self.receives.iter().cloned().collect()),
        };
        let fresh = self.client.is_some_and(|client| client.refreshed_ms.saturating_add(FRESH_MS) > now_ms);
        (!fresh || !add.is_empty() || !remove.is_empty()).then_some(Change { add, remove })
    }
}

impl Change {
    /// Pieces that each fit into one command: first what goes, so that what comes has room.
    fn pieces(self) -> Vec<Change> {
        let remove = self.remove.chunks(LITE_NAMES_MAX).map(|names| Change { remove: names.to_vec(), add: Vec::new() });
        let add = self.add.chunks(LITE_NAMES_MAX).map(|names| Change { add: names.to_vec(), remove: Vec::new() });
        let pieces: Vec<_> = remove.chain(add).collect();
        if pieces.is_empty() { vec![Change::default()] } else { pieces }
    }
}

fn start(option: Option<v2::OffsetOption>) -> Result<Option<LiteStart>, ApiError> {
    use v2::offset_option::{OffsetType, Policy};
    let number = |value: i64| u64::try_from(value).map_err(|_| ApiError::OffsetNegative(value));
    let at = match option.and_then(|option| option.offset_type) {
        None => None,
        Some(OffsetType::Policy(policy)) => match Policy::try_from(policy) {
            Ok(Policy::Min) => Some(At::First(true)),
            Ok(Policy::Max) => Some(At::Next(true)),
            // Where the consumer group is.
            Ok(Policy::Last) | Err(_) => None,
        },
        Some(OffsetType::Offset(offset)) => Some(At::Offset(number(offset)?)),
        Some(OffsetType::TailN(messages)) => Some(At::Last(number(messages)?)),
        Some(OffsetType::Timestamp(time_ms)) => Some(At::TimeMs(number(time_ms)?)),
    };
    Ok(at.map(|at| LiteStart { at: Some(at) }))
}

pub(super) async fn sync(
    front: &Front,
    request: Request<v2::SyncLiteSubscriptionRequest>,
) -> Result<v2::SyncLiteSubscriptionResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    let client_id = front.admit(&caller, &request)?;
    let action = request.action();
    let parent = convert::topic(request.topic)?;
    let group = convert::consumer_group(request.group)?;
    let settings = front.node.settings();
    let limits = &settings.grpc;
    let names: BTreeSet<String> = request.lite_topic_set.into_iter().collect();
    if matches!(action, Action::PartialAdd | Action::CompleteAdd) {
        for name in &names {
            check_name(name, limits.lite_topic_bytes)?;
        }
        let row = consumer_group::consumer_group(&front.state(), group.as_str())?;
        let limit = lite::client_quota(row.as_ref());
        if names.len() as u64 > limit + CLIENT_QUOTA_SLACK {
            return Err(ApiError::LiteQuota { consumer_group: group.to_string(), value: names.len(), limit });
        }
    }
    if action == Action::PartialAdd {
        front.lite_rate.take(names.len(), limits.lite_subscription_rate)?;
    }
    let start = start(request.offset_option)?;
    let row = front.topic(&parent).await?.ok_or_else(|| ApiError::TopicNotFound(parent.to_string()))?;
    let known = known(&front.state(), client_id, group.as_str(), TopicId(row.id))?;
    let Some(change) = known.change(action, names, front.node.clock.now()) else {
        return Ok(v2::SyncLiteSubscriptionResponse { status: Some(status::ok()) });
    };
    let mut makes_group = consumer_group::consumer_group(&front.state(), group.as_str())?.is_none();
    for Change { add, remove } in change.pieces() {
        let command = PutLiteSubscription {
            client_id: client_id.to_owned(),
            consumer_group: group.to_string(),
            topic: parent.to_string(),
            add,
            remove,
            start,
            take_over: action == Action::PartialAdd,
            create_consumer_group: limits.auto_create_subscription_group,
        };
        let outcome = front.submit_any(Kind::PutLiteSubscription(command), caller.answer_by()).await;
        // What is refused for its lite topics has made the group all the same.
        if makes_group && consumer_group::consumer_group(&front.state(), group.as_str())?.is_some() {
            makes_group = false;
            front.audit(&caller, GROUP_BOUND, &format!("{group} to {parent}"));
        }
        outcome?;
    }
    Ok(v2::SyncLiteSubscriptionResponse { status: Some(status::ok()) })
}

/// Whether receives from this topic are those of lite topics, as far as this node knows.
///
/// # Errors
/// When the row cannot be read.
pub(super) fn is_lite(state: &impl ReadState, topic_name: &str) -> Result<bool, StateError> {
    Ok(topic(state, topic_name)?.is_some_and(|row| lite::has_lite_topics(&row)))
}

/// Lite topics that have a message for a client; `None` when it has none, and nothing else is to be said to it.
///
/// # Errors
/// When a row cannot be read.
pub(super) fn candidates(
    state: &impl ReadState,
    (client_id, group, topic_name): (&str, &str, &str),
    messages_max: u32,
) -> Result<Option<Vec<u64>>, StateError> {
    let Some(parent) = topic(state, topic_name)? else { return Ok(Some(Vec::new())) };
    let Some(group) = consumer_group::consumer_group(state, group)? else { return Ok(Some(Vec::new())) };
    if lite::bound_to(&group) != Some(topic_name) {
        // It is told so.
        return Ok(Some(Vec::new()));
    }
    let of = (ConsumerGroupId(group.id), TopicId(parent.id));
    let found = lite::candidates(state, client_id, of, rand::random(), messages_max as usize)?;
    Ok((!found.is_empty()).then(|| found.into_iter().map(|id| id.0).collect()))
}

#[cfg(test)]
mod tests {
    use super::{Action, BTreeSet, Change, FRESH_MS, Known, LITE_NAMES_MAX, LiteClient, Rate, check_name, start};
    use crate::grpc::status::code_name;
    use raftmq_proto::command::lite_start::At;
    use raftmq_proto::rocketmq as v2;
    use std::time::Duration;
    use v2::offset_option::{OffsetType, Policy};

    fn names(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_to_change() {
        let check = |receives: &str, refreshed_ms: Option<u64>, action: Action, said: &str, expected: &str| {
            let client = refreshed_ms.map(|refreshed_ms| LiteClient { refreshed_ms, ..LiteClient::default() });
            let known = Known { client, receives: names(receives) };
            let change = known.change(action, names(said), 1_000_000);
            let shown = change.map_or("nothing".to_owned(), |Change { add, remove }| {
                format!("+{} -{}", add.join(","), remove.join(","))
            });
            assert_eq!(shown, expected, "{action:?} {said:?} of {receives:?}");
        };
        let fresh = Some(1_000_000);
        check("a b", fresh, Action::PartialAdd, "b c", "+c -");
        check("a b", fresh, Action::PartialAdd, "b", "nothing");
        check("a b", fresh, Action::CompleteAdd, "b c", "+c -a");
        check("a b", fresh, Action::CompleteAdd, "a b", "nothing");
        check("a b", Some(1_000_000 - FRESH_MS), Action::CompleteAdd, "a b", "+ -");
        check("", None, Action::CompleteAdd, "", "+ -");
        check("a b", fresh, Action::PartialRemove, "b z", "+ -b,z");
        check("a b", fresh, Action::CompleteRemove, "", "+ -a,b");
    }

    #[test]
    fn a_long_change_goes_in_pieces() {
        let many = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        let pieces = Change { add: many(LITE_NAMES_MAX + 1), remove: many(1) }.pieces();
        let sizes: Vec<_> = pieces.iter().map(|piece| (piece.add.len(), piece.remove.len())).collect();
        assert_eq!(sizes, [(0, 1), (LITE_NAMES_MAX, 0), (1, 0)]);
        assert_eq!(Change::default().pieces(), [Change::default()]);
    }

    #[test]
    fn names_of_lite_topics() {
        for (name, good) in
            [("a-B_9", true), ("", false), (" ", false), ("a%b", false), ("ä", false), ("aaaaaaa", false)]
        {
            let checked = check_name(name, 6);
            assert_eq!(checked.is_ok(), good, "{name:?}");
            if let Err(error) = checked {
                assert_eq!(code_name(&error.status()), "ILLEGAL_LITE_TOPIC");
            }
        }
    }

    #[test]
    fn where_to_start() {
        let check = |kind: OffsetType, expected: Result<Option<At>, &str>| {
            let started = start(Some(v2::OffsetOption { offset_type: Some(kind) }));
            let shown = started.map(|start| start.and_then(|start| start.at));
            let shown = shown.map_err(|error| code_name(&error.status()).to_owned());
            assert_eq!(shown, expected.map_err(str::to_owned));
        };
        check(OffsetType::Policy(Policy::Last.into()), Ok(None));
        check(OffsetType::Policy(Policy::Min.into()), Ok(Some(At::First(true))));
        check(OffsetType::Policy(Policy::Max.into()), Ok(Some(At::Next(true))));
        check(OffsetType::Offset(3), Ok(Some(At::Offset(3))));
        check(OffsetType::TailN(2), Ok(Some(At::Last(2))));
        check(OffsetType::Timestamp(9), Ok(Some(At::TimeMs(9))));
        check(OffsetType::TailN(-1), Err("ILLEGAL_OFFSET"));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_a_second() {
        let rate = Rate::default();
        assert!(rate.take(3, 4).is_ok() && rate.take(3, 4).is_ok());
        let refused = rate.take(1, 4).expect_err("enough");
        assert_eq!(code_name(&refused.status()), "TOO_MANY_REQUESTS");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(rate.take(1, 4).is_ok());
    }
}
