//! Spans of single messages, for an OpenTelemetry collector: what became of one message on which node, and how long it took.
//!
//! ```text
//! SendMessage (node that was called) ─► propose (the same, until applied there) ─► commit (leader, until applied there)
//!     └► SendMessage (node of the broker group that keeps the message group, when another was called) ─► propose ─► commit
//! ReceiveMessage, AckMessage (nodes that were called), beside the producer's own span
//! ```
//!
//! A message is traced when its `trace_context` is a sampled W3C traceparent, which its spans then belong to; of others a
//! part of the sends is, by `tracesSampledRatio`. Without a collector no span is ever made. Nothing waits for the
//! collector: what it is too slow for is dropped and counted.

mod context;
mod export;

pub(crate) use context::Context;
pub use export::TraceConfig;
pub(crate) use export::{Ended, run};

use crate::clock::system_nanos;
use raftmq_proto::command::StoredMessage;
use raftmq_proto::rocketmq as v2;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// Spans that wait for the collector; more are dropped.
const WAITING_MAX: usize = 8_192;

/// Acknowledgements of which it is looked at once whether their messages are traced: each may read whole entries. Of
/// others meanwhile there are no spans.
const LOOKS_MAX: usize = 4;

/// Bytes that are kept of a text, which clients choose.
const TEXT_BYTES_MAX: usize = 255;

/// Messages of one acknowledgement that are looked at.
pub(crate) const SPANS_MAX: usize = 64;

tokio::task_local! {
    /// The span of the call that is being served.
    static CURRENT: Context;
}

/// The span of the call that is being served, if it is traced.
pub(crate) fn current() -> Option<Context> {
    CURRENT.try_with(|context| *context).ok()
}

/// Serves a call that is traced.
pub(crate) async fn within<T>(context: Context, serving: Pin<Box<dyn Future<Output = T> + Send + '_>>) -> T {
    CURRENT.scope(context, serving).await
}

/// What a span is of, as OpenTelemetry has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call of a client.
    Server,
    /// Something within.
    Internal,
}

/// Who sends messages to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The client itself.
    Client,
    /// A node of another broker group that hands a call over: within this span of its own, if it traces that.
    Node(Option<Context>),
}

/// What is said of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
}

/// Something that has begun.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) context: Context,
    pub(crate) parent: Option<[u8; 8]>,
    /// Since the Unix epoch.
    pub(crate) start_ns: u64,
    began: Instant,
    pub(crate) said: Vec<(&'static str, Value)>,
    /// The code that the client was told, when it is not OK.
    pub(crate) failed: Option<&'static str>,
}

impl Span {
    /// A span that begins now, within `parent`.
    pub(crate) fn within(parent: Context, name: &'static str, kind: Kind) -> Span {
        Span { parent: Some(parent.span), ..Span::of(parent.child(), name, kind) }
    }

    fn of(context: Context, name: &'static str, kind: Kind) -> Span {
        let (start_ns, began) = (system_nanos(), Instant::now());
        Span { name, kind, context, parent: None, start_ns, began, said: Vec::new(), failed: None }
    }

    /// The same, as one that began earlier.
    pub(crate) fn since(self, began: Instant) -> Span {
        let elapsed = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Span { start_ns: self.start_ns.saturating_sub(elapsed), began, ..self }
    }

    /// Says something of it.
    pub(crate) fn says(mut self, key: &'static str, value: impl Into<Value>) -> Span {
        self.said.push((key, value.into()));
        self
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}

struct Inner {
    /// Of the sends without a context, how many are traced: this many of 2^64.
    sampled: u64,
    ended: mpsc::Sender<Ended>,
    lost: AtomicU64,
    looks: Arc<Semaphore>,
}

/// Makes spans, where there is a collector; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tracer(Option<Arc<Inner>>);

impl Tracer {
    /// A tracer for a collector, and what comes out of it.
    pub(crate) fn new(config: &TraceConfig) -> (Tracer, mpsc::Receiver<Ended>) {
        let (ended, spans) = mpsc::channel(WAITING_MAX);
        (
            Tracer(Some(Arc::new(Inner {
                sampled: config.sampled,
                ended,
                lost: AtomicU64::new(0),
                looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            }))),
            spans,
        )
    }

    /// Whether there is a collector.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a send, when it is to be traced.
    pub(crate) fn send(&self, request: &v2::SendMessageRequest, sender: Sender) -> Option<Span> {
        const NAME: &str = "SendMessage";
        let inner = self.0.as_ref()?;
        let sampled = request.messages.iter().find_map(|message| {
            Some((message, Context::sampled(message.system_properties.as_ref()?.trace_context.as_deref()?)?))
        });
        let (message, span) = match (sampled, sender) {
            (sampled, Sender::Node(Some(parent))) => {
                let message = sampled.map(|(message, _)| message).or(request.messages.first())?;
                (message, Span::within(parent, NAME, Kind::Server))
            }
            (Some((message, parent)), _) => (message, Span::within(parent, NAME, Kind::Server)),
            // The node that hands over has decided about the others.
            (None, Sender::Client) if rand::random::<u64>() < inner.sampled => {
                (request.messages.first()?, Span::of(Context::fresh(), NAME, Kind::Server))
            }
            (None, _) => return None,
        };
        let topic = message.topic.as_ref().map_or("", |topic| topic.name.as_str());
        let id = message.system_properties.as_ref().map_or("", |of| of.message_id.as_str());
        let span = span.says("messaging.system", "rocketmq").says("messaging.operation.name", "send");
        let span = span.says("messaging.destination.name", topic).says("messaging.message.id", id);
        Some(span.says("messaging.batch.message_count", request.messages.len() as u64))
    }

    /// The span of something that happened to a message since `began`, when it is traced.
    pub(crate) fn of_message(&self, name: &'static str, message: &StoredMessage, began: Instant) -> Option<Span> {
        self.0.as_ref()?;
        let parent = Context::sampled(message.trace_context.as_deref()?)?;
        let span = Span::within(parent, name, Kind::Server).since(began).says("messaging.system", "rocketmq");
        let span = span.says("messaging.destination.name", message.topic.as_str());
        Some(span.says("messaging.message.id", message.message_id.as_str()))
    }

    /// Leave to look beside a call which messages are traced; `None` while there is enough of that.
    pub(crate) fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.0.as_ref()?.looks.clone().try_acquire_owned().ok()
    }

    /// Spans within those of another node.
    pub(crate) fn taken(&self, traceparents: &[String]) -> Vec<Span> {
        if self.0.is_none() || traceparents.is_empty() {
            return Vec::new();
        }
        let parents = traceparents.iter().filter_map(|text| Context::sampled(text));
        parents.map(|parent| Span::within(parent, "commit", Kind::Internal)).collect()
    }

    /// A span ends now.
    pub(crate) fn end(&self, span: Span) {
        self.end_at(span, Instant::now());
    }

    /// A span ended then.
    pub(crate) fn end_at(&self, span: Span, at: Instant) {
        let Some(inner) = &self.0 else { return };
        let elapsed = u64::try_from(at.saturating_duration_since(span.began).as_nanos()).unwrap_or(u64::MAX);
        let ended = Ended { end_ns: span.start_ns.saturating_add(elapsed), span };
        if inner.ended.try_send(ended).is_err() {
            inner.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that were dropped since this was asked before.
    pub(crate) fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.lost.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(trace_context: Option<&str>) -> v2::SendMessageRequest {
        let trace_context = trace_context.map(str::to_owned);
        let system_properties = Some(v2::SystemProperties { trace_context, ..Default::default() });
        v2::SendMessageRequest { messages: vec![v2::Message { system_properties, ..Default::default() }] }
    }

    #[tokio::test(start_paused = true)]
    async fn sends_are_traced_by_their_context_or_by_the_ratio() {
        let (parent, client) = (Context::fresh(), Sender::Client);
        let sampled = send(Some(&parent.to_string()));
        assert!(Tracer::default().send(&sampled, client).is_none(), "there is no collector");
        let tracer = |sampled| Tracer::new(&TraceConfig::of(sampled));
        let (none, _spans) = tracer(0);
        assert!(none.send(&send(None), client).is_none() && none.send(&send(Some("00-1")), client).is_none());
        let span = none.send(&sampled, client).expect("its context says so");
        assert_eq!((span.context.trace, span.parent), (parent.trace, Some(parent.span)));
        let (all, _spans) = tracer(u64::MAX);
        let span = all.send(&send(None), client).expect("all are");
        assert_eq!(span.parent, None);
        // Of what is handed over the node that was called has decided.
        assert!(all.send(&send(None), Sender::Node(None)).is_none());
        let called = parent.child();
        for request in [send(None), sampled] {
            let span = none.send(&request, Sender::Node(Some(called))).expect("it is traced there");
            assert_eq!((span.context.trace, span.parent), (parent.trace, Some(called.span)));
        }
        assert_eq!(within(span.context, Box::pin(async { current() })).await, Some(span.context));
        assert_eq!(current(), None);
    }

    #[test]
    fn texts_of_clients_are_cut() {
        assert_eq!(Value::from("é".repeat(1 << 20).as_str()), Value::Text("é".repeat(127)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_dropped_and_counted() {
        let (tracer, mut spans) = Tracer::new(&TraceConfig::of(0));
        for _ in 0..WAITING_MAX + 3 {
            tracer.end(Span::within(Context::fresh(), "commit", Kind::Internal));
        }
        assert_eq!((tracer.lost(), tracer.lost()), (3, 0));
        assert!(spans.try_recv().is_ok_and(|ended| ended.end_ns == ended.span.start_ns));
    }
}
