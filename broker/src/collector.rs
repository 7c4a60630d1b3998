//! The OpenTelemetry collector that figures and spans are sent to (OTLP over gRPC), and how it is called.

use crate::broker::Node;
use anyhow::Context as _;
use http::Uri;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use raftmq_server::outside_tls::Trust;
use raftmq_server::settings::Settings;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// What a target must be.
const TARGET: &str = "http://host:port or https://host:port of an OpenTelemetry collector";

/// Whom a collector at https:// must have its certificate from.
const TRUST: &str = "metricsGrpcExporterTrustCertPath";

/// When the node stops, this is how long a collector has for what is under way and for what is sent then. Together they
/// hold the node's end up for less than a second.
const LAST: Duration = Duration::from_millis(800);

/// How a collector is called.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    headers: MetadataMap,
    timeout: Duration,
    trust: Trust,
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
        let trust = Trust { key: TRUST, path: s.optional_path(TRUST) };
        Some(Calls { headers: headers?, timeout: Duration::from_millis(timeout_ms), trust })
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
    /// Which line says so.
    key: &'static str,
    uri: Uri,
}

impl Target {
    /// Reads it from `key`; where it is `wanted` it must be there.
    pub(crate) fn read(s: &mut Settings, key: &'static str, wanted: bool) -> Option<Target> {
        let target = s.optional_parsed(key, TARGET, |text| read_target(key, text));
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

fn read_target(key: &'static str, text: &str) -> Option<Target> {
    let uri: Uri = text.parse().ok()?;
    let is_bare = uri.path() == "/" && uri.query().is_none() && !text.contains('@');
    let scheme = uri.scheme_str().is_some_and(|scheme| ["http", "https"].contains(&scheme));
    let is_one = is_bare && scheme && uri.port_u16().is_some_and(|port| port > 0);
    is_one.then(|| Target { text: text.to_owned(), key, uri })
}

/// A collector.
#[derive(Debug, Clone)]
pub struct Collector {
    target: Target,
    calls: Calls,
}

impl Collector {
    /// A connection, which is made when it is used.
    ///
    /// # Errors
    /// Over TLS: there is nobody whose certificate is believed, in a sentence that names the key.
    pub(crate) fn connect(&self) -> anyhow::Result<Channel> {
        let (uri, timeout) = (&self.target.uri, self.calls.timeout);
        if uri.scheme_str() == Some("https") {
            let tls = self.calls.trust.clone().load();
            let tls = tls.with_context(|| format!("{} = {} cannot be called", self.target.key, self.target.text))?;
            return Ok(tls.channel(uri, timeout, self.target.key)?);
        }
        Ok(Endpoint::from(uri.clone()).connect_timeout(timeout).connect_lazy())
    }

    /// Goes on sending `what` until it has ended by itself after `stop`, or the time is up that it has then.
    pub(crate) async fn until(&self, stop: &CancellationToken, what: &str, sending: impl Future<Output = ()>) {
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            biased;
            () = sending => {}
            () = over => {
                let (collector, ms) = (self.target.text.as_str(), LAST.as_millis());
                tracing::warn!(collector, "the collector did not take the last {what} within {ms} ms: they are lost");
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn collector() -> Collector {
        let calls = Calls {
            headers: MetadataMap::new(),
            timeout: Duration::from_secs(60),
            trust: Trust { key: TRUST, path: None },
        };
        read_target("target", "http://127.0.0.1:4317").expect("it is one").called(&calls)
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_says_nothing_holds_the_end_up_for_less_than_a_second() {
        let (stop, began) = (CancellationToken::new(), Instant::now());
        let silent = tokio::spawn({
            let stop = stop.clone();
            async move { collector().until(&stop, "figures", std::future::pending()).await }
        });
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert!(!silent.is_finished(), "the node goes on");
        stop.cancel();
        silent.await.expect("it ends");
        let held_up = began.elapsed() - Duration::from_secs(3_600);
        assert!(held_up > Duration::ZERO && held_up < Duration::from_secs(1), "{held_up:?}");
        let began = Instant::now();
        collector().until(&stop, "figures", tokio::time::sleep(Duration::from_millis(5))).await;
        assert_eq!(began.elapsed(), Duration::from_millis(5), "nobody waits once all is sent");
    }
}
