//! Random commands against a model that knows what clients were told.

use super::retention::assert_kept;
use super::{Harness, judged, lasting};
use crate::command::Payload;
use crate::deliver::judge::Judge;
use crate::filter::sql::SqlFilter;
use crate::filter::tag::tag_hash;
use crate::machine::version::FIRST_WORDS;
use crate::store::half::HalfState;
use crate::store::machine::version;
use crate::store::message::Place;
use crate::store::timer::InLog;
use crate::store::trace::{What, history};
use crate::store::{
    ConsumerGroupId, TopicId, consumer_group, half, key, lag, progress, queue, retention, subscription, timer, topic,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use raft_store::{LogIndex, ReadState, State, StateError};
use raftmq_proto::command::{
    Ack, Append, AppendMessage, Appended, Batch, ChangeInvisible, Checked, CheckedMessage, Checks, ConfirmLeases,
    ConsumerGroup, DeadLetter, DeleteConsumerGroup, DeleteTopic, EndSession, EndTransaction, Expire, Filter, Handle,
    JudgedRun, Judgement, Lease, LeaseName, PutConsumerGroup, PutSession, PutSetting, PutTopic, Reappend, Reappended,
    Recall, Refusal, StoredMessage, Subscription, Tick, Topic, Trim, Trimmed, WaitingMessage, Waits, command, reply,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

const TOPICS: [&str; 2] = ["t", "u"];
/// The second one's clients use no filters.
const GROUPS: [&str; 2] = ["g", "h"];
const RETRY_MAX: [u32; 2] = [2, 1];
const TAGS: [&str; 3] = ["", "x", "y"];
/// A renewed lease ends after this.
const RENEW_MAX_MS: u64 = 7_000;
/// What is sent again within this time is stored once.
const WINDOW_MS: u64 = 5_000;
/// What a client of the first group subscribes to.
const FILTERS: [&str; 3] = ["x", "sql:TAGS = 'y'", ""];

#[derive(Debug, Clone)]
enum Step {
    /// Tag and message group of each message; those of group 0 are not FIFO.
    Send {
        topic: usize,
        messages: Vec<(usize, u64)>,
    },
    Receive {
        group: usize,
        topic: usize,
        client: usize,
        max: u32,
        /// `None` for a lease that is renewed.
        invisible_ms: Option<u64>,
        /// A renewed one is to be confirmed.
        unconfirmed: bool,
        attempt: u8,
    },
    Confirm {
        which: usize,
    },
    /// Sent to be delivered later.
    Delay {
        topic: usize,
        messages: usize,
        ahead_ms: u64,
    },
    Recall {
        which: usize,
    },
    /// Sent to be committed or rolled back.
    Half {
        topic: usize,
    },
    Decide {
        which: usize,
        commit: bool,
    },
    /// The leader looks at what is to be checked, and could ask about every half message or about none.
    Check {
        max: usize,
        sent: bool,
    },
    Ack {
        which: usize,
    },
    Forge {
        which: usize,
        how: u8,
    },
    Hide {
        which: usize,
        invisible_ms: u64,
        suspend: bool,
    },
    Dead {
        which: usize,
    },
    Drop {
        topic: usize,
    },
    End {
        client: usize,
    },
    Advance {
        ms: u64,
    },
    Tick,
    Repeat,
    /// A message is sent again by a producer that got no answer.
    SendAgain {
        which: usize,
    },
    /// What is older than the last so many entries goes; what is still to be delivered is appended again, or ends it.
    Trim {
        back: usize,
        settle: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..2usize, proptest::collection::vec((0..3usize, 0..4u64), 1..6))
            .prop_map(|(topic, messages)| Step::Send { topic, messages }),
        6 => (0..2usize, 0..2usize, 0..3usize, 1..9u32, 0..8u64, any::<bool>(), 0..4u8).prop_map(
            |(group, topic, client, max, seconds, unconfirmed, attempt)| {
                let invisible_ms = (1..4).contains(&seconds).then_some(seconds * 1_000);
                Step::Receive { group, topic, client, max, invisible_ms, unconfirmed, attempt }
            }),
        2 => any::<usize>().prop_map(|which| Step::Confirm { which }),
        2 => (0..2usize, 1..4usize, 0..3_000u64)
            .prop_map(|(topic, messages, ahead_ms)| Step::Delay { topic, messages, ahead_ms }),
        1 => any::<usize>().prop_map(|which| Step::Recall { which }),
        1 => (0..2usize).prop_map(|topic| Step::Half { topic }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, commit)| Step::Decide { which, commit }),
        2 => (1..4usize, any::<bool>()).prop_map(|(max, sent)| Step::Check { max, sent }),
        5 => any::<usize>().prop_map(|which| Step::Ack { which }),
        1 => (any::<usize>(), 0..5u8).prop_map(|(which, how)| Step::Forge { which, how }),
        2 => (any::<usize>(), 0..4u64, any::<bool>())
            .prop_map(|(which, seconds, suspend)| Step::Hide { which, invisible_ms: seconds * 1_000, suspend }),
        1 => any::<usize>().prop_map(|which| Step::Dead { which }),
        1 => (0..40usize).prop_map(|topic| if topic < 2 { Step::Drop { topic } } else { Step::Tick }),
        1 => (0..3usize).prop_map(|client| Step::End { client }),
        3 => (0..3_000u64).prop_map(|ms| Step::Advance { ms }),
        3 => Just(Step::Tick),
        1 => Just(Step::Repeat),
        2 => any::<usize>().prop_map(|which| Step::SendAgain { which }),
        1 => (0..40usize, any::<bool>()).prop_map(|(back, settle)| Step::Trim { back, settle }),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A message as one consumer group sees it.
#[derive(Debug, Clone, Default)]
struct Seen {
    delivered: bool,
    acked: bool,
    dead: bool,
    /// Deliveries that ended and counted.
    ended: u32,
    /// The handle that counts, and when or with whom it ends.
    held: Option<(Handle, Held)>,
    /// Its queue's progress waits for it.
    fresh: bool,
    /// The deliveries under way ends without being counted.
    suspended: bool,
    /// When its last delivery ended.
    ended_ms: u64,
    /// All that was done to it, as its history is to tell.
    told: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Held {
    Until(u64),
    /// By this client until then.
    Renewed(usize, u64),
    /// The same, and until when it would be held if it were confirmed.
    Unconfirmed(usize, u64, u64),
}

struct Message {
    topic: usize,
    tag: usize,
    group: u64,
    /// [`SOMEWHERE`] until it is delivered, for a message that waited.
    queue: u16,
    offset: u64,
    /// Its topic was deleted.
    gone: bool,
    /// When it became visible.
    visible_ms: u64,
}

/// The machine chose the queue and nobody was told.
const SOMEWHERE: u16 = u16::MAX;

/// A message that was sent to wait.
#[derive(Debug, Clone)]
struct Waiting {
    message: WaitingMessage,
    topic: usize,
    /// 0 for a half message.
    delivery_ms: u64,
    end: Option<WaitingEnd>,
    /// Checks of a half message that the group was told of.
    checks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum WaitingEnd {
    /// It is in a queue.
    Stored,
    /// Recalled or rolled back.
    Taken,
    /// With its topic.
    Gone,
}

/// A send that may be sent again.
#[derive(Debug, Clone)]
struct Sent {
    topic: usize,
    /// Tags and message groups.
    messages: Vec<(usize, u64)>,
    rows: Vec<AppendMessage>,
    places: Vec<(u16, u64)>,
    /// End of the window in which it is stored once.
    until_ms: u64,
}

struct Model {
    harness: Harness,
    last: Option<Batch>,
    /// By log index and slot.
    places: BTreeMap<(u64, u32), usize>,
    messages: Vec<Message>,
    seen: Vec<[Seen; 2]>,
    /// Every handle that was issued: consumer group, message.
    handles: Vec<(Handle, usize, usize)>,
    waiting: Vec<Waiting>,
    sends: Vec<Sent>,
    /// Where bodies that were appended again came first.
    origins: BTreeMap<(u64, u32), (u64, u32)>,
    /// What became visible up to this time may be gone.
    horizon_ms: u64,
    /// What was said for the last receive with an SQL filter.
    judged: Option<Judgement>,
}

fn filter(group: usize, client: usize) -> Option<Filter> {
    let tags = if group == 0 { FILTERS[client] } else { "" };
    if let Some(sql) = tags.strip_prefix("sql:") {
        return Some(Filter { tags: Vec::new(), sql: sql.to_owned() });
    }
    Some(Filter { tags: (!tags.is_empty()).then(|| tags.to_owned()).into_iter().collect(), sql: String::new() })
}

fn client(number: usize) -> String {
    format!("c{number}")
}

fn put_topic(name: &str, queues: u32) -> command::Kind {
    let topic = Topic {
        name: name.into(),
        read_queues: queues,
        write_queues: queues,
        permission: 6,
        message_types: vec![1, 2, 3, 4],
        ..Topic::default()
    };
    command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })
}

impl Model {
    fn new(harness: Harness) -> Model {
        let mut model = Model {
            harness,
            last: None,
            places: BTreeMap::new(),
            messages: Vec::new(),
            seen: Vec::new(),
            handles: Vec::new(),
            waiting: Vec::new(),
            sends: Vec::new(),
            origins: BTreeMap::new(),
            horizon_ms: 0,
            judged: None,
        };
        for (name, retry_max) in GROUPS.iter().zip(RETRY_MAX) {
            let row =
                ConsumerGroup { name: (*name).into(), consume_enable: true, retry_max, ..ConsumerGroup::default() };
            model.run(command::Kind::PutConsumerGroup(PutConsumerGroup {
                consumer_group: Some(row),
                create_only: false,
            }));
        }
        (0..2).for_each(|topic| model.put_topic(topic));
        model.run(command::Kind::PutSetting(PutSetting {
            key: crate::machine::WINDOW_MS.into(),
            value: WINDOW_MS.to_string().into_bytes().into(),
        }));
        (0..2).for_each(|number| model.put_session(number));
        model
    }

    fn put_topic(&mut self, topic: usize) {
        self.run(put_topic(TOPICS[topic], [3, 1][topic]));
        // From their first receive on, what consumer groups miss is counted.
        (0..2).for_each(|group| assert_eq!(self.receive(group, topic, 0, 1, Some(1_000), false, 0), 0));
    }

    fn trim(&mut self, back: usize, settle: bool) {
        let upto = (self.harness.log.len() as u64).saturating_sub(back as u64);
        loop {
            let reply = self.run(command::Kind::Trim(Trim { upto, settle }));
            let Some(reply::Kind::Trimmed(Trimmed { more, held, .. })) = reply.kind else {
                panic!("not trimmed: {reply:?}")
            };
            if let Some(trim) = retention::trim(&self.harness.state).expect("read") {
                self.horizon_ms = self.horizon_ms.max(trim.horizon_ms);
            }
            if !more {
                break;
            }
            if held {
                assert!(!settle, "a trim that is to end does");
                self.reappend();
            }
        }
        let trimmed = retention::trimmed(&self.harness.state).expect("read");
        self.horizon_ms = self.horizon_ms.max(trimmed.horizon_ms);
        assert_kept(&self.harness.state);
    }

    fn reappend(&mut self) {
        let state = &self.harness.state;
        let trim = retention::trim(state).expect("read").expect("a trim is under way");
        let held = retention::held(state, &trim, 20).expect("read");
        let moved = held.iter().map(|held| Reappended {
            log_index: held.pin.log_index,
            slot: held.pin.slot,
            count: held.slots.len() as u32,
            keeper: held.pin.keeper.encode().into(),
        });
        let again = Reappend { moved: moved.collect() };
        assert!(!again.moved.is_empty(), "something holds the trim");
        assert_eq!(self.run(command::Kind::Reappend(again)).refusal(), Refusal::Unspecified);
        let index = self.harness.log.len() as u64;
        let from = held.iter().flat_map(|held| held.slots.iter().map(|slot| (held.pin.log_index, *slot)));
        for (from, slot) in from.zip(0..) {
            let origin = self.origins.get(&from).copied().unwrap_or(from);
            self.origins.insert((index, slot), origin);
        }
    }

    fn put_session(&mut self, number: usize) {
        let subscriptions =
            TOPICS.iter().map(|t| Subscription { topic: (*t).into(), filter: filter(0, number) }).collect();
        self.run(command::Kind::PutSession(PutSession {
            client_id: client(number),
            consumer_group: GROUPS[0].into(),
            subscriptions,
            create_consumer_group: false,
        }));
    }

    fn run(&mut self, kind: command::Kind) -> raftmq_proto::command::Reply {
        let batch = self.harness.batch(vec![kind]);
        self.last = Some(batch.clone());
        self.harness.apply_batches(&[batch]).remove(0).replies.pop().expect("each command is answered")
    }

    fn ids(&self, group: usize, topic: usize) -> (TopicId, ConsumerGroupId) {
        let topic = topic::topic(&self.harness.state, TOPICS[topic]).expect("read").expect("exists");
        let group = consumer_group::consumer_group(&self.harness.state, GROUPS[group]).expect("read").expect("exists");
        (TopicId(topic.id), ConsumerGroupId(group.id))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { topic, messages } => self.send(topic, &messages),
            Step::Receive { group, topic, client, max, invisible_ms, unconfirmed, attempt } => {
                self.receive(group, topic, client, max, invisible_ms, unconfirmed, attempt);
            }
            Step::Confirm { which } => self.confirm(which),
            Step::Delay { topic, messages, ahead_ms } => {
                self.send_to_wait(topic, messages, self.harness.now_ms + ahead_ms);
            }
            Step::Recall { which } => self.recall(which),
            Step::Half { topic } => self.send_to_wait(topic, 1, 0),
            Step::Decide { which, commit } => self.decide(which, commit),
            Step::Check { max, sent } => self.check_wanted(max, sent),
            Step::Ack { which } => self.ack(which),
            Step::Forge { which, how } => self.forge(which, how),
            Step::Hide { which, invisible_ms, suspend } => self.hide(which, invisible_ms, suspend),
            Step::Dead { which } => self.dead(which),
            Step::Drop { topic } => {
                self.run(command::Kind::DeleteTopic(DeleteTopic { name: TOPICS[topic].into() }));
                self.put_topic(topic);
                self.sends.retain(|sent| sent.topic != topic);
                for waiting in &mut self.waiting {
                    if waiting.topic == topic {
                        waiting.end = Some(WaitingEnd::Gone);
                    }
                }
                for (message, seen) in self.messages.iter_mut().zip(&mut self.seen) {
                    if message.topic == topic {
                        message.gone = true;
                        seen.iter_mut().for_each(|seen| seen.held = None);
                    }
                }
            }
            Step::End { client: number } => {
                self.run(command::Kind::EndSession(EndSession { client_id: client(number), term: 0 }));
                self.give_back("session ended", |held, _| match held {
                    Held::Renewed(client, _) | Held::Unconfirmed(client, ..) => *client == number,
                    Held::Until(_) => false,
                });
                if number < 2 {
                    self.put_session(number);
                }
            }
            Step::Advance { ms } => self.harness.now_ms += ms,
            Step::Tick => self.tick(),
            Step::SendAgain { which } => self.send_again(which),
            Step::Trim { back, settle } => self.trim(back, settle),
            Step::Repeat => {
                let rows = lasting(&self.harness.state);
                let batch = self.last.clone().expect("the set-up sent batches");
                assert!(self.harness.apply_batches(&[batch]).remove(0).repeat);
                assert_eq!(lasting(&self.harness.state), rows, "a repeat changes nothing");
            }
        }
    }

    fn send_again(&mut self, which: usize) {
        if self.sends.is_empty() {
            return;
        }
        let which = which % self.sends.len();
        let Sent { topic, messages, rows, places, until_ms } = self.sends[which].clone();
        if until_ms <= self.harness.now_ms {
            self.sends.swap_remove(which);
            return self.send_rows(topic, &messages, rows);
        }
        let before = lasting(&self.harness.state);
        let again = self.append(topic, rows);
        assert_eq!(again, places, "as it was answered at first");
        assert_eq!(lasting(&self.harness.state), before, "what is stored is not stored again");
    }

    /// Where the messages are then.
    fn append(&mut self, topic: usize, rows: Vec<AppendMessage>) -> Vec<(u16, u64)> {
        let append = Append { topic: TOPICS[topic].into(), messages: rows, checks: None, ..Append::default() };
        let reply = self.run(command::Kind::Append(append));
        let parts = match reply.kind {
            Some(reply::Kind::Appended(at)) => vec![at],
            Some(reply::Kind::AppendedApart(at)) if at.parts.len() > 1 => at.parts,
            other => panic!("not stored: {other:?}"),
        };
        let at = |part: &Appended| (0..u64::from(part.count)).map(|at| part.first_offset + at).collect::<Vec<_>>();
        parts.iter().flat_map(|part| at(part).into_iter().map(|offset| (part.queue as u16, offset))).collect()
    }

    fn send(&mut self, topic: usize, messages: &[(usize, u64)]) {
        let first = self.messages.len();
        let rows = messages.iter().zip(first..).map(|((tag, group), number)| AppendMessage {
            message_id_hash: 1_000 + number as u64,
            content_hash: 1,
            tag_hash: if *tag == 0 { 0 } else { tag_hash(TAGS[*tag]) },
            message_type: if *group == 0 { 1 } else { 2 },
            body_bytes: 1,
            message_group_hash: *group,
            ..AppendMessage::default()
        });
        let rows = rows.collect();
        self.send_rows(topic, messages, rows);
    }

    fn send_rows(&mut self, topic: usize, messages: &[(usize, u64)], rows: Vec<AppendMessage>) {
        let places = self.append(topic, rows.clone());
        assert_eq!(places.len(), messages.len());
        let until_ms = self.harness.now_ms + WINDOW_MS;
        self.sends.push(Sent { topic, messages: messages.to_vec(), rows, places: places.clone(), until_ms });
        for (slot, ((tag, group), (queue, offset))) in messages.iter().zip(places).enumerate() {
            self.places.insert((self.harness.log.len() as u64, slot as u32), self.messages.len());
            let visible_ms = self.harness.now_ms;
            self.messages.push(Message { topic, tag: *tag, group: *group, queue, offset, gone: false, visible_ms });
            self.seen.push(Default::default());
        }
    }

    /// A half message where there is no delivery time.
    fn send_to_wait(&mut self, topic: usize, messages: usize, delivery_ms: u64) {
        let row = AppendMessage {
            message_type: if delivery_ms == 0 { 4 } else { 3 },
            body_bytes: 1,
            message_id_hash: 77,
            delivery_ms,
            check_after_ms: 1_000,
            ..AppendMessage::default()
        };
        let checks = Checks { producer: "p".into(), interval_ms: 500, checks_max: 3, age_max_ms: 9_000 };
        let (name, messages) = (TOPICS[topic].to_owned(), vec![row; messages]);
        let count = messages.len();
        let now = self.harness.now_ms == delivery_ms;
        let reply = self.run(command::Kind::Append(Append {
            topic: name.clone(),
            messages,
            checks: Some(checks),
            ..Append::default()
        }));
        let Some(reply::Kind::Appended(at)) = reply.kind else { panic!("not stored: {reply:?}") };
        assert_eq!((at.count as usize, at.waits() == Waits::Nothing), (count, now));
        for slot in 0..count as u32 {
            let log_index = self.harness.log.len() as u64;
            let message = WaitingMessage { topic: name.clone(), log_index, slot, message_id_hash: 77 };
            self.waiting.push(Waiting { message, topic, delivery_ms, end: None, checks: 0 });
            if now {
                self.store_waiting(self.waiting.len() - 1);
            }
        }
    }

    /// A message that waited has got its place.
    fn store_waiting(&mut self, which: usize) {
        let waiting = &mut self.waiting[which];
        assert_eq!(waiting.end.replace(WaitingEnd::Stored), None);
        self.places.insert((waiting.message.log_index, waiting.message.slot), self.messages.len());
        let (topic, visible_ms) = (waiting.topic, self.harness.now_ms);
        let message = Message { topic, tag: 0, group: 0, queue: SOMEWHERE, offset: 0, gone: false, visible_ms };
        self.messages.push(message);
        self.seen.push(Default::default());
    }

    fn recall(&mut self, which: usize) {
        let delayed: Vec<_> = (0..self.waiting.len()).filter(|at| self.waiting[*at].delivery_ms > 0).collect();
        if delayed.is_empty() {
            return;
        }
        let which = delayed[which % delayed.len()];
        let waiting = self.waiting[which].clone();
        let recall = Recall { message: Some(waiting.message), delivery_ms: waiting.delivery_ms };
        match (self.run(command::Kind::Recall(recall)).refusal(), waiting.end) {
            (Refusal::Unspecified, None | Some(WaitingEnd::Taken)) => {
                self.waiting[which].end = Some(WaitingEnd::Taken);
            }
            (Refusal::TimerNotFound, Some(_)) => {}
            other => panic!("recalled: {other:?}"),
        }
    }

    fn decide(&mut self, which: usize, commit: bool) {
        let halves: Vec<_> = (0..self.waiting.len()).filter(|at| self.waiting[*at].delivery_ms == 0).collect();
        if halves.is_empty() {
            return;
        }
        let which = halves[which % halves.len()];
        let waiting = self.waiting[which].clone();
        let end = EndTransaction { message: Some(waiting.message), commit };
        let reply = self.run(command::Kind::EndTransaction(end));
        let first = match &reply.kind {
            Some(reply::Kind::Ended(ended)) => Some(ended.first),
            _ => None,
        };
        let told =
            reply.refusal() == Refusal::Unspecified && version(&self.harness.state).expect("read") >= FIRST_WORDS;
        assert_eq!(first, told.then_some(waiting.end.is_none()), "{reply:?}");
        match (reply.refusal(), waiting.end) {
            (Refusal::Unspecified, None) if commit => self.store_waiting(which),
            (Refusal::Unspecified, None) => self.waiting[which].end = Some(WaitingEnd::Taken),
            (Refusal::Unspecified, Some(WaitingEnd::Stored)) => assert!(commit),
            (Refusal::Unspecified, Some(WaitingEnd::Taken)) => assert!(!commit),
            (Refusal::AlreadyCommitted, Some(WaitingEnd::Stored)) => assert!(!commit),
            (Refusal::AlreadyRolledBack, Some(WaitingEnd::Taken)) => assert!(commit),
            (Refusal::HalfMessageNotFound, Some(_)) => {}
            other => panic!("ended: {other:?}"),
        }
    }

    /// What the leader does about half messages that are to be checked.
    fn check_wanted(&mut self, max: usize, sent: bool) {
        let wanted = half::wanted(&self.harness.state, max).expect("read");
        let mut messages = Vec::new();
        for (id, place) in &wanted {
            // The rows of a topic that is gone go by themselves.
            if topic::name(&self.harness.state, *id).expect("read").is_none() {
                continue;
            }
            let at = |waiting: &&mut Waiting| {
                (waiting.message.log_index, waiting.message.slot) == (place.log_index, place.slot)
            };
            let waiting = self.waiting.iter_mut().find(at).expect("a half message that was sent");
            if waiting.end.is_none() {
                waiting.checks += u32::from(sent);
            }
            messages.push(CheckedMessage { message: Some(waiting.message.clone()), sent });
        }
        let told = messages.len();
        self.run(command::Kind::Checked(Checked { messages }));
        let left = half::wanted(&self.harness.state, usize::MAX).expect("read");
        assert!(told < wanted.len() || !left.iter().any(|named| wanted.contains(named)), "{wanted:?} then {left:?}");
    }

    /// Half messages are counted as the leader said, and none that is open is forgotten: it is to be checked at some
    /// time or now, or it is parked, which none is too early.
    fn check_half(&self, topic: TopicId, waiting: &Waiting, asked: &[Vec<u8>]) {
        let place = InLog { log_index: waiting.message.log_index, slot: waiting.message.slot };
        let row = half::half(&self.harness.state, topic, place).expect("read").expect("an open half message");
        assert_eq!(row.checks, waiting.checks);
        let named = key::waiting(b'h', topic, place.log_index, place.slot);
        let times = asked.iter().filter(|key| key.ends_with(&named[1..])).count();
        match row.state {
            HalfState::Pending => assert_eq!(times, 1, "{waiting:?}"),
            HalfState::Parked => assert!(times == 0 && row.is_spent(self.harness.now_ms), "{waiting:?}"),
            ended => panic!("{waiting:?} is {ended:?}"),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn receive(
        &mut self,
        group: usize,
        topic: usize,
        number: usize,
        max: u32,
        invisible_ms: Option<u64>,
        unconfirmed: bool,
        attempt: u8,
    ) -> usize {
        let (topic_id, group_id) = self.ids(group, topic);
        let cursors: Vec<_> = (0..3)
            .map(|queue| progress::progress(&self.harness.state, topic_id, group_id, queue).expect("read").cursor)
            .collect();
        let judgement = filter(group, number).filter(|filter| !filter.sql.is_empty()).map(|filter| {
            let stored = |place: &Place| {
                let place = (place.log_index, place.slot);
                let origin = self.origins.get(&place).unwrap_or(&place);
                let tag = self.places.get(origin).map_or(0, |at| self.messages[*at].tag);
                let tag = (tag > 0).then(|| TAGS[tag].to_owned());
                StoredMessage { tag, ..StoredMessage::default() }
            };
            let now = judged(&self.harness.state, (GROUPS[group], TOPICS[topic]), &filter.sql, max, stored);
            let now = now.unwrap_or_else(|| Judge::of_nothing(&SqlFilter::parse(&filter.sql).expect("good")).finish());
            // Every other one comes late: others were faster.
            let before = self.judged.replace(now.clone());
            if self.harness.sequence.is_multiple_of(2) { before.unwrap_or(now) } else { now }
        });
        let renewed = invisible_ms.is_none();
        let confirm_ms = if renewed && unconfirmed { 1_500 } else { 0 };
        let reply = self.run(command::Kind::Lease(Lease {
            consumer_group: GROUPS[group].into(),
            topic: TOPICS[topic].into(),
            client_id: client(number),
            filter: filter(group, number).filter(|_| judgement.is_none()),
            messages_max: max,
            invisible_ms: invisible_ms.unwrap_or_default(),
            renewed,
            renew_max_ms: if renewed { RENEW_MAX_MS } else { 0 },
            nonce: 99,
            attempt_id: if attempt == 0 { String::new() } else { attempt.to_string() },
            create_consumer_group: false,
            confirm_ms,
            judgement,
            lite_topics: Vec::new(),
        }));
        let Some(reply::Kind::Leased(leased)) = reply.kind else { panic!("not leased: {reply:?}") };
        assert!(leased.messages.len() <= max.max(8) as usize);
        for message in &leased.messages {
            let place = (message.log_index, message.slot);
            let at = self.places[self.origins.get(&place).unwrap_or(&place)];
            self.in_order(group, at);
            if self.messages[at].queue == SOMEWHERE {
                (self.messages[at].queue, self.messages[at].offset) = (message.queue as u16, message.offset);
            }
            let (place, seen) = (&self.messages[at], &mut self.seen[at][group]);
            assert_eq!((place.topic, u32::from(place.queue), place.offset), (topic, message.queue, message.offset));
            let handle = Handle {
                consumer_group_id: leased.consumer_group_id,
                lease_id: leased.lease_id,
                item: message.item,
                nonce: leased.nonce,
            };
            let now_ms = self.harness.now_ms;
            let held = match renewed {
                true if confirm_ms > 0 => Held::Unconfirmed(number, now_ms + confirm_ms, now_ms + RENEW_MAX_MS),
                true => Held::Renewed(number, now_ms + RENEW_MAX_MS),
                false => Held::Until(leased.deadline_ms),
            };
            assert!(!seen.acked && !seen.dead, "finished messages do not come back");
            assert_eq!(message.attempt, seen.ended + 1);
            assert!(message.attempt <= RETRY_MAX[group] + 1);
            let wanted = if group == 0 { FILTERS[number] } else { "" };
            let wanted = wanted.strip_prefix("sql:TAGS = ").map_or(wanted, |text| text.trim_matches('\''));
            assert!(wanted.is_empty() || wanted == TAGS[place.tag], "the filter holds");
            match &mut seen.held {
                // The same receive asked again.
                Some((known, until)) => {
                    assert_eq!(known, &handle, "nobody else gets a message while its lease is valid");
                    assert!(attempt > 0);
                    match (&*until, held) {
                        (Held::Renewed(..), Held::Renewed(..)) => {}
                        // It is confirmed from its making on, whenever that happens.
                        (Held::Renewed(_, renew) | Held::Unconfirmed(_, _, renew), Held::Unconfirmed(by, at, _)) => {
                            *until = Held::Unconfirmed(by, at, *renew);
                        }
                        (_, held) => *until = held,
                    }
                }
                None => {
                    seen.told.push(format!("leased to c{number} {}", message.attempt));
                    seen.held = Some((handle, held));
                    seen.fresh = message.offset >= cursors[message.queue as usize];
                    seen.suspended = false;
                    seen.delivered = true;
                    self.handles.push((handle, group, at));
                }
            }
        }
        leased.messages.len()
    }

    /// A message may be delivered: no other one of its message group is out, and no later one ever was.
    fn in_order(&self, group: usize, at: usize) {
        let message = &self.messages[at];
        for (other, (known, seen)) in self.messages.iter().zip(&self.seen).enumerate() {
            let same = message.group != 0 && known.group == message.group && known.topic == message.topic;
            if same && !known.gone && other != at {
                assert!(seen[group].held.is_none(), "two messages of a message group are out");
                assert!(other < at || !seen[group].delivered, "a message was overtaken");
            }
        }
    }

    fn dead(&mut self, which: usize) {
        let Some((handle, group, at)) = self.pick(which) else { return };
        let before = lasting(&self.harness.state);
        let dead = DeadLetter {
            consumer_group: GROUPS[group].into(),
            topic: TOPICS[self.messages[at].topic].into(),
            handle: Some(handle),
        };
        let refusal = self.run(command::Kind::DeadLetter(dead)).refusal();
        let seen = &mut self.seen[at][group];
        if seen.held.as_ref().is_some_and(|(valid, _)| *valid == handle) {
            assert_eq!(refusal, Refusal::Unspecified);
            seen.held = None;
            seen.dead = true;
            seen.told.push(format!("dead {}", seen.ended + 1));
        } else {
            assert_eq!(lasting(&self.harness.state), before, "other handles change nothing");
        }
    }

    fn ack_command(&mut self, group: usize, topic: usize, handle: Handle) -> Refusal {
        let ack = Ack { consumer_group: GROUPS[group].into(), topic: TOPICS[topic].into(), handles: vec![handle] };
        match self.run(command::Kind::Ack(ack)).kind {
            Some(reply::Kind::Acked(acked)) => Refusal::try_from(acked.refusals[0]).expect("known"),
            other => panic!("not acked: {other:?}"),
        }
    }

    fn confirm(&mut self, which: usize) {
        let Some((Handle { consumer_group_id, lease_id, .. }, ..)) = self.pick(which) else { return };
        let leases = vec![LeaseName { consumer_group_id, lease_id }];
        self.run(command::Kind::ConfirmLeases(ConfirmLeases { leases, renew_max_ms: RENEW_MAX_MS }));
        let now_ms = self.harness.now_ms;
        for (handle, held) in self.seen.iter_mut().flatten().filter_map(|seen| seen.held.as_mut()) {
            if (handle.consumer_group_id, handle.lease_id) == (consumer_group_id, lease_id)
                && let Held::Unconfirmed(client, _, renew_ms) = held
            {
                *held = Held::Renewed(*client, (*renew_ms).max(now_ms + 1));
            }
        }
    }

    fn ack(&mut self, which: usize) {
        let Some((handle, group, at)) = self.pick(which) else { return };
        let topic = self.messages[at].topic;
        let before = lasting(&self.harness.state);
        let refusal = self.ack_command(group, topic, handle);
        let seen = &mut self.seen[at][group];
        if seen.held.as_ref().is_some_and(|(valid, _)| *valid == handle) {
            assert_eq!(refusal, Refusal::Unspecified, "a valid handle acknowledges");
            seen.held = None;
            seen.acked = true;
            seen.told.push(format!("acked {}", seen.ended + 1));
        } else {
            assert_eq!(lasting(&self.harness.state), before, "other handles change nothing");
            assert!(refusal == Refusal::InvalidHandle || seen.acked || seen.dead || self.messages[at].gone);
        }
    }

    fn forge(&mut self, which: usize, how: u8) {
        let Some((mut handle, mut group, at)) = self.pick(which) else { return };
        let mut topic = self.messages[at].topic;
        match how {
            0 => handle.nonce ^= 1,
            1 => handle.lease_id += 1 << 20,
            2 => handle.item += 1_000,
            3 => group = 1 - group,
            _ => topic = 1 - topic,
        }
        let before = lasting(&self.harness.state);
        let refusal = self.ack_command(group, topic, handle);
        assert_eq!(lasting(&self.harness.state), before, "a forged handle changes nothing");
        // A lease whose items were all acknowledged left no row that knows its topic.
        assert!(refusal == Refusal::InvalidHandle || how == 4);
        let change = ChangeInvisible {
            consumer_group: GROUPS[group].into(),
            topic: TOPICS[topic].into(),
            handle: Some(handle),
            invisible_ms: 0,
            suspend: false,
        };
        assert_eq!(self.run(command::Kind::ChangeInvisible(change)).refusal(), Refusal::InvalidHandle);
        assert_eq!(lasting(&self.harness.state), before, "a forged handle changes nothing");
    }

    fn hide(&mut self, which: usize, invisible_ms: u64, suspend: bool) {
        let Some((handle, group, at)) = self.pick(which) else { return };
        let before = lasting(&self.harness.state);
        let reply = self.run(command::Kind::ChangeInvisible(ChangeInvisible {
            consumer_group: GROUPS[group].into(),
            topic: TOPICS[self.messages[at].topic].into(),
            handle: Some(handle),
            invisible_ms,
            suspend,
        }));
        let now_ms = self.harness.now_ms;
        let seen = &mut self.seen[at][group];
        if seen.held.as_ref().is_none_or(|(valid, _)| *valid != handle) {
            assert_eq!(reply.refusal(), Refusal::InvalidHandle);
            assert_eq!(lasting(&self.harness.state), before, "other handles change nothing");
            return;
        }
        let Some(reply::Kind::Invisible(invisible)) = reply.kind else { panic!("not changed: {reply:?}") };
        let handle = invisible.handle.expect("never empty");
        seen.suspended = suspend;
        if invisible_ms == 0 {
            // Who gives a message back has got it.
            seen.held = None;
            give_back(seen, RETRY_MAX[group], now_ms, "given back");
        } else {
            seen.told.push(format!("extended {}", seen.ended + 1));
            seen.held = Some((handle, Held::Until(now_ms + invisible_ms)));
            self.handles.push((handle, group, at));
        }
    }

    fn tick(&mut self) {
        loop {
            let reply = self.run(command::Kind::Tick(Tick {}));
            if !matches!(reply.kind, Some(reply::Kind::Ticked(ticked)) if ticked.more) {
                break;
            }
        }
        for which in 0..self.waiting.len() {
            let waiting = &self.waiting[which];
            if waiting.end.is_none() && (1..=self.harness.now_ms).contains(&waiting.delivery_ms) {
                self.store_waiting(which);
            }
        }
        self.give_back("ran out", |held, now_ms| match held {
            Held::Until(at_ms) | Held::Renewed(_, at_ms) | Held::Unconfirmed(_, at_ms, _) => *at_ms <= now_ms,
        });
    }

    fn give_back(&mut self, why: &str, ends: impl Fn(&Held, u64) -> bool) {
        let now_ms = self.harness.now_ms;
        for seen in &mut self.seen {
            for (seen, retry_max) in seen.iter_mut().zip(RETRY_MAX) {
                if seen.held.as_ref().is_some_and(|(_, held)| ends(held, now_ms)) {
                    give_back(seen, retry_max, now_ms, why);
                }
            }
        }
    }

    fn pick(&self, which: usize) -> Option<(Handle, usize, usize)> {
        (!self.handles.is_empty()).then(|| self.handles[which % self.handles.len()])
    }

    /// Progress and counts are right.
    fn check(&self) {
        let mut asked = Vec::new();
        for letter in [b"c", b"w"] {
            let mut note = |key: &[u8], _: &[u8]| {
                asked.push(key.to_vec());
                ControlFlow::Continue(())
            };
            self.harness.state.scan(key::HALF, letter, &key::after(letter), &mut note).expect("read");
        }
        for (number, name) in TOPICS.iter().enumerate() {
            let id = TopicId(topic::topic(&self.harness.state, name).expect("read").expect("exists").id);
            let open = |half: bool| {
                let waits = |waiting: &&Waiting| {
                    waiting.topic == number && waiting.end.is_none() && half == (waiting.delivery_ms == 0)
                };
                self.waiting.iter().filter(waits).count() as u64
            };
            assert_eq!(timer::waiting(&self.harness.state, id).expect("read"), open(false));
            assert_eq!(half::waiting(&self.harness.state, id).expect("read"), open(true));
            let halves = self
                .waiting
                .iter()
                .filter(|waiting| waiting.topic == number && waiting.end.is_none() && waiting.delivery_ms == 0);
            halves.for_each(|waiting| self.check_half(id, waiting, &asked));
        }
        for group in 0..2 {
            for (topic, name) in TOPICS.iter().enumerate() {
                let (topic_id, group_id) = self.ids(group, topic);
                let of_topic = || {
                    self.messages.iter().zip(&self.seen).filter(|(message, _)| message.topic == topic && !message.gone)
                };
                for number in 0..3 {
                    let found = progress::progress(&self.harness.state, topic_id, group_id, number).expect("read");
                    let flying: Vec<_> = of_topic()
                        .filter(|(m, seen)| m.queue == number && seen[group].held.is_some() && seen[group].fresh)
                        .map(|(m, _)| m.offset)
                        .collect();
                    let lowest = flying.iter().min().copied().unwrap_or(found.cursor);
                    assert_eq!((found.progress, found.in_flight), (lowest, flying.len() as u64));
                    assert!(found.progress <= found.cursor);
                }
                let retry = subscription::subscription(&self.harness.state, topic_id, group_id).expect("read");
                let flying = of_topic().filter(|(_, s)| s[group].held.is_some() && !s[group].fresh).count();
                let dead = of_topic().filter(|(_, s)| s[group].dead).count();
                let retry = retry.unwrap_or_default();
                assert_eq!((retry.retry_in_flight, retry.dead_letters), (flying as u64, dead as u64));
                if group == 1 {
                    let open = of_topic().filter(|(_, s)| !s[group].acked && !s[group].dead).count();
                    let topic = topic::topic(&self.harness.state, name).expect("read").expect("exists");
                    let lag = lag(&self.harness.state, &topic, group_id).expect("read");
                    assert_eq!(lag.messages() + lag.expired, open as u64, "{lag:?}");
                }
            }
        }
    }

    /// Of each message that is kept, the history tells all that was done to it, in order and nothing else.
    fn check_history(&self) {
        for (message, seen) in self.messages.iter().zip(&self.seen) {
            if message.gone || message.queue == SOMEWHERE {
                continue;
            }
            for (group, seen) in seen.iter().enumerate() {
                let (topic_id, group_id) = self.ids(group, message.topic);
                let state = &self.harness.state;
                if message.offset < queue::queue(state, topic_id, message.queue).expect("read").min {
                    continue;
                }
                let (events, more) = history(state, topic_id, message.queue, message.offset).expect("read");
                assert!(!more);
                let mut told = Vec::new();
                for event in events.into_iter().filter(|event| event.group == group_id) {
                    let what = match event.what {
                        What::Leased { client_id, .. } => format!("leased to {client_id}"),
                        What::Acked => "acked".into(),
                        What::GivenBack => "given back".into(),
                        What::RanOut => "ran out".into(),
                        What::SessionEnded => "session ended".into(),
                        What::DeadLettered { .. } => "dead".into(),
                        What::Extended { .. } => "extended".into(),
                        What::AskedAgain { .. } | What::Confirmed | What::Visible => continue,
                    };
                    told.push(format!("{what} {}", event.attempt));
                }
                assert_eq!(told, seen.told, "offset {}", message.offset);
            }
        }
    }

    /// Everything comes out in the end.
    fn drain(&mut self) {
        self.harness.now_ms += 36_000_000;
        self.tick();
        for group in 0..2 {
            for topic in 0..2 {
                while self.receive(group, topic, 2, 256, Some(1_000), false, 0) > 0 {
                    let open: Vec<_> = self.seen.iter().filter_map(|s| Some(s[group].held.as_ref()?.0)).collect();
                    for handle in open {
                        let which = self.handles.iter().position(|(known, ..)| *known == handle).expect("issued");
                        self.ack(which);
                    }
                }
            }
        }
        for (message, seen) in self.messages.iter().zip(&self.seen) {
            for (group, seen) in seen.iter().enumerate() {
                // Nobody in the first group subscribes to messages without a tag while the third client is away.
                let may_be_skipped = group == 0 && message.tag == 0;
                // Retention takes what was visible, or waits to be delivered again, since before the trim's time.
                let since_ms = if seen.delivered { seen.ended_ms } else { message.visible_ms };
                let expired = seen.held.is_none() && since_ms <= self.horizon_ms;
                assert!(seen.acked || seen.dead || may_be_skipped || message.gone || expired, "lost: {seen:?}");
            }
        }
        for group in 0..2 {
            let dead = self.seen.iter().filter(|seen| seen[group].dead).count() as u64;
            let name = topic::dead_letter_name(GROUPS[group]);
            let stored = topic::topic(&self.harness.state, &name)
                .expect("read")
                .map_or(0, |topic| queue::queue(&self.harness.state, TopicId(topic.id), 0).expect("read").next);
            assert_eq!(stored, dead);
        }
    }
}

fn give_back(seen: &mut Seen, retry_max: u32, now_ms: u64, why: &str) {
    let attempt = seen.ended + 1;
    seen.told.push(format!("{why} {attempt}"));
    seen.ended_ms = now_ms;
    let unconfirmed = matches!(seen.held.take(), Some((_, Held::Unconfirmed(..))));
    seen.ended += u32::from(!seen.suspended && !unconfirmed);
    seen.dead = seen.ended > retry_max;
    if seen.dead {
        seen.told.push(format!("dead {attempt}"));
    }
    seen.fresh = false;
}

/// What no node would say.
fn judgement() -> impl Strategy<Value = Option<Judgement>> {
    let run = (0..30_u64, 0..4_u32, any::<u32>(), any::<Vec<u8>>());
    let run = run.prop_map(|(log_index, first_slot, count, matches)| JudgedRun {
        log_index,
        first_slot,
        count,
        matches: matches.into(),
    });
    let runs = proptest::collection::vec(run, 0..3);
    let said = (proptest::collection::vec(0..3_u64, 0..3), runs, any::<u32>());
    proptest::option::of(said.prop_map(|(filters, runs, first_queue)| Judgement { filters, runs, first_queue }))
}

/// Commands that need not make sense.
fn any_command() -> impl Strategy<Value = command::Kind> {
    let name = || prop_oneof![Just(String::from("t")), Just("g".into()), Just("%DLQ%g".into()), Just(String::new())];
    let handle =
        || {
            (0..6u64, any::<u64>(), 0..3u32, any::<u64>()).prop_map(|(consumer_group_id, lease_id, item, nonce)| {
                Handle { consumer_group_id, lease_id, item, nonce }
            })
        };
    prop_oneof![
        (name(), 0..4u32, any::<u32>(), 0..8u32).prop_map(|(name, queues, write_queues, permission)| {
            let write_queues = if write_queues % 4 == 0 { write_queues } else { queues };
            let topic = Topic {
                name,
                read_queues: queues,
                write_queues,
                permission,
                message_types: vec![1, 2],
                ..Topic::default()
            };
            command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })
        }),
        name().prop_map(|name| command::Kind::DeleteTopic(DeleteTopic { name })),
        name().prop_map(|name| command::Kind::DeleteConsumerGroup(DeleteConsumerGroup { name })),
        (name(), 0..4usize, 0..3i32, 0..4u64).prop_map(|(topic, messages, message_type, hash)| {
            let message = AppendMessage {
                tag_hash: 5,
                message_type,
                body_bytes: u32::MAX,
                message_group_hash: if message_type == 2 { hash } else { hash / 3 },
                delivery_ms: hash << 40,
                priority: u32::try_from(hash).unwrap_or(u32::MAX),
                ..AppendMessage::default()
            };
            command::Kind::Append(Append {
                topic,
                messages: vec![message; messages],
                checks: None,
                ..Append::default()
            })
        }),
        (name(), name(), any::<u32>(), any::<u64>(), any::<bool>(), any::<u64>(), any::<u64>(), judgement()).prop_map(
            |(topic, consumer_group, messages_max, invisible_ms, renewed, renew_max_ms, confirm_ms, judgement)| {
                command::Kind::Lease(Lease {
                    topic,
                    consumer_group,
                    messages_max,
                    invisible_ms: invisible_ms >> 20,
                    renewed,
                    renew_max_ms,
                    confirm_ms: confirm_ms.saturating_sub(u64::MAX / 2),
                    client_id: "c".into(),
                    create_consumer_group: true,
                    judgement,
                    ..Lease::default()
                })
            }
        ),
        (name(), name(), proptest::collection::vec(handle(), 0..3))
            .prop_map(|(topic, consumer_group, handles)| command::Kind::Ack(Ack { topic, consumer_group, handles })),
        (name(), name(), proptest::option::of(handle()), any::<u64>()).prop_map(
            |(topic, consumer_group, handle, invisible_ms)| {
                command::Kind::ChangeInvisible(ChangeInvisible {
                    topic,
                    consumer_group,
                    handle,
                    invisible_ms,
                    suspend: false,
                })
            }
        ),
        (name(), name()).prop_map(|(client_id, consumer_group)| command::Kind::PutSession(PutSession {
            client_id,
            consumer_group,
            create_consumer_group: true,
            ..PutSession::default()
        })),
        name().prop_map(|client_id| command::Kind::EndSession(EndSession { client_id, term: 0 })),
        (proptest::collection::vec(handle(), 0..3), any::<u64>()).prop_map(|(handles, renew_max_ms)| {
            let name =
                |handle: Handle| LeaseName { consumer_group_id: handle.consumer_group_id, lease_id: handle.lease_id };
            let leases = handles.into_iter().map(name).collect();
            command::Kind::ConfirmLeases(ConfirmLeases { leases, renew_max_ms })
        }),
        (any::<u64>(), any::<bool>())
            .prop_map(|(upto, settle)| command::Kind::Trim(Trim { upto: upto >> (upto & 63), settle })),
        name().prop_map(|topic| command::Kind::Expire(Expire { topic, from_queue: 0 })),
        (0..40u64, 0..4u32, 0..3u32, proptest::collection::vec(any::<u8>(), 0..26)).prop_map(
            |(log_index, slot, count, keeper)| {
                let moved = Reappended { log_index, slot, count, keeper: keeper.into() };
                command::Kind::Reappend(Reappend { moved: vec![moved] })
            }
        ),
        Just(command::Kind::Tick(Tick {})),
    ]
}

proptest! {
    #[test]
    fn clients_are_told_the_truth(steps in steps(), activated in any::<bool>()) {
        let mut model = Model::new(if activated { Harness::activated() } else { Harness::new() });
        for step in steps {
            model.step(step);
            model.check();
        }
        model.drain();
        model.check();
        if activated {
            model.check_history();
        }
        for chunk in [1, 7, 10_000] {
            model.harness.assert_replays(chunk);
        }
    }

    #[test]
    fn no_command_breaks_the_machine(
        entries in proptest::collection::vec(
            (proptest::collection::vec(any_command(), 0..5), 0..4u64, 0..5u64, any::<u64>()), 0..40),
        activated in any::<bool>(),
    ) {
        let mut harness = if activated { Harness::activated() } else { Harness::new() };
        for (kinds, boot, settled, step) in entries {
            let mut batch = harness.batch(kinds);
            batch.boot = boot;
            batch.settled = settled.wrapping_mul(step);
            batch.sequence = batch.sequence.wrapping_mul(settled | 1);
            harness.now_ms = harness.now_ms.wrapping_add(step >> 24);
            harness.apply_batches(&[batch]);
        }
        harness.assert_replays(1);
        harness.assert_replays(9);
    }

    #[test]
    fn garbage_in_the_log_stops_the_node(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut payload = vec![crate::command::FORMAT];
        payload.extend_from_slice(&bytes);
        let state = State::ordered(crate::store::TABLES);
        let garbage = Payload::parse(payload.clone().into()).and_then(|payload| payload.entry()).is_err();
        let mut batch = state.batch();
        let at = super::EntryAt { index: LogIndex(1), term: super::TERM };
        let outcome = super::Rules::default().apply_payload(at, payload.into(), &mut batch);
        assert_eq!(matches!(outcome, Err(StateError::Unreadable(_))), garbage);
        assert!(garbage || outcome.is_ok());
    }
}
