//! A leader whose disk has become slow hands leadership to a member with a clearly faster one, or keeps it when there
//! is none. Nobody stops for being slow: the members may share the slow disk.

use crate::broker::Node;
use parking_lot::Mutex;
use raft_store::{NodeId, SyncFigures};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Looks in a row at which the disk was slow, before leadership goes: a hiccup passes sooner.
const SLOW_LOOKS: u32 = 3;
/// So many times faster is a member whose disk is clearly faster.
const CLEARLY: u32 = 5;
/// A successor lacks at most so many entries; the rest is waited for.
const LAG_MAX: u64 = 1_000;
/// A member's report counts for this long.
const REPORT_AGE_MAX: Duration = Duration::from_secs(4);
/// After an attempt that came to nothing.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// When a disk is slow, and how often that may move leadership.
#[derive(Debug, Clone)]
pub struct SlowDiskLimits {
    /// A sync of the log that takes this long is slow; zero for never.
    pub slow: Duration,
    /// A node that came to lead keeps leadership for this long, however slow its disk is.
    pub interval: Duration,
}

/// How long the log's syncs take between one look and the next.
#[derive(Debug, Default)]
struct Meter {
    last: SyncFigures,
}

impl Meter {
    /// The mean of the syncs since the look before, or the wait that is going on when that is longer. `None` when
    /// nothing was synced.
    fn look(&mut self, now: SyncFigures) -> Option<Duration> {
        let count = now.count.saturating_sub(self.last.count);
        let total = now.total.saturating_sub(self.last.total);
        self.last = now;
        let mean = u32::try_from(count).ok().filter(|count| *count > 0).map(|count| total / count);
        mean.max(now.waiting)
    }
}

/// What a node knows of the disks of its group.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    meter: Mutex<Meter>,
    /// On the leader: how long a sync takes each member, and when it said so.
    members: Mutex<BTreeMap<NodeId, (Duration, Instant)>>,
}

impl Paces {
    /// How long a sync of this node's log takes, since somebody asked before.
    pub(crate) fn own(&self, now: SyncFigures) -> Option<Duration> {
        self.meter.lock().look(now)
    }

    /// A member reported to this node, which leads.
    pub(crate) fn reported(&self, node: NodeId, pace: Duration) {
        let mut members = self.members.lock();
        if pace.is_zero() {
            members.remove(&node);
        } else {
            members.insert(node, (pace, Instant::now()));
        }
    }
}

/// A voter other than the leader.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    node: NodeId,
    /// How long a sync takes there; unknown for one that is idle or silent.
    pace: Option<Duration>,
    /// Entries that it lacks.
    lag: Option<u64>,
}

/// Decides when a leader goes; one for each time that this node leads.
#[derive(Debug)]
pub(super) struct Watchdog {
    limits: SlowDiskLimits,
    /// Before this, leadership is kept.
    not_before: Instant,
    slow_looks: u32,
}

impl Watchdog {
    /// A watchdog of a leader that begins now.
    pub(super) fn new(limits: SlowDiskLimits) -> Watchdog {
        let not_before = Instant::now() + limits.interval;
        Watchdog { limits, not_before, slow_looks: 0 }
    }

    /// Goes by other limits from now on.
    pub(super) fn adjust(&mut self, limits: &SlowDiskLimits) {
        self.limits.clone_from(limits);
    }

    /// One look: to whom leadership is to go, if it is.
    fn look(&mut self, now: Instant, own: Option<Duration>, candidates: &[Candidate]) -> Option<NodeId> {
        let slow = own.filter(|own| !self.limits.slow.is_zero() && *own >= self.limits.slow);
        let Some(own) = slow else {
            self.slow_looks = 0;
            return None;
        };
        self.slow_looks = self.slow_looks.saturating_add(1);
        if self.slow_looks < SLOW_LOOKS || now < self.not_before {
            return None;
        }
        let level = candidates.iter().filter(|candidate| candidate.lag.is_some_and(|lag| lag <= LAG_MAX));
        let faster = level.filter_map(|candidate| Some((candidate.pace?, candidate.node)));
        let (_, node) = faster.filter(|(pace, _)| *pace * CLEARLY <= own).min()?;
        self.not_before = now + RETRY_AFTER;
        Some(node)
    }

    /// Looks at this node, which leads, and hands leadership over where that helps.
    pub(super) async fn watch(&mut self, node: &Node) {
        let own = node.paces.own(node.group.sync_figures());
        let candidates: Vec<Candidate> = {
            let known = node.paces.members.lock();
            let members = node.group.members().into_iter();
            let others = members.filter(|member| member.voter && member.id != node.group.node());
            others
                .map(|member| {
                    let fresh = known.get(&member.id).filter(|(_, at)| at.elapsed() < REPORT_AGE_MAX);
                    Candidate { node: member.id, pace: fresh.map(|(pace, _)| *pace), lag: member.lag }
                })
                .collect()
        };
        let was_slow = self.slow_looks >= SLOW_LOOKS;
        let successor = self.look(Instant::now(), own, &candidates);
        let sync_ms = own.unwrap_or_default().as_millis();
        let limit_ms = self.limits.slow.as_millis();
        if let Some(to) = successor {
            tracing::warn!(sync_ms, limit_ms, "this node's disk is slow (slowDiskMillis), leadership is handed over");
            if let Err(error) = node.group.transfer_leadership(Some(to)).await {
                tracing::warn!(%error, "leadership could not be handed over");
            }
        } else if self.slow_looks >= SLOW_LOOKS && !was_slow {
            tracing::warn!(sync_ms, limit_ms, "this node's disk is slow (slowDiskMillis)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Meter, SlowDiskLimits, Watchdog};
    use raft_store::{NodeId, SyncFigures};
    use std::time::Duration;
    use tokio::time::Instant;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn candidate(node: NodeId, pace_ms: u64, lag: u64) -> Candidate {
        Candidate { node, pace: Some(ms(pace_ms)), lag: Some(lag) }
    }

    /// Where leadership goes at each of six looks, one a second, of a leader whose syncs take so long. It has led for
    /// the interval when the looks begin.
    fn check(own_ms: [u64; 6], candidates: &[Candidate], expected: [Option<NodeId>; 6]) {
        let mut watchdog = Watchdog::new(SlowDiskLimits { slow: ms(200), interval: INTERVAL });
        let start = Instant::now() + INTERVAL;
        for (second, (own, expected)) in (0..).zip(own_ms.into_iter().zip(expected)) {
            let own = (own > 0).then(|| ms(own));
            let went = watchdog.look(start + Duration::from_secs(second), own, candidates);
            assert_eq!(went, expected, "look {second} of {own_ms:?}");
        }
    }

    #[test]
    fn leadership_goes_to_the_fastest_once_the_disk_stays_slow() {
        const SLOW: [u64; 6] = [400; 6];
        const KEPT: [Option<NodeId>; 6] = [None; 6];
        let two = [candidate(2, 5, 0), candidate(3, 4, 20)];
        check(SLOW, &two, [None, None, Some(3), None, None, None]);
        check([199; 6], &two, KEPT);
        check([400, 400, 10, 400, 400, 10], &two, KEPT);
        check([400, 400, 0, 400, 400, 400], &two, [None, None, None, None, None, Some(3)]);
        // Nobody is clearly faster, or has all, or is known.
        check(SLOW, &[candidate(2, 81, 0), candidate(3, 400, 0)], KEPT);
        check(SLOW, &[candidate(2, 80, 0), candidate(3, 400, 0)], [None, None, Some(2), None, None, None]);
        check(SLOW, &[candidate(2, 5, 1_001)], KEPT);
        check(SLOW, &[Candidate { node: 2, pace: None, lag: Some(0) }], KEPT);
        check(SLOW, &[Candidate { node: 2, pace: Some(ms(1)), lag: None }], KEPT);
        check(SLOW, &[], KEPT);
    }

    #[test]
    fn a_new_leader_keeps_leadership_for_a_while_and_zero_means_for_ever() {
        let faster = [candidate(2, 1, 0)];
        let limits = SlowDiskLimits { slow: ms(200), interval: INTERVAL };
        let mut watchdog = Watchdog::new(limits.clone());
        let start = Instant::now();
        let mut looks = (0..60).map(|second| {
            let went = watchdog.look(start + Duration::from_secs(second), Some(ms(900)), &faster);
            (second, went)
        });
        assert!(looks.by_ref().take(30).all(|(_, went)| went.is_none()), "not before the interval is over");
        let went: Vec<u64> = looks.filter_map(|(second, went)| went.map(|_| second)).collect();
        assert!(went.len() <= 6 && went.windows(2).all(|pair| pair[1] - pair[0] >= 5), "attempts at {went:?}");
        assert!(!went.is_empty(), "one that came to nothing is repeated");
        let mut never = Watchdog::new(SlowDiskLimits { slow: Duration::ZERO, ..limits });
        let late = start + INTERVAL * 10;
        assert!((0..9).all(|second| never.look(late + ms(second), Some(ms(9_000)), &faster).is_none()));
    }

    #[test]
    fn the_meter_says_what_happened_since_the_last_look() {
        let mut meter = Meter::default();
        let figures = |count, total_ms, waiting_ms: u64| SyncFigures {
            count,
            total: ms(total_ms),
            waiting: (waiting_ms > 0).then(|| ms(waiting_ms)),
        };
        assert_eq!(meter.look(figures(10, 50, 0)), Some(ms(5)));
        assert_eq!(meter.look(figures(10, 50, 0)), None, "idle");
        assert_eq!(meter.look(figures(12, 850, 0)), Some(ms(400)));
        assert_eq!(meter.look(figures(12, 850, 700)), Some(ms(700)), "a sync that does not end");
        assert_eq!(meter.look(figures(13, 1_850, 3)), Some(ms(1_000)));
    }
}
