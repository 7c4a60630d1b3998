//! AckMessage: one command for all entries that carry a handle of ours.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use crate::deliver::handle::{HandleError, Handles};
use crate::deliver::read::Reader;
use crate::spans::SPANS_MAX;
use crate::store::lease::lease;
use crate::store::message::Place;
use crate::store::{ConsumerGroupId, LeaseId};
use futures::future::join_all;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Ack, Handle, Refusal, reply};
use raftmq_proto::rocketmq as v2;
use tokio::time::Instant;
use tonic::Request;

/// Handles of one command: others get their turn between the commands of a long call.
const HANDLES_MAX: usize = 256;

pub(super) async fn handle(front: &Front, request: Request<v2::AckMessageRequest>) -> v2::AckMessageResponse {
    let (caller, mut request) = Caller::split(request);
    let (entries, handles) = parse(std::mem::take(&mut request.entries), front.handles);
    let traced = front.node.tracer.is_on().then(|| Traced::of(front, &request, &handles));
    let acked = ack(front, &caller, request, handles).await;
    if let (Some(traced), Ok(refusals)) = (traced, &acked) {
        traced.acked(front, refusals);
    }
    match acked.and_then(|acked| answer(&entries, &acked)) {
        Ok(statuses) => respond(entries, statuses),
        Err(error) => {
            let statuses = vec![front.log("AckMessage", error); entries.len().max(1)];
            respond(entries, statuses)
        }
    }
}

/// What spans are made of once the messages are acknowledged.
struct Traced {
    began: Instant,
    consumer_group: String,
    /// Where the messages are, as far as this node knows.
    places: Vec<Option<Place>>,
}

impl Traced {
    fn of(front: &Front, request: &v2::AckMessageRequest, handles: &[Handle]) -> Traced {
        let (began, state) = (Instant::now(), front.state());
        // Those of one receive follow each other.
        let mut known = None;
        let mut place = |handle: &Handle| {
            let id = (ConsumerGroupId(handle.consumer_group_id), LeaseId(handle.lease_id));
            if known.as_ref().is_none_or(|(of, _)| *of != id) {
                known = Some((id, lease(&state, id.0, id.1).ok()?));
            }
            let lease = known.as_ref()?.1.as_ref()?;
            let item = usize::try_from(handle.item).ok()?;
            let (first, part) = lease.part_of(item)?;
            Some(part.place(u32::try_from(item - first).ok()?))
        };
        let places = handles.iter().take(SPANS_MAX).map(&mut place).collect();
        let consumer_group = request.group.as_ref().map(|group| group.name.clone()).unwrap_or_default();
        Traced { began, consumer_group, places }
    }

    /// Reads which of the messages are traced, beside the call, which does not wait for it.
    fn acked(self, front: &Front, refusals: &[i32]) {
        let Some(turn) = front.node.tracer.turn() else { return };
        let (node, ended) = (front.node.clone(), Instant::now());
        let Traced { began, consumer_group, places } = self;
        let acked = places.into_iter().zip(refusals).filter(|(_, refusal)| **refusal == 0);
        let places: Vec<Place> = acked.filter_map(|(place, _)| place).collect();
        front.calls.spawn(async move {
            let mut reader = Reader::new(&node.group);
            for place in places {
                let Ok(message) = reader.look(&place).await else { continue };
                if let Some(span) = node.tracer.of_message("AckMessage", &message, began) {
                    let span = span.says("messaging.consumer.group.name", consumer_group.as_str());
                    node.tracer.end_at(span, ended);
                }
            }
            drop(turn);
        });
    }
}

/// Carries out the handles of ours; one refusal each.
async fn ack(
    front: &Front,
    caller: &Caller,
    request: v2::AckMessageRequest,
    handles: Vec<Handle>,
) -> Result<Vec<i32>, ApiError> {
    front.admit(caller, &request)?;
    let topic = convert::topic(request.topic)?.into_string();
    let consumer_group = convert::consumer_group(request.group)?.into_string();
    let commands = handles.chunks(HANDLES_MAX).map(|handles| {
        let (consumer_group, topic) = (consumer_group.clone(), topic.clone());
        Kind::Ack(Ack { consumer_group, topic, handles: handles.to_vec() })
    });
    let submitted = commands.map(|command| front.submit(command, Vec::new(), caller.answer_by()));
    let mut refusals = Vec::with_capacity(handles.len());
    for outcome in join_all(submitted).await {
        match outcome? {
            reply::Kind::Acked(acked) => refusals.extend(acked.refusals),
            other => return Err(ApiError::Internal(format!("an ack was answered with {other:?}"))),
        }
    }
    Ok(refusals)
}

/// An entry of the call, and why its handle is not one of ours.
type Entry = (v2::AckMessageEntry, Option<HandleError>);

fn parse(requested: Vec<v2::AckMessageEntry>, ours: Handles) -> (Vec<Entry>, Vec<Handle>) {
    let mut handles: Vec<Handle> = Vec::with_capacity(requested.len());
    let mut entries = Vec::with_capacity(requested.len());
    for entry in requested {
        match ours.parse(&entry.receipt_handle) {
            Ok(handle) => {
                handles.push(handle);
                entries.push((entry, None));
            }
            Err(error) => entries.push((entry, Some(error))),
        }
    }
    (entries, handles)
}

/// The status of each entry, from the refusals of those that had a handle of ours.
fn answer(entries: &[Entry], refusals: &[i32]) -> Result<Vec<v2::Status>, ApiError> {
    let mut refusals = refusals.iter();
    let status = |(_, fault): &Entry| match fault {
        Some(error) => Ok(ApiError::from(*error).status()),
        None => match refusals.next() {
            Some(refusal) => Ok(entry_status(*refusal)),
            None => Err(ApiError::Internal("an ack got too few replies".to_owned())),
        },
    };
    entries.iter().map(status).collect()
}

fn entry_status(refusal: i32) -> v2::Status {
    match Refusal::try_from(refusal) {
        Ok(Refusal::Unspecified) => status::ok(),
        // Whatever is wrong with a handle is wrong for good: another code makes clients repeat it for ever.
        Ok(_) | Err(_) => {
            ApiError::refused(Refusal::InvalidHandle, "the receipt handle holds no message".to_owned()).status()
        }
    }
}

fn respond(entries: Vec<Entry>, statuses: Vec<v2::Status>) -> v2::AckMessageResponse {
    let status = status::common(statuses.iter());
    let result = |((entry, _), status): (Entry, v2::Status)| v2::AckMessageResultEntry {
        message_id: entry.message_id,
        receipt_handle: entry.receipt_handle,
        status: Some(status),
    };
    v2::AckMessageResponse { status: Some(status), entries: entries.into_iter().zip(statuses).map(result).collect() }
}

#[cfg(test)]
mod tests {
    use super::{answer, parse, respond};
    use crate::deliver::handle::Handles;
    use crate::grpc::status::code_name;
    use raftmq_proto::command::{Handle, Refusal};
    use raftmq_proto::rocketmq as v2;

    /// What the entries and the call answer when the handles of ours are answered with `refusals`.
    fn check(handles: &[&str], refusals: &[Refusal], expected: &[&str], whole: &str) {
        let entry = |handle: &&str| v2::AckMessageEntry { receipt_handle: (*handle).to_owned(), ..Default::default() };
        let (entries, ours) = parse(handles.iter().map(entry).collect(), Handles::of("RaftNode00"));
        assert_eq!(ours.len(), refusals.len());
        let refusals: Vec<_> = refusals.iter().map(|refusal| i32::from(*refusal)).collect();
        let statuses = answer(&entries, &refusals).expect("as many replies as handles");
        let response = respond(entries, statuses);
        let status = |status: &Option<v2::Status>| code_name(status.as_ref().expect("always there"));
        let shown: Vec<_> = response.entries.iter().map(|entry| status(&entry.status)).collect();
        assert_eq!((shown.as_slice(), status(&response.status)), (expected, whole), "{handles:?}");
        let echoed: Vec<_> = response.entries.iter().map(|entry| entry.receipt_handle.as_str()).collect();
        assert_eq!(echoed, handles);
    }

    #[test]
    fn entries_answer_one_by_one() {
        let text = |group: &str| Handles::of(group).text(&Handle { lease_id: 7, ..Handle::default() });
        let (good, foreign) = (text("RaftNode00"), text("RaftNode01"));
        const INVALID: &str = "INVALID_RECEIPT_HANDLE";
        check(&[&good], &[Refusal::Unspecified], &["OK"], "OK");
        check(&[&good, &good], &[Refusal::Unspecified; 2], &["OK", "OK"], "OK");
        check(&[&good], &[Refusal::InvalidHandle], &[INVALID], INVALID);
        check(&["forged"], &[], &[INVALID], INVALID);
        check(&[&foreign], &[], &[INVALID], INVALID);
        check(&["", &good, &foreign], &[Refusal::Unspecified], &[INVALID, "OK", INVALID], "MULTIPLE_RESULTS");
        check(&[], &[], &[], "BAD_REQUEST");
    }

    #[test]
    fn too_few_replies_are_an_error_of_ours() {
        assert!(answer(&[(v2::AckMessageEntry::default(), None)], &[]).is_err());
    }
}
