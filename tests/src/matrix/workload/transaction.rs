//! Half messages that are committed, rolled back, or left open until their producer is asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use raftmq_proto::rocketmq as pb;
use raftmq_proto::rocketmq::telemetry_command::Command;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use super::{DRAINED_WITHIN, Kind, Report, Running, Scene, read};
use crate::client::{Consumer, Producer, eventually, message};
use crate::cluster::Cluster;
use crate::invariant::{self, Verdict};
use crate::matrix::tally::{Crew, Least, Phase, Shared};
use crate::oracle::{Oracle, Sequence, message_id, sequence_of};
use crate::session::Session;

mod history;

use history::{
    Half, Halves, ON_ITS_WAY, Plan, Word, asked_as_agreed, came, open, plan, questions, seen_as_ended, words_are_taken,
};

pub(super) const ROW: (&str, &str, &str) = (
    "transaction",
    "half messages: their producers commit, roll back, say both, leave them open until they are asked, or never answer",
    "a message is seen exactly when its commit was answered OK, once, and not before that was said; none that was rolled \
     back; of two words one is refused; no more questions than `transactionCheckMax`, but for one that each change of \
     leader may repeat, and none after the end",
);

/// What the group of a run is configured with.
pub(super) const SETTINGS: [(&str, &str); 3] =
    [("transactionTimeOut", "800"), ("transactionCheckInterval", "1500"), ("transactionCheckMax", "4")];

const LEAST: Least = Least { before: 60, during: 10, after: 60 };
const SESSIONS: u64 = 3;
/// A producer that was not answered says its word again after this; most are asked before.
const SAID_AGAIN: Duration = Duration::from_secs(4);
const TOLD_WITHIN: Duration = Duration::from_millis(40);
const OPEN_WITHIN: Duration = Duration::from_secs(4);

#[derive(Default)]
struct Log {
    oracle: Oracle,
    halves: Mutex<Halves>,
    healed: Mutex<Duration>,
}

impl Log {
    fn change(&self, sequence: Sequence, change: impl FnOnce(&mut Half)) {
        change(self.halves.lock().expect("no holder panics").entry(sequence).or_default());
    }

    /// Writes down a word and what it was answered; whether it was.
    async fn word(
        &self,
        sequence: Sequence,
        commit: bool,
        say: impl Future<Output = Result<Option<String>, ()>>,
    ) -> bool {
        let said = self.oracle.now();
        let mut at = 0;
        self.change(sequence, |half| {
            at = half.words.len();
            half.words.push(Word { commit, said, answered: said, outcome: Err(()) });
        });
        let outcome = say.await;
        let (answered, known) = (self.oracle.now(), outcome.is_ok());
        self.change(sequence, |half| half.words[at] = Word { commit, said, answered, outcome });
        known
    }

    fn halves(&self) -> Halves {
        self.halves.lock().expect("no holder panics").clone()
    }

    /// Committed messages that did not come yet.
    fn missing(&self) -> usize {
        let came = came(&self.oracle.history());
        let committed = |half: &Half| half.words.iter().any(|word| word.commit && word.taken());
        self.halves().iter().filter(|(sequence, half)| committed(half) && !came.contains_key(sequence)).count()
    }
}

pub(super) struct Transactions {
    crew: Crew,
    log: Arc<Log>,
}

/// What one producer has.
struct Desk {
    access: Vec<SocketAddr>,
    node: usize,
    log: Arc<Log>,
    shared: Arc<Shared>,
    /// Says words by itself. It names no topic, so that nobody asks it.
    ends: Arc<Producer>,
    sequences: Box<dyn Iterator<Item = Sequence> + Send>,
    words: JoinSet<()>,
    random: StdRng,
}

impl Transactions {
    pub(super) async fn start(scene: &Scene, seed: u64) -> Result<Self> {
        let topic = Kind::Transaction.topic();
        let mut transactions = Self { crew: Crew::default(), log: Arc::default() };
        let consumer = Consumer::new(&scene.access, &Kind::Transaction.consumers(), &topic, "*", false)?;
        consumer.join(&topic).await;
        let (log, shared) = (transactions.log.clone(), transactions.crew.shared.clone());
        let (reading, counting) = (log.clone(), shared.clone());
        transactions.crew.receiver(async move {
            read(Kind::Transaction, &consumer, &reading.oracle, &counting, |_| {}).await;
        });
        for number in 0..SESSIONS {
            let desk = Desk {
                access: scene.access.clone(),
                node: number as usize,
                log: log.clone(),
                shared: shared.clone(),
                ends: Arc::new(Producer::new(&scene.access, &[])?),
                sequences: Box::new((number..).step_by(SESSIONS as usize)),
                words: JoinSet::new(),
                random: StdRng::seed_from_u64(seed ^ number),
            };
            // It answers until everything has ended, which is when receivers end.
            transactions.crew.receiver(desk.run());
        }
        Ok(transactions)
    }
}

impl Desk {
    async fn run(mut self) {
        while self.shared.receives() {
            let node = self.access[self.node % self.access.len()];
            let topic = Kind::Transaction.topic();
            let topics = [topic.as_str()];
            let opened = Session::producer(node, &topics);
            if let Ok(Ok(mut session)) = tokio::time::timeout(OPEN_WITHIN, opened).await {
                while self.shared.receives() && self.turn(&mut session).await.is_ok() {}
            } else {
                self.shared.tally.begin();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // Its node is dead, hangs, or is cut off: the next one.
            self.node += 1;
        }
        self.words.join_all().await;
    }

    /// Sends one, says what is due, and answers what is asked. An error: this node is of no use now.
    async fn turn(&mut self, session: &mut Session) -> Result<()> {
        if self.shared.sends() {
            self.send(session).await?;
        }
        while let Some(told) = session.told(TOLD_WITHIN).await? {
            let Command::RecoverOrphanedTransactionCommand(asked) = told else { continue };
            let message = asked.message.as_ref().context("a question shows its message")?;
            let id = message.system_properties.as_ref().map(|system| system.message_id.as_str()).unwrap_or_default();
            let sequence = sequence_of(id).context("nobody sent this half message")?;
            let now = self.log.oracle.now();
            self.log.change(sequence, |half| half.asked.push(now));
            let commit = match plan(sequence) {
                Plan::Say(commit) | Plan::SayBoth(commit) | Plan::WhenAsked(commit) => commit,
                Plan::Never => continue,
            };
            // Whether an answer was refused or lost, [`Session`] does not say.
            let answer = async { session.answer(&asked, commit).await.map(|()| None).map_err(|_| ()) };
            if !self.log.word(sequence, commit, answer).await {
                let half = pb::SendResultEntry {
                    message_id: id.to_owned(),
                    transaction_id: asked.transaction_id.clone(),
                    ..pb::SendResultEntry::default()
                };
                self.say(sequence, half, (commit, false), SAID_AGAIN);
            }
        }
        Ok(())
    }

    async fn send(&mut self, session: &Session) -> Result<()> {
        let Some(sequence) = self.sequences.next() else { return Ok(()) };
        let mut half = message(&Kind::Transaction.topic(), &message_id(sequence), None, "half".into());
        half.system_properties.get_or_insert_default().message_type = pb::MessageType::Transaction.into();
        self.log.oracle.sending(sequence);
        self.log.change(sequence, |_| {});
        self.shared.tally.begin();
        let sent = session.send(half).await;
        self.log.oracle.sent(sequence, sent.is_ok(), 1);
        let entry = sent?;
        self.log.change(sequence, |half| half.acknowledged = true);
        self.shared.tally.done();
        let (commit, both) = match plan(sequence) {
            Plan::Say(commit) => (commit, false),
            Plan::SayBoth(commit) => (commit, true),
            Plan::WhenAsked(_) | Plan::Never => return Ok(()),
        };
        let pause = Duration::from_millis(self.random.random_range(0..700));
        self.say(sequence, entry, (commit, both), pause);
        while self.words.try_join_next().is_some() {}
        Ok(())
    }

    /// Says a word after `pause`, until it is answered: one that was not may have been taken, and then nobody asks. When
    /// `both`, the opposite afterwards.
    fn say(&mut self, sequence: Sequence, half: pb::SendResultEntry, (commit, both): (bool, bool), pause: Duration) {
        let (log, ends, shared) = (self.log.clone(), self.ends.clone(), self.shared.clone());
        self.words.spawn(async move {
            tokio::time::sleep(pause).await;
            while !log.word(sequence, commit, end(&ends, &half, commit)).await && shared.receives() {
                tokio::time::sleep(SAID_AGAIN).await;
            }
            let taken = log.halves().get(&sequence).is_some_and(|half| half.ended().is_some());
            if both && taken {
                log.word(sequence, !commit, end(&ends, &half, !commit)).await;
            }
        });
    }
}

async fn end(producer: &Producer, half: &pb::SendResultEntry, commit: bool) -> Result<Option<String>, ()> {
    match producer.end(&Kind::Transaction.topic(), half, commit).await {
        Ok(()) => Ok(None),
        Err(failure) if failure.may_pass() => Err(()),
        Err(failure) => Ok(Some(failure.to_string())),
    }
}

#[tonic::async_trait(?Send)]
impl Running for Transactions {
    async fn covered(&self, phase: Phase, limit: Duration) -> Result<()> {
        self.crew.shared.tally.reaches(phase, LEAST, limit).await?;
        if phase < Phase::After {
            return Ok(());
        }
        eventually("enough is asked", limit, async || questions(&self.log.halves()) == Verdict::True).await
    }

    fn mark(&self, phase: Phase) {
        self.crew.shared.tally.mark(phase);
        if phase == Phase::After {
            *self.log.healed.lock().expect("no holder panics") = self.log.oracle.now();
        }
    }

    async fn finish(mut self: Box<Self>, _cluster: &Cluster) -> Result<Report> {
        self.crew.end_senders().await?;
        let deadline = Instant::now() + DRAINED_WITHIN;
        while (!open(&self.log.halves()).is_empty() || self.log.missing() > 0) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Questions that come too late come now.
        tokio::time::sleep(ON_ITS_WAY + Duration::from_secs(2)).await;
        self.crew.end_receivers().await?;
        let (history, halves) = (self.log.oracle.history(), self.log.halves());
        let healed = *self.log.healed.lock().expect("no holder panics");
        let left = open(&halves).into_iter().map(|sequence| format!("transaction {sequence} was left open"));
        let asked = halves.values().filter(|half| !half.asked.is_empty()).count();
        let verdicts = vec![
            ("coverage", self.crew.shared.tally.coverage(LEAST)),
            ("questions", questions(&halves)),
            ("seen as ended", seen_as_ended(&halves, &came(&history))),
            ("words are taken", words_are_taken(&halves)),
            ("asked as agreed", asked_as_agreed(&halves, healed)),
            ("all end", Verdict::of(left)),
            ("one copy", invariant::one_copy(&history)),
            ("acked never returns", invariant::acked_never_returns(&history)),
            ("no early redelivery", invariant::no_early_redelivery(&history)),
        ];
        let tally = &self.crew.shared.tally;
        let summary =
            format!("{} half messages, {asked} asked about, {} came; {tally}", halves.len(), history.deliveries.len());
        Ok(Report { verdicts, summary })
    }
}
