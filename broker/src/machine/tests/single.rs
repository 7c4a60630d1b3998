//! Receives of one message: while retries and fresh messages wait, each gets its part of them.

use super::Harness;
use super::timeline::check_activated;
use crate::machine::version::COUNTED_RETRIES;
use crate::store::{ConsumerGroupId, TopicId, consumer_group, progress, queue, subscription, topic};
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{
    Activate, Append, AppendMessage, ChangeInvisible, Handle, Lease, LeasedMessage, PutTopic, Topic, reply,
};

const QUEUES: u32 = 3;

#[derive(Debug, Clone)]
enum Step {
    Send(usize),
    /// By this consumer group, of so many messages; then so many of them are given back.
    Receive(usize, u32, usize),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..4usize).prop_map(Step::Send),
        12 => (0..2usize, 1..3usize).prop_map(|(group, back)| Step::Receive(group, 1, back)),
        2 => (0..2usize, 2..6u32, 0..6usize).prop_map(|(group, max, back)| Step::Receive(group, max, back)),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..200)
}

struct Model {
    harness: Harness,
    /// Of the last receives of one message by each group while both kinds waited: whether it was a fresh one.
    fresh: [Vec<bool>; 2],
}

impl Model {
    fn new() -> Model {
        let mut harness = Harness::new();
        harness.run(Kind::Activate(Activate { version: COUNTED_RETRIES }));
        let topic = Topic { name: "t".into(), read_queues: QUEUES, write_queues: QUEUES, ..Topic::default() };
        let topic = Topic { permission: 6, message_types: vec![1], ..topic };
        harness.run(Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
        let mut model = Model { harness, fresh: [Vec::new(), Vec::new()] };
        (0..2).for_each(|group| drop(model.lease(group, 1)));
        model
    }

    fn lease(&mut self, group: usize, messages_max: u32) -> Vec<(Handle, LeasedMessage)> {
        let reply = self.harness.run(Kind::Lease(Lease {
            client_id: "c".into(),
            consumer_group: group.to_string(),
            topic: "t".into(),
            messages_max,
            invisible_ms: 3_600_000,
            create_consumer_group: true,
            ..Lease::default()
        }));
        let Some(reply::Kind::Leased(leased)) = reply.kind else { panic!("not leased: {reply:?}") };
        let handle = |item| Handle {
            consumer_group_id: leased.consumer_group_id,
            lease_id: leased.lease_id,
            item,
            nonce: leased.nonce,
        };
        leased.messages.iter().map(|message| (handle(message.item), *message)).collect()
    }

    /// Whether there are retries, and fresh messages.
    fn waiting(&self, group: usize) -> (bool, bool) {
        let state = &self.harness.state;
        let topic = TopicId(topic::topic(state, "t").expect("read").expect("made").id);
        let group = consumer_group::consumer_group(state, &group.to_string()).expect("read").expect("made");
        let group = ConsumerGroupId(group.id);
        let share = subscription::subscription(state, topic, group).expect("read").unwrap_or_default();
        let fresh = (0..QUEUES as u16).any(|number| {
            let next = queue::queue(state, topic, number).expect("read").next;
            progress::progress(state, topic, group, number).expect("read").cursor < next
        });
        (share.retry_waiting > 0, fresh)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(messages) => {
                let message = AppendMessage { message_type: 1, body_bytes: 1, ..AppendMessage::default() };
                let messages = vec![message; messages];
                self.harness.run(Kind::Append(Append { topic: "t".into(), messages, ..Append::default() }));
            }
            Step::Receive(group, max, back) => {
                let both = self.waiting(group) == (true, true);
                let leased = self.lease(group, max);
                if max == 1 && !both {
                    self.fresh[group].clear();
                } else if max == 1 {
                    assert_eq!(leased.len(), 1);
                    self.fresh[group].push(leased[0].1.attempt == 1);
                }
                for (handle, _) in leased.into_iter().take(back) {
                    self.harness.run(Kind::ChangeInvisible(ChangeInvisible {
                        consumer_group: group.to_string(),
                        topic: "t".into(),
                        handle: Some(handle),
                        invisible_ms: 0,
                        suspend: false,
                    }));
                }
            }
            Step::Restart => self.harness.rules = super::Rules::default(),
        }
        for fresh in &self.fresh {
            let of = |messages: usize| fresh.iter().rev().take(messages).filter(|fresh| **fresh).count();
            if fresh.len() >= 5 {
                assert_eq!(of(5), 1, "one of five is a fresh one: {fresh:?}");
            }
            if fresh.len() >= 10 {
                assert_eq!(of(10), 2, "{fresh:?}");
            }
        }
    }
}

proptest! {
    /// Whatever is received in between in batches, or by others.
    #[test]
    fn of_five_receives_of_one_message_each_kind_gets_one(steps in steps()) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        model.harness.assert_replays(1);
        model.harness.assert_replays(1_000);
    }
}

#[test]
fn four_retries_then_a_fresh_message() {
    check_activated(
        "topic t
         send t a b c d e f g h i
         receive c g t for=1s    => a:1 b:1 c:1 d:1 e:1 f:1 g:1 h:1 i:1
         +1s; tick; send t x y
         receive c g t max=1     => a:2
         receive c g t max=1     => b:2
         receive c g t max=1     => c:2
         receive c g t max=1     => d:2
         restart
         receive c g t max=1     => x:1
         receive c g t max=1     => e:2
         receive c g t max=1     => f:2
         receive c g t max=1     => g:2
         receive c g t max=1     => h:2
         receive c g t max=1     => y:1
         receive c g t max=1     => i:2
         receive c g t max=1     => nothing",
    );
}
