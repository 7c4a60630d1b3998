//! Clusters of real processes on loopback: name servers and broker groups in a temporary folder, with ports of their
//! own, that can be killed, paused, restarted, wiped and cut off.
//!
//! Every process dies with the [`Cluster`], also when the test that owns it is killed.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{LazyLock, Mutex, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use raftmq_proto::admin::{self as pb, admin_client::AdminClient};
use raftmq_proto::signature::Credentials;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{certificates::Authority, client::eventually, disk_journal::DiskJournal, relay::Relay, usage::Usage};

/// How long a healthy machine may take to elect a leader, two cores and other work considered.
pub const LEADER_WITHIN: Duration = Duration::from_secs(20);

/// What nodes and name servers prove themselves with where there is access control.
const INNER: &str = r#"{"accessKey":"cluster","secretKey":"s3cret-of-the-cluster"}"#;

/// `adminToken` of every node.
pub(crate) const ADMIN_TOKEN: &str = "of-this-test";

/// Where relays listen: loopback too, and not where the nodes do.
const RELAYS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name servers.
    pub namesrvs: usize,
    /// Broker groups.
    pub groups: usize,
    /// Nodes in each broker group.
    pub nodes: usize,
    /// `flushDiskType`: whether OK waits for fdatasync on a majority.
    pub sync_flush: bool,
    /// Bytes reach files only at fdatasync, so that a kill is a power cut. Of RocksDB's files too: what was not synced
    /// is gone at the node's next start.
    pub power_loss: bool,
    /// Syncs can be made slow, see [`Cluster::delay_syncs`].
    pub slow_disks: bool,
    /// Size of a log segment, several of which are preallocated; the broker's own choice when none. Tests that send
    /// little need little disk.
    pub segment_bytes: Option<u64>,
    /// Further lines of every broker's configuration.
    pub settings: Vec<(String, String)>,
    /// Further environment of every broker.
    pub environment: Vec<(String, String)>,
    /// Where each node's processes run and listen; loopback when empty.
    pub hosts: Vec<Host>,
    /// Clients and peers reach every node through relays that can lose bytes. Loopback only.
    pub relayed: bool,
    /// The program that brokers run.
    pub broker: &'static str,
    /// There is a CA and every node has a certificate and knows it; `tls.server.mode` is another line of theirs.
    pub certificates: bool,
    /// Access control is on, this is the first user, and the cluster is administered as it.
    pub administrator: Option<Credentials>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namesrvs: 2,
            groups: 1,
            nodes: 3,
            sync_flush: true,
            power_loss: false,
            slow_disks: false,
            segment_bytes: Some(16 << 20),
            settings: Vec::new(),
            environment: Vec::new(),
            hosts: Vec::new(),
            relayed: false,
            broker: "mqbroker",
            certificates: false,
            administrator: None,
        }
    }
}

/// What stands in front of a node's ports.
#[derive(Clone)]
pub struct Relays {
    /// Its peers' way to it.
    pub peer: Relay,
    /// Its clients' way to it.
    pub grpc: Relay,
}

/// A network namespace and the address of a node in it.
#[derive(Debug, Clone)]
pub struct Host {
    /// As `ip netns` knows it.
    pub namespace: String,
    /// Reachable from the other hosts and from the test.
    pub address: Ipv4Addr,
}

/// Processes of one cluster and the folder they live in.
pub struct Cluster {
    /// In order of their groups.
    pub nodes: Vec<Node>,
    /// Name servers.
    pub namesrvs: Vec<Namesrv>,
    /// How it was started.
    pub options: Options,
    /// Its CA, see [`Options::certificates`], which has signed `node` and `tool`.
    pub authority: Option<Authority>,
    /// `mqadmin` shows `tool`.
    pub tools_speak_tls: bool,
    dir: TempDir,
    /// What disks keep of what RocksDB has not synced, see [`Cluster::keep_unsynced`].
    keep: Option<StdRng>,
    // One cluster at a time in a process: two would share the machine's cores and blame each other's slowness on faults.
    _turn: OwnedMutexGuard<()>,
}

/// A broker node: its place, and its process while it runs.
pub struct Node {
    /// Number of its broker group.
    pub group: usize,
    /// Name of its broker group.
    pub broker_group: String,
    /// As in `dLegerSelfId`.
    pub label: String,
    /// Where clients go.
    pub grpc: SocketAddr,
    /// `listenPort`: administration.
    pub admin: SocketAddr,
    /// Where the other members go.
    pub peer: SocketAddr,
    /// `metricsPromExporterPort`.
    pub metrics: SocketAddr,
    /// Its configuration file.
    pub config: PathBuf,
    /// `storePathRootDir`.
    pub data: PathBuf,
    /// The program that it runs from its next start on.
    pub program: &'static str,
    /// Added to the test's environment at its next start.
    pub environment: Vec<(String, String)>,
    namespace: Option<String>,
    relays: Option<Relays>,
    process: Option<Process>,
    /// Bytes that its log had at its last start.
    log_before: usize,
}

impl Node {
    /// What stands in front of its ports.
    ///
    /// # Errors
    ///
    /// The cluster is not [relayed](Options::relayed).
    pub fn relays(&self) -> Result<&Relays> {
        self.relays.as_ref().context("the cluster is not relayed")
    }
}

/// A name server.
pub struct Namesrv {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its configuration file.
    pub config: PathBuf,
    process: Option<Process>,
}

/// A running program of ours; dropping it kills it.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program` from the build folder, its output appended to `log`. It dies with this process.
    ///
    /// # Errors
    ///
    /// The program cannot be built or started.
    pub fn start(program: &Path, arguments: &[&str], log: &Path, place: &Place) -> Result<Self> {
        let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = place.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.env("RUST_BACKTRACE", "1");
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { child, name, log: log.to_path_buf() })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a process id is never zero")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; an error after `limit`.
    ///
    /// # Errors
    ///
    /// It is still running after `limit`.
    pub fn ended(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} still runs after {limit:?}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where and with which environment a process runs.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Network namespace; the test's own when none.
    pub namespace: Option<String>,
    /// Added to the test's environment.
    pub environment: Vec<(String, String)>,
}

impl Place {
    fn command(&self, program: &Path) -> Command {
        let mut words: Vec<std::ffi::OsString> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(Into::into));
        }
        // setpriv becomes the program; all it leaves behind is that the kernel kills it when its parent dies.
        if Path::new("/usr/bin/setpriv").exists() {
            words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into));
        }
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// The path of one of our programs; builds them all first, once in a process, unless `RAFTMQ_BIN_DIR` names a folder.
///
/// # Errors
///
/// The build fails.
pub fn program(name: &str) -> Result<PathBuf> {
    static DIR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let dir = DIR.get_or_init(|| build().map_err(|failure| format!("{failure:#}")));
    let dir = dir.as_ref().map_err(|failure| anyhow::anyhow!("{failure}"))?;
    let path = dir.join(name);
    ensure!(path.exists(), "{} does not exist", path.display());
    Ok(path)
}

fn build() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("RAFTMQ_BIN_DIR") {
        return Ok(dir.into());
    }
    // target/release/deps/failover-0123 or target/release/raftmq-bench.
    let test = std::env::current_exe()?;
    let dir = test.ancestors().skip(1).find(|dir| dir.file_name().is_some_and(|name| name != "deps"));
    let dir = dir.context("the test runs from a build folder")?.to_path_buf();
    let target = dir.parent().context("a build folder has a parent")?;
    let workspace = crate::root();
    // By itself cargo would build RocksDB anew: the script knows the environment that all builds share.
    let output = Command::new(workspace.join("scripts/cargo.sh"))
        .args(["build", "--release", "--workspace", "--offline", "--quiet"])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(&workspace)
        .output()
        .context("running cargo")?;
    ensure!(output.status.success(), "building the programs failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(dir)
}

/// Ports that nobody listens on, none of them handed out twice by this process. They lie below the range from which
/// the kernel takes the source ports of connections, so that a restarted process finds its ports free.
///
/// # Errors
///
/// No port is free.
pub fn free_port() -> Result<u16> {
    static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    for _ in 0..1000 {
        let port = rand::rng().random_range(11_000..31_000);
        let mut taken = TAKEN.lock().expect("no holder panics");
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() && taken.insert(port) {
            return Ok(port);
        }
    }
    bail!("no free port found")
}

async fn turn() -> OwnedMutexGuard<()> {
    static TURN: LazyLock<std::sync::Arc<tokio::sync::Mutex<()>>> = LazyLock::new(Default::default);
    TURN.clone().lock_owned().await
}

impl Cluster {
    /// Starts every process and waits until each broker group has a leader that all of its members know.
    ///
    /// # Errors
    ///
    /// A process cannot be started, or a group has no leader after [`LEADER_WITHIN`].
    pub async fn start(options: Options) -> Result<Self> {
        let mut cluster = Self::prepare(options).await?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// Starts what [`Cluster::prepare`] prepared, as [`Cluster::start`] does.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub async fn start_all(&mut self) -> Result<()> {
        for number in 0..self.namesrvs.len() {
            self.start_namesrv(number)?;
        }
        for number in 0..self.nodes.len() {
            self.start_node(number)?;
        }
        for group in 0..self.options.groups {
            self.leader(group).await?;
        }
        Ok(())
    }

    /// Writes configurations and chooses ports, and starts nothing.
    ///
    /// # Errors
    ///
    /// The folder cannot be written, or no ports are free.
    pub async fn prepare(options: Options) -> Result<Self> {
        let turn = turn().await;
        program(options.broker)?;
        let dir = tempfile::Builder::new().prefix("raftmq-").tempdir()?;
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let authority = options.certificates.then(|| authority(&dir.path().join("ca"))).transpose()?;
        let certificates = authority.as_ref().map(|authority| authority.lines("node")).unwrap_or_default();
        // Nodes listen on the one, and relays on the other, on the same ports.
        let reached = if options.relayed { IpAddr::from(RELAYS) } else { loopback };
        let mut namesrvs = Vec::new();
        let namesrv_host = if options.hosts.is_empty() { loopback } else { gateway(&options.hosts[0]).into() };
        for number in 0..options.namesrvs {
            let address = SocketAddr::new(namesrv_host, free_port()?);
            let config = dir.path().join(format!("namesrv-{number}.conf"));
            let mut text = format!("listenPort = {}\nbindAddress = {namesrv_host}\n", address.port());
            if let Some(administrator) = &options.administrator {
                text.push_str(&access_lines(administrator));
            }
            text.push_str(&certificates);
            fs::write(&config, text)?;
            namesrvs.push(Namesrv { address, config, process: None });
        }
        let namesrv_addr: Vec<String> = namesrvs.iter().map(|namesrv| namesrv.address.to_string()).collect();
        let mut nodes = Vec::new();
        for group in 0..options.groups {
            let places: Vec<(IpAddr, u16)> = (0..options.nodes)
                .map(|index| {
                    let host = options.hosts.get(group * options.nodes + index);
                    let address = host.map_or(reached, |host| host.address.into());
                    Ok((address, free_port()?))
                })
                .collect::<Result<_>>()?;
            let peers: Vec<String> =
                places.iter().enumerate().map(|(index, (host, port))| format!("n{index}-{host}:{port}")).collect();
            for (index, (host, peer)) in places.iter().enumerate() {
                let name = format!("g{group}-n{index}");
                let [grpc, admin, metrics] = [free_port()?, free_port()?, free_port()?];
                let relays = if options.relayed {
                    let relay = async |port| {
                        Relay::start(SocketAddr::new(reached, port), SocketAddr::new(loopback, port)).await
                    };
                    Some(Relays { peer: relay(*peer).await?, grpc: relay(grpc).await? })
                } else {
                    None
                };
                let node = Node {
                    group,
                    broker_group: format!("RaftNode{group:02}"),
                    label: format!("n{index}"),
                    grpc: SocketAddr::new(*host, grpc),
                    admin: SocketAddr::new(if options.relayed { loopback } else { *host }, admin),
                    peer: SocketAddr::new(*host, *peer),
                    metrics: SocketAddr::new(if options.relayed { loopback } else { *host }, metrics),
                    config: dir.path().join(format!("{name}.conf")),
                    data: dir.path().join(&name),
                    namespace: options.hosts.get(group * options.nodes + index).map(|host| host.namespace.clone()),
                    program: options.broker,
                    environment: options.environment.clone(),
                    relays,
                    process: None,
                    log_before: 0,
                };
                let mut text = String::new();
                let mut line = |key: &str, value: &dyn std::fmt::Display| {
                    writeln!(text, "{key} = {value}").expect("writing to a string does not fail");
                };
                line("brokerClusterName", &"RaftCluster");
                line("brokerName", &node.broker_group);
                line("listenPort", &admin);
                line("brokerIP1", host);
                line("namesrvAddr", &namesrv_addr.join(";"));
                line("storePathRootDir", &node.data.display());
                line("storePathCommitLog", &node.data.join("commitlog").display());
                line("enableDLegerCommitLog", &true);
                line("dLegerGroup", &node.broker_group);
                line("dLegerPeers", &peers.join(";"));
                line("dLegerSelfId", &node.label);
                line("sendMessageThreadPoolNums", &16);
                line("flushDiskType", &if options.sync_flush { "SYNC_FLUSH" } else { "ASYNC_FLUSH" });
                line("autoCreateTopicEnable", &true);
                line("adminToken", &ADMIN_TOKEN);
                line("grpcServerPort", &grpc);
                line("metricsPromExporterPort", &metrics);
                if options.relayed {
                    line("bindAddress", &loopback);
                }
                if let Some(bytes) = options.segment_bytes {
                    line("mappedFileSizeCommitLog", &bytes);
                }
                for (key, value) in &options.settings {
                    line(key, value);
                }
                if let Some(administrator) = &options.administrator {
                    text.push_str(&access_lines(administrator));
                    text.push_str("authorizationEnabled = true\n");
                }
                text.push_str(&certificates);
                fs::write(&node.config, text)?;
                nodes.push(node);
            }
        }
        Ok(Self { nodes, namesrvs, options, authority, tools_speak_tls: false, dir, keep: None, _turn: turn })
    }

    /// The folder that holds configurations, data and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a name server that does not run.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start_namesrv(&mut self, number: usize) -> Result<()> {
        let log = self.dir.path().join(format!("namesrv-{number}.log"));
        let namesrv = &mut self.namesrvs[number];
        let arguments = ["-c", namesrv.config.to_str().context("a path of ours is text")?];
        namesrv.process = Some(Process::start(&program("mqnamesrv")?, &arguments, &log, &Place::default())?);
        Ok(())
    }

    /// A further line of the configuration of all brokers and name servers with these numbers, from their next start on.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn set(&self, namesrvs: &[usize], nodes: &[usize], line: &str) -> Result<()> {
        let files = namesrvs.iter().map(|number| &self.namesrvs[*number].config);
        for file in files.chain(nodes.iter().map(|number| &self.nodes[*number].config)) {
            let text = fs::read_to_string(file)?;
            fs::write(file, format!("{text}{line}\n"))?;
        }
        Ok(())
    }

    /// From now on a disk that loses its power keeps nothing of what RocksDB has not synced, or, with a seed, some.
    pub fn keep_unsynced(&mut self, seed: Option<u64>) {
        self.keep = seed.map(StdRng::seed_from_u64);
    }

    /// What a node does to RocksDB's files. Needs [`Options::power_loss`].
    pub fn journal(&self, number: usize) -> DiskJournal {
        let data = &self.nodes[number].data;
        DiskJournal::new(data, &journal_folder(data))
    }

    /// Kills a name server.
    pub fn kill_namesrv(&mut self, number: usize) {
        self.namesrvs[number].process = None;
    }

    /// Starts a node that does not run, on the data it had.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start_node(&mut self, number: usize) -> Result<()> {
        let log = self.log_path(number);
        let log_before = self.log(number).len();
        let node = &mut self.nodes[number];
        node.log_before = log_before;
        let mut place = Place { namespace: node.namespace.clone(), environment: node.environment.clone() };
        if self.options.power_loss {
            place.environment.push(("RAFTMQ_TEST_POWER_LOSS".into(), "1".into()));
            let journal = DiskJournal::new(&node.data, &journal_folder(&node.data));
            let loss = journal.cut(self.keep.as_mut()).with_context(|| format!("cutting node {number}"))?;
            println!("node {number} starts; of RocksDB's files {loss}");
            journal.begin()?;
            place.environment.extend(journal.environment()?);
        }
        if self.options.slow_disks {
            let file = delay_file(&node.data).to_str().context("a path of ours is text")?.to_string();
            place.environment.push(("RAFTMQ_TEST_SYNC_DELAY_FILE".into(), file));
        }
        let arguments = ["-c", node.config.to_str().context("a path of ours is text")?];
        node.process = Some(Process::start(&program(node.program)?, &arguments, &log, &place)?);
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number].process = None;
    }

    /// kill -9 of several at the same moment, as a power cut does it.
    ///
    /// # Errors
    ///
    /// One of them does not run.
    pub fn kill_at_once(&mut self, numbers: &[usize]) -> Result<()> {
        for number in numbers {
            self.nodes[*number].process.as_ref().context("the node runs")?.signal(Signal::KILL)?;
        }
        for number in numbers {
            self.kill(*number);
        }
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    ///
    /// The node does not run.
    pub fn pause(&self, number: usize) -> Result<()> {
        self.nodes[number].process.as_ref().context("the node runs")?.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    ///
    /// The node does not run.
    pub fn resume(&self, number: usize) -> Result<()> {
        self.nodes[number].process.as_ref().context("the node runs")?.signal(Signal::CONT)
    }

    /// SIGKILL, for whoever has the cluster on loan; [`Cluster::kill`] must follow.
    ///
    /// # Errors
    ///
    /// The node does not run.
    pub fn begin_to_kill(&self, number: usize) -> Result<()> {
        self.nodes[number].process.as_ref().context("the node runs")?.signal(Signal::KILL)
    }

    /// From now on each sync of a node's log takes so much longer. Needs [`Options::slow_disks`].
    ///
    /// # Errors
    ///
    /// The file that says so cannot be written.
    pub fn delay_syncs(&self, number: usize, delay: Duration) -> Result<()> {
        ensure!(self.options.slow_disks, "the disks of this cluster cannot be slow");
        let file = delay_file(&self.nodes[number].data);
        // In one step: a node may read it at any moment.
        let draft = file.with_extension("draft");
        fs::write(&draft, delay.as_millis().to_string())?;
        Ok(fs::rename(draft, file)?)
    }

    /// SIGTERM, and its end.
    ///
    /// # Errors
    ///
    /// The node does not run, or does not end within `limit`.
    pub fn stop(&mut self, number: usize, limit: Duration) -> Result<std::process::ExitStatus> {
        let mut process = self.nodes[number].process.take().context("the node runs")?;
        process.signal(Signal::TERM)?;
        process.ended(limit)
    }

    /// Deletes everything that a node, which must not run, has on disk.
    ///
    /// # Errors
    ///
    /// The folder cannot be deleted.
    pub fn wipe(&mut self, number: usize) -> Result<()> {
        let node = &self.nodes[number];
        ensure!(node.process.is_none(), "a running node must not be wiped");
        DiskJournal::new(&node.data, &journal_folder(&node.data)).forget()?;
        fs::remove_dir_all(&node.data).with_context(|| format!("wiping {}", node.data.display()))
    }

    /// Folder with everything that a node has on disk.
    pub fn data(&self, number: usize) -> &Path {
        &self.nodes[number].data
    }

    /// The process of a node.
    pub fn process(&mut self, number: usize) -> Option<&mut Process> {
        self.nodes[number].process.as_mut()
    }

    /// Where a node's output goes.
    pub fn log_path(&self, number: usize) -> PathBuf {
        let node = &self.nodes[number];
        self.dir.path().join(format!("g{}-{}.log", node.group, node.label))
    }

    /// Everything a node wrote so far, over all its starts.
    pub fn log(&self, number: usize) -> String {
        fs::read_to_string(self.log_path(number)).unwrap_or_default()
    }

    /// The line that admits a node which has started and is no member, without `mqadmin` itself: `command` is `addPeer`
    /// or `replacePeer`.
    ///
    /// # Errors
    ///
    /// Its log has none within [`LEADER_WITHIN`] that it wrote since its last start.
    pub async fn admission(&self, number: usize, command: &str) -> Result<Vec<String>> {
        let start = format!("mqadmin {command} ");
        let find = || {
            let log = self.log(number);
            let since = log.get(self.nodes[number].log_before..)?;
            let line = since.get(since.rfind(&start)?..)?.lines().next()?;
            Some(line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>())
        };
        eventually("the node says how to admit it", LEADER_WITHIN, async || find().is_some()).await?;
        find().context("it was there")
    }

    /// What the node's process takes of the machine.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn usage(&self, number: usize) -> Result<Usage> {
        Usage::of(self.nodes[number].process.as_ref().context("the node runs")?.pid())
    }

    /// What the process of a name server takes of the machine.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn namesrv_usage(&self, number: usize) -> Result<Usage> {
        Usage::of(self.namesrvs[number].process.as_ref().context("the name server runs")?.pid())
    }

    /// Everything a name server wrote so far.
    pub fn namesrv_log(&self, number: usize) -> String {
        fs::read_to_string(self.dir.path().join(format!("namesrv-{number}.log"))).unwrap_or_default()
    }

    /// Numbers of the nodes of a broker group.
    pub fn members(&self, group: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|number| self.nodes[*number].group == group).collect()
    }

    /// Numbers of the nodes of a broker group whose processes run.
    pub fn running(&self, group: usize) -> Vec<usize> {
        self.members(group).into_iter().filter(|number| self.nodes[*number].process.is_some()).collect()
    }

    /// Addresses for clients of one group, in the order of its nodes.
    pub fn access(&self, group: usize) -> Vec<SocketAddr> {
        self.members(group).into_iter().map(|number| self.nodes[number].grpc).collect()
    }

    /// Connects to a node's administration.
    ///
    /// # Errors
    ///
    /// It cannot be reached.
    pub async fn admin_client(&self, number: usize) -> Result<Administration> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.nodes[number].admin))?
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(15));
        let channel = match &self.authority {
            None => endpoint.connect().await?,
            // Whatever the mode is that the node is in.
            Some(authority) => {
                let dialer = authority.dialer("tool", "permissive")?;
                dialer.channel(&endpoint, &self.nodes[number].admin.to_string())
            }
        };
        let channel = InterceptedService::new(channel, ShowToken(self.options.administrator.clone()));
        Ok(AdminClient::new(channel).max_decoding_message_size(64 << 20))
    }

    /// Administration of each node, in order, connected when it is called, for whoever calls while nodes come and go.
    /// A call that is not answered ends after `timeout`.
    ///
    /// # Errors
    ///
    /// An address is none.
    pub fn administrations(&self, timeout: Duration) -> Result<Vec<Administration>> {
        let lazy = |node: &Node| {
            let endpoint = Endpoint::from_shared(format!("http://{}", node.admin))?
                .connect_timeout(Duration::from_secs(1))
                .timeout(timeout);
            Ok(AdminClient::new(InterceptedService::new(
                endpoint.connect_lazy(),
                ShowToken(self.options.administrator.clone()),
            )))
        };
        self.nodes.iter().map(lazy).collect()
    }

    /// What a node says of its group.
    ///
    /// # Errors
    ///
    /// It does not answer within a second.
    pub async fn status(&self, number: usize) -> Result<pb::GroupStatusResponse> {
        let ask = async {
            let mut client = self.admin_client(number).await?;
            Ok::<_, anyhow::Error>(client.group_status(pb::GroupStatusRequest {}).await?.into_inner())
        };
        tokio::time::timeout(Duration::from_secs(1), ask).await.context("no answer within 1 s")?
    }

    /// The number of the node that leads, once a majority of the group's running nodes agree on it.
    ///
    /// # Errors
    ///
    /// There is none after [`LEADER_WITHIN`]; the error has the end of every node's log.
    pub async fn leader(&mut self, group: usize) -> Result<usize> {
        self.leader_other_than(group, None, LEADER_WITHIN).await
    }

    /// As [`Cluster::leader`], and it must not be node `not`.
    ///
    /// # Errors
    ///
    /// As [`Cluster::leader`].
    pub async fn leader_other_than(&mut self, group: usize, not: Option<usize>, limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut last = String::new();
        while Instant::now() < deadline {
            let mut leads = None;
            let mut followers = Vec::new();
            last.clear();
            for number in self.running(group) {
                if let Some(process) = self.process(number)
                    && !process.runs()
                {
                    bail!("node {number} ended by itself\n{}", self.log_tails(group));
                }
                match self.status(number).await {
                    Ok(status) if status.role == "leader" && Some(number) != not => leads = Some((number, status)),
                    Ok(status) => followers.push((status.leader, status.term)),
                    Err(failure) => {
                        let _ = write!(last, "node {number}: {failure:#}; ");
                    }
                }
            }
            if let Some((number, status)) = leads {
                let agreeing = followers.iter().filter(|follower| **follower == (status.node, status.term)).count();
                if agreeing + 1 > self.options.nodes / 2 {
                    return Ok(number);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("broker group {group} has no leader after {limit:?}; {last}\n{}", self.log_tails(group))
    }

    /// Waits until every running node of a group has applied the activation of `version`, and none of a later one.
    ///
    /// # Errors
    ///
    /// That is not so within [`LEADER_WITHIN`].
    pub async fn activated(&self, group: usize, version: u32) -> Result<()> {
        eventually(&format!("version {version} is active"), LEADER_WITHIN, async || {
            for number in self.running(group) {
                if !self.status(number).await.is_ok_and(|status| status.command_version == version) {
                    return false;
                }
            }
            true
        })
        .await
    }

    /// Waits until every running node of a group leads or follows and has applied what any of them had when this was
    /// asked; they may be under load.
    ///
    /// # Errors
    ///
    /// That is not so within `limit`.
    pub async fn reached(&mut self, group: usize, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut goal = 0;
        for number in self.running(group) {
            let status = self.status(number).await;
            goal = goal.max(status.ok().and_then(|status| status.applied_index).unwrap_or_default());
        }
        for number in self.running(group) {
            loop {
                let status = self.status(number).await;
                let there = |status: &pb::GroupStatusResponse| {
                    ["leader", "follower"].contains(&status.role.as_str()) && status.applied_index >= Some(goal)
                };
                if status.as_ref().is_ok_and(there) {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("node {number} has not reached entry {goal} within {limit:?}\n{}", self.log_tails(group));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Waits until every running node of a group is a voter and has everything the leader has.
    ///
    /// # Errors
    ///
    /// That is not so within `limit`.
    pub async fn caught_up(&mut self, group: usize, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut last = String::new();
        while Instant::now() < deadline {
            let mut applied = HashSet::new();
            let mut failures = String::new();
            for number in self.running(group) {
                match self.status(number).await {
                    Ok(status) if status.role == "leader" || status.role == "follower" => {
                        applied.insert(status.applied_index);
                    }
                    Ok(status) => failures = format!("node {number} is {}", status.role),
                    Err(failure) => failures = format!("node {number}: {failure:#}"),
                }
            }
            if failures.is_empty() && applied.len() == 1 {
                return Ok(());
            }
            last = format!("{failures} applied {applied:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("broker group {group} is not level after {limit:?}: {last}\n{}", self.log_tails(group))
    }

    /// Waits until every running node of a group is a voter and has what the group had applied by now, under load too.
    ///
    /// # Errors
    ///
    /// That is not so within `limit`.
    pub async fn has_all_so_far(&mut self, group: usize, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let leader = self.leader(group).await?;
        let wanted = self.status(leader).await?.applied_index;
        loop {
            let mut behind = String::new();
            for number in self.running(group) {
                match self.status(number).await {
                    Ok(status) if status.applied_index >= wanted && ["leader", "follower"].contains(&&*status.role) => {
                    }
                    Ok(status) => {
                        let _ = write!(behind, "node {number} is a {} at {:?}; ", status.role, status.applied_index);
                    }
                    Err(failure) => {
                        let _ = write!(behind, "node {number}: {failure:#}; ");
                    }
                }
            }
            if behind.is_empty() {
                return Ok(());
            }
            let late = Instant::now() > deadline;
            ensure!(!late, "not at {wanted:?} after {limit:?}: {behind}\n{}", self.log_tails(group));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end of each node's log, for messages of failed tests.
    pub fn log_tails(&self, group: usize) -> String {
        let mut text = String::new();
        for number in self.members(group) {
            let log = self.log(number);
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            let _ = writeln!(text, "--- node {number} ({})\n{tail}", self.nodes[number].label);
        }
        text
    }

    /// Runs mqadmin against the name servers.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub async fn mqadmin(&self, arguments: &[&str]) -> Result<Output> {
        self.mqadmin_as(self.options.administrator.as_ref(), arguments).await
    }

    /// As [`Cluster::mqadmin`], for another user or for none.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub async fn mqadmin_as(&self, user: Option<&Credentials>, arguments: &[&str]) -> Result<Output> {
        let output = self.mqadmin_command(user, arguments)?.output();
        Ok(tokio::time::timeout(Duration::from_secs(60), output).await.context("mqadmin takes more than 60 s")??)
    }

    /// mqadmin against the name servers, for whoever has to do while it runs. It ends when it is dropped.
    ///
    /// # Errors
    ///
    /// There is no such program.
    pub fn mqadmin_command(&self, user: Option<&Credentials>, arguments: &[&str]) -> Result<tokio::process::Command> {
        let namesrvs: Vec<String> = self.namesrvs.iter().map(|namesrv| namesrv.address.to_string()).collect();
        let keys = ["CERT_PATH", "KEY_PATH", "TRUST_CERT_PATH"].map(|key| format!("RAFTMQ_TLS_CLIENT_{key}"));
        let shown = self.authority.as_ref().filter(|_| self.tools_speak_tls).map(|authority| authority.files("tool"));
        let mut command = tokio::process::Command::new(program("mqadmin")?);
        command
            .envs(keys.into_iter().zip(shown.into_iter().flatten()))
            .args(arguments)
            .env("NAMESRV_ADDR", namesrvs.join(";"))
            .env("RAFTMQ_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("RAFTMQ_ACCESS_KEY", user.map(|user| user.access_key.as_str()).unwrap_or_default())
            .env("RAFTMQ_SECRET_KEY", user.map(|user| user.secret_key.as_str()).unwrap_or_default())
            // It asks for consent on a terminal only.
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(command)
    }

    /// Creates a topic in every group through its administration, `queues` queues in each.
    ///
    /// # Errors
    ///
    /// A group refuses.
    pub async fn create_topic(&mut self, name: &str, queues: u32) -> Result<()> {
        for group in 0..self.options.groups {
            let leader = self.leader(group).await?;
            self.create_topic_at(leader, name, queues).await?;
        }
        Ok(())
    }

    /// Creates a topic in the first group, for messages of one type where one is said.
    ///
    /// # Errors
    ///
    /// No node takes it.
    pub async fn put_topic(&self, name: &str, queues: u32, message_type: Option<&str>) -> Result<()> {
        let request = pb::PutTopicRequest {
            name: name.to_string(),
            read_queues: Some(queues),
            write_queues: Some(queues),
            attributes: message_type.map(|kind| ("message.type".to_string(), kind.to_string())).into_iter().collect(),
            ..Default::default()
        };
        self.by_any(async |mut client| client.put_topic(request.clone()).await.map(drop)).await
    }

    /// Creates a consumer group in the first group; where nothing is said its messages are retried 16 times.
    ///
    /// # Errors
    ///
    /// No node takes it.
    pub async fn put_consumer_group(&self, name: &str, ordered: bool, retry_max: Option<u32>) -> Result<()> {
        let request = pb::PutConsumerGroupRequest {
            name: name.to_string(),
            ordered: Some(ordered),
            retry_max,
            ..Default::default()
        };
        self.by_any(async |mut client| client.put_consumer_group(request.clone()).await.map(drop)).await
    }

    /// Messages that a topic of the first group was ever given; none when there is no such topic.
    ///
    /// # Errors
    ///
    /// No node says so.
    pub async fn stored(&self, topic: &str) -> Result<Option<u64>> {
        let mut stored = None;
        let request = pb::TopicStatusRequest { name: topic.to_string(), ..Default::default() };
        self.by_any(async |mut client| match client.topic_status(request.clone()).await {
            Ok(status) => {
                stored = Some(status.into_inner().queues.iter().map(|queue| queue.max_offset).sum());
                Ok(())
            }
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            Err(status) => Err(status),
        })
        .await?;
        Ok(stored)
    }

    /// Asks the running nodes of the first group one after the other until one does it.
    async fn by_any(&self, mut call: impl AsyncFnMut(Administration) -> Result<(), Status>) -> Result<()> {
        let deadline = Instant::now() + LEADER_WITHIN;
        loop {
            let mut last = anyhow::anyhow!("no node runs");
            for number in self.running(0) {
                match self.admin_client(number).await {
                    Ok(client) => match call(client).await {
                        Ok(()) => return Ok(()),
                        Err(status) => last = status.into(),
                    },
                    Err(failure) => last = failure,
                }
            }
            ensure!(Instant::now() < deadline, "no node does it in {LEADER_WITHIN:?}: {last:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Creates a topic in one group, asking one node.
    ///
    /// # Errors
    ///
    /// The node refuses.
    pub async fn create_topic_at(&self, number: usize, name: &str, queues: u32) -> Result<()> {
        let request = pb::PutTopicRequest {
            name: name.to_string(),
            read_queues: Some(queues),
            write_queues: Some(queues),
            ..Default::default()
        };
        self.admin_client(number).await?.put_topic(request).await?;
        Ok(())
    }
}

/// A node's administration, shown the token that it wants from other machines: hosts of a test's network are such.
pub type Administration = AdminClient<InterceptedService<Channel, ShowToken>>;

/// Shows [`ADMIN_TOKEN`], and signs for the administrator where there is one.
#[derive(Debug, Clone)]
pub struct ShowToken(Option<Credentials>);

impl Interceptor for ShowToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let shown = MetadataValue::try_from(format!("Bearer {ADMIN_TOKEN}")).expect("the token is ASCII");
        request.metadata_mut().insert("authorization", shown);
        if let Some(user) = &self.0 {
            user.sign(request.metadata_mut(), 0).map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(request)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The folder says what happened: keep it for whoever looks into a failure.
        if std::thread::panicking() || std::env::var_os("RAFTMQ_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("the cluster's folder is kept: {}", self.dir.path().display());
        }
    }
}

fn access_lines(administrator: &Credentials) -> String {
    let Credentials { access_key, secret_key } = administrator;
    let user = format!("{{\"username\":\"{access_key}\",\"password\":\"{secret_key}\"}}");
    format!(
        "authenticationEnabled = true\ninitAuthenticationUser = {user}\n\
         innerClientAuthenticationCredentials = {INNER}\n"
    )
}

fn authority(folder: &Path) -> Result<Authority> {
    let authority = Authority::new(folder)?;
    authority.sign("node", &["127.0.0.1", "localhost"])?;
    authority.sign("tool", &["mqadmin"])?;
    Ok(authority)
}

fn delay_file(data: &Path) -> PathBuf {
    data.with_extension("delay")
}

fn journal_folder(data: &Path) -> PathBuf {
    data.with_extension("journal")
}

fn gateway(host: &Host) -> Ipv4Addr {
    let [a, b, c, _] = host.address.octets();
    Ipv4Addr::new(a, b, c, 1)
}
