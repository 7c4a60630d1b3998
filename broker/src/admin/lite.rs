//! Lite topics: how many there are, who receives them, and what waits in them.

use super::AdminService;
use crate::store::consumer_group::{consumer_group, consumer_groups};
use crate::store::lite::{self, lite_name, row_name};
use crate::store::queue::queue;
use crate::store::topic::{self, topic, topics};
use crate::store::{ConsumerGroupId, LITE_LOOKED_MAX, LiteLooks, StateError, TopicId, lite_backlog};
use raft_store::ReadState;
use raftmq_proto::admin::{
    DescribeLiteRequest, DescribeLiteResponse, LiteClient, LiteGroup, LiteInGroup, LiteParent, LiteTopic,
};
use raftmq_proto::command::{ConsumerGroup, Topic};
use tonic::Status;

/// Lite topics or clients that one answer names.
const NAMES_MAX: usize = 1_000;

impl AdminService {
    pub(super) async fn describe_lite(&self, request: DescribeLiteRequest) -> Result<DescribeLiteResponse, Status> {
        self.catch_up(request.stale).await?;
        let asked = request.clone();
        let found = self.read(move |state| describe(state, &asked)).await?;
        let answer = found.ok_or_else(|| {
            let DescribeLiteRequest { topic, lite_topic, consumer_group, .. } = request;
            Status::not_found(match (lite_topic.as_str(), consumer_group.as_str()) {
                ("", "") => format!("there is no topic {topic} that takes LITE messages"),
                (lite, "") => format!("topic {topic} has no lite topic {lite}"),
                (_, group) => format!("there is no consumer group {group} that is bound to topic {topic}"),
            })
        })?;
        Ok(DescribeLiteResponse { broker_group: self.broker_group(), ..answer })
    }
}

/// What there is of what was asked for; `None` when there is no such thing.
fn describe(state: &impl ReadState, asked: &DescribeLiteRequest) -> Result<Option<DescribeLiteResponse>, StateError> {
    let mut answer = DescribeLiteResponse {
        subscriptions: lite::subscription_count(state)?,
        subscriptions_max: lite::SUBSCRIPTIONS_MAX,
        ..DescribeLiteResponse::default()
    };
    if asked.topic.is_empty() {
        for row in topics(state)?.into_iter().filter(lite::has_lite_topics) {
            answer.parents.push(parent(state, row)?);
        }
        return Ok(Some(answer));
    }
    let Some(row) = topic(state, &asked.topic)?.filter(lite::has_lite_topics) else { return Ok(None) };
    let id = TopicId(row.id);
    answer.parents.push(parent(state, row)?);
    let group = match asked.consumer_group.as_str() {
        "" => None,
        name => {
            match consumer_group(state, name)?.filter(|group| lite::bound_to(group) == Some(asked.topic.as_str())) {
                Some(group) => Some(group),
                None => return Ok(None),
            }
        }
    };
    let lite = match asked.lite_topic.as_str() {
        "" => None,
        name => topic(state, &row_name(id, name))?,
    };
    match (group, lite) {
        (_, None) if !asked.lite_topic.is_empty() && asked.client_id.is_empty() => return Ok(None),
        (None, None) => {}
        (None, Some(lite)) => answer.lite = Some(one(state, TopicId(lite.id))?),
        (Some(group), _) if !asked.client_id.is_empty() => {
            answer.client = Some(client(state, &asked.client_id, &group, id)?);
        }
        (Some(group), lite) => answer.group = Some(of_group(state, &group, asked, lite)?),
    }
    Ok(Some(answer))
}

fn parent(state: &impl ReadState, row: Topic) -> Result<LiteParent, StateError> {
    let groups = consumer_groups(state)?.into_iter().filter(|group| lite::bound_to(group) == Some(row.name.as_str()));
    let consumer_groups = groups.map(|group| group.name).collect();
    Ok(LiteParent {
        lite_topics: lite::topics(state, TopicId(row.id))?,
        lite_topics_max: lite::topic_quota(&row),
        expiration_ms: lite::expiration_ms(state, &row)?,
        topic: row.name,
        consumer_groups,
    })
}

/// A lite topic and who receives it.
fn one(state: &impl ReadState, id: TopicId) -> Result<LiteTopic, StateError> {
    let queue = queue(state, id, 0)?;
    let (mut clients, mut more) = (Vec::new(), false);
    for (group, count) in lite::groups(state, id)? {
        let left = NAMES_MAX - clients.len();
        let consumer_group = crate::store::consumer_group::name(state, group)?.unwrap_or_default();
        let members = lite::members(state, id, group, 0, left)?;
        more |= (members.len() as u64) < count && members.len() == left;
        let named =
            |client_id| LiteClient { client_id, consumer_group: consumer_group.clone(), ..LiteClient::default() };
        clients.extend(members.into_iter().map(named));
        if clients.len() >= NAMES_MAX {
            break;
        }
    }
    Ok(LiteTopic {
        min_offset: queue.min,
        max_offset: queue.next,
        last_store_ms: queue.last_store_ms,
        clients,
        more_clients: more,
    })
}

/// What a client receives.
fn client(
    state: &impl ReadState,
    client_id: &str,
    group: &ConsumerGroup,
    parent: TopicId,
) -> Result<LiteClient, StateError> {
    let group_id = ConsumerGroupId(group.id);
    let row = lite::client(state, client_id, group_id, parent)?.unwrap_or_default();
    let mut names = Vec::new();
    for id in lite::subscriptions(state, client_id, group_id, parent, NAMES_MAX)? {
        names.extend(name_of(state, id)?);
    }
    Ok(LiteClient {
        client_id: client_id.to_owned(),
        consumer_group: group.name.clone(),
        subscriptions: row.subscriptions,
        refreshed_ms: row.refreshed_ms,
        more_lite_topics: row.subscriptions > NAMES_MAX as u64,
        lite_topics: names,
    })
}

fn name_of(state: &impl ReadState, id: TopicId) -> Result<Option<String>, StateError> {
    Ok(topic::name(state, id)?.as_deref().and_then(lite_name).map(str::to_owned))
}

/// What waits for a consumer group: in one lite topic, or in those where something does.
fn of_group(
    state: &impl ReadState,
    group: &ConsumerGroup,
    asked: &DescribeLiteRequest,
    lite: Option<Topic>,
) -> Result<LiteGroup, StateError> {
    let share = match (lite, asked.lite_topic.is_empty()) {
        (Some(lite), _) => Some((vec![TopicId(lite.id)], false)),
        (None, false) => None,
        (None, true) => {
            let looked = LiteLooks::new([group], LITE_LOOKED_MAX).share(state, group)?;
            looked.map(|share| (share.topics, share.more))
        }
    };
    let (ids, more) = share.unwrap_or_default();
    let mut found = LiteGroup { looked: ids.len() as u64, more, ..LiteGroup::default() };
    for id in ids {
        let (lag, oldest) = lite_backlog(state, &[id], ConsumerGroupId(group.id), &mut 1)?;
        if lag.messages() == 0 && asked.lite_topic.is_empty() {
            continue;
        }
        let queue = queue(state, id, 0)?;
        found.waiting += lag.messages();
        found.lite_topics.push(LiteInGroup {
            lite_topic: name_of(state, id)?.unwrap_or_default(),
            broker_offset: queue.next,
            progress: crate::store::progress::progress(state, id, ConsumerGroupId(group.id), 0)?.progress,
            waiting: lag.messages(),
            in_flight: lag.in_flight,
            oldest_ms: oldest.and_then(|oldest| oldest.open_ms).unwrap_or_default(),
            last_store_ms: queue.last_store_ms,
        });
    }
    // Most first; an answer has room for so many.
    found.lite_topics.sort_by(|a, b| (b.waiting, &a.lite_topic).cmp(&(a.waiting, &b.lite_topic)));
    found.lite_topics.truncate(NAMES_MAX);
    Ok(found)
}
