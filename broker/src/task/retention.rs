//! Decides what is too old or too much, and proposes that it goes; what it takes with it is the machine's business.
//!
//! The end of a trim is the end of a segment, so that disk is freed by every one. It never passes what a member still
//! has to fetch: a member that is down holds it back, and the log names it.

use super::reappend::{Moved, reappend};
use crate::broker::Node;
use crate::config::Retention;
use crate::store::{StateError, retention, topic};
use raft_store::{SegmentUse, State};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Expire, Expired, Trim, Trimmed, reply};
use raftmq_proto::forward::LogUse;
use std::time::Duration;
use tokio::time::Instant;

/// How often is looked for what is too old or too much.
const LOOK: Duration = Duration::from_secs(1);
/// Looking through the topics takes at most one part of so many of the time.
const TOPICS_SHARE: u32 = 50;
/// After a trim that freed nothing.
const NOTHING_FREED: Duration = Duration::from_secs(30);
/// A warning that still holds is repeated after this.
const WARN_AGAIN: Duration = Duration::from_secs(600);
/// Commands of one trim in a row; then others get a turn.
const PAUSE: Duration = Duration::from_millis(2);

const HOUR_MS: u64 = 3_600_000;

/// Runs until the task is dropped.
pub(super) async fn run(node: &Node) {
    let mut warned = Warned::default();
    let mut not_before = Instant::now();
    let mut topics_not_before = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let looked = async {
            if Instant::now() >= topics_not_before {
                let since = Instant::now();
                expire_topics(node).await?;
                // A hundred thousand topics are looked through less often than ten.
                topics_not_before = Instant::now() + since.elapsed() * TOPICS_SHARE;
            }
            if Instant::now() >= not_before && !trim(node, &mut warned).await? {
                not_before = Instant::now() + NOTHING_FREED;
            }
            Ok::<(), Failure>(())
        };
        match looked.await {
            Ok(()) => {}
            Err(Failure::Rows(error)) => tracing::error!(%error, "retention cannot read its rows"),
            Err(Failure::Proposal(what)) => tracing::debug!(what, "retention goes on later"),
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
}

impl Warned {
    fn say(&mut self, what: String) {
        let said = self.last.as_ref().is_some_and(|(last, at)| *last == what && at.elapsed() < WARN_AGAIN);
        if !said {
            tracing::warn!("{what}");
            self.last = Some((what, Instant::now()));
        }
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
    /// Everything below was stored as long ago as messages are kept.
    aged: u64,
    /// What was trimmed so far.
    trimmed: u64,
    /// The leader's files.
    sealed: Vec<SegmentUse>,
    /// What the members' logs take of their disks.
    uses: Vec<LogUse>,
}

/// The entry up to which a trim is due, at the end of a file, and why.
fn due(limits: &Retention, look: &Look) -> Option<(u64, &'static str)> {
    let used_percent = |log: &LogUse| match log.disk_bytes {
        0 => 0,
        bytes => u128::from(bytes.saturating_sub(log.free_bytes)) * 100 / u128::from(bytes),
    };
    let fullest = look.uses.iter().map(used_percent).max().unwrap_or_default();
    let files = || look.sealed.iter().filter(|file| file.end.0 > look.trimmed);
    let any_hour = limits.hours.is_empty() || limits.hours.contains(&look.hour);
    let by_age = (any_hour || fullest > u128::from(limits.disk_percent_max))
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
async fn trim(node: &Node, warned: &mut Warned) -> Result<bool, Failure> {
    let state = node.group.state();
    let trimmed = retention::trimmed(&state)?.upto;
    let wanted = match retention::trim(&state)? {
        // Begun by another leader, or before a failure.
        Some(under_way) => Some(under_way.upto),
        None => wanted(node, trimmed, warned)?,
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
fn wanted(node: &Node, trimmed: u64, warned: &mut Warned) -> Result<Option<u64>, Failure> {
    let state = node.group.state();
    let limits = &node.config.retention;
    let now = node.proposer.now();
    let aged = retention::mark_by_time(&state, now.saturating_sub(limits.kept_ms))?;
    let look = Look {
        hour: (now / HOUR_MS % 24) as u8,
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
    let has = |member: &&raft_store::Member| member.id == own || member.matched.is_some_and(|at| at.0 >= mark.index);
    let lacking: Vec<_> = members.iter().filter(|member| !has(member)).map(|member| member.label.as_str()).collect();
    if !lacking.is_empty() {
        warned.say(format!(
            "the log keeps more than it should ({why}): node {} is not there to fetch what would go; start it again, or \
             take it out of the group",
            lacking.join(", ")
        ));
        return Ok(None);
    }
    tracing::info!(upto = mark.index, why, "the log of the broker group is trimmed");
    Ok(Some(mark.index))
}

#[cfg(test)]
mod tests {
    use super::{Look, due};
    use crate::config::Retention;
    use raft_store::{LogIndex, SegmentUse};
    use raftmq_proto::forward::LogUse;

    const LIMITS: Retention =
        Retention { kept_ms: 1, hours: Vec::new(), log_bytes_max: 0, disk_percent_max: 75, force_percent: 0 };

    /// Ten files of ten entries and a hundred bytes each.
    fn look(aged: u64, log_bytes: u64, free_bytes: u64) -> Look {
        let sealed = (1..=10).map(|number| SegmentUse { end: LogIndex(number * 10), bytes: 100 }).collect();
        let log = LogUse { log_bytes, disk_bytes: 10_000, free_bytes, trimmed: 0 };
        let level = LogUse { log_bytes: 900, disk_bytes: 10_000, free_bytes: 9_000, trimmed: 0 };
        Look { hour: 9, aged, trimmed: 0, sealed, uses: vec![level, log] }
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
}
