//! The broker's configuration: RocketMQ's keys where it has one, checked as a whole at start.

use crate::access::AccessConfig;
use crate::collector::Calls;
use crate::forward::MergeLimits;
use crate::machine::{EXPRESSION_BYTES_MAX, KNOWN, MESSAGES_MAX_DEFAULT, WINDOW_MS_DEFAULT};
use crate::metrics::Export;
use crate::propose::ProposeLimits;
use crate::rate::Limit;
use crate::spans::TraceConfig;
use crate::task::SlowDiskLimits;
use raftmq_server::cluster_tls::ClusterTlsFiles;
use raftmq_server::logs::LogFiles;
use raftmq_server::settings::{Alias, Effective, Entry, SettingErrors, Settings};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Spellings that RocketMQ's users have in their files.
pub const ALIASES: &[Alias] = &[
    ("enableDLedgerCommitLog", "enableDLegerCommitLog"),
    ("dLedgerGroup", "dLegerGroup"),
    ("dLedgerPeers", "dLegerPeers"),
    ("dLedgerSelfId", "dLegerSelfId"),
    ("rocketMQClusterName", "brokerClusterName"),
    ("maxDelayTimeMills", "maxDelayTimeMillis"),
    ("defaultInvisibleTimeMills", "defaultInvisibleTimeMillis"),
    ("maxInvisibleTimeMills", "maxInvisibleTimeMillis"),
    ("minInvisibleTimeMillsForRecv", "minInvisibleTimeMillisForRecv"),
];

/// Largest request that clients may send, in bytes: what a call stores is one entry of the log, which travels between
/// the members as a whole.
pub const INBOUND_BYTES_MAX: usize = 64 << 20;

/// When a message counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushDiskType {
    /// fdatasync on a majority before OK.
    Sync,
    /// In the operating system's memory on a majority before OK; votes and membership are synced all the same.
    Async,
}

/// A member of the broker group as the file names it: a label and the address of its peer port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `n0` and the like; a label, not an identity.
    pub label: String,
    /// `host:port`.
    pub address: String,
}

/// Who answers what, where.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The host that clients and peers reach this node by (`brokerIP1`).
    pub host: String,
    /// All listeners bind here.
    pub bind: IpAddr,
    /// `raftmq.admin.v1` (`listenPort`).
    pub admin_port: u16,
    /// The public API (`grpcServerPort`).
    pub grpc_port: u16,
    /// Members of the group, out of this node's own entry in `dLegerPeers`.
    pub peer_port: u16,
}

/// How long a message that is sent again is stored once. What the leader's file says counts for the broker group.
#[derive(Debug, Clone)]
pub struct Idempotence {
    /// In ms, 0 for not at all (`idempotentWindowMillis`).
    pub window_ms: u64,
    /// Of the messages that were stored last (`idempotentMessagesMax`); some 20 bytes of memory and 40 of disk each, 40 and
    /// 48 where an id comes with several contents.
    pub messages_max: u64,
}

/// What may be kept. What the leader's file says counts for the broker group; disk use is that of the fullest member.
#[derive(Debug, Clone)]
pub struct Retention {
    /// How long messages are kept, in ms (`fileReservedTime`, in hours).
    pub kept_ms: u64,
    /// Hours of the day (UTC) in which messages that are too old go; none for any (`deleteWhen`).
    pub hours: Vec<u8>,
    /// Bytes of the log on a node, 0 for any (`fileReservedSize`): with more, the oldest messages go before their time.
    pub log_bytes_max: u64,
    /// With a disk fuller than this, in percent, messages that are too old go at any hour (`diskMaxUsedSpaceRatio`).
    pub disk_percent_max: u64,
    /// With a disk fuller than this, in percent, the oldest messages go before their time; 0 for never
    /// (`diskSpaceCleanForciblyRatio`, while `cleanFileForciblyEnable`).
    pub force_percent: u64,
}

/// Limits and defaults of the public API, the reference's unless said otherwise.
#[derive(Debug, Clone)]
pub struct GrpcConfig {
    /// Largest body, in bytes (`maxMessageSize`).
    pub max_message_bytes: usize,
    /// Largest inbound gRPC message, in bytes (`grpcMaxInboundMessageSize`); at most [`INBOUND_BYTES_MAX`].
    pub max_inbound_bytes: usize,
    /// Messages of one call (`sendBatchMessagesMax`).
    pub send_batch_max: usize,
    /// User properties of one message (`userPropertyMaxNum`).
    pub user_property_count_max: usize,
    /// Bytes of keys and values of all user properties, tag and keys of one message (`maxUserPropertySize`).
    pub user_property_bytes_max: usize,
    /// Bytes of a message group must be fewer, 0 for any (`maxMessageGroupSize`).
    pub message_group_bytes: usize,
    /// Bytes of the name of a lite topic (`maxLiteTopicSize`).
    pub lite_topic_bytes: usize,
    /// Lite topics that the clients of this node may begin to receive in a second (`maxSyncLiteSubscriptionRate`).
    pub lite_subscription_rate: u32,
    /// Bodies must not be empty (`enableMessageBodyEmptyCheck`).
    pub check_body_empty: bool,
    /// How far ahead a delivery time may be, in ms, 0 for any (`maxDelayTimeMillis`). The reference stops at a day.
    pub delivery_ahead_ms_max: i64,
    /// What the delay levels of old clients stand for, in ms (`messageDelayLevel`).
    pub delay_levels_ms: Vec<u64>,
    /// How long a producer may ask to be left alone about an open transaction, in s (`maxTransactionRecoverySecond`).
    pub recovery_s_max: i64,
    /// A producer that says nothing else is asked about an open transaction after this, in ms (`transactionTimeOut`).
    pub transaction_timeout_ms: u64,
    /// From one question to the next, in ms (`transactionCheckInterval`).
    pub transaction_check_interval_ms: u64,
    /// After so many questions a half message is parked (`transactionCheckMax`).
    pub transaction_checks_max: u32,
    /// After so long, in ms, a half message is parked, whether or not anybody could be asked (`transactionMaxAge`).
    pub transaction_age_ms_max: u64,
    /// Shortest invisible duration of a receive, in ms (`minInvisibleTimeMillisForRecv`).
    pub invisible_ms_min: u64,
    /// Longest invisible duration, in ms (`maxInvisibleTimeMillis`).
    pub invisible_ms_max: u64,
    /// A lease that the server renews ends after this at the latest, in ms (`renewMaxTimeMillis`).
    pub renew_ms_max: u64,
    /// A lease that the server renews ends after this, in ms, unless its messages are known to have reached their client
    /// (`defaultInvisibleTimeMillis`). The reference has 60,000 and knows less.
    pub confirm_ms: u64,
    /// Shortest long poll, in ms (`grpcClientConsumerMinLongPollingTimeoutMillis`).
    pub long_polling_ms_min: u64,
    /// Longest long poll, in ms (`grpcClientConsumerMaxLongPollingTimeoutMillis`).
    pub long_polling_ms_max: u64,
    /// Long polls that wait at once on this node (`maxPopPollingSize`).
    pub long_polls_max: usize,
    /// Messages of one receive; a larger wish is cut to it (`grpcClientConsumerLongPollingBatchSize`).
    pub receive_batch_max: u32,
    /// Bytes of a filter expression: the broker group keeps it for each client (`filterExpressionBytesMax`).
    pub filter_expression_bytes_max: usize,
    /// Bytes of messages that this node has read for clients and they have not taken (`deliverInflightBytesMax`).
    pub deliver_bytes_max: usize,
    /// What one client may send in a second, 0 for any amount (`clientRateMessages`, `clientRateBytes`).
    pub client_rate: Limit,
    /// Attempts that a producer is told (`grpcClientProducerMaxAttempts`).
    pub producer_attempts_max: i32,
    /// A producer's backoff: first, longest, factor (`grpcClientProducerBackoff…`).
    pub producer_backoff: (u64, u64, f32),
    /// A topic that nobody created comes into being when a client asks for its route (`autoCreateTopicEnable`).
    pub auto_create_topic: bool,
    /// A consumer group comes into being with its first receive (`autoCreateSubscriptionGroup`).
    pub auto_create_subscription_group: bool,
    /// Queues of an automatically created topic (`defaultTopicQueueNums`).
    pub default_topic_queues: u32,
    /// Messages must be of a type that their topic takes (`enableTopicMessageTypeCheck`).
    pub check_message_type: bool,
    /// A route says the port that the client dialled, for mapped ports (`useEndpointPortFromRequest`).
    pub use_endpoint_port_from_request: bool,
}

/// Where this node answers who asks for figures and its health.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `metricsPromExporterPort`.
    pub port: u16,
    /// Nobody set the port: another broker on this machine may have it.
    pub may_fail: bool,
}

/// Everything that a broker node is told.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// `brokerClusterName`.
    pub cluster: String,
    /// Name of the broker group (`brokerName`).
    pub broker_group: String,
    /// This node's label in `dLegerPeers` (`dLegerSelfId`).
    pub label: String,
    /// Members to form the group with; afterwards the log's membership counts.
    pub peers: Vec<Peer>,
    /// Where it listens and is reached.
    pub addresses: Addresses,
    /// Name servers, `host:port` each.
    pub name_servers: Vec<String>,
    /// Identity and state (`storePathRootDir`).
    pub store_dir: PathBuf,
    /// The log, when it lives elsewhere (`storePathCommitLog`).
    pub log_dir: Option<PathBuf>,
    /// `flushDiskType`.
    pub flush: FlushDiskType,
    /// Bytes of one log segment (`mappedFileSizeCommitLog`).
    pub segment_bytes: u64,
    /// Bytes of the disk that messages leave free; with fewer, sends are refused (`diskFreeBytesMin`).
    pub disk_free_bytes_min: u64,
    /// Bytes a second that a leader sends at most to members that it fills with what the log no longer has
    /// (`fillBytesPerSecondMax`).
    pub fill_bytes_per_second: u64,
    /// Heartbeat and least and greatest election timeout, in ms.
    pub raft_ms: (u64, u64, u64),
    /// A node whose clock is further than this from the median does not lead, in ms.
    pub clock_skew_ms_max: u64,
    /// When a slow disk moves leadership.
    pub slow_disk: SlowDiskLimits,
    /// Public API.
    pub grpc: GrpcConfig,
    /// Sending again.
    pub idempotence: Idempotence,
    /// How long messages are kept.
    pub retention: Retention,
    /// Batching towards the leader.
    pub propose: ProposeLimits,
    /// Batching into the log.
    pub merge: MergeLimits,
    /// Certificate and key; a self-signed certificate without them.
    pub tls_files: Option<(PathBuf, PathBuf)>,
    /// TLS with the other nodes and with tools; `None` for plaintext.
    pub cluster_tls: Option<ClusterTlsFiles>,
    /// What admin callers from other machines must show (`adminToken`).
    pub admin_token: Option<String>,
    /// Users and access rules.
    pub access: AccessConfig,
    /// Log files beside standard output; `None` for none.
    pub log_files: Option<LogFiles>,
    /// Figures and health over HTTP; `None` for nowhere.
    pub metrics: Option<Metrics>,
    /// The collector that figures are sent to; `None` for none.
    pub export: Option<Export>,
    /// The collector that spans are sent to; `None` for none.
    pub traces: Option<TraceConfig>,
    /// Versions of commands that this build knows. Not a setting: what else is put here, by tests, must be true of it.
    pub versions: RangeInclusive<u32>,
    /// What all of this was read from, secrets masked.
    pub entries: Vec<Entry>,
    /// The same with everything in it: a change of one key is read together with the rest.
    pub layers: Settings,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.label, self.address)
    }
}

const STORE_DIR: &str = "~/store";

const PEERS_EXPECTED: &str = "label-host:port entries separated by ';', each label once, such as n0-127.0.0.1:40911;n1-127.0.0.1:40912;n2-127.0.0.1:40913";

/// `n0-host:port;n1-host:port`.
fn read_peers(text: &str) -> Option<Vec<Peer>> {
    let mut peers = Vec::new();
    for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (label, address) = entry.split_once('-')?;
        let (host, port) = address.rsplit_once(':')?;
        if label.is_empty() || host.is_empty() || port.parse::<u16>().ok()? == 0 {
            return None;
        }
        peers.push(Peer { label: label.to_owned(), address: address.to_owned() });
    }
    let mut labels: Vec<_> = peers.iter().map(|peer| peer.label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    (!peers.is_empty() && labels.len() == peers.len()).then_some(peers)
}

fn read_addresses(text: &str) -> Option<Vec<String>> {
    let addresses: Vec<String> =
        text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    addresses
        .iter()
        .all(|address| {
            address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        })
        .then_some(addresses)
}

impl BrokerConfig {
    /// Reads and checks everything; all mistakes come at once.
    ///
    /// # Errors
    /// [`SettingErrors`], each with key, value and bounds.
    pub fn read(mut settings: Settings) -> Result<(BrokerConfig, Effective), SettingErrors> {
        let s = &mut settings;
        s.variable("NAMESRV_ADDR", "namesrvAddr");
        if !s.has_changes() {
            s.changed_in("storePathRootDir", STORE_DIR);
        }
        let layers = s.clone();
        let cluster = s.string("brokerClusterName", "DefaultCluster");
        let broker_group = s.string("brokerName", "RaftNode00");
        let group = s.string("dLegerGroup", &broker_group);
        if group != broker_group {
            s.wrong(
                "dLegerGroup",
                &format!("the same as brokerName ({broker_group}): a broker group is one Raft group"),
            );
        }
        let host = s.string("brokerIP1", "127.0.0.1");
        let bind =
            s.parsed("bindAddress", IpAddr::V4(Ipv4Addr::UNSPECIFIED), "an IP address", |text| text.parse().ok());
        let admin_port = s.number("listenPort", 10911, 1..=u16::MAX);
        let grpc_port = s.number("grpcServerPort", 8081, 1..=u16::MAX);
        let raft = s.boolean("enableDLegerCommitLog", true);
        if !raft {
            s.warn("enableDLegerCommitLog = false: a broker group is always a Raft group here; one without dLegerPeers has one member");
        }
        let label = s.string("dLegerSelfId", "n0");
        let peers = s
            .optional_parsed("dLegerPeers", PEERS_EXPECTED, read_peers)
            .unwrap_or_else(|| vec![Peer { label: label.clone(), address: format!("{host}:40911") }]);
        let own = peers.iter().find(|peer| peer.label == label);
        if own.is_none() {
            s.wrong("dLegerSelfId", &format!("one of the labels in dLegerPeers ({})", join(&peers)));
        }
        let peer_port =
            own.and_then(|peer| peer.address.rsplit_once(':')).and_then(|(_, port)| port.parse().ok()).unwrap_or(40911);
        let name_servers =
            s.optional_parsed("namesrvAddr", "host:port entries separated by ';'", read_addresses).unwrap_or_default();
        let store_dir = s.path("storePathRootDir", STORE_DIR);
        let log_dir = s.optional_path("storePathCommitLog");
        let flush = s.choice(
            "flushDiskType",
            "SYNC_FLUSH",
            &[("SYNC_FLUSH", FlushDiskType::Sync), ("ASYNC_FLUSH", FlushDiskType::Async)],
        );
        let heartbeat = s.number("raftHeartbeatIntervalMillis", 60, 10..=10_000u64);
        let election_min = s.number("raftElectionTimeoutMinMillis", 200, 50..=60_000u64);
        let election_max = s.number("raftElectionTimeoutMaxMillis", 350, 60..=120_000u64);
        if !(heartbeat < election_min && election_min < election_max) {
            s.rule(format!(
                "raftHeartbeatIntervalMillis = {heartbeat} must be below raftElectionTimeoutMinMillis = {election_min}, and that below raftElectionTimeoutMaxMillis = {election_max}"
            ));
        }
        let clock_skew_ms_max = s.number("clockSkewMaxMs", 5_000, 100..=3_600_000u64);
        let grpc = GrpcConfig {
            max_message_bytes: s.number("maxMessageSize", 4 << 20, 1..=64usize << 20),
            max_inbound_bytes: inbound_bytes(s),
            send_batch_max: s.number("sendBatchMessagesMax", 4_096, 1..=65_536),
            user_property_count_max: s.number("userPropertyMaxNum", 128, 0..=4096),
            user_property_bytes_max: s.number("maxUserPropertySize", 16_384, 0..=1usize << 20),
            message_group_bytes: s.number("maxMessageGroupSize", 64, 0..=1_024),
            lite_topic_bytes: s.number("maxLiteTopicSize", 64, 1..=128),
            lite_subscription_rate: s.number("maxSyncLiteSubscriptionRate", 5_000, 1..=1_000_000),
            check_body_empty: s.boolean("enableMessageBodyEmptyCheck", true),
            delivery_ahead_ms_max: s.number("maxDelayTimeMillis", 0, 0..=i64::MAX),
            delay_levels_ms: delay_levels(s),
            recovery_s_max: s.number("maxTransactionRecoverySecond", 3_600, 0..=i64::MAX),
            transaction_timeout_ms: s.number("transactionTimeOut", 6_000, 1..=86_400_000),
            transaction_check_interval_ms: s.number("transactionCheckInterval", 30_000, 100..=86_400_000),
            transaction_checks_max: s.number("transactionCheckMax", 15, 1..=100_000),
            transaction_age_ms_max: s.number("transactionMaxAge", 3 * 86_400_000, 1_000..=3_650 * 86_400_000),
            invisible_ms_min: s.number("minInvisibleTimeMillisForRecv", 10_000, 1..=43_200_000),
            invisible_ms_max: s.number("maxInvisibleTimeMillis", 43_200_000, 1_000..=7 * 86_400_000),
            renew_ms_max: s.number("renewMaxTimeMillis", 10_800_000, 60_000..=7 * 86_400_000),
            confirm_ms: s.number("defaultInvisibleTimeMillis", 20_000, 2_000..=43_200_000),
            long_polling_ms_min: s.number("grpcClientConsumerMinLongPollingTimeoutMillis", 5_000, 0..=60_000),
            long_polling_ms_max: s.number("grpcClientConsumerMaxLongPollingTimeoutMillis", 20_000, 100..=600_000),
            long_polls_max: s.number("maxPopPollingSize", 100_000, 1..=10_000_000),
            receive_batch_max: s.number("grpcClientConsumerLongPollingBatchSize", 32, 1..=1_024),
            filter_expression_bytes_max: s.number("filterExpressionBytesMax", 16 << 10, 1..=EXPRESSION_BYTES_MAX),
            client_rate: Limit {
                messages: s.number("clientRateMessages", 0, 0..=1u64 << 40),
                bytes: s.number("clientRateBytes", 0, 0..=1u64 << 50),
            },
            deliver_bytes_max: s.number("deliverInflightBytesMax", 64 << 20, 8 << 20..=16usize << 30),
            producer_attempts_max: s.number("grpcClientProducerMaxAttempts", 3, 1..=100),
            producer_backoff: (
                s.number("grpcClientProducerBackoffInitialMillis", 10, 1..=60_000),
                s.number("grpcClientProducerBackoffMaxMillis", 1_000, 1..=600_000),
                s.number("grpcClientProducerBackoffMultiplier", 2.0, 1.0..=100.0),
            ),
            auto_create_topic: s.boolean("autoCreateTopicEnable", true),
            auto_create_subscription_group: s.boolean("autoCreateSubscriptionGroup", true),
            default_topic_queues: s.number("defaultTopicQueueNums", 8, 1..=1_024),
            check_message_type: s.boolean("enableTopicMessageTypeCheck", true),
            use_endpoint_port_from_request: s.boolean("useEndpointPortFromRequest", false),
        };
        let idempotence = Idempotence {
            window_ms: s.number("idempotentWindowMillis", WINDOW_MS_DEFAULT, 0..=7 * 86_400_000),
            messages_max: s.number("idempotentMessagesMax", MESSAGES_MAX_DEFAULT, 0..=50_000_000),
        };
        let propose = ProposeLimits {
            inflight_bytes_max: s.number("requestInflightBytesMax", 64 << 20, 8 << 20..=16usize << 30),
            ..ProposeLimits::default()
        };
        let tls_files = match (s.optional_path("tlsCertPath"), s.optional_path("tlsKeyPath")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (certificate, key) => {
                let (set, unset) =
                    if certificate.is_some() { ("tlsCertPath", "tlsKeyPath") } else { ("tlsKeyPath", "tlsCertPath") };
                drop((certificate, key));
                s.rule(format!("{set} is set and {unset} is not: set both, or neither for a self-signed certificate"));
                None
            }
        };
        let cluster_tls = ClusterTlsFiles::of_node(s);
        let admin_token = s.secret("adminToken");
        let access = AccessConfig::read(s);
        if access.authentication && access.inner.is_none() && peers.len() > 1 {
            s.rule(
                "authenticationEnabled = true needs innerClientAuthenticationCredentials, the same on every node: with it \
                 the members of the group prove themselves to one another",
            );
        }
        let segment_bytes = s.number("mappedFileSizeCommitLog", 512 << 20, 1 << 20..=u64::from(u32::MAX));
        let disk_free_bytes_min = s.number("diskFreeBytesMin", 256 << 20, 16 << 20..=1u64 << 40);
        let fill_bytes_per_second = s.number("fillBytesPerSecondMax", 32 << 20, 1 << 20..=1u64 << 40);
        let retention = retention(s, segment_bytes);
        let slow_disk = SlowDiskLimits {
            slow: Duration::from_millis(s.number("slowDiskMillis", 200, 0..=600_000)),
            interval: Duration::from_millis(s.number("slowDiskHandoverIntervalMillis", 30_000, 1_000..=86_400_000)),
        };
        let (metrics, sent) = metrics(s);
        let calls = Calls::read(s);
        let export = Export::read(s, calls.as_ref(), sent);
        let traces = TraceConfig::read(s, calls.as_ref());
        let log_files = LogFiles::read(s, "broker", Some(store_dir.join("logs")));
        s.unused(&["brokerRole", "brokerId"], "replication is by majority and any member may lead");
        s.unused(&["sendMessageThreadPoolNums", "waitTimeMillsInSendQueue"], "requests are not bound to threads here");
        let effective = settings.finish()?;
        let addresses = Addresses { host, bind, admin_port, grpc_port, peer_port };
        let config = BrokerConfig {
            cluster,
            broker_group,
            label,
            peers,
            addresses,
            name_servers,
            store_dir,
            log_dir,
            flush,
            segment_bytes,
            disk_free_bytes_min,
            fill_bytes_per_second,
            raft_ms: (heartbeat, election_min, election_max),
            clock_skew_ms_max,
            slow_disk,
            grpc,
            idempotence,
            retention,
            propose,
            merge: MergeLimits::default(),
            tls_files,
            cluster_tls,
            admin_token,
            access,
            log_files,
            metrics,
            export,
            traces,
            versions: KNOWN,
            entries: effective.entries(),
            layers,
        };
        Ok((config, effective))
    }
}

/// Where figures are shown, and whether they are sent to a collector.
fn metrics(s: &mut Settings) -> (Option<Metrics>, bool) {
    let kinds = [("PROM", (true, false)), ("OTLP_GRPC", (true, true)), ("DISABLE", (false, false))];
    let (shown, sent) = s.choice("metricsExporterType", "PROM", &kinds);
    let may_fail = !s.is_set("metricsPromExporterPort");
    let port = s.number("metricsPromExporterPort", 5557, 0..=u16::MAX);
    ((shown && port != 0).then_some(Metrics { port, may_fail }), sent)
}

/// A hundred years.
const KEPT_MS_MAX: u64 = 876_000 * 3_600_000;

fn retention(s: &mut Settings, segment_bytes: u64) -> Retention {
    let hours = s.number("fileReservedTime", 48.0, 0.0..=876_000.0f64);
    if hours > 0.0 && hours < 0.001 {
        s.rule(format!("fileReservedTime = {hours} must be 0 (for ever) or at least 0.001 (hours)"));
    }
    let log_bytes_max = s.number("fileReservedSize", 0, 0..=1u64 << 50);
    if log_bytes_max > 0 && log_bytes_max < 2 * segment_bytes {
        s.rule(format!(
            "fileReservedSize = {log_bytes_max} must be 0 (no limit) or at least two segments \
             (mappedFileSizeCommitLog = {segment_bytes}): the log goes by whole segments"
        ));
    }
    let force = s.boolean("cleanFileForciblyEnable", false);
    let force_percent = s.number("diskSpaceCleanForciblyRatio", 85, 1..=100u64);
    Retention {
        kept_ms: if hours > 0.0 { (hours * 3_600_000.0) as u64 } else { KEPT_MS_MAX },
        hours: s
            .optional_parsed("deleteWhen", "hours of the day (UTC) such as 04 or 04;16", read_hours)
            .unwrap_or_default(),
        log_bytes_max,
        disk_percent_max: s.number("diskMaxUsedSpaceRatio", 75, 1..=100),
        force_percent: if force { force_percent } else { 0 },
    }
}

/// `04;16`.
fn read_hours(text: &str) -> Option<Vec<u8>> {
    let hours = text.split(';').map(str::trim).filter(|hour| !hour.is_empty());
    let hours: Vec<u8> = hours.map(|hour| hour.parse().ok().filter(|hour| *hour < 24)).collect::<Option<_>>()?;
    (!hours.is_empty()).then_some(hours)
}

/// RocketMQ's own levels.
const DELAY_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

/// `1s 5m 2h 1d`, in ms.
fn read_delay_levels(text: &str) -> Option<Vec<u64>> {
    let level = |text: &str| {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit_ms = match unit {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(unit_ms)
    };
    let levels: Vec<u64> = text.split_whitespace().map(level).collect::<Option<_>>()?;
    (!levels.is_empty()).then_some(levels)
}

fn delay_levels(settings: &mut Settings) -> Vec<u64> {
    let text = settings.string("messageDelayLevel", DELAY_LEVELS);
    let levels = read_delay_levels(&text);
    if levels.is_none() {
        settings.wrong("messageDelayLevel", "delays such as 1s 5m 2h, separated by blanks");
    }
    levels.unwrap_or_default()
}

/// RocketMQ's own default is more than we take, and may stand in its users' files.
fn inbound_bytes(settings: &mut Settings) -> usize {
    let wanted = settings.number("grpcMaxInboundMessageSize", INBOUND_BYTES_MAX, 1 << 20..=usize::MAX);
    if wanted > INBOUND_BYTES_MAX {
        settings.warn(format!(
            "grpcMaxInboundMessageSize = {wanted} is more than an entry of the log takes; {INBOUND_BYTES_MAX} counts"
        ));
    }
    wanted.min(INBOUND_BYTES_MAX)
}

fn join(peers: &[Peer]) -> String {
    peers.iter().map(|peer| peer.label.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{ALIASES, BrokerConfig, FlushDiskType};
    use raftmq_server::settings::Settings;
    use std::path::Path;

    fn read(text: &str) -> Result<BrokerConfig, String> {
        let mut settings = Settings::with_environment(ALIASES, |_| None);
        settings.text(Path::new("broker.conf"), text);
        BrokerConfig::read(settings).map(|(config, _)| config).map_err(|errors| errors.to_string())
    }

    #[test]
    fn rocketmqs_own_raft_settings_stand_as_they_are() {
        let config = read(
            "brokerClusterName = RaftCluster\nbrokerName=RaftNode00\nlistenPort=30921\nbrokerIP1=127.0.0.1\n\
             namesrvAddr=127.0.0.1:9876;127.0.0.1:9877\nstorePathRootDir=/tmp/rmqstore/node01\n\
             storePathCommitLog=/tmp/rmqstore/node01/commitlog\nenableDLegerCommitLog=true\ndLegerGroup=RaftNode00\n\
             dLegerPeers=n0-127.0.0.1:40911;n1-127.0.0.1:40912;n2-127.0.0.1:40913\ndLegerSelfId=n1\n\
             sendMessageThreadPoolNums=16\nflushDiskType=ASYNC_FLUSH\ngrpcServerPort=8181\n",
        )
        .expect("valid");
        assert_eq!(config.addresses.peer_port, 40912);
        assert_eq!(config.addresses.grpc_port, 8181);
        assert_eq!(config.peers.len(), 3);
        assert_eq!(config.flush, FlushDiskType::Async);
        assert_eq!(config.name_servers.len(), 2);
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let errors = read("listenPort=0\nflushDiskType=MAYBE\ndLegerPeers=n0:1\n").expect_err("wrong");
        for key in ["listenPort = 0", "flushDiskType = MAYBE", "dLegerPeers = n0:1"] {
            assert!(errors.contains(key), "{key} in {errors}");
        }
    }

    #[test]
    fn a_label_that_is_no_peer_is_refused() {
        let errors = read("dLegerPeers=n0-127.0.0.1:40911;n1-127.0.0.1:40912\ndLegerSelfId=n7\n").expect_err("wrong");
        assert!(errors.contains("dLegerSelfId = n7") && errors.contains("n0, n1"), "{errors}");
    }

    #[test]
    fn members_of_a_group_with_access_control_need_a_secret() {
        let group = "dLegerPeers=n0-127.0.0.1:40911;n1-127.0.0.1:40912\nauthenticationEnabled=true\n";
        assert!(read(group).expect_err("half").contains("innerClientAuthenticationCredentials"));
        let inner = "innerClientAuthenticationCredentials={\"accessKey\":\"broker\",\"secretKey\":\"inner\"}";
        assert!(read(&format!("{group}{inner}")).expect("whole").access.inner.is_some());
        assert!(read("authenticationEnabled=true").is_ok(), "a node alone has nobody to prove itself to");
    }

    #[test]
    fn retention_has_rocketmqs_keys_and_bounds() {
        let kept = read("").expect("valid").retention;
        assert_eq!((kept.kept_ms, kept.log_bytes_max, kept.force_percent), (48 * 3_600_000, 0, 0));
        let kept =
            read("fileReservedTime=72\ndeleteWhen=04;16\ncleanFileForciblyEnable=true\n").expect("valid").retention;
        assert_eq!((kept.kept_ms, kept.hours, kept.force_percent), (72 * 3_600_000, vec![4, 16], 85));
        for (text, part) in [
            ("fileReservedTime=0.0001", "fileReservedTime = 0.0001"),
            ("deleteWhen=24", "deleteWhen = 24"),
            ("fileReservedSize=1000", "at least two segments"),
            ("diskMaxUsedSpaceRatio=101", "diskMaxUsedSpaceRatio = 101"),
        ] {
            let errors = read(text).expect_err(text);
            assert!(errors.contains(part), "{part} in {errors}");
        }
    }

    #[test]
    fn a_collector_is_named_where_figures_are_sent_to_one() {
        assert!(read("").expect("valid").export.is_none());
        let target = "metricsGrpcExporterTarget=http://127.0.0.1:4317\n";
        assert!(read(target).expect("valid").export.is_none(), "nobody asked for it");
        let sent = format!("metricsExporterType=OTLP_GRPC\n{target}");
        let config = read(&format!("{sent}metricsGrpcExporterHeader=api-key:one:two, tenant:7\n")).expect("valid");
        assert!(config.export.is_some() && config.metrics.is_some(), "pages are there as well");
        let secure = "metricsExporterType=OTLP_GRPC\nmetricsGrpcExporterTarget=https://collector:4317\n";
        let missing = read(&format!("{secure}metricsGrpcExporterTrustCertPath=/no/such.pem\n")).expect("valid");
        let error = missing.export.expect("it is wanted").connect().expect_err("there is no such file");
        assert!(format!("{error:#}").contains("metricsGrpcExporterTrustCertPath = /no/such.pem"), "{error:#}");
        assert!(!format!("{config:?}").contains("one:two"), "headers are secrets");
        for (text, part) in [
            ("metricsExporterType=OTLP_GRPC\n", "metricsGrpcExporterTarget"),
            ("metricsGrpcExporterTarget=collector:4317\n", "metricsGrpcExporterTarget = collector:4317"),
            ("metricsGrpcExporterTarget=https://collector\n", "https://host:port"),
            ("metricsGrpcExporterHeader=api-key\n", "metricsGrpcExporterHeader"),
            ("metricGrpcExporterIntervalInMills=0\n", "metricGrpcExporterIntervalInMills = 0"),
        ] {
            let errors = read(text).expect_err(text);
            assert!(errors.contains(part), "{part} in {errors}");
        }
    }

    #[test]
    fn there_are_traces_where_there_is_a_collector() {
        assert!(read("tracesSampledRatio=1\n").expect("valid").traces.is_none(), "nobody takes them");
        let target = "tracesGrpcExporterTarget=http://127.0.0.1:4317\n";
        assert!(read(target).expect("valid").traces.is_some());
        for ratio in ["-0.1", "1.1", "NaN", "half"] {
            let errors = read(&format!("{target}tracesSampledRatio={ratio}\n")).expect_err(ratio);
            assert!(errors.contains("a number from 0 to 1"), "{errors}");
        }
    }

    #[test]
    fn without_a_file_there_is_a_group_of_one() {
        let config = read("").expect("valid");
        assert_eq!(config.peers.len(), 1);
        assert_eq!(config.flush, FlushDiskType::Sync);
    }
}
