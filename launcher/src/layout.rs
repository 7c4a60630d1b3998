//! What a local cluster consists of: processes, ports, and where things lie below its data folder.
//!
//! ```text
//! DATA/cluster.json     this layout, for `status` and `kill-leader`
//! DATA/conf/n0.conf     configuration of each process
//! DATA/n0/              a broker node's log and state
//! DATA/logs/n0.log      what each process prints; n0.log.1 is the run before
//! DATA/run/n0.pid       process id while it runs; supervisor.lock while a supervisor does
//! ```

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::Context;
use raftmq_server::properties;
use serde::{Deserialize, Serialize};

/// The cluster and the broker group that every local cluster has.
pub const CLUSTER: &str = "RaftCluster";
/// See [`CLUSTER`].
pub const BROKER_GROUP: &str = "RaftNode00";

/// Label of the dashboard's process.
const DASHBOARD: &str = "dashboard";

/// Everything listens and is reached here.
const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A local cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The folder that holds all of it.
    pub data: PathBuf,
    /// Name servers.
    pub name_servers: Vec<NameServer>,
    /// The members of the broker group.
    pub brokers: Vec<BrokerNode>,
    /// Port of the dashboard; none runs where there is none.
    #[serde(default)]
    pub dashboard: Option<u16>,
}

/// A name server of a local cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameServer {
    /// `namesrv-0` and on.
    pub label: String,
    /// `listenPort`.
    pub port: u16,
}

/// A broker node of a local cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerNode {
    /// `n0` and on.
    pub label: String,
    /// `grpcServerPort`.
    pub grpc: u16,
    /// `listenPort`.
    pub admin: u16,
    /// The node's port in `dLegerPeers`.
    pub peer: u16,
    /// `metricsPromExporterPort`.
    pub metrics: u16,
}

/// One process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// What it is called in tables, files and messages.
    pub label: String,
    /// File name of the program.
    pub program: &'static str,
    /// Its configuration.
    pub config: PathBuf,
    /// Ports it listens on, with what for.
    pub ports: Vec<(&'static str, u16)>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Holds its process id while it runs.
    pub pid_file: PathBuf,
}

impl BrokerNode {
    /// For clients.
    pub fn grpc_address(&self) -> String {
        format!("{HOST}:{}", self.grpc)
    }

    /// For mqadmin.
    pub fn admin_address(&self) -> String {
        format!("{HOST}:{}", self.admin)
    }
}

impl Layout {
    /// Two name servers and three broker nodes on the ports that the README names.
    pub fn standard(data: &Path) -> Self {
        let brokers = [[8081, 30911, 40911, 5557], [8181, 30921, 40912, 5558], [8281, 30931, 40913, 5559]];
        Self::new(data, &[9876, 9877], &brokers, 8082)
    }

    /// The same on ports that are free now.
    pub fn on_free_ports(data: &Path) -> anyhow::Result<Self> {
        // All are held until the last one is known, so that no port is given twice.
        let held = (0..15).map(|_| TcpListener::bind((HOST, 0))).collect::<Result<Vec<_>, _>>();
        let held = held.context("no free port on 127.0.0.1")?;
        let ports =
            held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<anyhow::Result<Vec<u16>>>()?;
        let brokers: Vec<_> = ports[2..14].chunks_exact(4).filter_map(|four| <[u16; 4]>::try_from(four).ok()).collect();
        Ok(Self::new(data, &ports[..2], &brokers, ports[14]))
    }

    fn new(data: &Path, name_servers: &[u16], brokers: &[[u16; 4]], dashboard: u16) -> Self {
        Self {
            data: data.to_owned(),
            name_servers: name_servers
                .iter()
                .enumerate()
                .map(|(i, port)| NameServer { label: format!("namesrv-{i}"), port: *port })
                .collect(),
            brokers: brokers
                .iter()
                .enumerate()
                .map(|(i, [grpc, admin, peer, metrics])| BrokerNode {
                    label: format!("n{i}"),
                    grpc: *grpc,
                    admin: *admin,
                    peer: *peer,
                    metrics: *metrics,
                })
                .collect(),
            dashboard: Some(dashboard),
        }
    }

    /// Creates the folders and writes every configuration file.
    pub fn write(&self) -> anyhow::Result<()> {
        for folder in ["conf", "logs", "run"] {
            let folder = self.data.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        for server in &self.name_servers {
            self.write_config(
                &server.label,
                &[("listenPort", server.port.to_string()), ("bindAddress", HOST.to_string())],
            )?;
        }
        for broker in &self.brokers {
            self.write_config(&broker.label, &self.broker_properties(broker))?;
        }
        if let Some(port) = self.dashboard {
            let namesrv = ("namesrvAddr", self.name_server_addresses());
            self.write_config(
                DASHBOARD,
                &[("listenPort", port.to_string()), ("bindAddress", HOST.to_string()), namesrv],
            )?;
        }
        let path = self.data.join("cluster.json");
        fs::write(&path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads back what [`Layout::write`] left in a data folder.
    pub fn read(data: &Path) -> anyhow::Result<Self> {
        let path = data.join("cluster.json");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{} is not there: no cluster was started with this data folder", path.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// `host:port` of every name server, as `namesrvAddr` and `-n` take it.
    pub fn name_server_addresses(&self) -> String {
        join(self.name_servers.iter().map(|server| format!("{HOST}:{}", server.port)))
    }

    /// `host:port` of every node for clients, as SDKs take several endpoints.
    pub fn endpoints(&self) -> String {
        join(self.brokers.iter().map(BrokerNode::grpc_address))
    }

    /// What to open in a browser.
    pub fn dashboard_url(&self) -> Option<String> {
        self.dashboard.map(|port| format!("http://{HOST}:{port}"))
    }

    /// Name servers first, brokers behind them, then the dashboard.
    pub fn processes(&self) -> Vec<Process> {
        let servers =
            self.name_servers.iter().map(|server| self.process(&server.label, "mqnamesrv", vec![("", server.port)]));
        let brokers = self.brokers.iter().map(|broker| {
            let ports = vec![
                ("clients", broker.grpc),
                ("admin", broker.admin),
                ("peers", broker.peer),
                ("metrics", broker.metrics),
            ];
            self.process(&broker.label, "mqbroker", ports)
        });
        let dashboard = self.dashboard.map(|port| self.process(DASHBOARD, "raftmq-dashboard", vec![("pages", port)]));
        servers.chain(brokers).chain(dashboard).collect()
    }

    /// The process id that a label's file holds.
    pub fn pid(&self, label: &str) -> Option<u32> {
        fs::read_to_string(self.pid_file(label)).ok()?.trim().parse().ok()
    }

    fn pid_file(&self, label: &str) -> PathBuf {
        self.data.join("run").join(format!("{label}.pid"))
    }

    fn process(&self, label: &str, program: &'static str, ports: Vec<(&'static str, u16)>) -> Process {
        Process {
            label: label.to_owned(),
            program,
            config: self.data.join("conf").join(format!("{label}.conf")),
            ports,
            log: self.data.join("logs").join(format!("{label}.log")),
            pid_file: self.pid_file(label),
        }
    }

    fn broker_properties(&self, broker: &BrokerNode) -> Vec<(&'static str, String)> {
        let store = self.data.join(&broker.label);
        let peers = join(self.brokers.iter().map(|peer| format!("{}-{HOST}:{}", peer.label, peer.peer)));
        vec![
            ("brokerClusterName", CLUSTER.to_owned()),
            ("brokerName", BROKER_GROUP.to_owned()),
            ("brokerIP1", HOST.to_string()),
            ("bindAddress", HOST.to_string()),
            ("namesrvAddr", self.name_server_addresses()),
            ("listenPort", broker.admin.to_string()),
            ("grpcServerPort", broker.grpc.to_string()),
            ("metricsPromExporterPort", broker.metrics.to_string()),
            ("enableDLegerCommitLog", "true".to_owned()),
            ("dLegerGroup", BROKER_GROUP.to_owned()),
            ("dLegerPeers", peers),
            ("dLegerSelfId", broker.label.clone()),
            ("storePathRootDir", store.display().to_string()),
            ("storePathCommitLog", store.join("commitlog").display().to_string()),
            ("autoCreateTopicEnable", "true".to_owned()),
        ]
    }

    fn write_config(&self, label: &str, properties: &[(&str, String)]) -> anyhow::Result<()> {
        let mut text = "# Written at each start of the local cluster; changes are lost.\n".to_owned();
        for (key, value) in properties {
            text.push_str(&properties::render(key, value));
            text.push('\n');
        }
        let path = self.data.join("conf").join(format!("{label}.conf"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::Layout;

    #[test]
    fn a_written_layout_is_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::on_free_ports(dir.path()).expect("ports are free");
        layout.write().expect("the folder is ours");
        assert_eq!(Layout::read(dir.path()).expect("it was written"), layout);
        let mut ports: Vec<u16> =
            layout.processes().iter().flat_map(|process| process.ports.iter().map(|(_, port)| *port)).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 15);
        let conf = std::fs::read_to_string(dir.path().join("conf/n1.conf")).expect("it was written");
        assert!(conf.contains(&format!("grpcServerPort={}\n", layout.brokers[1].grpc)), "{conf}");
        assert!(conf.contains("dLegerSelfId=n1\n"), "{conf}");
    }

    #[test]
    fn the_standard_ports_are_those_of_the_readme() {
        let layout = Layout::standard(std::path::Path::new("data"));
        assert_eq!(layout.endpoints(), "127.0.0.1:8081;127.0.0.1:8181;127.0.0.1:8281");
        assert_eq!(layout.name_server_addresses(), "127.0.0.1:9876;127.0.0.1:9877");
        let error = Layout::read(std::path::Path::new("/nowhere")).expect_err("nothing is there");
        assert!(error.to_string().contains("no cluster was started"), "{error}");
    }
}
