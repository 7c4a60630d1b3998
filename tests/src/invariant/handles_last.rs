//! A receipt handle is good for as long as its lease, whatever happens to the nodes meanwhile.

use std::time::Duration;

use super::{SLEW, Verdict};
use crate::oracle::{DeliveryRecord, Fate, History};

/// Handles that must be issued in the last moments before the fault, and used after it, for a run to prove anything.
pub const SPANNING_MIN: usize = 10;

/// Holds when no acknowledgement was refused that was answered before its lease can have ended.
///
/// A lease begins when its receive is called or later, and cluster time runs faster than the test's clock by [`SLEW`] at
/// most. So until then nobody else can have had the message, and a refusal is wrong whatever the nodes went through. One
/// that comes later is honest: a group without a leader acknowledges nothing while its time goes on, so that the handle is
/// of a lease that ended meanwhile. Then the message comes back with the next attempt, which the end of the run waits for,
/// and not before its time, which [`super::no_early_redelivery`] says.
pub fn handles_last(history: &History) -> Verdict {
    let refused = history.deliveries.iter().flat_map(|(place, records)| {
        records.iter().filter_map(move |record| {
            let Fate::Refused(at, reason) = &record.fate else { return None };
            let ends = record.leased_after + record.invisible.mul_f64(1.0 - SLEW);
            (*at < ends).then(|| {
                format!(
                    "message {} at {place:?}: the handle of attempt {} was refused {:?} before its lease ends: {reason}",
                    record.sequence,
                    record.attempt,
                    ends - *at
                )
            })
        })
    });
    Verdict::of(refused)
}

/// Deliveries from before the fault under a lease of `lease`, the usual one, whose acknowledgement was answered after it.
pub fn spanning(history: &History, lease: Duration) -> Vec<&DeliveryRecord> {
    let Some(fault) = history.fault else { return Vec::new() };
    let spans = |record: &&DeliveryRecord| {
        let answered = matches!(record.fate, Fate::Acknowledged(at) | Fate::Refused(at, _) if at > fault);
        answered && record.invisible == lease && record.received < fault
    };
    history.deliveries.values().flatten().filter(spans).collect()
}

/// Whether enough handles of the usual lease were issued before the fault and used after it.
pub fn handles_span(history: &History, lease: Duration) -> Verdict {
    let spanning = spanning(history, lease).len();
    if spanning < SPANNING_MIN {
        return Verdict::Unknown(format!("{spanning} handles were issued just before the fault and used after it"));
    }
    Verdict::True
}
