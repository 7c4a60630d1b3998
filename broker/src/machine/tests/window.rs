//! The window of idempotent sends against a plain list of all that was stored.

use super::timeline::{check_activated, check_with};
use super::{Effect, Harness, Rules};
use crate::machine::MESSAGES_MAX;
use crate::machine::version::EVERY_CONTENT;
use crate::machine::window::Window;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Activate, Append, AppendMessage, Appended, PutSetting, PutTopic, Topic, Waits, reply};
use std::collections::VecDeque;

const TOPICS: [&str; 2] = ["t", "u"];
const WINDOW_MS: u64 = 1_000;
/// Entries that are forgotten with one entry at most.
const FORGOTTEN_MAX: usize = 4;

#[derive(Debug, Clone)]
struct Said {
    id: u64,
    content: u64,
    delayed: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// One entry: sends to topics.
    Send(Vec<(usize, Vec<Said>)>),
    Advance(u64),
    MessagesMax(u64),
    Activate,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let said = (0..3u64, 1..4u64, any::<bool>()).prop_map(|(id, content, delayed)| Said { id, content, delayed });
    let sends = proptest::collection::vec((0..2usize, proptest::collection::vec(said, 1..4)), 1..3);
    let step = prop_oneof![
        8 => sends.prop_map(Step::Send),
        3 => (0..700u64).prop_map(Step::Advance),
        1 => (2..20u64).prop_map(Step::MessagesMax),
        1 => Just(Step::Activate),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

/// Where a message is: queue and offset, or entry and slot where it waits.
type Place = (bool, u64, u64);

fn places(kind: Option<reply::Kind>) -> Vec<Place> {
    let parts = match kind {
        Some(reply::Kind::Appended(at)) => vec![at],
        Some(reply::Kind::AppendedApart(at)) => at.parts,
        other => panic!("not stored: {other:?}"),
    };
    let each = |part: &Appended, at: u64| match part.waits() {
        Waits::Nothing => (false, u64::from(part.queue), part.first_offset + at),
        _ => (true, part.log_index, u64::from(part.first_slot) + at),
    };
    parts.iter().flat_map(|part| (0..u64::from(part.count)).map(move |at| each(part, at))).collect()
}

struct Stored {
    log_index: u64,
    time_ms: u64,
    topic: usize,
    id: u64,
    content: u64,
    place: Place,
}

struct Model {
    harness: Harness,
    activated: bool,
    messages_max: u64,
    /// What is remembered, the oldest first.
    stored: VecDeque<Stored>,
}

impl Model {
    fn new() -> Model {
        let mut model =
            Model { harness: Harness::new(), activated: false, messages_max: 1_000, stored: VecDeque::new() };
        let topic = |name: &&str| Topic {
            name: (*name).into(),
            read_queues: 2,
            write_queues: 2,
            permission: 6,
            message_types: vec![1, 3],
            ..Topic::default()
        };
        let puts = TOPICS.iter().map(|name| Kind::PutTopic(PutTopic { topic: Some(topic(name)), create_only: false }));
        model.entry(puts.collect());
        model.set(crate::machine::WINDOW_MS, WINDOW_MS);
        model.set(MESSAGES_MAX, model.messages_max);
        model
    }

    fn set(&mut self, key: &str, value: u64) {
        self.entry(vec![Kind::PutSetting(PutSetting {
            key: key.into(),
            value: value.to_string().into_bytes().into(),
        })]);
    }

    fn entry(&mut self, kinds: Vec<Kind>) -> Vec<Option<reply::Kind>> {
        let batch = self.harness.batch(kinds);
        let replies = self.harness.apply_batches(&[batch]).remove(0).replies;
        replies.into_iter().map(|reply| reply.kind).collect()
    }

    /// As the machine does at the end of each entry.
    fn forget(&mut self) {
        for _ in 0..FORGOTTEN_MAX {
            let Some(oldest) = self.stored.front() else { return };
            let over = oldest.time_ms + WINDOW_MS <= self.harness.now_ms;
            if !over && self.stored.len() as u64 <= self.messages_max {
                return;
            }
            let log_index = oldest.log_index;
            self.stored.retain(|stored| stored.log_index != log_index);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(sends) => self.send(&sends),
            Step::Advance(ms) => self.harness.now_ms += ms,
            Step::MessagesMax(max) => {
                self.messages_max = max;
                self.set(MESSAGES_MAX, max);
                self.forget();
            }
            Step::Activate => {
                self.activated = true;
                self.entry(vec![Kind::Activate(Activate { version: EVERY_CONTENT })]);
                self.forget();
            }
            Step::Restart => self.harness.rules = Rules::default(),
        }
        self.check();
    }

    fn send(&mut self, sends: &[(usize, Vec<Said>)]) {
        let now_ms = self.harness.now_ms;
        let message = |said: &Said| AppendMessage {
            message_type: if said.delayed { 3 } else { 1 },
            body_bytes: 1,
            message_id_hash: said.id,
            content_hash: said.content,
            delivery_ms: if said.delayed { now_ms + 3_600_000 } else { 0 },
            ..AppendMessage::default()
        };
        let append = |(topic, messages): &(usize, Vec<Said>)| {
            let messages = messages.iter().map(message).collect();
            Kind::Append(Append { topic: TOPICS[*topic].into(), messages, ..Append::default() })
        };
        let replies = self.entry(sends.iter().map(append).collect());
        let log_index = self.harness.log.len() as u64;
        let (mut repeated, mut reused) = (0, 0);
        for ((topic, messages), reply) in sends.iter().zip(replies) {
            let places = places(reply);
            assert_eq!(places.len(), messages.len());
            for (said, place) in messages.iter().zip(places) {
                let named = |stored: &&Stored| (stored.topic, stored.id) == (*topic, said.id);
                let alive = |stored: &&Stored| stored.time_ms + WINDOW_MS > now_ms;
                let mut same_id = self.stored.iter().rev().filter(named).filter(alive).peekable();
                let is_used = same_id.peek().is_some();
                if let Some(first) = same_id.find(|stored| stored.content == said.content) {
                    assert_eq!(place, first.place, "as it was answered at first: {said:?}");
                    repeated += 1;
                    continue;
                }
                reused += u64::from(is_used);
                if !self.activated {
                    // The newest one of an id was all that was known.
                    let known = self.stored.iter_mut().filter(|stored| (stored.topic, stored.id) == (*topic, said.id));
                    known.for_each(|stored| stored.content = 0);
                }
                let Said { id, content, .. } = *said;
                assert!(self.stored.iter().all(|stored| stored.topic != *topic || stored.place != place));
                self.stored.push_back(Stored { log_index, time_ms: now_ms, topic: *topic, id, content, place });
            }
        }
        let mut told = (0, 0);
        for effect in &self.harness.effects {
            if let Effect::SentAgain { repeated, reused, .. } = effect {
                told = (told.0 + repeated, told.1 + reused);
            }
        }
        assert_eq!(told, (repeated, reused));
        self.forget();
    }

    /// What is in memory is what a restart makes of the rows, and bounded by them.
    fn check(&self) {
        let mut loaded = Window::default();
        loaded.load(&self.harness.state).expect("rows are read");
        let running = &self.harness.rules.window;
        assert!(!running.is_loaded() || loaded.holds_as(running), "{running:?} is not what the rows hold: {loaded:?}");
        assert_eq!(loaded.messages(), self.stored.len() as u64);
        assert!(loaded.places() <= self.stored.len(), "no more places than messages: {loaded:?}");
    }
}

proptest! {
    #[test]
    fn what_is_remembered_is_stored_once(steps in steps(), activated in any::<bool>()) {
        let mut model = Model::new();
        if activated {
            model.step(Step::Activate);
        }
        for step in steps {
            model.step(step);
        }
        // Nothing is left of what is over.
        model.harness.now_ms += WINDOW_MS;
        for _ in 0..80 {
            model.step(Step::MessagesMax(9));
        }
        assert_eq!((model.stored.len(), model.harness.rules.window.places()), (0, 0));
        for chunk in [1, 4, 1_000] {
            model.harness.assert_replays(chunk);
        }
    }
}

/// Two containers that make the same ids, each of which sends its message again.
#[test]
fn messages_of_one_id_are_each_stored_once() {
    check_activated(
        "topic t types=1,3,4; topic u
         send t id=x a            => 0@0+1
         send t id=x content=2 b  => 0@1+1
         again                    => 0 1
         send t id=x a            => 0@0+1
         again                    => 1 0
         send t id=x content=2 b  => 0@1+1
         delay t 1h id=x content=3 c => waits 1
         again                    => 0 1
         restart
         send t id=x a            => 0@0+1
         send t id=x content=2 b  => 0@1+1
         delay t 1h id=x content=3 c2 => waits 1
         again                    => 1 0
         waiting t                => 1 timers, 0 halves, 0 parked
         send u id=x content=2 d  => 0@0+1
         again                    => 0 0
         half t id=x content=4 e  => waits 1
         half t id=x content=4 e2 => waits 1
         +30s; send t id=x content=5 f => 0@2+1
         +570s; send t id=x content=5 f => 0@2+1
         send t id=x a            => 0@3+1
         again                    => 0 1
         restart
         send t id=x content=5 f  => 0@2+1
         send t id=x a            => 0@3+1
         set idempotence.messages.max 1
         send t id=y g            => 0@4+1
         send t id=x content=5 f  => 0@5+1",
    );
}

/// What version 4 forgot stays forgotten, on members that go on as on those that start anew.
#[test]
fn the_window_of_before_an_activation_is_read_as_it_was_meant() {
    let script = |restart: &str| {
        format!(
            "activate 4; topic t
             send t id=x a            => 0@0+1
             send t id=x content=2 b  => 0@1+1
             send t id=y c            => 0@2+1
             activate {EVERY_CONTENT}; {restart}
             send t id=y content=2 d  => 0@3+1
             send t id=y c            => 0@2+1
             send t id=x a            => 0@4+1
             {restart}
             send t id=x content=2 b  => 0@1+1
             send t id=x a            => 0@4+1
             send t id=y content=2 d  => 0@3+1"
        )
    };
    check_with(Harness::new(), &script(""));
    check_with(Harness::new(), &script("restart"));
}
