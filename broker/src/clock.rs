//! Cluster time: what a command is stamped with, and the only place that reads a clock for it.
//!
//! Time comes in with the command. A leader continues from the last applied time with its own monotonic clock and
//! leans towards the median of the voters' wall clocks: by at most 0.1 % where the two are near, and by a step
//! forward where cluster time fell behind. It never runs backwards, and one clock that is an hour off moves it not
//! at all. A leader that knows only what it replayed (the group was down) stamps nothing until a majority's clocks
//! have told it the time: a lease that it gave before that step would end early by the step.

use parking_lot::Mutex;
use raft_store::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Behind the median by more than this, cluster time steps forward instead of leaning.
const STEP_MS: i64 = 500;
/// Leaning: one millisecond for each of these.
const SLEW_EVERY: Duration = Duration::from_secs(1);
/// A member's clock counts for this long after its last report.
const REPORT_AGE_MAX: Duration = Duration::from_secs(5);

/// Reads the wall clock, in ms since the Unix epoch. Replaced in simulation.
pub type WallClock = fn() -> u64;

/// The wall clock of this machine.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock for cluster time")]
pub fn system_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The same in nanoseconds, for what is shown beside what others measured.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "spans say when they were, nothing decides by it")]
pub(crate) fn system_nanos() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

struct Now {
    ms: u64,
    at: Instant,
}

impl Now {
    fn here(ms: u64) -> Now {
        Now { ms, at: Instant::now() }
    }

    fn now(&self) -> u64 {
        self.ms + millis(self.at.elapsed())
    }
}

/// Time as a leader counts it. The anchor stays, so that nothing is lost to rounding however often it is read.
struct Lead {
    /// Where the term began.
    anchor: Now,
    /// How far the median has drawn cluster time from the anchor.
    drawn_ms: i64,
    /// When it last drew.
    drawn_at: Instant,
    /// The last stamp given out.
    last: u64,
}

impl Lead {
    fn begin(ms: u64) -> Lead {
        let anchor = Now::here(ms);
        Lead { drawn_ms: 0, drawn_at: anchor.at, anchor, last: ms }
    }

    fn now(&self) -> u64 {
        shift(self.anchor.now(), self.drawn_ms).max(self.last)
    }
}

struct Times {
    /// The newest applied time and when this node applied it.
    applied: Now,
    /// Only while this node leads.
    lead: Option<Lead>,
    /// Each other member's wall clock. It runs on by the monotonic clock, so that setting ours moves none of them.
    walls: BTreeMap<NodeId, Now>,
}

/// Cluster time as one node knows it.
pub struct ClusterClock {
    wall: WallClock,
    times: Mutex<Times>,
    /// Cluster time is known since this node started: a leader told it, or a majority's clocks did.
    told: watch::Sender<bool>,
    heard: Notify,
}

impl ClusterClock {
    /// A clock that knows of no applied time yet.
    #[must_use]
    pub fn new(wall: WallClock) -> ClusterClock {
        let times = Times { applied: Now::here(0), lead: None, walls: BTreeMap::new() };
        ClusterClock { wall, times: Mutex::new(times), told: watch::Sender::new(false), heard: Notify::new() }
    }

    /// This node's wall clock.
    #[must_use]
    pub fn wall(&self) -> u64 {
        (self.wall)()
    }

    /// An entry stamped `ms` was applied. One that comes late (replayed at start, or after a pause) sets nothing back.
    pub fn applied(&self, ms: u64) {
        let mut times = self.times.lock();
        if ms > times.applied.now() {
            times.applied = Now::here(ms);
        }
    }

    /// The leader told its cluster time.
    pub fn told(&self, ms: u64) {
        self.applied(ms);
        self.told.send_replace(true);
    }

    /// Cluster time, once it is known since this node started. Before that the node knows only what it replayed,
    /// which may be long ago.
    #[must_use]
    pub fn known(&self) -> Option<u64> {
        let told = *self.told.borrow();
        told.then(|| self.now())
    }

    /// Cluster time as near as this node knows it without asking: never ahead of the leader's by more than the
    /// two monotonic clocks differ.
    #[must_use]
    pub fn now(&self) -> u64 {
        let times = self.times.lock();
        times.lead.as_ref().map_or_else(|| times.applied.now(), Lead::now)
    }

    /// Returns once cluster time is [known](ClusterClock::known).
    pub async fn told_once(&self) {
        let mut told = self.told.subscribe();
        // The sender lives as long as this clock.
        let _ = told.wait_for(|told| *told).await;
    }

    /// A member told its wall clock.
    pub fn reported(&self, node: NodeId, clock_ms: u64) {
        self.times.lock().walls.insert(node, Now::here(clock_ms));
        self.heard.notify_one();
    }

    /// Forgets the clocks of others than the voters.
    pub fn keep(&self, is_voter: impl Fn(NodeId) -> bool) {
        self.times.lock().walls.retain(|node, _| is_voter(*node));
    }

    /// Returns after a member has told its wall clock.
    pub async fn heard(&self) {
        self.heard.notified().await;
    }

    /// This node begins to lead: stamps continue from what it knows.
    pub fn lead(&self) {
        let mut times = self.times.lock();
        times.lead = Some(Lead::begin(times.applied.now()));
    }

    /// This node no longer leads.
    pub fn follow(&self) {
        self.times.lock().lead = None;
    }

    /// Whether this node, which leads a group of `voters`, may stamp: at once where it has followed a leader's
    /// time, else when a majority has told its clocks, whose median is where stamps then begin.
    #[must_use]
    pub fn ready(&self, voters: usize) -> bool {
        let mut times = self.times.lock();
        let told = *self.told.borrow();
        if !told && let Some(median) = times.median(self.wall(), voters) {
            times.lead = Some(Lead::begin(times.applied.now().max(median)));
            self.told.send_replace(true);
            return true;
        }
        told
    }

    /// The stamp of the next entry of a leader in a group of `voters`; never less than an earlier one. Only when
    /// [`ClusterClock::ready`].
    #[must_use]
    pub fn stamp(&self, voters: usize) -> u64 {
        let wall = self.wall();
        let mut times = self.times.lock();
        let median = times.median(wall, voters);
        let applied = times.applied.ms;
        let lead = times.lead.get_or_insert_with(|| Lead::begin(applied));
        if let Some(median) = median {
            let behind = difference(median, lead.now());
            if behind > STEP_MS {
                lead.drawn_ms = lead.drawn_ms.saturating_add(behind);
                lead.drawn_at = Instant::now();
            } else if lead.drawn_at.elapsed() >= SLEW_EVERY {
                lead.drawn_ms += behind.signum();
                lead.drawn_at = Instant::now();
            }
        }
        lead.last = lead.now().max(applied);
        lead.last
    }

    /// How far this node's wall clock is from the median of the voters', when a majority of them has told.
    #[must_use]
    pub fn skew_ms(&self, voters: usize) -> Option<i64> {
        let wall = self.wall();
        self.times.lock().median(wall, voters).map(|median| difference(wall, median))
    }
}

impl Times {
    /// The median of the voters' clocks, ours at `wall` among them, the lower one of two; `None` without a majority.
    fn median(&self, wall: u64, voters: usize) -> Option<u64> {
        let fresh = self.walls.values().filter(|told| told.at.elapsed() <= REPORT_AGE_MAX);
        let mut known: Vec<u64> = fresh.map(Now::now).collect();
        known.push(wall);
        if known.len() * 2 <= voters {
            return None;
        }
        known.sort_unstable();
        Some(known[(known.len() - 1) / 2])
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `a - b`, held within what an `i64` takes.
fn difference(a: u64, b: u64) -> i64 {
    i64::try_from(i128::from(a) - i128::from(b)).unwrap_or(if a > b { i64::MAX } else { i64::MIN })
}

fn shift(ms: u64, offset: i64) -> u64 {
    ms.saturating_add_signed(offset)
}

#[cfg(test)]
mod tests {
    use super::{ClusterClock, Duration};
    use std::sync::atomic::{AtomicU64, Ordering};

    const HOUR: u64 = 3_600_000;
    const WALL: u64 = 1_700_000_000_000;

    async fn pass(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    /// A clock whose node follows a leader at `WALL` and then leads.
    fn taken_over(wall: fn() -> u64) -> ClusterClock {
        let clock = ClusterClock::new(wall);
        clock.told(WALL);
        clock.lead();
        clock
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_an_hour_ahead_moves_nothing() {
        let clock = taken_over(|| WALL + HOUR);
        pass(10_000).await;
        clock.reported(2, WALL + 10_000);
        clock.reported(3, WALL + 10_010);
        let stamp = clock.stamp(3);
        assert!((WALL + 9_900..=WALL + 10_100).contains(&stamp), "{}", stamp - WALL);
        assert_eq!(clock.skew_ms(3), Some(i64::try_from(HOUR - 10_010).expect("fits")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_clock_is_set_moves_nothing() {
        static OURS: AtomicU64 = AtomicU64::new(WALL);
        let clock = taken_over(|| OURS.load(Ordering::Relaxed));
        clock.reported(2, WALL);
        clock.reported(3, WALL);
        assert_eq!(clock.stamp(3), WALL);
        OURS.store(WALL + HOUR, Ordering::Relaxed);
        assert_eq!(clock.stamp(3), WALL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_fell_behind_steps_forward_once_a_majority_has_told() {
        let clock = taken_over(|| WALL + HOUR);
        assert_eq!(clock.stamp(3), WALL);
        clock.reported(2, WALL + HOUR);
        assert_eq!(clock.stamp(3), WALL + HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_only_replayed_waits_for_the_time() {
        let clock = ClusterClock::new(|| WALL + 400);
        clock.applied(WALL);
        clock.lead();
        assert!(!clock.ready(3));
        assert_eq!(clock.known(), None);
        pass(10).await;
        clock.reported(2, WALL + 410);
        assert!(clock.ready(3));
        // A step that came after the first stamp would take 400 ms from every lease given till then.
        assert_eq!(clock.stamp(3), WALL + 400);
        assert_eq!(clock.known(), Some(WALL + 400));
    }

    #[tokio::test(start_paused = true)]
    async fn two_of_three_take_the_lower_clock() {
        let clock = taken_over(|| WALL + HOUR);
        clock.reported(2, WALL);
        assert_eq!(clock.stamp(3), WALL);
    }

    #[tokio::test(start_paused = true)]
    async fn replayed_entries_set_nothing_back_and_tell_no_time() {
        let clock = ClusterClock::new(|| WALL);
        clock.applied(WALL - HOUR);
        assert_eq!(clock.known(), None);
        clock.told(WALL);
        pass(10).await;
        clock.applied(WALL - HOUR + 5);
        assert_eq!(clock.known(), Some(WALL + 10));
    }

    #[tokio::test(start_paused = true)]
    async fn stamping_often_does_not_slow_time_down() {
        let clock = taken_over(|| WALL);
        for _ in 0..10_000 {
            let _ = clock.stamp(3);
            tokio::time::advance(Duration::from_micros(1_900)).await;
        }
        assert_eq!(clock.stamp(3), WALL + 19_000);
    }

    #[tokio::test(start_paused = true)]
    async fn stamps_never_decrease_and_do_not_stand_still() {
        let clock = ClusterClock::new(|| WALL);
        clock.told(WALL + 5_000);
        clock.lead();
        let mut last = 0;
        for _ in 0..2_000 {
            let stamp = clock.stamp(1);
            assert!(stamp >= last);
            last = stamp;
            pass(1).await;
        }
        assert!(last > WALL + 6_500, "{}", last - WALL);
    }
}
