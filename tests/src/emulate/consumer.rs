//! The consumers of an emulated client: one that is asked for messages, and one that hands them to a listener.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use raftmq_proto::rocketmq::{
    self as pb, messaging_service_client::MessagingServiceClient, receive_message_response::Content,
    retry_policy::Strategy, settings::PubSub,
};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{
    Habits, REQUEST_TIMEOUT,
    session::{Failure, Link, Queue, Role, Session},
};
use crate::{client, load::resource};

type Stub = MessagingServiceClient<Channel>;

const ASSIGNMENTS_EVERY: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A message in a client's hands.
#[derive(Clone)]
pub struct View {
    /// As it came.
    pub message: pb::Message,
    link: Arc<Link>,
    handle: Arc<Mutex<String>>,
}

impl View {
    fn system(&self) -> &pb::SystemProperties {
        static NONE: std::sync::LazyLock<pb::SystemProperties> = std::sync::LazyLock::new(Default::default);
        self.message.system_properties.as_ref().unwrap_or(&NONE)
    }

    /// Its body as text.
    pub fn body(&self) -> String {
        String::from_utf8_lossy(&self.message.body).into_owned()
    }

    /// Its body as a number.
    pub fn sequence(&self) -> u64 {
        self.body().parse().unwrap_or(u64::MAX)
    }

    /// 1 for the first delivery.
    pub fn attempt(&self) -> i32 {
        self.system().delivery_attempt.unwrap_or_default()
    }

    /// When it was to be delivered, ms since the Unix epoch.
    pub fn delivery_ms(&self) -> Option<i64> {
        self.system().delivery_timestamp.map(|time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000)
    }

    /// Whether everything is there that was sent with this sequence number and tag.
    pub fn intact(&self, tag: &str) -> bool {
        intact(&self.message, tag)
    }

    /// What these clients look into without asking first whether it is there.
    fn usable(&self) -> bool {
        let system = self.system();
        system.body_digest.as_ref().is_some_and(|digest| !digest.checksum.is_empty()) && system.born_timestamp.is_some()
    }
}

/// Whether a message has everything that was sent with its sequence number and this tag.
pub fn intact(message: &pb::Message, tag: &str) -> bool {
    let body = String::from_utf8_lossy(&message.body);
    message.user_properties.get("sequence").is_some_and(|sequence| *sequence == body)
        && message
            .system_properties
            .as_ref()
            .is_some_and(|system| system.tag.as_deref() == Some(tag) && system.keys == [format!("key-{body}")])
}

fn subscription(group: &str, topic: &str, expression: &str) -> PubSub {
    let entry = pb::SubscriptionEntry { topic: Some(resource(topic)), expression: Some(filter(expression)) };
    PubSub::Subscription(pb::Subscription {
        group: Some(resource(group)),
        subscriptions: vec![entry],
        ..Default::default()
    })
}

fn filter(expression: &str) -> pb::FilterExpression {
    pb::FilterExpression { r#type: pb::FilterType::Tag.into(), expression: expression.to_string() }
}

fn handle_of(view: &View) -> String {
    view.handle.lock().expect("no holder panics").clone()
}

async fn receive(
    session: &Session,
    link: &Arc<Link>,
    request: pb::ReceiveMessageRequest,
    deadline: Duration,
) -> Result<Vec<View>, Failure> {
    let call = async |mut stub: Stub, request| {
        let mut stream = stub.receive_message(request).await?.into_inner();
        let mut parts = Vec::new();
        while let Some(part) = stream.message().await? {
            parts.push(part);
        }
        Ok(parts)
    };
    let mut views = Vec::new();
    for part in session.call(link, deadline, request, call).await? {
        match part.content {
            Some(Content::Status(status)) if status.code() == pb::Code::MessageNotFound => {}
            Some(Content::Status(status)) => client::checked(Some(&status))?,
            Some(Content::Message(message)) => {
                let handle = message.system_properties.as_ref().and_then(|system| system.receipt_handle.clone());
                let handle = Arc::new(Mutex::new(handle.unwrap_or_default()));
                let view = View { message, link: link.clone(), handle };
                if !view.usable() {
                    return Err(Failure::Code(pb::Code::Unspecified, "a message without digest or birth".into()));
                }
                views.push(view);
            }
            Some(Content::DeliveryTimestamp(_)) | None => {}
        }
    }
    Ok(views)
}

async fn acknowledge(session: &Session, view: &View) -> Result<(), Failure> {
    let entry = pb::AckMessageEntry {
        message_id: view.system().message_id.clone(),
        receipt_handle: handle_of(view),
        lite_topic: None,
    };
    let request = pb::AckMessageRequest {
        group: session.group.as_deref().map(resource),
        topic: view.message.topic.clone(),
        entries: vec![entry],
    };
    let call = async |mut stub: Stub, request| stub.ack_message(request).await;
    let answer = session.call(&view.link, REQUEST_TIMEOUT, request, call).await?.into_inner();
    client::checked(answer.status.as_ref())?;
    client::checked(answer.entries.first().and_then(|entry| entry.status.as_ref()))
}

async fn change_invisible(session: &Session, view: &View, invisible: Duration) -> Result<(), Failure> {
    let request = pb::ChangeInvisibleDurationRequest {
        group: session.group.as_deref().map(resource),
        topic: view.message.topic.clone(),
        receipt_handle: handle_of(view),
        invisible_duration: Some(client::duration(invisible)),
        message_id: view.system().message_id.clone(),
        lite_topic: None,
        suspend: None,
    };
    let call = async |mut stub: Stub, request| stub.change_invisible_duration(request).await;
    let answer = session.call(&view.link, REQUEST_TIMEOUT, request, call).await?.into_inner();
    client::checked(answer.status.as_ref())?;
    *view.handle.lock().expect("no holder panics") = answer.receipt_handle;
    Ok(())
}

/// Asks for messages.
pub struct SimpleConsumer {
    session: Arc<Session>,
    topic: String,
    group: String,
    wait: Duration,
}

impl SimpleConsumer {
    /// Starts one that waits up to `wait` for the first message of each receive.
    ///
    /// # Errors
    ///
    /// The topic has no route.
    pub async fn start(
        habits: &'static Habits,
        access: &str,
        topic: &str,
        group: &str,
        wait: Duration,
    ) -> Result<Self> {
        let role = Role {
            kind: pb::ClientType::SimpleConsumer,
            group: Some(group.to_string()),
            pub_sub: subscription(group, topic, "*"),
            checker: None,
        };
        let session = Session::start(habits, access, role, &[topic]).await?;
        Ok(Self { session, topic: topic.to_string(), group: group.to_string(), wait })
    }

    /// Receives up to `batch` messages from the next queue.
    ///
    /// # Errors
    ///
    /// The call failed.
    pub async fn receive(&self, batch: i32, invisible: Duration) -> Result<Vec<View>, Failure> {
        let queues = if self.session.habits.simple_is_assigned {
            Arc::new(self.session.assignments(&self.topic).await?)
        } else {
            self.session.route(&self.topic).await?
        };
        let chosen = self.session.turn(&queues);
        let (queue, link) = chosen.ok_or(Failure::Code(pb::Code::Unspecified, "no queue".into()))?;
        let request = pb::ReceiveMessageRequest {
            group: Some(resource(&self.group)),
            message_queue: Some(queue.clone()),
            filter_expression: Some(filter("*")),
            batch_size: batch,
            invisible_duration: Some(client::duration(invisible)),
            auto_renew: false,
            long_polling_timeout: Some(client::duration(self.wait)),
            attempt_id: None,
        };
        receive(&self.session, link, request, self.wait + REQUEST_TIMEOUT).await
    }

    /// Acknowledges a message.
    ///
    /// # Errors
    ///
    /// The answer is not OK, or there is none.
    pub async fn ack(&self, view: &View) -> Result<(), Failure> {
        acknowledge(&self.session, view).await
    }

    /// Sets when a message comes back, counted from now.
    ///
    /// # Errors
    ///
    /// The answer is not OK, or there is none.
    pub async fn change_invisible(&self, view: &View, invisible: Duration) -> Result<(), Failure> {
        change_invisible(&self.session, view, invisible).await
    }

    /// Ends it as this client does.
    pub async fn close(&self) {
        self.session.terminate().await;
    }
}

/// Says of a message whether it is finished.
pub type Listener = Arc<dyn Fn(&View) -> bool + Send + Sync>;

/// Hands messages to a listener.
pub struct PushConsumer {
    session: Arc<Session>,
    scan: JoinHandle<()>,
}

impl PushConsumer {
    /// Starts one that is assigned its queues every five seconds and polls each without a pause.
    ///
    /// # Errors
    ///
    /// The topic has no route.
    pub async fn start(
        habits: &'static Habits,
        access: &str,
        topic: &str,
        group: &str,
        expression: &str,
        listener: Listener,
    ) -> Result<Self> {
        let role = Role {
            kind: pb::ClientType::PushConsumer,
            group: Some(group.to_string()),
            pub_sub: subscription(group, topic, expression),
            checker: None,
        };
        let session = Session::start(habits, access, role, &[topic]).await?;
        let poller = Poller {
            session: session.clone(),
            topic: topic.to_string(),
            group: group.to_string(),
            expression: expression.to_string(),
            listener,
        };
        Ok(Self { session, scan: tokio::spawn(Arc::new(poller).scan()) })
    }

    /// Ends it as this client does; polls under way are dropped.
    pub async fn close(self) {
        self.scan.abort();
        self.session.terminate().await;
    }
}

/// What becomes of a message.
#[derive(Clone, Copy)]
enum Verdict {
    Finished,
    Later(Duration),
    GivenUp { attempt: i32, attempts: i32 },
}

struct Poller {
    session: Arc<Session>,
    topic: String,
    group: String,
    expression: String,
    listener: Listener,
}

/// Polls end with this.
struct Polls(HashMap<String, JoinHandle<()>>);

impl Drop for Polls {
    fn drop(&mut self) {
        self.0.values().for_each(JoinHandle::abort);
    }
}

impl Poller {
    async fn scan(self: Arc<Self>) {
        let mut polls = Polls(HashMap::new());
        loop {
            match self.session.assignments(&self.topic).await {
                // An empty list changes nothing.
                Ok(queues) if queues.is_empty() => {}
                Ok(queues) => {
                    let name = |queue: &Queue| format!("{:?}", queue.0);
                    let kept: HashSet<String> = queues.iter().map(name).collect();
                    polls.0.retain(|name, poll| {
                        let keep = kept.contains(name);
                        if !keep {
                            poll.abort();
                        }
                        keep
                    });
                    for queue in queues {
                        polls.0.entry(name(&queue)).or_insert_with(|| tokio::spawn(self.clone().poll(queue)));
                    }
                }
                Err(failure) => eprintln!("assignments: {failure}"),
            }
            tokio::time::sleep(ASSIGNMENTS_EVERY).await;
        }
    }

    /// Polls one queue for as long as it is assigned.
    async fn poll(self: Arc<Self>, (queue, link): Queue) {
        let mut attempt_id = None;
        loop {
            let settings = self.session.settings();
            let subscription = match settings.pub_sub {
                Some(PubSub::Subscription(subscription)) => subscription,
                _ => pb::Subscription::default(),
            };
            let habits = self.session.habits;
            let polling = subscription.long_polling_timeout;
            let attempt = attempt_id.take().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
            let request = pb::ReceiveMessageRequest {
                group: Some(resource(&self.group)),
                message_queue: Some(queue.clone()),
                filter_expression: Some(filter(&self.expression)),
                batch_size: subscription.receive_batch_size.unwrap_or(32),
                invisible_duration: habits.push_invisible.map(client::duration),
                auto_renew: true,
                long_polling_timeout: polling.filter(|_| habits.push_says_polling),
                attempt_id: Some(attempt.clone()),
            };
            let patience = polling.map_or(0, |wait| wait.seconds.unsigned_abs());
            let deadline = Duration::from_secs(patience) + REQUEST_TIMEOUT;
            match receive(&self.session, &link, request, deadline).await {
                Ok(views) if subscription.fifo() => {
                    tokio::spawn(self.clone().consume_in_order(views));
                }
                Ok(views) => views.into_iter().for_each(|view| drop(tokio::spawn(self.clone().consume(view)))),
                Err(failure) => {
                    eprintln!("receive: {failure}");
                    attempt_id = (habits.same_attempt)(&failure).then_some(attempt);
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn consume(self: Arc<Self>, view: View) {
        let finished = self.listen(&view).await;
        let attempt = view.attempt().unsigned_abs() as usize;
        let delay = self.backoff(attempt + self.session.habits.backoff_skips);
        self.settle(&view, if finished { Verdict::Finished } else { Verdict::Later(delay) }).await;
    }

    /// A batch of messages one after the other, those that fail tried again here.
    async fn consume_in_order(self: Arc<Self>, views: Vec<View>) {
        for view in views {
            let attempts = self.session.settings().backoff_policy.map_or(1, |policy| policy.max_attempts);
            let mut attempt = view.attempt();
            let mut finished = self.listen(&view).await;
            while !finished && attempt < attempts {
                tokio::time::sleep(self.backoff(attempt.unsigned_abs() as usize)).await;
                attempt += 1;
                finished = self.listen(&view).await;
            }
            let given_up = Verdict::GivenUp { attempt, attempts };
            self.settle(&view, if finished { Verdict::Finished } else { given_up }).await;
        }
    }

    /// Tells the broker the verdict, each second anew until it is taken or the handle is not valid any more.
    async fn settle(&self, view: &View, verdict: Verdict) {
        loop {
            let told = match verdict {
                Verdict::Finished => acknowledge(&self.session, view).await,
                Verdict::Later(delay) => change_invisible(&self.session, view, delay).await,
                Verdict::GivenUp { attempt, attempts } => self.give_up(view, attempt, attempts).await,
            };
            let Err(failure) = told else { return };
            eprintln!("message {}: {failure}", view.body());
            if failure.code() == Some(pb::Code::InvalidReceiptHandle) {
                return;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn give_up(&self, view: &View, attempt: i32, attempts: i32) -> Result<(), Failure> {
        let request = pb::ForwardMessageToDeadLetterQueueRequest {
            group: Some(resource(&self.group)),
            topic: view.message.topic.clone(),
            receipt_handle: handle_of(view),
            message_id: view.system().message_id.clone(),
            delivery_attempt: attempt,
            max_delivery_attempts: attempts,
            lite_topic: None,
        };
        let call = async |mut stub: Stub, request| stub.forward_message_to_dead_letter_queue(request).await;
        let answer = self.session.call(&view.link, REQUEST_TIMEOUT, request, call).await?;
        client::checked(answer.into_inner().status.as_ref())
    }

    /// The listener may take its time; it runs where that holds up nobody.
    async fn listen(&self, view: &View) -> bool {
        let (listener, view) = (self.listener.clone(), view.clone());
        tokio::task::spawn_blocking(move || listener(&view)).await.unwrap_or(false)
    }

    /// How long a message waits after so many attempts.
    fn backoff(&self, attempt: usize) -> Duration {
        let policy = self.session.settings().backoff_policy.unwrap_or_default();
        let delay = match policy.strategy {
            Some(Strategy::CustomizedBackoff(steps)) => {
                steps.next.get(attempt.saturating_sub(1)).or(steps.next.last()).copied()
            }
            Some(Strategy::ExponentialBackoff(backoff)) => backoff.initial,
            None => None,
        };
        delay.and_then(|delay| Duration::try_from(delay).ok()).unwrap_or(AGAIN_AFTER)
    }
}
