//! A receipt handle that was issued before a fault acknowledges after it; one that was made up acknowledges nothing.

use super::Verdict;
use crate::client::{Consumer, Delivery};

/// A delivery that was kept unacknowledged through the fault.
pub struct Held {
    /// As it was received before the fault.
    pub delivery: Delivery,
    /// What its acknowledgement after the fault was answered with; none for OK.
    pub refused: Option<String>,
    /// Handles that are not its own, or not any more, and were answered OK after the fault.
    pub accepted: Vec<String>,
}

/// Holds when every held handle was answered OK, and no other. That no message returned whose handle was, and each of
/// the others did, [`super::acked_never_returns`] and the end of the run say; that no lease was left,
/// [`super::nothing_stays_leased`].
pub fn handles_survive(held: &[Held]) -> Verdict {
    if held.is_empty() {
        return Verdict::Unknown("no handle was held through the fault".into());
    }
    let wrong = held.iter().flat_map(|held| {
        let (id, attempt) = (held.delivery.message_id(), held.delivery.attempt());
        let refused = held.refused.iter().map(move |reason| format!("its handle was refused: {reason}"));
        let accepted = held.accepted.iter().map(|handle| format!("this handle acknowledged: {handle}"));
        refused.chain(accepted).map(move |what| format!("{id} (attempt {attempt}): {what}"))
    });
    Verdict::of(wrong)
}

/// Tries to acknowledge `delivery` with handles that are not its own: changed in one character at every place, cut,
/// and, through `stranger`, as a member of another consumer group. Returns those that were answered OK.
pub async fn forgeries(consumer: &Consumer, stranger: &Consumer, delivery: &Delivery) -> Vec<String> {
    let handle = delivery.handle();
    let mut forged: Vec<String> = Vec::new();
    for at in 0..handle.len() {
        let mut bytes = handle.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        forged.extend(String::from_utf8(bytes));
    }
    forged.extend([String::new(), "A".into(), handle[..handle.len() / 2].to_string(), format!("{handle}{handle}")]);
    let mut accepted = Vec::new();
    for forgery in forged {
        if consumer.ack_handle(delivery, &forgery).await.is_ok() {
            accepted.push(format!("forged {forgery}"));
        }
    }
    if stranger.ack_handle(delivery, handle).await.is_ok() {
        accepted.push(format!("{handle} by another consumer group"));
    }
    accepted
}
