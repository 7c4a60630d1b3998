//! Every send that was answered OK is delivered.

use super::Verdict;
use crate::oracle::History;

/// Holds when each acknowledged message was received at least once.
pub fn acked_is_delivered(history: &History) -> Verdict {
    let lost = history.undelivered().into_iter();
    Verdict::of(lost.map(|sequence| format!("message {sequence} was acknowledged and never delivered")))
}
