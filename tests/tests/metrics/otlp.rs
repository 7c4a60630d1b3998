//! What a collector of OpenTelemetry is sent, against what the page of the same node shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{metric::Data, number_data_point::Value},
};
use raftmq_tests::certificates::Authority;
use raftmq_tests::client::{Producer, eventually};
use raftmq_tests::cluster::{Cluster, Options};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::{BODY, TOPIC, page};

const SOON: Duration = Duration::from_secs(20);

/// Name and labels of a series, and its value; a histogram is what Prometheus makes of it.
type Series = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// When each sum began and when it was told, ns since the Unix epoch.
type Times = BTreeMap<(String, BTreeMap<String, String>), (u64, u64)>;

/// Keeps what came last, while it takes anything.
#[derive(Clone, Default)]
struct Collector {
    last: Arc<Mutex<Option<Series>>>,
    times: Arc<Mutex<Times>>,
    closed: Arc<AtomicBool>,
}

impl Collector {
    /// Takes calls on `listener`, over TLS where there is an identity.
    fn serve(&self, listener: TcpListener, identity: Option<Identity>) -> Result<()> {
        let mut server = tonic::transport::Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
        }
        let served = server.add_service(MetricsServiceServer::new(self.clone()));
        tokio::spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(())
    }

    /// What came last of a name; the sum of its series.
    fn value(&self, name: &str) -> Option<f64> {
        let last = self.last.lock().expect("nobody panics with it");
        let of_name = last.as_ref()?.iter().filter(|((known, _), _)| known == name).map(|(_, value)| *value);
        of_name.reduce(|sum, value| sum + value)
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Status::unavailable("closed for the day"));
        }
        if request.metadata().get("tenant").is_none_or(|tenant| tenant != "a:b") {
            return Err(Status::unauthenticated("whose are they?"));
        }
        let mut times = Times::new();
        let series =
            read(request.into_inner(), &mut times).map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        *self.last.lock().expect("nobody panics with it") = Some(series);
        *self.times.lock().expect("nobody panics with it") = times;
        Ok(Response::new(ExportMetricsServiceResponse { partial_success: None }))
    }
}

fn labels(attributes: Vec<KeyValue>) -> Result<BTreeMap<String, String>> {
    attributes
        .into_iter()
        .map(|attribute| match attribute.value.and_then(|value| value.value) {
            Some(any_value::Value::StringValue(value)) => Ok((attribute.key, value)),
            other => anyhow::bail!("{} is {other:?}", attribute.key),
        })
        .collect()
}

fn read(request: ExportMetricsServiceRequest, times: &mut Times) -> Result<Series> {
    let mut series = Series::new();
    let resource = request.resource_metrics.into_iter().next().context("it is of a resource")?;
    let of = labels(resource.resource.context("the resource is said")?.attributes)?;
    ensure!(of.get("service.instance.id").is_some_and(|id| id == "RaftCluster/RaftNode00/n0"), "{of:?}");
    for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
        let name = metric.name;
        let points = match metric.data.with_context(|| format!("{name} has data"))? {
            Data::Gauge(gauge) => {
                ensure!(gauge.data_points.iter().all(|point| point.start_time_unix_nano == 0), "{name} began?");
                gauge.data_points
            }
            Data::Sum(sum) => {
                ensure!(sum.is_monotonic && sum.aggregation_temporality == 2, "{name}");
                for point in &sum.data_points {
                    let began = (point.start_time_unix_nano, point.time_unix_nano);
                    times.insert((name.clone(), labels(point.attributes.clone())?), began);
                }
                sum.data_points
            }
            Data::Histogram(histogram) => {
                for point in histogram.data_points {
                    ensure!(point.bucket_counts.len() == point.explicit_bounds.len() + 1, "{name}");
                    let labels = labels(point.attributes)?;
                    let began = (point.start_time_unix_nano, point.time_unix_nano);
                    times.insert((name.clone(), labels.clone()), began);
                    let mut below = 0;
                    let bounds = point.explicit_bounds.into_iter().chain([f64::INFINITY]);
                    for (bound, count) in bounds.zip(point.bucket_counts) {
                        below += count;
                        let mut labels = labels.clone();
                        labels.insert("le".to_owned(), bound.to_string());
                        series.insert((format!("{name}_bucket"), labels), below as f64);
                    }
                    series.insert((format!("{name}_count"), labels.clone()), point.count as f64);
                    series.insert((format!("{name}_sum"), labels), point.sum.context("it has a sum")?);
                }
                continue;
            }
            other => anyhow::bail!("{name} is {other:?}"),
        };
        for point in points {
            let Some(Value::AsDouble(value)) = point.value else { anyhow::bail!("{name} has no number") };
            series.insert((name.clone(), labels(point.attributes)?), value);
        }
    }
    Ok(series)
}

/// What the page shows, with all labels.
async fn shown(address: SocketAddr) -> Result<Series> {
    let (status, text) = page(address, "/metrics").await?;
    ensure!(status == 200, "{status}: {text}");
    let mut series = Series::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').context("a line has a value")?;
        let (name, pairs) = name.trim_end_matches('}').split_once('{').unwrap_or((name, ""));
        let mut labels = BTreeMap::new();
        for pair in pairs.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').context("a label has a value")?;
            let mut value = value.trim_matches('"').to_owned();
            if key == "le" {
                value = value.parse::<f64>()?.to_string();
            }
            labels.insert(key.to_owned(), value);
        }
        series.insert((name.to_owned(), labels), value.parse()?);
    }
    Ok(series)
}

/// What clients did, and nothing else moves.
fn is_steady(name: &str, labels: &BTreeMap<String, String>) -> bool {
    let of_sends = labels.get("request_code").is_some_and(|rpc| rpc == "SendMessage");
    let starts = ["messages_", "throughput_", "message_size", "topic_number", "consumer_lag", "timing"];
    of_sends || starts.iter().any(|start| name.trim_start_matches("rocketmq_").starts_with(start))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_is_sent_what_the_page_shows_and_holds_nothing_up_while_it_is_away() -> Result<()> {
    // Connections are made, and nobody answers on them.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut settings = exporting(&format!("http://{}", listener.local_addr()?), "100");
    settings.push(setting("metricGrpcExporterTimeOutInMills", "1000"));
    let environment = vec![setting("RUST_LOG", "info,raftmq_broker::collector=debug")];
    let mut cluster = Cluster::start(Options { nodes: 1, settings, environment, ..Default::default() }).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    let log = |part: &str| cluster.log(0).matches(part).count();
    eventually("several attempts come to nothing", Duration::from_secs(20), async || log("still no figures") > 2)
        .await?;
    for number in 0..20 {
        producer.send(TOPIC, &format!("M{number:015}"), None, Bytes::from(vec![7; BODY])).await?;
    }
    ensure!(log("takes no figures, and is tried again") == 1, "it is told once:\n{}", cluster.log_tails(0));
    ensure!(log("takes figures again") == 0);

    let collector = Collector::default();
    collector.serve(listener, None)?;
    let metrics = cluster.nodes[0].metrics;
    let mut difference = String::new();
    let same = eventually("the collector has what the page shows", Duration::from_secs(20), async || {
        let Ok(page) = shown(metrics).await else { return false };
        let Some(sent) = collector.last.lock().expect("nobody panics with it").clone() else { return false };
        let missing = page.keys().filter(|key| !sent.contains_key(*key));
        let names = missing.chain(sent.keys().filter(|key| !page.contains_key(*key)));
        let values = page.iter().filter(|((name, labels), value)| {
            is_steady(name, labels) && sent.get(&(name.clone(), labels.clone())).is_some_and(|sent| sent != *value)
        });
        let (names, values): (Vec<_>, Vec<_>) = (names.collect(), values.collect());
        difference = format!("on one side only: {names:?}\nwith another value: {values:?}");
        names.is_empty() && values.is_empty()
    });
    same.await.with_context(|| difference.clone())?;
    let sent = collector.last.lock().expect("nobody panics with it").clone().context("it was sent figures")?;
    let value = |wanted: &str| sent.iter().find(|((name, _), _)| name == wanted).map(|(_, value)| *value);
    ensure!(value("rocketmq_messages_in_total") == Some(20.0), "{sent:?}");
    ensure!(value("rocketmq_throughput_in_total") == Some((20 * BODY) as f64), "{sent:?}");
    ensure!(value("rocketmq_message_size_count") == Some(20.0), "{sent:?}");
    ensure!(value("rocketmq_raft_is_leader") == Some(1.0), "{sent:?}");
    eventually("it is told that it is back", Duration::from_secs(5), async || log("takes figures again") > 0).await?;

    // It takes nothing any more: told once more, and clients notice nothing.
    collector.closed.store(true, Ordering::Relaxed);
    let refused = async || log("closed for the day") > 2;
    eventually("it is tried again", Duration::from_secs(10), refused).await?;
    let told = log("takes no figures, and is tried again");
    ensure!((2..=log("takes figures again") + 1).contains(&told), "it is told once more:\n{}", cluster.log_tails(0));
    producer.send(TOPIC, "M-last", None, Bytes::from_static(b"last")).await?;
    ensure!(!cluster.log(0).contains("a:b"), "a header is a secret");
    Ok(())
}

fn setting(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// Figures go to `target` every so many milliseconds, under a tenant.
fn exporting(target: &str, interval_ms: &str) -> Vec<(String, String)> {
    vec![
        setting("metricsExporterType", "OTLP_GRPC"),
        setting("metricsGrpcExporterTarget", target),
        setting("metricsGrpcExporterHeader", "tenant:a:b"),
        setting("metricGrpcExporterIntervalInMills", interval_ms),
    ]
}

fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Between two times at which figures are sent anyway lies an hour: what was counted since the first is sent when the node
/// stops, with when each sum began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_counted_last_is_sent_when_the_node_stops() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let settings = exporting(&format!("http://{}", listener.local_addr()?), "3600000");
    let collector = Collector::default();
    collector.serve(listener, None)?;
    let started = now_ns()?;
    let mut cluster = Cluster::start(Options { nodes: 1, settings, ..Default::default() }).await?;
    eventually("figures are sent", SOON, async || collector.value("rocketmq_raft_term").is_some()).await?;
    let sent_first = now_ns()?;
    ensure!(collector.value("rocketmq_messages_in_total").is_none());
    let early = collector.times.lock().expect("nobody panics with it").clone();
    cluster.create_topic(TOPIC, 4).await?;
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    for number in 0..7 {
        producer.send(TOPIC, &format!("M{number:015}"), None, Bytes::from(vec![7; BODY])).await?;
    }
    ensure!(collector.value("rocketmq_messages_in_total").is_none(), "nothing is sent before its time");
    ensure!(cluster.stop(0, SOON)?.success());
    ensure!(collector.value("rocketmq_messages_in_total") == Some(7.0), "{:?}", collector.last);
    ensure!(collector.value("rocketmq_rpc_latency_count").is_some_and(|calls| calls >= 7.0));
    let times = collector.times.lock().expect("nobody panics with it").clone();
    for ((name, labels), (began, told)) in &times {
        ensure!(started <= *began && began <= told && *told <= now_ns()?, "{name} {labels:?}: {began} to {told}");
        if name == "rocketmq_messages_in_total" {
            ensure!(*began <= sent_first, "it was not there when figures were sent first");
        }
        // A sum goes on: a collector would take another beginning for a sum that began anew.
        if let Some((before, _)) = early.get(&(name.clone(), labels.clone())) {
            ensure!(before == began, "{name} {labels:?} began at {before}, then at {began}");
        }
    }
    let started_with = |name: &str| times.iter().find(|((known, _), _)| known == name).map(|(_, times)| times.0);
    ensure!(started_with("rocketmq_raft_fsyncs_total").is_some_and(|began| began < sent_first));
    ensure!(early.keys().any(|(name, _)| name == "rocketmq_raft_fsyncs_total"));
    Ok(())
}

/// A collector that takes connections and answers nothing holds a node's end up for less than a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_does_not_hold_up_a_node_that_stops() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = format!("http://{}", listener.local_addr()?);
    let settings = vec![
        setting("metricsExporterType", "OTLP_GRPC"),
        setting("metricsGrpcExporterTarget", &target),
        setting("tracesGrpcExporterTarget", &target),
        setting("tracesSampledRatio", "1"),
        setting("metricGrpcExporterTimeOutInMills", "600000"),
    ];
    let mut cluster = Cluster::start(Options { nodes: 1, settings, ..Default::default() }).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    producer.send(TOPIC, "M-last", None, Bytes::from_static(b"last")).await?;
    let began = Instant::now();
    ensure!(cluster.stop(0, SOON)?.success());
    let log = cluster.log(0);
    for what in ["figures", "spans"] {
        ensure!(log.contains(&format!("the collector did not take the last {what} within 800 ms")), "{log}");
    }
    // Otherwise tasks are waited for during three seconds, and then abandoned.
    ensure!(!log.contains("are abandoned"), "{log}");
    ensure!(began.elapsed() < Duration::from_millis(2_900), "{:?}", began.elapsed());
    Ok(())
}

/// Over TLS a collector is believed by the certificates of a file, which may be replaced, or by the system's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_over_tls_must_prove_itself() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let own = Authority::new(&dir.path().join("own"))?;
    let other = Authority::new(&dir.path().join("other"))?;
    own.sign("collector", &["127.0.0.1"])?;
    let identity = || -> Result<Identity> {
        let [certificate, key, _] = own.files("collector");
        Ok(Identity::from_pem(std::fs::read(certificate)?, std::fs::read(key)?))
    };
    let trusted = dir.path().join("trusted.pem");
    std::fs::copy(other.path("ca.pem"), &trusted)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = format!("https://{}", listener.local_addr()?);
    let collector = Collector::default();
    collector.serve(listener, Some(identity()?))?;
    let common = exporting(&target, "100");
    let by_file = setting("metricsGrpcExporterTrustCertPath", &trusted.display().to_string());
    let settings = common.iter().cloned().chain([by_file]).collect();
    let cluster = Cluster::start(Options { nodes: 1, settings, ..Default::default() }).await?;
    let why = format!("metricsGrpcExporterTrustCertPath = {}", trusted.display());
    eventually("it is told what to repair", SOON, async || cluster.log(0).contains(&why)).await?;
    ensure!(collector.value("rocketmq_raft_term").is_none(), "nothing goes to a stranger");
    std::fs::copy(own.path("ca.pem"), &trusted)?;
    eventually("it is believed", SOON, async || collector.value("rocketmq_raft_term").is_some()).await?;
    drop(cluster);

    // What the system believes: here by the variable that names its file.
    *collector.last.lock().expect("nobody panics with it") = None;
    let environment = vec![setting("SSL_CERT_FILE", &own.path("ca.pem").display().to_string())];
    let settings = common.to_vec();
    let _cluster = Cluster::start(Options { nodes: 1, settings, environment, ..Default::default() }).await?;
    eventually("it is believed", SOON, async || collector.value("rocketmq_raft_term").is_some()).await
}
