//! Decides what is too old or too much, and proposes that it goes; what it takes with it is the machine's business.
//!
//! The end of a trim is the end of a segment, so that disk is freed by every one. A member that is up and has still to
//! fetch what would go holds it back, and the log names it, until a disk is fuller than it should be. One that has been
//! silent for [`AWAY_AFTER`] is passed over: it is filled when it is back.

use super::reappend::{Moved, reappend};
use crate::broker::Node;
use crate::config::Retention;
use crate::store::{StateError, retention, topic};
use parking_lot::Mutex;
use raft_store::{Member, NodeId, SegmentUse, State};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Expire, Expired, Trim, Trimmed, reply};
use raftmq_proto::forward::LogUse;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How often is looked for what is too old or too much.
const LOOK: Duration = Duration::from_secs(1);
/// Looking through the topics takes at most one part of so many of the time.
const TOPICS_SHARE: u32 = 250;
/// After a trim that freed nothing.
const NOTHING_FREED: Duration = Duration::from_secs(30);
/// A warning that still holds is repeated after this.
const WARN_AGAIN: Duration = Duration::from_secs(600);
/// A member that was not heard of for so long is not waited for. What would go is what it has lacked for as long as
/// messages are kept, or for as long as it took to write what the log may hold: it has mostly been away for longer.
const AWAY_AFTER: Duration = Duration::from_secs(30);
/// A member that was heard of within this time is up.
const UP_WITHIN: Duration = Duration::from_secs(3);
/// Commands of one trim in a row; then others get a turn.
const PAUSE: Duration = Duration::from_millis(2);

const HOUR_MS: u64 = 3_600_000;

/// Trims that administrators ask for: what is due goes at once, at whatever hour.
#[derive(Default)]
pub(crate) struct Asked {
    waiting: Mutex<Vec<oneshot::Sender<Result<Outcome, String>>>>,
    came: Notify,
}

/// What a trim that was asked for came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Up to where the log was trimmed before, and is now.
    pub before: u64,
    pub after: u64,
    /// Why it did not go as far as it should.
    pub held_back: Option<String>,
}

impl Asked {
    /// Asks for one; the answer does not come when this node ceases to lead.
    pub(crate) fn ask(&self) -> oneshot::Receiver<Result<Outcome, String>> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().push(sender);
        self.came.notify_one();
        receiver
    }

    /// Those who still wait for one.
    fn take(&self) -> Vec<oneshot::Sender<Result<Outcome, String>>> {
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.retain(|sender| !sender.is_closed());
        waiting
    }
}

/// Runs until the task is dropped.
pub(super) async fn run(node: &Node) {
    let mut warned = Warned::default();
    let mut heard = Heard::default();
    let mut not_before = Instant::now();
    let mut topics_not_before = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = node.trims_asked.came.notified() => {}
        }
        let asked = node.trims_asked.take();
        let at_once = !asked.is_empty();
        warned.now = None;
        heard.look(&node.group.members());
        let before = retention::trimmed(&node.group.state());
        let looked = async {
            if at_once || Instant::now() >= topics_not_before {
                let since = Instant::now();
                expire_topics(node).await?;
                // A hundred thousand topics are looked through less often than ten.
                topics_not_before = Instant::now() + since.elapsed() * TOPICS_SHARE;
            }
            if (at_once || Instant::now() >= not_before) && !trim(node, &mut warned, &heard, at_once).await? {
                not_before = Instant::now() + NOTHING_FREED;
            }
            Ok::<Outcome, Failure>(Outcome {
                before: before?.upto,
                after: retention::trimmed(&node.group.state())?.upto,
                held_back: warned.now.clone(),
            })
        };
        let outcome = looked.await.map_err(|failure| match failure {
            Failure::Rows(error) => {
                tracing::error!(%error, "retention cannot read its rows");
                format!("retention cannot read its rows: {error}")
            }
            Failure::Proposal(what) => {
                tracing::debug!(what, "retention goes on later");
                what
            }
        });
        for waiting in asked {
            // Who gave up meanwhile is told nothing.
            let _ = waiting.send(outcome.clone());
        }
    }
}

/// Why a look ended early.
pub(super) enum Failure {
    Rows(StateError),
    Proposal(String),
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        Failure::Rows(error)
    }
}

/// What a command of retention was answered.
pub(super) async fn submit(node: &Node, kind: Kind, blobs: Vec<bytes::Bytes>) -> Result<Option<reply::Kind>, Failure> {
    match node.proposer.submit(kind, blobs, None).await {
        Ok(reply) if reply.refusal == 0 => Ok(reply.kind),
        Ok(reply) => Err(Failure::Proposal(reply.detail)),
        Err(error) => Err(Failure::Proposal(error.to_string())),
    }
}

/// What keeps a trim from going as far as it should, and when that was said.
#[derive(Default)]
struct Warned {
    last: Option<(String, Instant)>,
    /// Of this look.
    now: Option<String>,
}

impl Warned {
    fn say(&mut self, what: String) {
        let said = self.last.as_ref().is_some_and(|(last, at)| *last == what && at.elapsed() < WARN_AGAIN);
        if !said {
            tracing::warn!("{what}");
            self.last = Some((what.clone(), Instant::now()));
        }
        self.now = Some(what);
    }
}

/// Takes what is older than the own age of its topic.
async fn expire_topics(node: &Node) -> Result<(), Failure> {
    let (state, now) = (node.group.state(), node.proposer.now());
    // Thousands of rows are no work for a thread that others wait for.
    let old = tokio::task::spawn_blocking(move || old_topics(&state, now)).await;
    for name in old.map_err(|error| Failure::Proposal(error.to_string()))?? {
        let mut from_queue = 0;
        loop {
            let expire = Kind::Expire(Expire { topic: name.clone(), from_queue });
            match submit(node, expire, Vec::new()).await? {
                Some(reply::Kind::Expired(Expired { more: true, from_queue: next })) => from_queue = next,
                _ => break,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Topics with an age of their own whose oldest message is past it.
fn old_topics(state: &State, now: u64) -> Result<Vec<String>, StateError> {
    let mut old = Vec::new();
    for row in topic::topics(state)? {
        let Some(age_ms) = retention::reserve_ms(&row) else { continue };
        if retention::oldest_ms(state, &row)?.is_some_and(|oldest_ms| oldest_ms.saturating_add(age_ms) <= now) {
            old.push(row.name);
        }
    }
    Ok(old)
}

/// What the leader knows when it decides.
struct Look {
    /// Hour of the day, UTC.
    hour: u8,
    /// Somebody asked for it: any hour will do.
    at_once: bool,
    /// Everything below was stored as long ago as messages are kept.
    aged: u64,
    /// What was trimmed so far.
    trimmed: u64,
    /// The leader's files.
    sealed: Vec<SegmentUse>,
    /// What the members' logs take of their disks.
    uses: Vec<LogUse>,
}

/// When each member was heard of, as far as this leader knows.
#[derive(Default)]
struct Heard {
    members: BTreeMap<NodeId, Instant>,
}

impl Heard {
    fn look(&mut self, members: &[Member]) {
        let now = Instant::now();
        self.members.retain(|id, _| members.iter().any(|member| member.id == *id));
        for member in members {
            let at = self.members.entry(member.id).or_insert(now);
            if member.last_ack.is_some_and(|ago| ago <= UP_WITHIN) {
                *at = now;
            }
        }
    }

    fn is_away(&self, id: NodeId) -> bool {
        self.members.get(&id).is_some_and(|at| at.elapsed() >= AWAY_AFTER)
    }
}

/// Whether the disk of any member is so full that nobody is waited for.
fn is_too_full(limits: &Retention, look: &Look) -> bool {
    look.fullest_percent() > u128::from(limits.disk_percent_max)
}

impl Look {
    fn fullest_percent(&self) -> u128 {
        let used_percent = |log: &LogUse| match log.disk_bytes {
            0 => 0,
            bytes => u128::from(bytes.saturating_sub(log.free_bytes)) * 100 / u128::from(bytes),
        };
        self.uses.iter().map(used_percent).max().unwrap_or_default()
    }
}

/// The entry up to which a trim is due, at the end of a file, and why.
fn due(limits: &Retention, look: &Look) -> Option<(u64, &'static str)> {
    let files = || look.sealed.iter().filter(|file| file.end.0 > look.trimmed);
    let any_hour = look.at_once || limits.hours.is_empty() || limits.hours.contains(&look.hour);
    let by_age = (any_hour || is_too_full(limits, look))
        .then(|| files().map(|file| file.end.0).filter(|end| *end <= look.aged).max())
        .flatten();
    // What was trimmed and is not unlinked yet would be counted a second time.
    let settled = look.uses.iter().all(|log| log.trimmed >= look.trimmed);
    let too_much = |log: &LogUse| {
        let over_size = match limits.log_bytes_max {
            0 => 0,
            max => log.log_bytes.saturating_sub(max),
        };
        let may = (u128::from(log.disk_bytes) * u128::from(limits.force_percent) / 100) as u64;
        let used = log.disk_bytes.saturating_sub(log.free_bytes);
        let over_disk = if limits.force_percent == 0 { 0 } else { used.saturating_sub(may).min(log.log_bytes) };
        over_size.max(over_disk)
    };
    let excess = look.uses.iter().map(too_much).max().filter(|excess| *excess > 0 && settled);
    let by_size = excess.and_then(|excess| {
        let mut freed = 0;
        let mut end = None;
        for file in files() {
            end = Some(file.end.0);
            freed += file.bytes;
            if freed >= excess {
                break;
            }
        }
        end
    });
    match (by_age, by_size) {
        (Some(age), Some(size)) if size > age => Some((size, "the logs or their disks are too full")),
        (Some(age), _) => Some((age, "messages are older than fileReservedTime")),
        (None, Some(size)) => Some((size, "the logs or their disks are too full")),
        (None, None) => None,
    }
}

/// One trim, if there is one to do. Returns whether the next one may come at once.
async fn trim(node: &Node, warned: &mut Warned, heard: &Heard, at_once: bool) -> Result<bool, Failure> {
    let state = node.group.state();
    let trimmed = retention::trimmed(&state)?.upto;
    let wanted = match retention::trim(&state)? {
        // Begun by another leader, or before a failure.
        Some(under_way) => Some(under_way.upto),
        None => wanted(node, trimmed, (&mut *warned, heard), at_once)?,
    };
    let Some(upto) = wanted else { return Ok(true) };
    let mut moved = Moved::new(node, upto);
    let mut settle = false;
    let after = loop {
        let reply = submit(node, Kind::Trim(Trim { upto, settle }), Vec::new()).await?;
        let Some(reply::Kind::Trimmed(Trimmed { more, held, trimmed })) = reply else { return Ok(false) };
        if !more {
            break trimmed;
        }
        if held && !settle {
            settle = !reappend(node, &mut moved).await?;
        }
        tokio::time::sleep(PAUSE).await;
    };
    tracing::info!(upto = after, wanted = upto, moved_bytes = moved.bytes(), "the log of the broker group was trimmed");
    if after < upto {
        warned.say(format!(
            "a trim of the log to entry {upto} ended at {after}: delayed messages, open transactions, leases, retries or \
             dead letters from below are still to be delivered"
        ));
    }
    // Whether a file lies below its end at all.
    Ok(node.group.log_use().sealed.iter().any(|file| file.end.0 <= after) || after > trimmed)
}

/// The mark that the next trim goes up to.
fn wanted(
    node: &Node,
    trimmed: u64,
    (warned, heard): (&mut Warned, &Heard),
    at_once: bool,
) -> Result<Option<u64>, Failure> {
    let state = node.group.state();
    let settings = node.settings();
    let limits = &settings.retention;
    let now = node.proposer.now();
    let aged = retention::mark_by_time(&state, now.saturating_sub(limits.kept_ms))?;
    let look = Look {
        hour: (now / HOUR_MS % 24) as u8,
        at_once,
        aged: aged.map_or(0, |mark| mark.index),
        trimmed,
        sealed: node.group.log_use().sealed,
        uses: node.uses.all(node),
    };
    let Some((end, why)) = due(limits, &look) else { return Ok(None) };
    // Files end anywhere, marks are where times are known.
    let Some(mark) = retention::mark_from(&state, end)? else { return Ok(None) };
    let members = node.group.members();
    let own = node.group.node();
    let has = |member: &&Member| member.id == own || member.matched.is_some_and(|at| at.0 >= mark.index);
    let lacking = members.iter().filter(|member| !has(member));
    let (away, up): (Vec<_>, Vec<_>) = lacking.partition(|member| heard.is_away(member.id));
    let labels = |members: &[&Member]| members.iter().map(|member| &*member.label).collect::<Vec<_>>().join(", ");
    if !up.is_empty() && !is_too_full(limits, &look) {
        warned.say(format!(
            "the log keeps more than it should ({why}): node {} is not there yet to fetch what would go; if it is down or \
             cannot keep up, it is waited for until a disk is fuller than diskMaxUsedSpaceRatio = {} percent, or until it \
             has been silent for {} s",
            labels(&up),
            limits.disk_percent_max,
            AWAY_AFTER.as_secs()
        ));
        return Ok(None);
    }
    if !away.is_empty() || !up.is_empty() {
        warned.say(format!(
            "node {} lacks entries that go now ({why}); it is filled with what is kept when it is there",
            labels(&[away, up].concat())
        ));
    }
    tracing::info!(upto = mark.index, why, "the log of the broker group is trimmed");
    Ok(Some(mark.index))
}

#[cfg(test)]
mod tests {
    use super::{AWAY_AFTER, Heard, Look, due, is_too_full};
    use crate::config::Retention;
    use raft_store::{LogIndex, Member, NodeAddresses, SegmentUse};
    use raftmq_proto::forward::LogUse;
    use std::time::Duration;

    const LIMITS: Retention =
        Retention { kept_ms: 1, hours: Vec::new(), log_bytes_max: 0, disk_percent_max: 75, force_percent: 0 };

    /// Ten files of ten entries and a hundred bytes each.
    fn look(aged: u64, log_bytes: u64, free_bytes: u64) -> Look {
        let sealed = (1..=10).map(|number| SegmentUse { end: LogIndex(number * 10), bytes: 100 }).collect();
        let log = LogUse { log_bytes, disk_bytes: 10_000, free_bytes, trimmed: 0 };
        let level = LogUse { log_bytes: 900, disk_bytes: 10_000, free_bytes: 9_000, trimmed: 0 };
        Look { hour: 9, at_once: false, aged, trimmed: 0, sealed, uses: vec![level, log] }
    }

    fn end(limits: &Retention, look: &Look) -> Option<u64> {
        due(limits, look).map(|(end, _)| end)
    }

    #[test]
    fn age_takes_whole_files() {
        assert_eq!(end(&LIMITS, &look(9, 1_000, 9_000)), None);
        assert_eq!(end(&LIMITS, &look(35, 1_000, 9_000)), Some(30));
        assert_eq!(end(&LIMITS, &Look { trimmed: 30, ..look(35, 1_000, 9_000) }), None, "not twice");
    }

    #[test]
    fn hours_hold_it_back_until_a_disk_is_filling() {
        let limits = Retention { hours: vec![4], ..LIMITS };
        assert_eq!(end(&limits, &look(35, 1_000, 9_000)), None);
        assert_eq!(end(&limits, &Look { hour: 4, ..look(35, 1_000, 9_000) }), Some(30));
        assert_eq!(end(&limits, &Look { at_once: true, ..look(35, 1_000, 9_000) }), Some(30), "somebody asked for it");
        assert_eq!(end(&limits, &Look { at_once: true, ..look(0, 1_000, 9_000) }), None, "what is not due stays");
        assert_eq!(end(&limits, &look(35, 1_000, 2_000)), Some(30), "one disk is 80 % full");
        assert_eq!(end(&limits, &look(0, 1_000, 2_000)), None, "what is not too old stays");
    }

    #[test]
    fn the_fullest_member_counts() {
        let limits = Retention { log_bytes_max: 1_000, ..LIMITS };
        assert_eq!(end(&limits, &look(0, 1_000, 9_000)), None);
        assert_eq!(end(&limits, &look(0, 1_150, 9_000)), Some(20));
        let mut waits = look(0, 1_150, 9_000);
        waits.trimmed = 10;
        assert_eq!(end(&limits, &waits), None, "a member has still to unlink what was trimmed");
    }

    #[test]
    fn a_full_disk_takes_what_is_not_too_old_only_when_it_may() {
        assert_eq!(end(&LIMITS, &look(0, 1_000, 1_000)), None);
        let limits = Retention { force_percent: 85, ..LIMITS };
        assert_eq!(end(&limits, &look(0, 1_000, 1_380)), Some(20), "120 bytes too many");
        assert_eq!(end(&limits, &look(0, 1_000, 0)), Some(100), "others fill the disk: what there is");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_waited_for_a_moment() {
        let member = |id, last_ack| Member {
            id,
            label: format!("n{id}"),
            addresses: NodeAddresses::default(),
            voter: true,
            matched: None,
            lag: None,
            last_ack,
        };
        let mut heard = Heard::default();
        for second in 0..=AWAY_AFTER.as_secs() {
            // The second answers, the third did once, the fourth never to this leader.
            let members = [
                member(2, Some(Duration::from_millis(40))),
                member(3, Some(Duration::from_secs(second))),
                member(4, None),
            ];
            heard.look(&members);
            assert!(!heard.is_away(2) && !heard.is_away(3), "{second}");
            assert_eq!(heard.is_away(4), second == AWAY_AFTER.as_secs());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(heard.is_away(3), "30 s after it was last heard of");
        heard.look(&[member(4, Some(Duration::ZERO))]);
        assert!(!heard.is_away(4), "it is back");
        assert!(!heard.is_away(3), "it is no member any more");
    }

    #[test]
    fn a_disk_that_fills_waits_for_nobody() {
        assert!(!is_too_full(&LIMITS, &look(0, 1_000, 2_500)));
        assert!(is_too_full(&LIMITS, &look(0, 1_000, 2_400)));
    }
}
