//! How many messages the broker group takes and hands out, counted at this node's own apply.

use crate::machine::{Effect, Outcome};
use parking_lot::Mutex;
use raftmq_proto::command::reply;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A rate over less than this says little.
const SPAN_MIN: Duration = Duration::from_secs(1);

/// Messages since this node started.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    stored: AtomicU64,
    leased: AtomicU64,
    sent_again: AtomicU64,
    ids_reused: AtomicU64,
    looked: Mutex<Option<Look>>,
}

/// Counts at one moment, and the rates up to then.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    stored: u64,
    leased: u64,
    rates: (f64, f64),
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Counted {
    pub stored: u64,
    pub leased: u64,
    /// Messages that were sent again and are stored once.
    pub sent_again: u64,
    /// Messages with the id of another one and other content.
    pub ids_reused: u64,
    /// Messages per second, stored and leased, since somebody looked before.
    pub rates: (f64, f64),
}

impl Traffic {
    /// Counts what an entry stored and leased.
    pub(crate) fn count(&self, outcome: &Outcome) {
        for effect in &outcome.effects {
            match effect {
                Effect::Arrived { messages, .. } => {
                    self.stored.fetch_add(*messages, Ordering::Relaxed);
                }
                Effect::SentAgain { repeated, reused, .. } => {
                    self.sent_again.fetch_add(*repeated, Ordering::Relaxed);
                    self.ids_reused.fetch_add(*reused, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        let replies = outcome.answers.iter().filter(|answer| !answer.repeat).flat_map(|answer| &answer.replies);
        let leased: usize = replies
            .map(|reply| if let Some(reply::Kind::Leased(leased)) = &reply.kind { leased.messages.len() } else { 0 })
            .sum();
        self.leased.fetch_add(leased as u64, Ordering::Relaxed);
    }

    /// Counts, and rates since the last look.
    pub(crate) fn look(&self, now: Instant) -> Counted {
        let (stored, leased) = (self.stored.load(Ordering::Relaxed), self.leased.load(Ordering::Relaxed));
        let mut looked = self.looked.lock();
        let before = *looked;
        let rates = match before {
            Some(before) if now - before.at < SPAN_MIN => before.rates,
            Some(before) => {
                let seconds = (now - before.at).as_secs_f64();
                // Counts of one span are far below 2^52.
                #[allow(clippy::cast_precision_loss)]
                let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
                (rate(stored, before.stored), rate(leased, before.leased))
            }
            None => (0.0, 0.0),
        };
        if before.is_none_or(|before| now - before.at >= SPAN_MIN) {
            *looked = Some(Look { at: now, stored, leased, rates });
        }
        let sent_again = self.sent_again.load(Ordering::Relaxed);
        let ids_reused = self.ids_reused.load(Ordering::Relaxed);
        Counted { stored, leased, sent_again, ids_reused, rates }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_the_last_look() {
        let traffic = Traffic::default();
        let start = Instant::now();
        assert_eq!(traffic.look(start).rates, (0.0, 0.0));
        traffic.stored.store(50, Ordering::Relaxed);
        traffic.leased.store(20, Ordering::Relaxed);
        let counted = traffic.look(start + Duration::from_secs(2));
        assert_eq!(counted, Counted { stored: 50, leased: 20, sent_again: 0, ids_reused: 0, rates: (25.0, 10.0) });
        traffic.stored.store(100, Ordering::Relaxed);
        assert_eq!(traffic.look(start + Duration::from_millis(2_100)).rates, (25.0, 10.0));
        assert_eq!(traffic.look(start + Duration::from_secs(12)).rates, (5.0, 0.0));
    }
}
