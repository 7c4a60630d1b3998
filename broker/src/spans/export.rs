//! Sends spans that have ended, together where there are several.

use super::{Kind, Span, Value};
use crate::broker::Node;
use crate::collector::{Calls, Collector, Target, Told, resource, scope, text};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{self as wire, ResourceSpans, ScopeSpans, span::SpanKind, status};
use raftmq_server::logs::Limited;
use raftmq_server::settings::Settings;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Spans of one request. A span has some 500 bytes, and collectors take 4 MiB unless told otherwise.
const BATCH_MAX: usize = 512;
/// A span waits this long for others to go with it.
const TOGETHER: Duration = Duration::from_millis(500);
/// A collector that took none is left alone for so long.
const AGAIN: Duration = Duration::from_secs(1);
/// It is said at most so often that spans were dropped.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Which sends are traced, and where their spans go.
#[derive(Debug, Clone)]
pub struct TraceConfig {
    /// `None` in tests alone.
    collector: Option<Collector>,
    /// Of the sends without a context, how many are traced: this many of 2^64.
    pub(super) sampled: u64,
}

impl TraceConfig {
    /// Reads it; `None` without a collector.
    pub(crate) fn read(s: &mut Settings, calls: Option<&Calls>) -> Option<TraceConfig> {
        let target = Target::read(s, "tracesGrpcExporterTarget", false);
        let sampled = s.parsed("tracesSampledRatio", Ratio(0.0), "a number from 0 to 1", Ratio::read);
        Some(TraceConfig { collector: Some(target?.called(calls?)), sampled: sampled.of_u64() })
    }

    /// A connection to the collector.
    ///
    /// # Errors
    /// As [`Collector::connect`].
    pub(crate) fn connect(&self) -> anyhow::Result<Option<Channel>> {
        self.collector.as_ref().map(Collector::connect).transpose()
    }

    #[cfg(test)]
    pub(super) fn of(sampled: u64) -> TraceConfig {
        TraceConfig { collector: None, sampled }
    }
}

#[derive(Debug, Clone, Copy)]
struct Ratio(f64);

impl Ratio {
    fn read(text: &str) -> Option<Ratio> {
        text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).map(Ratio)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 0 to 1, and casts saturate"
    )]
    fn of_u64(self) -> u64 {
        (self.0 * 2.0_f64.powi(64)) as u64
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A span that is over.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) span: Span,
    /// Since the Unix epoch.
    pub(crate) end_ns: u64,
}

/// Sends spans until `stop`, and those that have ended by then.
pub(crate) async fn run(
    node: Arc<Node>,
    (config, to): (TraceConfig, Option<Channel>),
    spans: mpsc::Receiver<Ended>,
    stop: CancellationToken,
) {
    if let Some((collector, to)) = config.collector.zip(to) {
        collector.until(&stop, "spans", send_on(&node, &collector, to, spans, &stop)).await;
    }
}

async fn send_on(
    node: &Node,
    collector: &Collector,
    to: Channel,
    mut spans: mpsc::Receiver<Ended>,
    stop: &CancellationToken,
) {
    let mut client = TraceServiceClient::new(to);
    let mut told = Told::new(collector, "spans");
    let (mut batch, mut lost) = (Vec::new(), 0);
    let warns = Limited::every(WARN_EVERY);
    loop {
        gather(&mut spans, &mut batch, stop).await;
        if batch.is_empty() {
            return;
        }
        let request = collector.request(request(node, batch.drain(..)));
        let answer = collector.answer(client.export(request)).await;
        let failed = answer.is_err();
        let answer = answer.and_then(|answer| match answer.partial_success {
            Some(partial) if partial.rejected_spans > 0 => {
                Err(format!("it refused {} spans: {}", partial.rejected_spans, partial.error_message))
            }
            _ => Ok(()),
        });
        told.tell(answer, "those of the meantime are lost");
        lost += node.tracer.lost();
        if lost > 0 && warns.pass().is_some() {
            tracing::warn!(lost, "spans were dropped: the collector is too slow, or tracesSampledRatio too high");
            lost = 0;
        }
        if failed {
            stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
        }
    }
}

/// Waits for spans that go together; after `stop` only for those that are there. None are left when there are none.
async fn gather(spans: &mut mpsc::Receiver<Ended>, batch: &mut Vec<Ended>, stop: &CancellationToken) {
    if stop.run_until_cancelled(spans.recv_many(batch, BATCH_MAX)).await.is_some_and(|count| count > 0) {
        let until = tokio::time::Instant::now() + TOGETHER;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            let more = tokio::time::timeout_at(until, spans.recv_many(batch, room));
            match stop.run_until_cancelled(more).await {
                Some(Ok(1..)) => {}
                Some(Ok(0) | Err(_)) => return,
                None => break,
            }
        }
    }
    if stop.is_cancelled() {
        spans.close();
        while batch.len() < BATCH_MAX && spans.recv_many(batch, BATCH_MAX - batch.len()).await > 0 {}
    }
}

fn request(node: &Node, ended: impl Iterator<Item = Ended>) -> ExportTraceServiceRequest {
    let scoped = ScopeSpans { scope: Some(scope()), spans: ended.map(to_wire).collect(), ..Default::default() };
    let of_node = ResourceSpans { resource: Some(resource(node)), scope_spans: vec![scoped], ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_node] }
}

fn to_wire(Ended { span, end_ns }: Ended) -> wire::Span {
    let attribute = |(key, value): (&'static str, Value)| match value {
        Value::Text(value) => text(key, &value),
        Value::Number(number) => {
            let value = any_value::Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX));
            KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
        }
    };
    let kind = match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Internal => SpanKind::Internal,
    };
    let failed = |code: &'static str| wire::Status { message: code.to_owned(), code: status::StatusCode::Error.into() };
    wire::Span {
        trace_id: span.context.trace.to_vec(),
        span_id: span.context.span.to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        // The trace is sampled.
        flags: 1,
        name: span.name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: end_ns,
        attributes: span.said.into_iter().map(attribute).collect(),
        status: span.failed.map(failed),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans::{Context, Tracer};
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_when_the_node_stops_is_sent_and_nobody_waits_for_more() {
        let (tracer, mut spans) = Tracer::new(&TraceConfig::of(0));
        let end = |count| (0..count).for_each(|_| tracer.end(Span::within(Context::fresh(), "commit", Kind::Internal)));
        let (stop, mut batch) = (CancellationToken::new(), Vec::new());
        end(3);
        let began = Instant::now();
        gather(&mut spans, &mut batch, &stop).await;
        assert_eq!((batch.len(), began.elapsed()), (3, TOGETHER));
        batch.clear();
        end(2 * BATCH_MAX + 1);
        stop.cancel();
        let began = Instant::now();
        for count in [BATCH_MAX, BATCH_MAX, 1, 0, 0] {
            gather(&mut spans, &mut batch, &stop).await;
            assert_eq!(batch.len(), count);
            batch.clear();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
