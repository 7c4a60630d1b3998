//! The streams of the clients that are connected to this node, and what goes out on them.
//!
//! Whoever wants to tell a client something places it in the queue of one of its streams; the stream's own task checks
//! that the client may hear it, makes a command of it and writes it. It counts as told only once the system at the
//! client's end has acknowledged the bytes: a stream whose client is gone, or does not read, takes nothing.

use super::Registry;
use parking_lot::Mutex;
use raftmq_proto::command::StoredMessage;
use raftmq_proto::forward::{ClientAnswer, ClientsRequest, ConnectedClient};
use raftmq_server::listener::Outgoing;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// What waits for a stream's task; more is not taken.
const ORDERS_MAX: usize = 16;
/// Topics of one producer by which it is found; a client may name more.
const TOPICS_MAX: usize = 1_024;
/// Clients of one answer about who is connected.
const CLIENTS_MAX: usize = 10_000;
/// Clients, or streams of one client, that are tried before nobody counts as reachable.
const TRIES_MAX: usize = 3;
/// A stream that has not taken what it was given after this is passed over.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// The connection has taken the last bytes of a command this long after the stream gave it away.
const WRITTEN_AFTER: Duration = Duration::from_millis(50);
/// Pause between two looks at what the other end has acknowledged.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Something that a client is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    /// A half message that nobody has ended: what became of its transaction?
    Orphaned { transaction_id: String, message: StoredMessage, stored_ms: u64 },
    /// A message to process, and to say what came of it.
    Verify { message: StoredMessage, stored_ms: u64, queue: u32, offset: u64 },
    /// Print what the threads do.
    PrintThreads,
    /// It receives a lite topic no longer: another client took it.
    Unsubscribe { lite_topic: String },
}

impl Told {
    /// Whether the client answers on the stream.
    pub(crate) fn wants_answer(&self) -> bool {
        !matches!(self, Told::Orphaned { .. } | Told::Unsubscribe { .. })
    }
}

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The client of this id.
    Client(String),
    /// Some live producer that publishes to this topic.
    ProducerOf(String),
}

/// Who was told, and what it answered where an answer was asked for and came in time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    pub client_id: String,
    pub answer: Option<ClientAnswer>,
}

/// Something for the task of a stream to write.
pub(crate) struct Order {
    pub told: Told,
    /// By which the client's answer is known; of no meaning where none is asked for.
    pub nonce: String,
    /// Dropped when it may not be written.
    pub placed: oneshot::Sender<Placed>,
}

/// A command that stands in a stream.
pub(crate) struct Placed {
    /// Resolves when it begins to be written.
    pub taken: oneshot::Receiver<()>,
    pub outgoing: Outgoing,
    /// What the connection has written when all of the command is.
    pub upto: u64,
}

struct Open {
    connection: u64,
    orders: mpsc::Sender<Order>,
    about: ConnectedClient,
}

#[derive(Default)]
struct Table {
    /// Streams that brought settings, those that brought them last at the end.
    clients: HashMap<String, Vec<Open>>,
    producers: HashMap<String, BTreeSet<String>>,
}

impl Table {
    fn remove(&mut self, client_id: &str, connection: u64) {
        let Some(streams) = self.clients.get_mut(client_id) else { return };
        let Some(at) = streams.iter().position(|stream| stream.connection == connection) else { return };
        let gone = streams.remove(at);
        let elsewhere = |topic: &&String| streams.iter().any(|stream| stream.about.publishes.contains(topic));
        for topic in gone.about.publishes.iter().filter(|topic| !elsewhere(topic)) {
            if let Some(producers) = self.producers.get_mut(topic) {
                producers.remove(client_id);
                if producers.is_empty() {
                    self.producers.remove(topic);
                }
            }
        }
        if streams.is_empty() {
            self.clients.remove(client_id);
        }
    }

    fn streams_of(&self, client_id: &str) -> impl Iterator<Item = (String, mpsc::Sender<Order>)> {
        let streams = self.clients.get(client_id).into_iter().flatten().rev();
        streams.map(|stream| (client_id.to_owned(), stream.orders.clone()))
    }
}

/// The streams of this node.
#[derive(Default)]
pub(crate) struct Streams {
    table: Mutex<Table>,
    /// Which of several producers is asked first.
    turn: AtomicUsize,
    nonces: AtomicU64,
    /// The members of the broker group changed.
    regrouped: watch::Sender<()>,
    /// Answers that are waited for: who is to give them, and to whom they go.
    answers: Mutex<HashMap<String, (String, oneshot::Sender<ClientAnswer>)>>,
}

impl Streams {
    /// A client's stream, of which nobody knows before it brings settings.
    pub(crate) fn open(self: &Arc<Self>, client_id: &str, connection: u64) -> Stream {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let regrouped = self.regrouped.subscribe();
        Stream { streams: self.clone(), client_id: client_id.to_owned(), connection, sender, orders, regrouped }
    }

    /// The client said that it ends: nobody is to ask it anything.
    pub(crate) fn ended(&self, client_id: &str) {
        let mut table = self.table.lock();
        while let Some(connection) = table.clients.get(client_id).and_then(|streams| Some(streams.last()?.connection)) {
            table.remove(client_id, connection);
        }
    }

    /// Tells one client, and waits for its answer where it is to give one. `None` when nobody here could be told.
    pub(crate) async fn tell(&self, registry: &Registry, whom: &Whom, told: &Told, by: Instant) -> Option<Heard> {
        for (client_id, orders) in self.candidates(whom, registry) {
            let waits = told.wants_answer().then(|| self.expect(&client_id));
            let nonce = waits.as_ref().map(|waits| waits.nonce.clone()).unwrap_or_default();
            if !write(&orders, told.clone(), nonce, by.min(Instant::now() + WRITE_WITHIN)).await {
                continue;
            }
            let answer = match waits {
                Some(mut waits) => tokio::time::timeout_at(by, &mut waits.answer).await.ok().and_then(Result::ok),
                None => None,
            };
            return Some(Heard { client_id, answer });
        }
        None
    }

    /// Tells a client that is connected here, without waiting for it: one that does not hear it hears it another way.
    pub(crate) fn notify(&self, client_id: &str, told: Told) {
        let orders = self.table.lock().streams_of(client_id).next();
        if let Some((_, orders)) = orders {
            let _ = orders.try_send(Order { told, nonce: String::new(), placed: oneshot::channel().0 });
        }
    }

    /// Every stream is told that the members of the broker group changed.
    pub(crate) fn regrouped(&self) {
        self.regrouped.send_replace(());
    }

    /// Live clients with a stream to this node, by id.
    pub(crate) fn connected(&self, registry: &Registry, wanted: &ClientsRequest) -> Vec<ConnectedClient> {
        let is_wanted = |about: &ConnectedClient| {
            let topic = &wanted.topic;
            (wanted.client_id.is_empty() || about.client_id == wanted.client_id)
                && (wanted.consumer_group.is_empty() || about.consumer_group == wanted.consumer_group)
                && (topic.is_empty()
                    || about.publishes.contains(topic)
                    || about.subscriptions.iter().any(|known| known.topic == *topic))
        };
        let table = self.table.lock();
        let newest = table.clients.values().filter_map(|streams| Some(&streams.last()?.about));
        let mut found: Vec<_> = newest.filter(|about| is_wanted(about)).collect();
        found.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
        found.into_iter().filter(|about| registry.is_alive(&about.client_id)).take(CLIENTS_MAX).cloned().collect()
    }

    /// How many live clients have a stream to this node: by consumer group, which a producer has none of, language and
    /// version of the SDK, of which 32 characters are kept: clients choose it.
    pub(crate) fn tally(&self, registry: &Registry) -> BTreeMap<(String, String, String), u64> {
        let mut tally = BTreeMap::new();
        let table = self.table.lock();
        let newest = table.clients.values().filter_map(|streams| Some(&streams.last()?.about));
        for about in newest.filter(|about| registry.is_alive(&about.client_id)) {
            let version = about.version.chars().take(32).collect();
            let kind = (about.consumer_group.clone(), about.language.clone(), version);
            *tally.entry(kind).or_default() += 1;
        }
        tally
    }

    /// A client answered on its stream. What nobody waits for, or another client was asked, is passed over.
    pub(crate) fn answered(&self, client_id: &str, nonce: &str, answer: ClientAnswer) {
        let mut answers = self.answers.lock();
        if answers.get(nonce).is_some_and(|(asked, _)| asked == client_id)
            && let Some((_, sender)) = answers.remove(nonce)
        {
            let _ = sender.send(answer);
        }
    }

    fn expect(&self, client_id: &str) -> Waits<'_> {
        let nonce = self.nonces.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, answer) = oneshot::channel();
        self.answers.lock().insert(nonce.clone(), (client_id.to_owned(), sender));
        Waits { streams: self, nonce, answer }
    }

    /// Streams to try, one after the other. A client that is silent, though its connection may still be there, is none.
    fn candidates(&self, whom: &Whom, registry: &Registry) -> Vec<(String, mpsc::Sender<Order>)> {
        let table = self.table.lock();
        match whom {
            Whom::Client(client_id) if registry.is_alive(client_id) => {
                table.streams_of(client_id).take(TRIES_MAX).collect()
            }
            Whom::Client(_) => Vec::new(),
            Whom::ProducerOf(topic) => {
                let Some(producers) = table.producers.get(topic) else { return Vec::new() };
                let first = self.turn.fetch_add(1, Ordering::Relaxed) % producers.len().max(1);
                let all = producers.iter().skip(first).chain(producers.iter().take(first));
                let alive = all.filter(|client_id| registry.is_alive(client_id));
                alive.filter_map(|client_id| table.streams_of(client_id).next()).take(TRIES_MAX).collect()
            }
        }
    }
}

/// An answer that is waited for; forgotten with this.
struct Waits<'s> {
    streams: &'s Streams,
    nonce: String,
    answer: oneshot::Receiver<ClientAnswer>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.streams.answers.lock().remove(&self.nonce);
    }
}

/// A client's stream, as its task holds it.
pub(crate) struct Stream {
    streams: Arc<Streams>,
    client_id: String,
    connection: u64,
    sender: mpsc::Sender<Order>,
    orders: mpsc::Receiver<Order>,
    regrouped: watch::Receiver<()>,
}

impl Stream {
    /// The client told what it is: from now on it can be told something.
    pub(crate) fn settled(&self, mut about: ConnectedClient) {
        about.publishes.truncate(TOPICS_MAX);
        about.client_id.clone_from(&self.client_id);
        let mut table = self.streams.table.lock();
        table.remove(&self.client_id, self.connection);
        for topic in &about.publishes {
            table.producers.entry(topic.clone()).or_default().insert(self.client_id.clone());
        }
        let stream = Open { connection: self.connection, orders: self.sender.clone(), about };
        table.clients.entry(self.client_id.clone()).or_default().push(stream);
    }

    /// The next thing to write; `None`: that the members of the broker group changed. It never ends, as both senders are
    /// held here.
    pub(crate) async fn order(&mut self) -> Option<Order> {
        tokio::select! {
            Some(order) = self.orders.recv() => Some(order),
            Ok(()) = self.regrouped.changed() => None,
            else => std::future::pending().await,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.table.lock().remove(&self.client_id, self.connection);
    }
}

/// Whether the system at the client's end has acknowledged it by then.
async fn write(orders: &mpsc::Sender<Order>, told: Told, nonce: String, by: Instant) -> bool {
    let written = async {
        let (placed, placing) = oneshot::channel();
        orders.try_send(Order { told, nonce, placed }).ok()?;
        let Placed { taken, outgoing, upto } = placing.await.ok()?;
        taken.await.ok()?;
        tokio::time::sleep(WRITTEN_AFTER).await;
        // A client that does not read takes the beginning of a large one.
        while outgoing.written()? < upto {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let upto = outgoing.written()?;
        while outgoing.acknowledged()? < upto {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Some(())
    };
    matches!(tokio::time::timeout_at(by, written).await, Ok(Some(())))
}

#[cfg(test)]
mod tests {
    use super::{Arc, ClientsRequest, ConnectedClient, Duration, Registry, Stream, Streams, Told, Whom};
    use raftmq_proto::forward::{ClientAnswer, ClientSubscription};

    fn publishes(topics: &[&str]) -> ConnectedClient {
        let publishes = topics.iter().map(|topic| (*topic).to_owned()).collect();
        ConnectedClient { publishes, ..ConnectedClient::default() }
    }

    fn names(streams: &Streams, registry: &Registry, whom: &Whom) -> Vec<String> {
        let mut names: Vec<_> =
            streams.candidates(whom, registry).into_iter().map(|(client_id, _)| client_id).collect();
        names.sort();
        names
    }

    #[tokio::test(start_paused = true)]
    async fn producers_are_found_by_topic_while_they_live() {
        let (streams, registry) = (Arc::new(Streams::default()), Registry::default());
        let of = |topic: &str| Whom::ProducerOf(topic.to_owned());
        let open = |client: &str, connection, topics: &[&str]| {
            registry.seen(client, "JAVA");
            let stream = streams.open(client, connection);
            stream.settled(publishes(topics));
            stream
        };
        let (a, b) = (open("a", 1, &["t", "u"]), open("b", 2, &["t"]));
        let second = open("a", 3, &["u"]);
        assert_eq!(names(&streams, &registry, &of("t")), ["a", "b"]);
        assert_eq!(names(&streams, &registry, &of("u")), ["a"]);
        assert_eq!(names(&streams, &registry, &Whom::Client("a".to_owned())), ["a", "a"]);
        drop(a);
        assert_eq!(names(&streams, &registry, &of("t")), ["b"]);
        assert_eq!(names(&streams, &registry, &of("u")), ["a"]);
        b.settled(publishes(&["v"]));
        assert_eq!(names(&streams, &registry, &of("t")), [""; 0]);
        assert_eq!(names(&streams, &registry, &of("v")), ["b"]);
        tokio::time::advance(Duration::from_secs(26)).await;
        registry.seen("b", "JAVA");
        assert_eq!(names(&streams, &registry, &of("u")), [""; 0], "silent");
        assert_eq!(names(&streams, &registry, &of("v")), ["b"]);
        streams.ended("b");
        assert_eq!(names(&streams, &registry, &of("v")), [""; 0], "it said that it ends");
        drop((b, second));
        let table = streams.table.lock();
        assert!(table.clients.is_empty() && table.producers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_takes_nothing_was_not_told() {
        let (streams, registry) = (Arc::new(Streams::default()), Registry::default());
        registry.seen("a", "GO");
        let whom = Whom::Client("a".to_owned());
        let tell = async || {
            let by = tokio::time::Instant::now() + Duration::from_secs(5);
            streams.tell(&registry, &whom, &Told::PrintThreads, by).await
        };
        assert_eq!(tell().await, None, "no stream");
        let mut stream = streams.open("a", 1);
        assert_eq!(tell().await, None, "no settings");
        stream.settled(ConnectedClient::default());
        assert_eq!(tell().await, None, "its task does not read");
        // It may not be told: the order is dropped.
        let refuse = async { drop((stream.order().await, stream.order().await)) };
        assert_eq!(tokio::join!(tell(), refuse).0, None);
        assert!(streams.answers.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_connected() {
        let (streams, registry) = (Arc::new(Streams::default()), Registry::default());
        let consumer = |group: &str, topic: &str| ConnectedClient {
            consumer_group: group.to_owned(),
            subscriptions: vec![ClientSubscription {
                topic: topic.to_owned(),
                expression: "*".to_owned(),
                is_sql: false,
            }],
            ..ConnectedClient::default()
        };
        let mut open = Vec::new();
        for (id, about) in [("c", consumer("g", "t")), ("b", consumer("h", "u")), ("a", publishes(&["t"]))] {
            registry.seen(id, "GO");
            open.push(streams.open(id, open.len() as u64));
            open.last().expect("pushed").settled(about);
        }
        let check = |group: &str, topic: &str, client_id: &str, expected: &[&str]| {
            let (consumer_group, topic, client_id) = (group.to_owned(), topic.to_owned(), client_id.to_owned());
            let found = streams.connected(&registry, &ClientsRequest { client_id, consumer_group, topic });
            let ids: Vec<_> = found.iter().map(|client| client.client_id.as_str()).collect();
            assert_eq!(ids, expected);
        };
        check("", "", "", &["a", "b", "c"]);
        check("", "t", "", &["a", "c"]);
        check("g", "t", "", &["c"]);
        check("g", "u", "", &[]);
        check("", "", "b", &["b"]);
        tokio::time::advance(Duration::from_secs(30)).await;
        check("", "", "", &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_hear_once_that_the_members_changed() {
        let streams = Arc::new(Streams::default());
        streams.regrouped();
        let mut open = [streams.open("a", 1), streams.open("b", 2)];
        let heard = async |stream: &mut Stream| {
            let order = tokio::time::timeout(Duration::from_secs(1), stream.order()).await;
            matches!(order, Ok(None))
        };
        assert!(!heard(&mut open[0]).await, "it was opened afterwards");
        streams.regrouped();
        streams.regrouped();
        for stream in &mut open {
            assert!(heard(stream).await);
            assert!(!heard(stream).await);
        }
    }

    #[tokio::test]
    async fn only_who_was_asked_answers() {
        let streams = Arc::new(Streams::default());
        let mut waits = streams.expect("a");
        let answer = |code| ClientAnswer { code, ..ClientAnswer::default() };
        streams.answered("b", &waits.nonce, answer(1));
        streams.answered("a", "x", answer(2));
        assert!(waits.answer.try_recv().is_err());
        streams.answered("a", &waits.nonce, answer(3));
        streams.answered("a", &waits.nonce, answer(4));
        assert_eq!(waits.answer.try_recv(), Ok(answer(3)));
    }
}
