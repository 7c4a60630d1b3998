//! The figures of `/metrics`, sent to an OpenTelemetry collector (OTLP over gRPC): the same names, labels and values,
//! out of the same registry.
//!
//! Counters are sums since the beginning, so that nothing is lost while the collector is away: what was not sent is in
//! what is sent next. Nothing waits for it, but for a moment the node's end: what was counted last is sent then.

mod began;

use super::consumers::OF_ROWS;
use super::scrape::{self, ScrapeError};
use crate::broker::Node;
use crate::clock::system_nanos;
use crate::collector::{Calls, Collector, Target, Told, resource, scope, text};
use began::{Began, Look};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric::Data, number_data_point::Value,
};
use parking_lot::Mutex;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model as shown;
use raftmq_server::settings::Settings;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Points of one request. A point has some 300 bytes and at most a few KiB, and collectors take 4 MiB unless told
/// otherwise.
const POINTS_MAX: usize = 2_000;

/// Where figures are sent, and how often.
#[derive(Debug, Clone)]
pub struct Export {
    collector: Collector,
    interval: Duration,
}

impl Export {
    /// Reads RocketMQ's keys; `None` unless `wanted`.
    pub(crate) fn read(s: &mut Settings, calls: Option<&Calls>, wanted: bool) -> Option<Export> {
        let target = Target::read(s, "metricsGrpcExporterTarget", wanted);
        let interval_ms = s.number("metricGrpcExporterIntervalInMills", 60_000, 100..=86_400_000);
        if !wanted {
            return None;
        }
        Some(Export { collector: target?.called(calls?), interval: Duration::from_millis(interval_ms) })
    }

    /// A connection to the collector.
    ///
    /// # Errors
    /// As [`Collector::connect`].
    pub(crate) fn connect(&self) -> anyhow::Result<Channel> {
        self.collector.connect()
    }
}

/// Sends figures again and again, and once more after `stop`.
pub(crate) async fn run(node: Arc<Node>, export: Export, to: Channel, stop: CancellationToken) {
    export.collector.until(&stop, "figures", send_on(&node, &export, to, &stop)).await;
}

async fn send_on(node: &Arc<Node>, export: &Export, to: Channel, stop: &CancellationToken) {
    let mut client = MetricsServiceClient::new(to);
    let age = u64::try_from(node.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let began = Arc::new(Mutex::new(Began::new(system_nanos().saturating_sub(age))));
    let mut told = Told::new(&export.collector, "figures");
    let again = format!("and is tried again every {} ms", export.interval.as_millis());
    let mut ticks = tokio::time::interval(export.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = stop.run_until_cancelled(ticks.tick()).await.is_none();
        let outcome = send(node, &export.collector, &mut client, &began).await;
        if is_last {
            told.tell(outcome, "and the last ones are lost");
            return;
        }
        told.tell(outcome, &again);
    }
}

/// Sends all figures once.
async fn send(
    node: &Arc<Node>,
    collector: &Collector,
    client: &mut MetricsServiceClient<Channel>,
    began: &Arc<Mutex<Began>>,
) -> Result<(), String> {
    let (reader, began) = (node.clone(), began.clone());
    // Rows are read from disk, and there may be many.
    let figures = tokio::task::spawn_blocking(move || {
        let mut began = began.lock();
        let from = system_nanos();
        let families = scrape::families(&reader)?;
        let mut look = began.look(from, system_nanos());
        Ok(requests(families.into_iter().flat_map(|family| metrics_of(family, &mut look)).collect()))
    });
    let figures = figures.await.map_err(|error| error.to_string())?;
    for metrics in figures.map_err(|error: ScrapeError| error.to_string())? {
        let request = collector.request(of_node(node, metrics));
        let answer = collector.answer(client.export(request)).await?;
        if let Some(partial) = answer.partial_success.filter(|partial| partial.rejected_data_points > 0) {
            return Err(format!("it refused {} points: {}", partial.rejected_data_points, partial.error_message));
        }
    }
    Ok(())
}

fn of_node(node: &Node, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scoped = ScopeMetrics { scope: Some(scope()), metrics, ..Default::default() };
    let resource = Some(resource(node));
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics: vec![scoped], ..Default::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

/// Requests of at most [`POINTS_MAX`] points each.
fn requests(metrics: Vec<(Metric, usize)>) -> Vec<Vec<Metric>> {
    let mut requests = Vec::new();
    let (mut last, mut points) = (Vec::new(), 0);
    for (metric, count) in metrics {
        if points + count > POINTS_MAX && !last.is_empty() {
            requests.push(std::mem::take(&mut last));
            points = 0;
        }
        last.push(metric);
        points += count;
    }
    if !last.is_empty() {
        requests.push(last);
    }
    requests
}

/// A family as metrics of at most [`POINTS_MAX`] points, with how many each has.
fn metrics_of(family: shown::MetricFamily, look: &mut Look<'_>) -> Vec<(Metric, usize)> {
    let kind = family.r#type();
    let (name, help) = (family.name, family.help);
    let mut series = family.metric.into_iter().peekable();
    let mut metrics = Vec::new();
    while series.peek().is_some() {
        let part: Vec<shown::Metric> = series.by_ref().take(POINTS_MAX).collect();
        let count = part.len();
        let cumulative = AggregationTemporality::Cumulative.into();
        let data = match kind {
            shown::MetricType::Counter => {
                let data_points = part.into_iter().filter_map(|series| number(series, look, Some(&name))).collect();
                Data::Sum(Sum { data_points, aggregation_temporality: cumulative, is_monotonic: true })
            }
            shown::MetricType::Histogram => {
                let data_points = part.into_iter().filter_map(|series| histogram(series, look, &name)).collect();
                Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative })
            }
            _ => {
                let data_points = part.into_iter().filter_map(|series| number(series, look, None)).collect();
                Data::Gauge(Gauge { data_points })
            }
        };
        let metric = Metric { name: name.clone(), description: help.clone(), data: Some(data), ..Default::default() };
        metrics.push((metric, count));
    }
    metrics
}

/// A point of a gauge, or of the sum of this name.
fn number(series: shown::Metric, look: &mut Look<'_>, sum: Option<&str>) -> Option<NumberDataPoint> {
    let counter = series.counter.map(|counter| counter.value);
    let value = counter.or(series.gauge.map(|gauge| gauge.value))?;
    let since = sum.map(|name| look.since(name, &series.label, value, OF_ROWS.contains(&name)));
    Some(NumberDataPoint {
        attributes: labels(series.label),
        start_time_unix_nano: since.unwrap_or_default(),
        time_unix_nano: look.now,
        value: Some(Value::AsDouble(value)),
        ..Default::default()
    })
}

/// Prometheus counts what is at most a bound, OTLP what is between two.
fn histogram(series: shown::Metric, look: &mut Look<'_>, name: &str) -> Option<HistogramDataPoint> {
    let found = series.histogram?;
    // No count comes near 2^52.
    #[allow(clippy::cast_precision_loss)]
    let since = look.since(name, &series.label, found.sample_count as f64, false);
    let finite = found.bucket.iter().filter(|bucket| bucket.upper_bound.is_finite());
    let (mut explicit_bounds, mut bucket_counts, mut below) = (Vec::new(), Vec::new(), 0);
    for bucket in finite {
        explicit_bounds.push(bucket.upper_bound);
        bucket_counts.push(bucket.cumulative_count.saturating_sub(below));
        below = bucket.cumulative_count;
    }
    bucket_counts.push(found.sample_count.saturating_sub(below));
    Some(HistogramDataPoint {
        attributes: labels(series.label),
        start_time_unix_nano: since,
        time_unix_nano: look.now,
        count: found.sample_count,
        sum: Some(found.sample_sum),
        bucket_counts,
        explicit_bounds,
        ..Default::default()
    })
}

fn labels(pairs: Vec<shown::LabelPair>) -> Vec<KeyValue> {
    pairs.into_iter().map(|pair| text(&pair.name, &pair.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Began, POINTS_MAX, metrics_of, requests};
    use prometheus_client::encoding::prometheus_protobuf::encode;
    use prometheus_client::metrics::{counter::Counter, family::Family};
    use prometheus_client::registry::Registry;

    #[test]
    fn no_request_has_more_points_than_collectors_take() {
        let mut registry = Registry::default();
        for (name, series) in [("small", 3), ("large", 2 * POINTS_MAX + 7), ("other", POINTS_MAX - 7), ("none", 0)] {
            let family: Family<[(&str, usize); 1], Counter> = Family::default();
            for number in 0..series {
                family.get_or_create(&[("series", number)]).inc();
            }
            registry.register(name, "help", family);
        }
        let families = encode(&registry).expect("it has no text that cannot be written");
        let mut began = Began::new(1);
        let mut look = began.look(2, 2);
        let metrics: Vec<_> = families.into_iter().flat_map(|family| metrics_of(family, &mut look)).collect();
        let all: usize = metrics.iter().map(|(_, points)| points).sum();
        assert_eq!(all, 3 * POINTS_MAX + 3);
        let names: Vec<Vec<String>> =
            requests(metrics).into_iter().map(|sent| sent.into_iter().map(|metric| metric.name).collect()).collect();
        let (small, large, other) = ("small_total", "large_total", "other_total");
        assert_eq!(names, [vec![small], vec![large], vec![large], vec![large, other]]);
    }
}
