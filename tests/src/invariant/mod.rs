//! The properties a run must have, one a file. Each takes a history and gives a [`Verdict`].

mod acked_is_delivered;
mod acked_never_returns;
mod handles_survive;
mod no_early_redelivery;
mod replicas_agree;
mod stored_once;

use std::fmt;

use crate::oracle::History;

pub use {
    acked_is_delivered::acked_is_delivered,
    acked_never_returns::acked_never_returns,
    handles_survive::{Held, forgeries, handles_survive},
    no_early_redelivery::no_early_redelivery,
    replicas_agree::replicas_agree,
    stored_once::stored_once,
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
