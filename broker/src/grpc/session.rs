//! What the replicated rules know of a client: its membership of a consumer group, and its filters.

use super::Front;
use super::access::{Author, GROUP_CREATED};
use super::caller::Caller;
use super::status::ApiError;
use crate::client::settings::Consumer;
use crate::filter::FilterRow;
use crate::store::ConsumerGroupId;
use crate::store::consumer_group::consumer_group;
use crate::store::session::{self, Session};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{PutSession, Subscription};
use tokio::time::Instant;

impl Front {
    fn session(&self, client_id: &str, group: &str) -> Result<Option<Session>, ApiError> {
        let state = self.node.group.state();
        let Some(row) = consumer_group(&state, group)? else { return Ok(None) };
        Ok(session::session(&state, client_id, ConsumerGroupId(row.id))?)
    }

    pub(super) fn is_subscribed(
        &self,
        client_id: &str,
        group: &str,
        topic: &str,
        filter: &FilterRow,
    ) -> Result<bool, ApiError> {
        let session = self.session(client_id, group)?;
        Ok(session.is_some_and(|session| has(&session, topic, filter)))
    }

    /// The client's session holds what it subscribes to, and nothing else. A client that names nothing keeps what it
    /// has, which came from its receives.
    pub(super) async fn replace_session(
        &self,
        client_id: &str,
        consumer: &Consumer,
        author: &Author,
        deadline: Option<Instant>,
    ) -> Result<(), ApiError> {
        let session = self.session(client_id, consumer.consumer_group.as_str())?;
        let same = |session: &Session| {
            session.subscriptions.len() == consumer.subscriptions.len() && has_all(session, consumer)
        };
        if consumer.subscriptions.is_empty() || session.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.put_session(client_id, consumer, author, deadline).await
    }

    /// The client's session holds what it subscribes to, at least.
    pub(super) async fn renew_session(
        &self,
        client_id: &str,
        consumer: &Consumer,
        caller: &Caller,
    ) -> Result<(), ApiError> {
        let session = self.session(client_id, consumer.consumer_group.as_str())?;
        if consumer.subscriptions.is_empty() || session.is_some_and(|session| has_all(&session, consumer)) {
            return Ok(());
        }
        self.put_session(client_id, consumer, &self.author(caller), caller.answer_by()).await
    }

    pub(super) async fn put_session(
        &self,
        client_id: &str,
        consumer: &Consumer,
        author: &Author,
        deadline: Option<Instant>,
    ) -> Result<(), ApiError> {
        let subscriptions = consumer.subscriptions.iter();
        let subscriptions = subscriptions
            .map(|(topic, filter)| Subscription { topic: topic.to_string(), filter: Some(filter.to_command()) });
        let command = Kind::PutSession(PutSession {
            client_id: client_id.to_owned(),
            consumer_group: consumer.consumer_group.to_string(),
            subscriptions: subscriptions.collect(),
            create_consumer_group: self.node.settings().grpc.auto_create_subscription_group,
        });
        let name = consumer.consumer_group.as_str();
        let is_new = consumer_group(&self.node.group.state(), name)?.is_none();
        self.submit_any(command, deadline).await?;
        if is_new {
            author.audit(client_id, GROUP_CREATED, name);
        }
        Ok(())
    }
}

fn has(session: &Session, topic: &str, filter: &FilterRow) -> bool {
    session.subscriptions.iter().any(|(known, subscribed)| known == topic && subscribed == filter)
}

fn has_all(session: &Session, consumer: &Consumer) -> bool {
    consumer.subscriptions.iter().all(|(topic, filter)| has(session, topic.as_str(), &filter.row()))
}
