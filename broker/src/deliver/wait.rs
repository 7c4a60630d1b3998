//! Long polls: receives that found nothing and wait for a message.
//!
//! ```text
//! topic ─► crowd (consumer group, filter) ─► polls that wait, the longest first
//! ```
//!
//! A client that receives lite topics has crowds of its own, because nobody else receives the same ones; it is woken by
//! its id.
//!
//! What serves one poll of a crowd serves any other, so an arrival wakes one poll per crowd and message, not all.
//! A woken poll that leaves more behind than it takes, or that ends before it looked, wakes the next one. Nothing
//! is lost between looking and waiting: a poll that missed an arrival while it looked does not begin to wait.

use crate::filter::MessageFilter;
use crate::machine::Effect;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Polls of one consumer group with one filter on one topic.
const POLLS_PER_CROWD_MAX: usize = 1024;
/// One poll is woken for so many messages, or for what there is of them.
const MESSAGES_PER_WAKE: u64 = 16;
/// A poll that takes its fill wakes so many others, so that even polls for single messages keep up.
const PASSED_ON: usize = 2;

/// There are as many polls as there may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PollingFull {
    /// On this node.
    #[error("polling full: {limit} receives wait on this node, the limit; raise maxPopPollingSize")]
    Node {
        /// The limit.
        limit: usize,
    },
    /// For one topic, consumer group and filter.
    #[error("polling full: {limit} receives of one consumer group wait for one topic, the limit")]
    Crowd {
        /// The limit.
        limit: usize,
    },
}

#[derive(Default)]
struct Polls {
    /// Polls of all crowds, waiting or looking.
    count: usize,
    topics: HashMap<Box<str>, Vec<Arc<Crowd>>>,
    /// Clients that poll.
    clients: HashMap<Box<str>, Client>,
}

/// A client that polls.
#[derive(Default)]
struct Client {
    polls: usize,
    /// Cancelled when its session ends: what its polls are granted then must go to others.
    ended: CancellationToken,
}

struct Crowd {
    consumer_group: Box<str>,
    filter: MessageFilter,
    /// The only client whose polls are here; `None` for those of all clients.
    client_id: Option<Box<str>>,
    state: Mutex<CrowdState>,
}

#[derive(Default)]
struct CrowdState {
    /// Counts what might have made a message available.
    arrivals: u64,
    /// Polls of this crowd, waiting or looking.
    members: usize,
    /// Polls that wait, the longest first.
    waiting: VecDeque<Arc<Notify>>,
}

impl Crowd {
    /// Notes an arrival and wakes `polls` polls.
    fn arrived(&self, polls: usize) {
        self.state.lock().arrivals += 1;
        self.wake(polls);
    }

    /// Wakes `polls` polls for what is there already.
    fn wake(&self, polls: usize) {
        let mut state = self.state.lock();
        let woken: Vec<_> = (0..polls).map_while(|_| state.waiting.pop_front()).collect();
        drop(state);
        for bell in woken {
            bell.notify_one();
        }
    }
}

struct Inner {
    polls_max: usize,
    polls: Mutex<Polls>,
}

/// The long polls of this node; cheap to clone.
#[derive(Clone)]
pub struct Waiters {
    inner: Arc<Inner>,
}

impl Waiters {
    /// None yet; at most `polls_max` at once.
    #[must_use]
    pub fn new(polls_max: usize) -> Waiters {
        Waiters { inner: Arc::new(Inner { polls_max, polls: Mutex::default() }) }
    }

    /// Adds a poll, to be dropped when it ends.
    ///
    /// # Errors
    /// [`PollingFull`] when there are too many.
    pub fn enter(
        &self,
        client_id: &str,
        topic: &str,
        consumer_group: &str,
        filter: &MessageFilter,
    ) -> Result<Waiter, PollingFull> {
        self.enter_crowd(client_id, topic, consumer_group, filter, None)
    }

    /// Adds a poll for lite topics, which is woken by the id of its client.
    ///
    /// # Errors
    /// [`PollingFull`] when there are too many.
    pub fn enter_lite(
        &self,
        client_id: &str,
        topic: &str,
        consumer_group: &str,
        filter: &MessageFilter,
    ) -> Result<Waiter, PollingFull> {
        self.enter_crowd(client_id, topic, consumer_group, filter, Some(client_id))
    }

    fn enter_crowd(
        &self,
        client_id: &str,
        topic: &str,
        consumer_group: &str,
        filter: &MessageFilter,
        only: Option<&str>,
    ) -> Result<Waiter, PollingFull> {
        let mut polls = self.inner.polls.lock();
        if polls.count >= self.inner.polls_max {
            return Err(PollingFull::Node { limit: self.inner.polls_max });
        }
        if !polls.topics.contains_key(topic) {
            polls.topics.insert(topic.into(), Vec::new());
        }
        let crowds = polls.topics.get_mut(topic).expect("put there if it was not");
        let found = crowds.iter().find(|crowd| {
            *crowd.consumer_group == *consumer_group && crowd.filter == *filter && crowd.client_id.as_deref() == only
        });
        let crowd = match found {
            Some(crowd) => crowd.clone(),
            None => {
                let (consumer_group, filter) = (consumer_group.into(), filter.clone());
                let crowd = Arc::new(Crowd {
                    consumer_group,
                    filter,
                    client_id: only.map(Into::into),
                    state: Mutex::default(),
                });
                crowds.push(crowd.clone());
                crowd
            }
        };
        let mut state = crowd.state.lock();
        if state.members >= POLLS_PER_CROWD_MAX {
            return Err(PollingFull::Crowd { limit: POLLS_PER_CROWD_MAX });
        }
        state.members += 1;
        let seen = state.arrivals;
        drop(state);
        polls.count += 1;
        let client = polls.clients.entry(client_id.into()).or_default();
        client.polls += 1;
        let ended = client.ended.clone();
        drop(polls);
        let bell = Arc::new(Notify::new());
        let (client_id, topic) = (client_id.into(), topic.into());
        Ok(Waiter { waiters: self.clone(), client_id, ended, topic, crowd, bell, seen, queued: false })
    }

    /// What an applied command did: wakes the polls that may have a message now.
    pub fn arrived(&self, effect: &Effect) {
        match effect {
            Effect::Arrived { topic, messages, .. } => {
                // Each of the woken polls may take many; one that takes its fill wakes more.
                let polls = usize::try_from(messages.div_ceil(MESSAGES_PER_WAKE)).unwrap_or(usize::MAX);
                self.wake(topic, None, polls);
            }
            Effect::Retryable { consumer_group, topic } => self.wake(topic, Some(consumer_group), 1),
            Effect::LiteReady { client_id, consumer_group, topic } => {
                self.wake_client(topic, consumer_group, client_id)
            }
            _ => {}
        }
    }

    /// The session of a client ended: so do the polls that it has here. One that begins later begins a new session.
    pub fn session_ended(&self, client_id: &str) {
        if let Some(client) = self.inner.polls.lock().clients.get_mut(client_id) {
            std::mem::take(&mut client.ended).cancel();
        }
    }

    /// Wakes every poll: the rows were replaced as a whole.
    pub fn wake_all(&self) {
        let polls = self.inner.polls.lock();
        for crowd in polls.topics.values().flatten() {
            crowd.arrived(usize::MAX);
        }
    }

    /// Whether a poll of this topic waits or looks at this moment.
    #[must_use]
    pub fn has_polls(&self, topic: &str) -> bool {
        self.inner.polls.lock().topics.contains_key(topic)
    }

    /// Polls that wait or look at this moment.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.polls.lock().count
    }

    fn wake(&self, topic: &str, consumer_group: Option<&str>, polls_of_crowd: usize) {
        let polls = self.inner.polls.lock();
        for crowd in polls.topics.get(topic).into_iter().flatten() {
            if crowd.client_id.is_none() && consumer_group.is_none_or(|name| *crowd.consumer_group == *name) {
                crowd.arrived(polls_of_crowd);
            }
        }
    }
}

impl Waiters {
    fn wake_client(&self, topic: &str, consumer_group: &str, client_id: &str) {
        let polls = self.inner.polls.lock();
        if !polls.clients.contains_key(client_id) {
            return;
        }
        for crowd in polls.topics.get(topic).into_iter().flatten() {
            if crowd.client_id.as_deref() == Some(client_id) && *crowd.consumer_group == *consumer_group {
                crowd.arrived(1);
            }
        }
    }
}

/// One poll. It looks ([`Waiter::look`], then at the rows), and waits until looking again may find something.
pub struct Waiter {
    waiters: Waiters,
    client_id: Box<str>,
    ended: CancellationToken,
    topic: Box<str>,
    crowd: Arc<Crowd>,
    bell: Arc<Notify>,
    /// Arrivals of the crowd when this poll last began to look.
    seen: u64,
    /// In the crowd's queue, or woken from it and not yet awake.
    queued: bool,
}

impl Waiter {
    /// Marks the moment before looking: what arrives from here on ends the next wait.
    pub fn look(&mut self) {
        self.seen = self.crowd.state.lock().arrivals;
    }

    /// Returns when something arrived since [`Waiter::look`], or another poll of the crowd left something behind.
    pub async fn wait(&mut self) {
        if !self.queued {
            let mut state = self.crowd.state.lock();
            if state.arrivals != self.seen {
                return;
            }
            state.waiting.push_back(self.bell.clone());
            self.queued = true;
        }
        self.bell.notified().await;
        self.queued = false;
    }

    /// Whether the session of the client ended since the poll began.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Returns when the session of the client ends.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        self.ended.clone().cancelled_owned()
    }

    /// More is there than this poll takes: wakes others.
    pub fn pass_on(&self) {
        self.crowd.wake(PASSED_ON);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut polls = self.waiters.inner.polls.lock();
        polls.count -= 1;
        if let Some(client) = polls.clients.get_mut(&self.client_id) {
            client.polls -= 1;
            if client.polls == 0 {
                polls.clients.remove(&self.client_id);
            }
        }
        let mut state = self.crowd.state.lock();
        state.members -= 1;
        let mut woken = false;
        if self.queued {
            match state.waiting.iter().position(|bell| Arc::ptr_eq(bell, &self.bell)) {
                Some(place) => drop(state.waiting.remove(place)),
                // Woken for a message that it will not take.
                None => woken = true,
            }
        }
        let last = state.members == 0;
        drop(state);
        if last && let Some(crowds) = polls.topics.get_mut(&self.topic) {
            crowds.retain(|crowd| !Arc::ptr_eq(crowd, &self.crowd));
            if crowds.is_empty() {
                polls.topics.remove(&self.topic);
            }
        }
        drop(polls);
        if woken {
            self.crowd.wake(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{POLLS_PER_CROWD_MAX, PollingFull, Waiter, Waiters};
    use crate::filter::MessageFilter;
    use crate::filter::tag::TagFilter;
    use crate::machine::Effect;
    use futures::FutureExt as _;

    fn filter(expression: &str) -> MessageFilter {
        MessageFilter::Tags(TagFilter::parse(expression).expect("a good expression"))
    }

    fn enter(waiters: &Waiters, group: &str, expression: &str) -> Waiter {
        let mut waiter = waiters.enter("c", "orders", group, &filter(expression)).expect("not full");
        waiter.look();
        assert!(waiter.wait().now_or_never().is_none(), "nothing has arrived yet");
        waiter
    }

    fn arrive(waiters: &Waiters, topic: &str) {
        waiters.arrived(&Effect::Arrived { topic: topic.into(), messages: 1, body_bytes: 5 });
    }

    /// Which of them are awake. One that is, stays so until it waits again.
    fn awake(polls: &mut [Waiter]) -> Vec<bool> {
        polls.iter_mut().map(|poll| poll.wait().now_or_never().is_some()).collect()
    }

    #[test]
    fn an_arrival_wakes_one_poll_of_each_crowd_the_longest_waiting_first() {
        let waiters = Waiters::new(10);
        let mut polls = [
            enter(&waiters, "a", "*"),
            enter(&waiters, "a", "*"),
            enter(&waiters, "a", "x"),
            enter(&waiters, "b", "*"),
        ];
        arrive(&waiters, "other");
        assert_eq!(awake(&mut polls), [false, false, false, false]);
        arrive(&waiters, "orders");
        assert_eq!(awake(&mut polls), [true, false, true, true]);
        arrive(&waiters, "orders");
        assert!(awake(&mut polls)[1]);
    }

    #[test]
    fn an_arrival_matters_where_a_poll_of_its_topic_waits_or_looks() {
        let waiters = Waiters::new(10);
        assert!(!waiters.has_polls("orders"), "nobody came");
        let first = waiters.enter("c", "orders", "a", &filter("*")).expect("not full");
        assert!(waiters.has_polls("orders"), "it looks, and may have missed what arrives now");
        let second = enter(&waiters, "b", "x");
        drop(first);
        assert!(waiters.has_polls("orders"), "the other waits");
        assert!(!waiters.has_polls("other"));
        drop(second);
        assert!(!waiters.has_polls("orders"), "nobody is left");
    }

    #[test]
    fn a_message_for_a_group_wakes_only_that_group() {
        let waiters = Waiters::new(10);
        let mut polls = [enter(&waiters, "a", "*"), enter(&waiters, "b", "*")];
        waiters.arrived(&Effect::Retryable { consumer_group: "b".into(), topic: "orders".into() });
        assert_eq!(awake(&mut polls), [false, true]);
    }

    #[test]
    fn polls_for_lite_topics_are_woken_by_their_client() {
        let waiters = Waiters::new(10);
        let lite = |client_id: &str, group: &str| {
            let mut waiter = waiters.enter_lite(client_id, "orders", group, &filter("*")).expect("not full");
            waiter.look();
            waiter
        };
        let mut polls = [lite("a", "g"), lite("a", "g"), lite("b", "g"), lite("a", "h")];
        arrive(&waiters, "orders");
        assert_eq!(awake(&mut polls), [false; 4]);
        let ready = |client_id: &str| Effect::LiteReady {
            client_id: client_id.into(),
            consumer_group: "g".into(),
            topic: "orders".into(),
        };
        waiters.arrived(&ready("nobody"));
        waiters.arrived(&ready("a"));
        assert_eq!(awake(&mut polls), [true, false, false, false]);
        waiters.arrived(&ready("b"));
        assert!(awake(&mut polls)[2]);
    }

    #[test]
    fn what_arrives_while_looking_is_not_missed() {
        let waiters = Waiters::new(10);
        let mut waiter = waiters.enter("c", "orders", "a", &filter("*")).expect("not full");
        waiter.look();
        arrive(&waiters, "orders");
        assert!(waiter.wait().now_or_never().is_some());
        waiter.look();
        assert!(waiter.wait().now_or_never().is_none());
    }

    #[test]
    fn a_poll_that_ends_before_it_looked_wakes_the_next() {
        let waiters = Waiters::new(10);
        let (first, second) = (enter(&waiters, "a", "*"), enter(&waiters, "a", "*"));
        arrive(&waiters, "orders");
        let mut second = [second];
        assert_eq!(awake(&mut second), [false]);
        drop(first);
        assert_eq!(awake(&mut second), [true]);
    }

    #[test]
    fn a_poll_that_leaves_something_behind_wakes_the_next() {
        let waiters = Waiters::new(10);
        let mut polls = [enter(&waiters, "a", "*"), enter(&waiters, "a", "*")];
        arrive(&waiters, "orders");
        polls[0].pass_on();
        assert_eq!(awake(&mut polls), [true, true]);
    }

    #[test]
    fn a_snapshot_wakes_everybody() {
        let waiters = Waiters::new(10);
        let mut polls = [enter(&waiters, "a", "*"), enter(&waiters, "a", "*"), enter(&waiters, "b", "*")];
        waiters.wake_all();
        assert_eq!(awake(&mut polls), [true, true, true]);
    }

    #[test]
    fn the_polls_of_a_session_end_with_it_and_later_ones_do_not() {
        let waiters = Waiters::new(10);
        let before = enter(&waiters, "a", "*");
        waiters.session_ended("another");
        assert!(!before.is_ended());
        waiters.session_ended("c");
        assert!(before.is_ended() && before.ended().now_or_never().is_some());
        let after = enter(&waiters, "a", "*");
        drop(before);
        assert!(!after.is_ended());
        waiters.session_ended("c");
        assert!(after.is_ended());
    }

    #[test]
    fn polls_are_bounded_and_leave_nothing_behind() {
        let waiters = Waiters::new(2);
        let polls = [enter(&waiters, "a", "*"), enter(&waiters, "b", "*")];
        assert_eq!(waiters.enter("c", "orders", "c", &filter("*")).err(), Some(PollingFull::Node { limit: 2 }));
        drop(polls);
        assert_eq!(waiters.count(), 0);
        assert!(waiters.inner.polls.lock().topics.is_empty());
        assert!(waiters.inner.polls.lock().clients.is_empty());

        let waiters = Waiters::new(usize::MAX);
        let polls: Vec<_> = (0..POLLS_PER_CROWD_MAX).map(|_| enter(&waiters, "a", "*")).collect();
        assert!(matches!(waiters.enter("c", "orders", "a", &filter("*")), Err(PollingFull::Crowd { .. })));
        drop(polls);
    }
}
