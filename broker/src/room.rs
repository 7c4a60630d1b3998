//! Whether there is room for messages: sends are refused while a disk of the group is full, so that the log's
//! reserve lasts for everything else.
//!
//! The leader decides, from its own disks and from what members report. It refuses what reaches it (see
//! `forward.rs`), and tells the members, whose doors then refuse at once: a refusal that goes into the log costs room
//! as well. A member that nobody hears of does not count; stopping a node whose disk cannot be helped lets the
//! others go on without it.

use parking_lot::Mutex;
use raft_store::{NodeId, RaftGroup, Shortage};
use raftmq_proto::forward;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A member's report counts for this long, and so does what the leader told.
const TOLD_AGE_MAX: Duration = Duration::from_secs(4);

/// Why sends are refused, and when that was decided or heard of last.
struct Verdict {
    why: Arc<str>,
    at: Instant,
}

#[derive(Default)]
struct Known {
    verdict: Option<Verdict>,
    /// Members with a full disk, while this node leads.
    short: BTreeMap<NodeId, (Shortage, Instant)>,
}

/// The door of sends.
#[derive(Default)]
pub(crate) struct SendGate {
    known: Mutex<Known>,
}

impl SendGate {
    /// On the leader: whether sends are refused, and why.
    pub(crate) fn decide(&self, group: &RaftGroup) -> Option<Arc<str>> {
        let own = group.shortage();
        let mut known = self.known.lock();
        known.short.retain(|_, (_, at)| at.elapsed() < TOLD_AGE_MAX);
        let short = match &own {
            Some(own) => Some((group.node(), own)),
            None => known.short.iter().map(|(node, (shortage, _))| (*node, shortage)).next(),
        };
        let why = short.map(|(node, shortage)| sentence(&label(group, node), shortage).into());
        match (&known.verdict, &why) {
            (None, Some(why)) => tracing::error!(%why, "sends are refused"),
            (Some(_), None) => tracing::info!("sends are taken again"),
            _ => {}
        }
        known.verdict = why.clone().map(|why| Verdict { why, at: Instant::now() });
        why
    }

    /// A member reported to this node, which leads.
    pub(crate) fn reported(&self, node: NodeId, shortage: Option<forward::Shortage>) {
        let mut known = self.known.lock();
        match shortage {
            Some(shortage) => known.short.insert(node, (from_wire(shortage), Instant::now())),
            None => known.short.remove(&node),
        };
    }

    /// The leader told whether it refuses sends.
    pub(crate) fn told(&self, why: Option<String>) {
        self.known.lock().verdict = why.map(|why| Verdict { why: why.into(), at: Instant::now() });
    }

    /// Another leader: what was known of the last one's decisions is worth nothing.
    pub(crate) fn forget(&self) {
        *self.known.lock() = Known::default();
    }

    /// Why a send is refused at this node's door. The leader has the last word on what is let through.
    pub(crate) fn refusal(&self) -> Option<Arc<str>> {
        let known = self.known.lock();
        known.verdict.as_ref().filter(|verdict| verdict.at.elapsed() < TOLD_AGE_MAX).map(|verdict| verdict.why.clone())
    }
}

/// What a client's user is told.
fn sentence(label: &str, shortage: &Shortage) -> String {
    let Shortage { folder, free_bytes, needed_bytes } = shortage;
    format!(
        "the disk of node {label} is full: {free_bytes} bytes are free in {folder}, but sends need {needed_bytes} \
         (mappedFileSizeCommitLog, diskFreeBytesMin); free space there, or stop that node, and sends go on by \
         themselves; receives and acknowledgements go on meanwhile"
    )
}

fn label(group: &RaftGroup, node: NodeId) -> String {
    let known = group.members().into_iter().find(|member| member.id == node);
    known.map_or_else(|| format!("{node:x}"), |member| member.label)
}

/// As a member reports it.
pub(crate) fn to_wire(shortage: Shortage) -> forward::Shortage {
    let Shortage { folder, free_bytes, needed_bytes } = shortage;
    forward::Shortage { folder, free_bytes, needed_bytes }
}

fn from_wire(shortage: forward::Shortage) -> Shortage {
    let forward::Shortage { folder, free_bytes, needed_bytes } = shortage;
    Shortage { folder, free_bytes, needed_bytes }
}

#[cfg(test)]
mod tests {
    use super::{SendGate, TOLD_AGE_MAX, sentence};
    use raft_store::Shortage;
    use std::time::Duration;

    #[test]
    fn a_refusal_names_limit_value_and_remedy() {
        let shortage = Shortage { folder: "/data".to_owned(), free_bytes: 5, needed_bytes: 9 };
        let text = sentence("n1", &shortage);
        for part in ["n1", "5 bytes are free in /data", "need 9", "diskFreeBytesMin", "free space"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_holds_until_it_is_taken_back_or_old() {
        let gate = SendGate::default();
        assert_eq!(gate.refusal(), None);
        gate.told(Some("full".to_owned()));
        assert_eq!(gate.refusal().as_deref(), Some("full"));
        gate.told(None);
        assert_eq!(gate.refusal(), None);
        gate.told(Some("full".to_owned()));
        tokio::time::advance(TOLD_AGE_MAX - Duration::from_millis(1)).await;
        assert!(gate.refusal().is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(gate.refusal(), None, "a leader that is silent may have room again");
        gate.told(Some("full".to_owned()));
        gate.forget();
        assert_eq!(gate.refusal(), None);
    }
}
