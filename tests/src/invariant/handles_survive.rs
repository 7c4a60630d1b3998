//! A receipt handle that was issued before a fault acknowledges after it; one that was made up acknowledges nothing.

use raftmq_proto::rocketmq as pb;

use super::Verdict;
use crate::client::{Consumer, Delivery, Failure};

/// A delivery that was kept unacknowledged through the fault.
pub struct Held {
    /// As it was received before the fault.
    pub delivery: Delivery,
    /// What its acknowledgement after the fault was answered with; none for OK.
    pub refused: Option<String>,
    /// Handles that are not its own, or not any more, and were not [`refused`] after the fault, each with its answer.
    pub wrong: Vec<String>,
}

/// Holds when every held handle was answered OK, and every other one was refused as what it is. That no message returned whose handle was, and each of
/// the others did, [`super::acked_never_returns`] and the end of the run say; that no lease was left,
/// [`super::nothing_stays_leased`].
pub fn handles_survive(held: &[Held]) -> Verdict {
    if held.is_empty() {
        return Verdict::Unknown("no handle was held through the fault".into());
    }
    let wrong = held.iter().flat_map(|held| {
        let (id, attempt) = (held.delivery.message_id(), held.delivery.attempt());
        let refused = held.refused.iter().map(move |reason| format!("its handle was refused: {reason}"));
        let wrong = held.wrong.iter().map(|handle| format!("a handle that is not its own was not refused: {handle}"));
        refused.chain(wrong).map(move |what| format!("{id} (attempt {attempt}): {what}"))
    });
    Verdict::of(wrong)
}

/// Whether a handle was refused by the code that says so, with which SDKs give up. Any other refusal, and none at all, is an
/// error that says what the answer was.
///
/// # Errors
///
/// The handle was accepted, or refused in another way.
pub fn refused(outcome: Result<(), Failure>) -> anyhow::Result<()> {
    match outcome {
        Err(Failure::Code(pb::Code::InvalidReceiptHandle, _)) => Ok(()),
        Err(other) => anyhow::bail!("refused with {other}"),
        Ok(()) => anyhow::bail!("accepted"),
    }
}

/// Tries to acknowledge `delivery` with handles that are not its own: changed in one character at every place, cut,
/// and, through `stranger`, as a member of another consumer group. Returns those that were not [`refused`].
pub async fn forgeries(consumer: &Consumer, stranger: &Consumer, delivery: &Delivery) -> Vec<String> {
    let handle = delivery.handle();
    let mut forged: Vec<String> = Vec::new();
    for at in 0..handle.len() {
        let mut bytes = handle.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        forged.extend(String::from_utf8(bytes));
    }
    forged.extend([String::new(), "A".into(), handle[..handle.len() / 2].to_string(), format!("{handle}{handle}")]);
    let mut wrong = Vec::new();
    for forgery in forged {
        if let Err(answer) = refused(consumer.ack_handle(delivery, &forgery).await) {
            wrong.push(format!("forged {forgery:?}: {answer}"));
        }
    }
    if let Err(answer) = refused(stranger.ack_handle(delivery, handle).await) {
        wrong.push(format!("{handle} by another consumer group: {answer}"));
    }
    wrong
}
