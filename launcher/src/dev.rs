//! `mqbroker --dev`: a name server and a single-node broker group in one process, for a developer's laptop.
//!
//! No configuration is needed; a file, variables and flags still go on top. Everything listens on loopback only.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Instant,
};

use anyhow::Context;
use raftmq_broker::{
    Arguments,
    broker::{Broker, Listeners},
    config::{ALIASES, BrokerConfig},
};
use raftmq_namesrv::{Config as NameServerConfig, NameServer};
use raftmq_server::{daemon, settings::Settings, shutdown::Shutdown};

use crate::status::align;

/// What is different from a node in production: one member, which need not wait for others to elect it, loopback, and
/// small log segments.
const DEFAULTS: &str = "\
brokerClusterName = DefaultCluster
brokerName = broker-dev
brokerIP1 = 127.0.0.1
bindAddress = 127.0.0.1
namesrvAddr = 127.0.0.1:9876
dLegerSelfId = n0
dLegerPeers = n0-127.0.0.1:40911
raftHeartbeatIntervalMillis = 20
raftElectionTimeoutMinMillis = 50
raftElectionTimeoutMaxMillis = 80
storePathRootDir = raftmq-dev
mappedFileSizeCommitLog = 67108864
";

/// Runs until a signal comes. `started` is when the process began, for the time to readiness.
pub async fn run(arguments: &Arguments, started: Instant) -> anyhow::Result<()> {
    let (config, effective) = BrokerConfig::read(settings(arguments))?;
    let print = arguments.flags.print_config;
    let Some(_logs) = daemon::begin(print, &effective, "warn", config.log_files.clone())? else { return Ok(()) };
    let shutdown = Shutdown::on_signals()?;
    let name_server_port = name_server_port(&config)?;
    let name_server = NameServer::bind(NameServerConfig {
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        listen_port: name_server_port,
        cluster_tls: config.cluster_tls.clone(),
        ..NameServerConfig::default()
    })?;
    let listeners = Listeners::bind(&config)?;
    let overview = overview(&config, name_server_port);
    // It stops after the broker, which takes its leave of it.
    let name_server_stop = Shutdown::new();
    let name_server = tokio::spawn(name_server.run(name_server_stop.clone()));
    let broker = Broker::start(config, listeners).await?;
    let mut leadership = broker.node.group.leadership();
    while !leadership.leads && !shutdown.is_requested() {
        tokio::select! {
            now = broker.node.group.leadership_changed(leadership) => leadership = now,
            () = shutdown.requested() => {}
        }
    }
    println!("{overview}\nready after {} ms; Ctrl-C stops", started.elapsed().as_millis());

    let outcome = tokio::select! {
        () = shutdown.requested() => Ok(()),
        reason = broker.halted() => Err(anyhow::anyhow!("this node stopped, nothing is acknowledged any more: {reason}")),
    };
    broker.stop().await;
    name_server_stop.request();
    name_server.await.context("the name server does not panic")??;
    outcome
}

fn settings(arguments: &Arguments) -> Settings {
    let mut settings = Settings::new(ALIASES);
    settings.text(Path::new("--dev"), DEFAULTS);
    arguments.layers(&mut settings);
    settings
}

/// The name server of this process listens where the broker looks for one.
fn name_server_port(config: &BrokerConfig) -> anyhow::Result<u16> {
    let address = config.name_servers.first().context("namesrvAddr is not set: must be 127.0.0.1:port with --dev")?;
    let port = address.strip_prefix("127.0.0.1:").and_then(|port| port.parse().ok());
    port.with_context(|| {
        format!("namesrvAddr = {address}: must be 127.0.0.1:port with --dev, which runs the name server")
    })
}

fn overview(config: &BrokerConfig, name_server_port: u16) -> String {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let rows = [
        ["  clients", &address(config.addresses.grpc_port)],
        ["  name server", &address(name_server_port)],
        ["  mqadmin", &format!("mqadmin clusterList -n {}", address(name_server_port))],
        ["  data", &config.store_dir.display().to_string()],
    ];
    align(&rows.map(|row| row.map(str::to_owned)))
}
