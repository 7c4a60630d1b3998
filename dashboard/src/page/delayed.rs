//! Delayed messages: taking one back before its time, with the handle that its sender got.

use crate::app::{Page, Problem, Visit};
use crate::form::Fields;
use crate::phrase::Phrase as P;
use crate::view::{change, required};
use maud::html;
use raftmq_admin_client::message::resource;
use raftmq_admin_client::public::{Client, check, hosts, on_group};
use raftmq_proto::rocketmq::{Code, RecallMessageRequest};

pub(crate) fn show(visit: &Visit) -> Page {
    let body = html! {
        p { (visit.t(P::RecallExplained)) }
        @if !visit.may_change() { p { (visit.t(P::MayOnlyLook)) } }
        (change(visit, "/delayed/recall", P::Recall, html! {
            (required(visit, P::Topic, "topic", visit.query.get("topic")))
            (required(visit, P::RecallHandle, "handle", ""))
        }))
    };
    Page::new(visit.t(P::Delayed), body)
}

pub(crate) async fn recall(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let directory = visit.directory()?;
    let client = Client::new("dashboard", directory.token.credentials.clone());
    let topic = fields.get("topic");
    let groups = hosts(&directory, topic, None).await?;
    let several = groups.len() > 1;
    let mut last = None;
    for group in groups {
        let request = RecallMessageRequest { topic: resource(topic), recall_handle: fields.get("handle").to_owned() };
        let (address, answer) = on_group(&directory, &group, |mut node| {
            let request = client.request(request.clone());
            async move { Ok(node.recall_message(request).await?.into_inner()) }
        })
        .await?;
        match check(&address, answer.status.as_ref()) {
            Ok(()) => return Ok(format!("{}: {}", visit.t(P::Recalled), answer.message_id)),
            // The handle may be another broker group's.
            Err(error)
                if several && answer.status.as_ref().is_some_and(|status| status.code() != Code::TooManyRequests) =>
            {
                last = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match last {
        Some(error) => Err(error.into()),
        None => Err(Problem::Refused(visit.t(P::NoGroups).to_owned())),
    }
}
