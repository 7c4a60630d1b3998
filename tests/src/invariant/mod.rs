//! The properties a run must have, one a file. Each takes a history and gives a [`Verdict`].

mod acked_is_delivered;
mod acked_never_returns;
mod handles_last;
mod handles_survive;
mod no_early_redelivery;
mod nothing_stays_leased;
mod replicas_agree;
mod stored_once;

use std::fmt;

use crate::oracle::History;

pub use {
    acked_is_delivered::acked_is_delivered,
    acked_never_returns::acked_never_returns,
    handles_last::{SPANNING_MIN, handles_last, handles_span, spanning},
    handles_survive::{Held, forgeries, handles_survive, refused},
    no_early_redelivery::{SLEW, no_early_redelivery},
    nothing_stays_leased::{leased, nothing_stays_leased},
    replicas_agree::{FILLED_BY_CONSUMERS, replicas_agree, replicas_agree_on},
    stored_once::{one_copy, stored_once},
};

/// Sends that must be acknowledged before the fault, and after it, for a run to prove anything.
pub const ACKNOWLEDGED_MIN: usize = 1000;

/// Sends that must be under way at the fault for a run to prove anything.
pub const IN_FLIGHT_MIN: usize = 100;

/// Whether a property held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It held.
    True,
    /// It did not; the first counterexamples.
    False(Vec<String>),
    /// The run had too little in it to tell. That fails too.
    Unknown(String),
}

impl Verdict {
    /// True when there are no counterexamples; keeps the first ten.
    pub fn of(counterexamples: impl IntoIterator<Item = String>) -> Self {
        let mut counterexamples = counterexamples.into_iter();
        let mut kept: Vec<String> = counterexamples.by_ref().take(10).collect();
        let more = counterexamples.count();
        if kept.is_empty() {
            return Self::True;
        }
        if more > 0 {
            kept.push(format!("and {more} more"));
        }
        Self::False(kept)
    }
}

impl Verdict {
    /// This one and another: false when either is, and else unknown when either is.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False(one), Self::False(two)) => Self::False([one, two].concat()),
            (no @ Self::False(_), _) | (_, no @ Self::False(_)) => no,
            (Self::Unknown(one), Self::Unknown(two)) => Self::Unknown(format!("{one}; {two}")),
            (unknown @ Self::Unknown(_), _) | (_, unknown @ Self::Unknown(_)) => unknown,
            (Self::True, Self::True) => Self::True,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::True => write!(f, "true"),
            Self::False(reasons) => write!(f, "FALSE: {}", reasons.join("; ")),
            Self::Unknown(reason) => write!(f, "UNKNOWN: {reason}"),
        }
    }
}

/// Whether the run had enough in it around its fault.
pub fn coverage(history: &History) -> Verdict {
    let History { acknowledged_before, acknowledged_after, in_flight_at_fault, .. } = history;
    if *acknowledged_before < ACKNOWLEDGED_MIN
        || *acknowledged_after < ACKNOWLEDGED_MIN
        || *in_flight_at_fault < IN_FLIGHT_MIN
    {
        return Verdict::Unknown(format!(
            "{acknowledged_before} acknowledged before the fault and {acknowledged_after} after, \
             {in_flight_at_fault} calls under way at it"
        ));
    }
    Verdict::True
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use raftmq_proto::rocketmq as pb;

    use crate::client::{Delivery, Failure};
    use crate::oracle::{DeliveryRecord, Fate, SendRecord};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn delivery(attempt: i32, leased_after: u64, fate: Fate) -> DeliveryRecord {
        let received = s(leased_after) + Duration::from_millis(5);
        DeliveryRecord { sequence: 1, attempt, leased_after: s(leased_after), received, invisible: s(10), fate }
    }

    /// One message, acknowledged when sent, delivered as told.
    fn history(deliveries: Vec<DeliveryRecord>) -> History {
        let mut history = History::default();
        history.sends.insert(1, SendRecord { started: s(0), acknowledged: Some(s(1)), calls: 1 });
        if !deliveries.is_empty() {
            history.deliveries.insert(("g".into(), 0, 0), deliveries);
        }
        history
    }

    fn holds(verdict: &Verdict) -> bool {
        *verdict == Verdict::True
    }

    #[test]
    fn a_good_history_is_good() {
        let history = history(vec![delivery(1, 2, Fate::Left), delivery(2, 12, Fate::Acknowledged(s(13)))]);
        assert!(holds(&acked_is_delivered(&history)));
        assert!(holds(&acked_never_returns(&history)));
        assert!(holds(&no_early_redelivery(&history)));
        assert!(holds(&stored_once(&history)));
    }

    #[test]
    fn a_lost_message_is_seen() {
        assert!(!holds(&acked_is_delivered(&history(Vec::new()))));
    }

    #[test]
    fn a_message_that_returns_is_seen() {
        let history = history(vec![delivery(1, 2, Fate::Acknowledged(s(3))), delivery(2, 12, Fate::Left)]);
        assert!(!holds(&acked_never_returns(&history)));
    }

    #[test]
    fn an_early_delivery_and_a_repeated_attempt_are_seen() {
        assert!(!holds(&no_early_redelivery(&history(vec![delivery(1, 2, Fate::Left), delivery(2, 11, Fate::Left)]))));
        assert!(!holds(&no_early_redelivery(&history(vec![delivery(1, 2, Fate::Left), delivery(1, 20, Fate::Left)]))));
        let changed = vec![delivery(1, 2, Fate::Changed(s(60))), delivery(2, 20, Fate::Left)];
        assert!(!holds(&no_early_redelivery(&history(changed))));
    }

    #[test]
    fn a_refusal_within_the_lease_is_seen_and_one_after_it_is_none() {
        let refused = |at| Fate::Refused(at, "INVALID_RECEIPT_HANDLE".into());
        assert!(!holds(&handles_last(&history(vec![delivery(1, 2, refused(s(11)))]))));
        assert!(holds(&handles_last(&history(vec![delivery(1, 2, refused(s(12)))]))));
        assert!(holds(&handles_last(&history(vec![delivery(1, 2, Fate::Unknown)]))));
    }

    #[test]
    fn too_few_handles_that_span_the_fault_prove_nothing() {
        let mut history = history(vec![delivery(1, 2, Fate::Acknowledged(s(4)))]);
        let copies = history.deliveries.values().next().cloned().unwrap_or_default();
        for offset in 0..SPANNING_MIN as i64 {
            history.deliveries.insert(("g".into(), 0, offset), copies.clone());
        }
        history.fault = Some(s(3));
        assert!(holds(&handles_span(&history, s(10))));
        for too_early_or_late in [s(1), s(5)] {
            history.fault = Some(too_early_or_late);
            assert!(matches!(handles_span(&history, s(10)), Verdict::Unknown(_)));
        }
    }

    #[test]
    fn a_handle_that_is_refused_and_one_that_should_be_are_seen() {
        let held = |refused: Option<&str>, wrong: &[&str]| Held {
            delivery: Delivery {
                message: Default::default(),
                called: Instant::now(),
                received: Instant::now(),
                broker: "g".into(),
                invisible: s(300),
            },
            refused: refused.map(str::to_owned),
            wrong: wrong.iter().map(|handle| (*handle).to_owned()).collect(),
        };
        assert!(holds(&handles_survive(&[held(None, &[])])));
        assert!(!holds(&handles_survive(&[held(None, &[]), held(Some("INVALID_RECEIPT_HANDLE"), &[])])));
        assert!(!holds(&handles_survive(&[held(None, &["superseded 01: accepted"]), held(None, &[])])));
    }

    #[test]
    fn only_the_code_of_an_invalid_handle_refuses_one() {
        let code = |code| Err(Failure::Code(code, String::new()));
        assert!(refused(code(pb::Code::InvalidReceiptHandle)).is_ok());
        assert!(refused(code(pb::Code::InternalServerError)).is_err());
        assert!(refused(Err(Failure::Transport(tonic::Code::DeadlineExceeded, String::new()))).is_err());
        assert!(refused(Ok(())).is_err());
    }

    #[test]
    fn a_second_copy_is_seen() {
        let mut history = history(vec![delivery(1, 2, Fate::Left)]);
        history.deliveries.insert(("g".into(), 0, 1), vec![delivery(1, 2, Fate::Left)]);
        assert!(!holds(&stored_once(&history)));
        if let Some(send) = history.sends.get_mut(&1) {
            send.calls = 2;
        }
        assert!(holds(&stored_once(&history)), "two calls may store two copies");
        assert!(!holds(&one_copy(&history)), "but not where the broker remembers them");
    }

    #[test]
    fn a_run_with_too_little_in_it_proves_nothing() {
        let mut history = history(Vec::new());
        history.acknowledged_before = ACKNOWLEDGED_MIN;
        history.acknowledged_after = ACKNOWLEDGED_MIN;
        history.in_flight_at_fault = IN_FLIGHT_MIN;
        assert!(holds(&coverage(&history)));
        history.in_flight_at_fault -= 1;
        assert!(matches!(coverage(&history), Verdict::Unknown(_)));
        assert!(matches!(handles_survive(&[]), Verdict::Unknown(_)));
    }
}
