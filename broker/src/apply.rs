//! The meeting point of log and rules: decodes a committed entry, lets the machine carry it out, and hands on what
//! came of it once readers can see the rows.

use crate::access::Access;
use crate::admin::Traffic;
use crate::agreement::Agreement;
use crate::client::Registry;
use crate::client::streams::{Streams, Told};
use crate::clock::ClusterClock;
use crate::deliver::wait::Waiters;
use crate::forward::Merger;
use crate::machine::{Answer, Effect, EntryAt, Rules};
use crate::propose::Proposer;
use crate::room::SendGate;
use crate::store;
use parking_lot::Mutex;
use raft_store::{Committed, LogIndex, Machine, NodeId, State, StateBatch, StateError, Term, Versions};
use raftmq_proto::command::Refusal;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Who this node is in its group, known once the group has started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub node: NodeId,
    pub boot: u64,
}

/// What an apply changes beside rows: waiting clients, waiting polls, clocks, the leader's tasks.
pub(crate) struct Outlets {
    pub origin: OnceLock<Origin>,
    pub proposer: Proposer,
    pub merger: Arc<Merger>,
    pub clock: Arc<ClusterClock>,
    pub gate: Arc<SendGate>,
    pub waiters: Waiters,
    pub streams: Arc<Streams>,
    pub registry: Arc<Registry>,
    pub access: Arc<Access>,
    /// Something may be due earlier than before.
    pub due: Notify,
    /// Topics or consumer groups changed: name servers and routes want to know.
    pub catalog_changed: Notify,
    /// Half messages are to be checked.
    pub check_wanted: Notify,
    /// What is known of the members' rows.
    pub agreement: Agreement,
    /// What the group takes and hands out.
    pub traffic: Traffic,
    /// What applied entries led to and is not carried out yet.
    pub consequences: Mutex<Consequences>,
    /// There is something among the consequences.
    pub follows: Notify,
}

/// What entries led to on this node, once their rows are visible.
#[derive(Default)]
pub(crate) struct Consequences {
    answers: Vec<Answer>,
    effects: Vec<Effect>,
}

impl Outlets {
    /// Carries out what follows from applied entries, where clients are served, until `stop`. It comes over from Raft's
    /// thread in one piece: each client that is woken from there would cost a system call, and a connection would be
    /// written to for every answer instead of for all that are ready.
    pub(crate) async fn follow(self: Arc<Outlets>, stop: CancellationToken) {
        let following = async {
            loop {
                self.follows.notified().await;
                let consequences = std::mem::take(&mut *self.consequences.lock());
                self.carry_out(consequences);
            }
        };
        stop.run_until_cancelled(following).await;
    }

    /// Whether clients of this node wait for what is applied next.
    fn is_awaited(&self) -> bool {
        !self.proposer.is_idle() || self.waiters.count() > 0
    }

    /// Whether an effect leads to anything here. Messages arrive at every node, and most nodes have no poll for them:
    /// waking the thread that serves clients for nothing costs a node as much as writing the rows of a lone message.
    /// A poll that begins after this was asked looks at rows that have the message.
    fn matters(&self, effect: &Effect) -> bool {
        match effect {
            Effect::Arrived { topic, .. } | Effect::Retryable { topic, .. } | Effect::LiteReady { topic, .. } => {
                self.waiters.has_polls(topic)
            }
            Effect::SentAgain { .. } | Effect::DeadLettered { .. } => false,
            Effect::SettingChanged { key } => &**key == store::machine::WRITABLE,
            Effect::Due { .. }
            | Effect::TopicChanged { .. }
            | Effect::ConsumerGroupChanged { .. }
            | Effect::DeadLetterTopicMade { .. }
            | Effect::FiltersDiffer { .. }
            | Effect::Expired { .. }
            | Effect::LiteTaken { .. }
            | Effect::SessionBegan { .. }
            | Effect::SessionEnded { .. }
            | Effect::AccessChanged { .. }
            | Effect::CheckWanted => true,
        }
    }

    fn carry_out(&self, Consequences { answers, effects }: Consequences) {
        // Before the answers: a poll that is granted a lease after its client's session ended must know that it did,
        // and whoever was told that access changed finds it changed.
        let mut access_changed = false;
        for effect in &effects {
            match effect {
                Effect::SessionBegan { client_id } => self.registry.session_began(client_id),
                Effect::SessionEnded { client_id } => {
                    self.registry.session_ended(client_id);
                    self.waiters.session_ended(client_id);
                }
                Effect::AccessChanged { user } => {
                    self.access.changed(user);
                    access_changed = true;
                }
                _ => {}
            }
        }
        if access_changed && self.access.is_on() {
            // Polls end with the permission that they were let in by.
            self.waiters.wake_all();
        }
        self.proposer.answer(answers.into_iter());
        for effect in effects {
            match &effect {
                Effect::Due { .. } => self.due.notify_one(),
                Effect::TopicChanged { .. } | Effect::ConsumerGroupChanged { .. } | Effect::SettingChanged { .. } => {
                    self.catalog_changed.notify_one();
                }
                // Each member says so: no call made it.
                Effect::DeadLetterTopicMade { topic } => {
                    tracing::info!(target: "audit", name = &**topic, "dead letter topic created for its first message");
                }
                Effect::FiltersDiffer { consumer_group, topic, filters } => {
                    if *filters > 1 {
                        tracing::warn!(%consumer_group, %topic, filters,
                            "members of a consumer group filter a topic differently: each gets what its own filter takes");
                    } else {
                        tracing::info!(%consumer_group, %topic, filters, "members filter the topic alike again");
                    }
                }
                Effect::Arrived { .. }
                | Effect::SentAgain { .. }
                | Effect::Retryable { .. }
                | Effect::LiteReady { .. }
                | Effect::DeadLettered { .. }
                | Effect::SessionBegan { .. }
                | Effect::SessionEnded { .. }
                | Effect::AccessChanged { .. } => {}
                Effect::LiteTaken { client_id, lite_topic, .. } => {
                    self.streams.notify(client_id, Told::Unsubscribe { lite_topic: lite_topic.to_string() });
                }
                Effect::Expired { consumer_group, topic, messages } => tracing::warn!(
                    %consumer_group,
                    %topic,
                    messages,
                    "retention took messages that this consumer group had not consumed"
                ),
                Effect::CheckWanted => self.check_wanted.notify_one(),
            }
            self.waiters.arrived(&effect);
        }
    }
}

/// The broker's [`Machine`].
pub(crate) struct Applier {
    rules: Rules,
    known: RangeInclusive<u32>,
    outlets: Arc<Outlets>,
    answers: Vec<Answer>,
    effects: Vec<Effect>,
    entries: Vec<(Term, u64)>,
    /// Why the leader refused sends, when it did.
    refused: Option<String>,
    time_ms: u64,
}

impl Applier {
    /// A machine of a build that knows these versions.
    pub(crate) fn new(known: RangeInclusive<u32>, outlets: Arc<Outlets>) -> Applier {
        Applier {
            rules: Rules::new(known.clone()),
            known,
            outlets,
            answers: Vec::new(),
            effects: Vec::new(),
            entries: Vec::new(),
            refused: None,
            time_ms: 0,
        }
    }
}

impl Machine for Applier {
    fn tables(&self) -> &'static [&'static str] {
        store::TABLES
    }

    fn versions(&self) -> Versions {
        Versions { known: self.known.clone(), active: |state: &State| store::machine::version(state) }
    }

    fn apply(&mut self, entry: &Committed, state: &mut StateBatch<'_>) -> Result<(), StateError> {
        if self.entries.is_empty() && !self.outlets.is_awaited() {
            // Where members share a machine, one whose clients wait for these entries goes first.
            std::thread::yield_now();
        }
        let at = EntryAt { index: entry.index, term: entry.term };
        let outcome = self.rules.apply_payload(at, entry.payload.clone(), state)?;
        // Every node computes every answer; only those of this node's clients are waited for here.
        if let Some(origin) = self.outlets.origin.get() {
            self.outlets.traffic.count(&outcome);
            let answers = outcome.answers.iter().filter(|answer| !answer.repeat);
            let mut replies = answers.flat_map(|answer| &answer.replies);
            if let Some(refused) = replies.find(|reply| reply.refusal() == Refusal::DiskFull) {
                self.refused = Some(refused.detail.clone());
            }
            self.answers.extend(
                outcome.answers.into_iter().filter(|answer| answer.node == origin.node && answer.boot == origin.boot),
            );
        }
        self.effects.extend(outcome.effects);
        let applied = store::machine::applied(state)?;
        self.time_ms = applied.time_ms;
        self.outlets.agreement.applied(entry.index, applied.checksum);
        match self.entries.last_mut() {
            Some((term, count)) if *term == entry.term => *count += 1,
            _ => self.entries.push((entry.term, 1)),
        }
        Ok(())
    }

    fn applied(&mut self, _index: LogIndex) {
        if self.entries.is_empty() {
            return;
        }
        let outlets = &*self.outlets;
        outlets.clock.applied(self.time_ms);
        if let Some(version) = self.rules.version()
            && outlets.proposer.encode_by(version)
            && outlets.origin.get().is_some()
        {
            tracing::info!(version, "a version of commands is active");
        }
        if let Some(why) = self.refused.take() {
            outlets.gate.told(Some(why));
        }
        for (term, count) in self.entries.drain(..) {
            outlets.merger.applied(term, count);
        }
        if outlets.origin.get().is_none() {
            // What the node replays before it serves anybody: nobody waits, and everything is looked up afresh.
            self.effects.clear();
            return;
        }
        self.effects.retain(|effect| outlets.matters(effect));
        if self.answers.is_empty() && self.effects.is_empty() {
            return;
        }
        {
            let mut consequences = outlets.consequences.lock();
            consequences.answers.append(&mut self.answers);
            consequences.effects.append(&mut self.effects);
        }
        outlets.follows.notify_one();
    }

    fn restored(&mut self, _index: LogIndex) {
        self.rules = Rules::new(self.known.clone());
        self.outlets.agreement.replaced();
        self.outlets.access.replaced();
        self.outlets.waiters.wake_all();
        self.outlets.catalog_changed.notify_one();
        self.outlets.due.notify_one();
    }
}
