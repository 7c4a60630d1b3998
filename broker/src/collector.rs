//! The OpenTelemetry collector that figures and spans are sent to (OTLP over gRPC), and how it is called.

use crate::broker::Node;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use raftmq_server::settings::Settings;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// What a target must be.
const TARGET: &str = "http://host:port of an OpenTelemetry collector (there is no TLS to it)";

/// How a collector is called.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    headers: MetadataMap,
    timeout: Duration,
}

impl Calls {
    /// Reads RocketMQ's keys, which hold for figures and for spans.
    pub(crate) fn read(s: &mut Settings) -> Option<Calls> {
        const HEADERS: &str = "name:value pairs separated by ','";
        let headers =
            s.secret("metricsGrpcExporterHeader").map_or_else(|| Some(MetadataMap::new()), |h| read_headers(&h));
        if headers.is_none() {
            s.wrong("metricsGrpcExporterHeader", HEADERS);
        }
        let timeout_ms = s.number("metricGrpcExporterTimeOutInMills", 3_000, 1..=600_000);
        Some(Calls { headers: headers?, timeout: Duration::from_millis(timeout_ms) })
    }
}

/// `name:value,name:value`, RocketMQ's form; a value may have colons.
fn read_headers(text: &str) -> Option<MetadataMap> {
    let mut headers = MetadataMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once(':')?;
        let name: MetadataKey<Ascii> = name.trim().to_ascii_lowercase().parse().ok()?;
        let mut value: MetadataValue<Ascii> = value.trim().parse().ok()?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Some(headers)
}

/// Where a collector is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// As somebody wrote it, for the log.
    text: String,
    endpoint: Endpoint,
}

impl Target {
    /// Reads it from `key`; where it is `wanted` it must be there.
    pub(crate) fn read(s: &mut Settings, key: &str, wanted: bool) -> Option<Target> {
        let target = s.optional_parsed(key, TARGET, read_target);
        if wanted && target.is_none() && !s.is_set(key) {
            s.missing(key, TARGET);
        }
        target
    }

    /// A collector there.
    pub(crate) fn called(self, calls: &Calls) -> Collector {
        Collector { target: self, calls: calls.clone() }
    }
}

fn read_target(text: &str) -> Option<Target> {
    let endpoint = Endpoint::from_shared(text.to_owned()).ok()?;
    let uri = endpoint.uri();
    let is_plain = uri.path() == "/" && uri.query().is_none() && !text.contains('@');
    let is_one = is_plain && uri.scheme_str() == Some("http") && uri.port_u16().is_some_and(|port| port > 0);
    is_one.then(|| Target { text: text.to_owned(), endpoint })
}

/// A collector.
#[derive(Debug, Clone)]
pub struct Collector {
    target: Target,
    calls: Calls,
}

impl Collector {
    /// A connection, which is made when it is used.
    pub(crate) fn connect(&self) -> Channel {
        self.target.endpoint.clone().connect_timeout(self.calls.timeout).connect_lazy()
    }

    /// What it is to be called with.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.calls.headers.clone();
        request.set_timeout(self.calls.timeout);
        request
    }

    /// What it answers within its time, or why not.
    pub(crate) async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
        let answer = tokio::time::timeout(self.calls.timeout, call).await;
        let answer = answer.map_err(|_| format!("no answer within {} ms", self.calls.timeout.as_millis()))?;
        let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
        Ok(answer.into_inner())
    }
}

/// Whether a collector takes something, told once whenever that changes.
pub(crate) struct Told<'c> {
    collector: &'c Collector,
    what: &'static str,
    away: bool,
}

impl<'c> Told<'c> {
    /// `what` it takes, in one word.
    pub(crate) fn new(collector: &'c Collector, what: &'static str) -> Told<'c> {
        Told { collector, what, away: false }
    }

    /// What came of a call. Says what follows from a failure in its own words.
    pub(crate) fn tell(&mut self, outcome: Result<(), String>, follows: &str) {
        let (collector, what) = (self.collector.target.text.as_str(), self.what);
        match outcome {
            Ok(()) => {
                if self.away {
                    tracing::info!(collector, "the collector takes {what} again");
                }
                self.away = false;
            }
            Err(why) => {
                if self.away {
                    tracing::debug!(collector, "still no {what} are taken: {why}");
                } else {
                    tracing::warn!(collector, "the collector takes no {what}, {follows}: {why}");
                }
                self.away = true;
            }
        }
    }
}

/// What figures and spans are of.
pub(crate) fn resource(node: &Node) -> Resource {
    let config = &node.config;
    let instance = format!("{}/{}/{}", config.cluster, config.broker_group, config.label);
    let attributes = vec![text("service.name", "raftmq-broker"), text("service.instance.id", &instance)];
    Resource { attributes, ..Default::default() }
}

/// Who says so.
pub(crate) fn scope() -> InstrumentationScope {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    InstrumentationScope { name: "raftmq".to_owned(), version, ..Default::default() }
}

/// An attribute.
pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}
