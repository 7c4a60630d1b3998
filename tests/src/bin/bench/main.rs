//! `bench`: measures this build, beside the ceiling that gRPC sets here and beside NATS JetStream, in one run.
//!
//! `run` starts everything it measures and prints one table; `load` drives a cluster that runs already;
//! `do-nothing` is the ceiling.

mod fill;
mod pages;
mod scale;

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use raftmq_tests::{
    client::Producer,
    cluster::{Cluster, Options, Place, Process, free_port, program},
    dev_start, do_nothing,
    load::{self, Figures, Pool, Receivers, Target},
    usage::Usage,
};

#[derive(Parser)]
#[command(name = "bench", about = "Measures RaftMQ on this machine")]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start what is to be measured, measure it, print the table
    Run(Run),
    /// Drive a cluster that runs already
    Load(Load),
    /// Answer every send OK and do nothing else
    DoNothing {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:8999")]
        listen: SocketAddr,
    },
}

#[derive(Args, Clone)]
struct Run {
    /// Seconds of each run of calls
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Leader kills over which the longest write gap is taken
    #[arg(long, default_value_t = 5)]
    kills: usize,
    /// Seconds at full load of `--only soak`, in which leadership must not change
    #[arg(long, default_value_t = 600)]
    soak: u64,
    /// Gigabytes of bodies sent for the figure of disk bytes
    #[arg(long, default_value_t = 0.5)]
    disk_gb: f64,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    body: usize,
    #[command(flatten)]
    sizes: scale::Sizes,
    #[command(flatten)]
    fills: fill::Fills,
    /// What to measure: do-nothing, sync, async, nats, soak, scale, backlog, fill, dashboard
    #[arg(long, value_delimiter = ',', default_values_t = ["do-nothing", "sync", "async", "nats"].map(String::from))]
    only: Vec<String>,
}

#[derive(Args, Clone)]
struct Load {
    /// gRPC address of any node
    #[arg(long, default_value = "127.0.0.1:8081")]
    access: SocketAddr,
    /// A topic that exists
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Seconds of the run
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Calls under way
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Messages a call
    #[arg(long, default_value_t = 1)]
    per_call: usize,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    body: usize,
    /// send, receive, latency or join (which creates the consumer group)
    #[arg(long, default_value = "send")]
    what: String,
    /// Consumer group for receive, latency and join
    #[arg(long, default_value = "bench")]
    group: String,
    /// Messages a second for latency
    #[arg(long, default_value_t = 1000)]
    rate: u32,
}

/// Connections to each system: as many as one SDK has to three nodes.
const CONNECTIONS: usize = 3;

const TOPIC: &str = "bench";

/// What the log may take on each node in a run of minutes, which sends many times as much.
const SOAK_LOG_BYTES: u64 = 1 << 30;

fn main() -> Result<()> {
    match Cli::parse().command {
        Verb::DoNothing { listen } => runtime(true)?.block_on(do_nothing::serve(listen)),
        // One thread: the generator's share of the machine stays small.
        Verb::Load(options) => runtime(false)?.block_on(drive(options)),
        Verb::Run(options) => runtime(false)?.block_on(run(options)),
    }
}

fn runtime(threads: bool) -> Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    Ok(builder.enable_all().build()?)
}

async fn drive(options: Load) -> Result<()> {
    let target = Target::connect(options.access, &options.topic, CONNECTIONS).await?;
    let before = Usage::of(std::process::id())?;
    let duration = Duration::from_secs(options.seconds);
    let figures = match options.what.as_str() {
        "join" => return load::join_group(&target, &options.group).await,
        "receive" => {
            let receivers = Receivers { group: options.group, consumers: 32, batch: 32 };
            load::receive(&target, &receivers, duration).await?
        }
        "latency" => load::latency(&target, &options.group, options.rate, duration).await?,
        "send" => {
            let pool = Pool::new(&options.topic, options.body, options.per_call);
            load::send(&target, &pool, options.in_flight, duration).await?
        }
        other => bail!("--what takes send, receive, latency and join, not {other}"),
    };
    let cpu = Usage::of(std::process::id())?.since(&before).cpu;
    println!(
        "{}/s, {}, max {:.2} ms, {} failures, generator {:.1} µs a message",
        thousands(figures.rate()),
        quantiles(&figures),
        figures.millis(1.0),
        figures.failures,
        cpu.as_secs_f64() * 1e6 / figures.messages as f64,
    );
    if let Some(failure) = figures.first_failure {
        println!("first failure: {failure}");
    }
    Ok(())
}

/// A run of calls and what it took of the machine.
struct Row {
    figures: Figures,
    /// Generator's part of all processor time used.
    generator: f64,
    /// Processor time a message, in microseconds, of each process measured.
    cpu_us: Vec<f64>,
}

impl Row {
    async fn of(pids: &[u32], run: impl Future<Output = Result<Figures>>) -> Result<Self> {
        let all = || pids.iter().map(|pid| Usage::of(*pid)).collect::<Result<Vec<Usage>>>();
        let own = std::process::id();
        let (before, own_before) = (all()?, Usage::of(own)?);
        let figures = run.await?;
        let own = Usage::of(own)?.since(&own_before).cpu.as_secs_f64();
        let used: Vec<f64> =
            all()?.iter().zip(&before).map(|(after, before)| after.since(before).cpu.as_secs_f64()).collect();
        let generator = own / (own + used.iter().sum::<f64>()).max(1e-9);
        let cpu_us = used.iter().map(|used| used * 1e6 / figures.messages as f64).collect();
        if figures.failures > 0 {
            eprintln!("{} calls failed: {}", figures.failures, figures.first_failure.as_deref().unwrap_or_default());
        }
        Ok(Self { figures, generator, cpu_us })
    }

    fn text(&self) -> String {
        let cpu: Vec<String> = self.cpu_us.iter().map(|cpu| format!("{cpu:.0}")).collect();
        format!(
            "{} /s (p99 {:.1} ms; {} µs CPU; generator {:.0} %)",
            thousands(self.figures.rate()),
            self.figures.millis(0.99),
            cpu.join(" + "),
            self.generator * 100.0
        )
    }
}

/// One system's figures.
#[derive(Default)]
struct Column {
    name: String,
    cells: Vec<(&'static str, String)>,
}

impl Column {
    fn put(&mut self, row: &'static str, cell: String) {
        eprintln!("{}: {row}: {cell}", self.name);
        self.cells.push((row, cell));
    }
}

const SEND_RUNS: [(&str, usize, usize); 5] = [
    ("1 message a call, 1 in flight", 1, 1),
    ("1 message a call, 256 in flight", 256, 1),
    ("1 message a call, 1,024 in flight", 1024, 1),
    ("16 messages a call, 256 in flight", 256, 16),
    ("16 messages a call, 1,024 in flight", 1024, 16),
];

async fn run(options: Run) -> Result<()> {
    let mut columns = Vec::new();
    for what in &options.only {
        let mut column = Column { name: what.clone(), ..Default::default() };
        let outcome = match what.as_str() {
            "do-nothing" => measure_do_nothing(&options, &mut column).await,
            "sync" => measure_cluster(&options, true, &mut column).await,
            "async" => measure_cluster(&options, false, &mut column).await,
            "nats" => measure_nats(&options, &mut column).await,
            "soak" => measure_soak(&options, &mut column).await,
            "scale" => scale::measure(&options, &mut column).await,
            "backlog" => scale::backlog(&options, &mut column).await,
            "fill" => fill::measure(&options, &mut column).await,
            "dashboard" => pages::measure(&mut column).await,
            other => bail!(
                "--only takes do-nothing, sync, async, nats, soak, scale, backlog, fill and dashboard, not {other}"
            ),
        };
        if let Err(failure) = outcome {
            column.put("not measured further", format!("{failure:#}"));
        }
        columns.push(column);
    }
    println!("{}", table(&columns)?);
    Ok(())
}

fn send_text(in_flight: usize, row: &Row) -> String {
    match in_flight {
        1 => format!("{}, {} /s", quantiles(&row.figures), thousands(row.figures.rate())),
        _ => row.text(),
    }
}

async fn measure_sends(options: &Run, target: &Target, pids: &[u32], column: &mut Column) -> Result<()> {
    // What a process does once, it does before the clock starts.
    load::send(target, &Pool::new(TOPIC, options.body, 1), 64, Duration::from_secs(1)).await?;
    for (name, in_flight, per_call) in SEND_RUNS {
        let pool = Pool::new(TOPIC, options.body, per_call);
        let row = Row::of(pids, load::send(target, &pool, in_flight, Duration::from_secs(options.seconds))).await?;
        column.put(name, send_text(in_flight, &row));
    }
    Ok(())
}

async fn measure_do_nothing(options: &Run, column: &mut Column) -> Result<()> {
    column.name = "a tonic server that answers OK and does nothing".into();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), free_port()?);
    let dir = tempfile::tempdir()?;
    let arguments = ["do-nothing", "--listen", &address.to_string()];
    let process = Process::start(&std::env::current_exe()?, &arguments, &dir.path().join("log"), &Place::default())?;
    let deadline = Instant::now() + Duration::from_secs(5);
    let target = loop {
        match Target::connect(address, TOPIC, CONNECTIONS).await {
            Ok(target) => break target,
            Err(failure) if Instant::now() > deadline => return Err(failure),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    measure_sends(options, &target, &[process.pid()], column).await
}

async fn measure_cluster(options: &Run, sync: bool, column: &mut Column) -> Result<()> {
    column.name = format!("RaftMQ ×3, {}", if sync { "SYNC_FLUSH" } else { "ASYNC_FLUSH" });
    // Built before the clock starts.
    program("mqbroker")?;
    if sync {
        column.put("`mqbroker --dev`, process start to first acknowledged send", dev_starts().await?);
    }
    let started = Instant::now();
    let mut cluster = Cluster::start(Options { sync_flush: sync, segment_bytes: None, ..Default::default() }).await?;
    cluster.create_topic(TOPIC, 8).await?;
    column.put("from nothing to a group with a topic", format!("{:.2} s", started.elapsed().as_secs_f64()));
    let pids = pids(&mut cluster);
    let target = Target::connect(cluster.nodes[0].grpc, TOPIC, CONNECTIONS).await?;
    load::join_group(&target, "bench-latency").await?;
    // Before anything is sent: a new group begins with the oldest message.
    load::join_group(&target, "bench-backlog").await?;
    column.put("resident memory of each broker, idle", resident(&pids)?);
    let latency = load::latency(&target, "bench-latency", 1000, Duration::from_secs(options.seconds));
    let row = Row::of(&pids, latency).await?;
    column.put("send → receive at 1,000 messages/s", quantiles(&row.figures));
    let term = leader_term(&mut cluster).await?;
    measure_sends(options, &target, &pids, column).await?;
    column.put("resident memory of each broker, after sends", resident(&pids)?);
    let receivers = Receivers { group: "bench-backlog".into(), consumers: 32, batch: 32 };
    let row = Row::of(&pids, load::receive(&target, &receivers, Duration::from_secs(options.seconds))).await?;
    column.put("receive + ack", row.text());
    column.put("resident memory of each broker, after receives", resident(&pids)?);
    disk(options, &target, &pids, column).await?;
    let elections = leader_term(&mut cluster).await? - term;
    column.put("changes of term under load", elections.to_string());
    if options.kills > 0 {
        let gaps = write_gaps(&mut cluster, options.kills).await?;
        let list: Vec<String> = gaps.iter().map(|gap| format!("{:.2}", gap.as_secs_f64())).collect();
        let longest = gaps.iter().max().copied().unwrap_or_default();
        let text = format!("{:.2} s ({})", longest.as_secs_f64(), list.join(" "));
        column.put("longest gap between acknowledged sends, leader killed", text);
    }
    Ok(())
}

/// Full load for long on a log of bounded size: leadership stays, and nothing grows.
async fn measure_soak(options: &Run, column: &mut Column) -> Result<()> {
    const PARTS: u32 = 10;
    column.name = "RaftMQ ×3, SYNC_FLUSH, full load".into();
    let settings = vec![("fileReservedSize".to_owned(), SOAK_LOG_BYTES.to_string())];
    let mut cluster = Cluster::start(Options { segment_bytes: Some(64 << 20), settings, ..Default::default() }).await?;
    cluster.create_topic(TOPIC, 8).await?;
    let pids = pids(&mut cluster);
    let target = Target::connect(cluster.nodes[0].grpc, TOPIC, CONNECTIONS).await?;
    let pool = Pool::new(TOPIC, options.body, 1);
    let term = leader_term(&mut cluster).await?;
    let (mut rates, mut resident, mut failures) = (Vec::new(), Vec::new(), 0);
    for part in 1..=PARTS {
        let figures = load::send(&target, &pool, 1024, Duration::from_secs(options.soak) / PARTS).await?;
        failures += figures.failures;
        rates.push(thousands(figures.rate()));
        let used = pids.iter().map(|pid| Ok(Usage::of(*pid)?.resident_bytes)).collect::<Result<Vec<u64>>>()?;
        resident.push(format!("{:.0}", used.into_iter().max().unwrap_or_default() as f64 / 1e6));
        eprintln!("{}: {part} of {PARTS}: {} /s", column.name, rates.last().map_or("", String::as_str));
    }
    let changes = leader_term(&mut cluster).await? - term;
    column.put("changes of term, failed calls", format!("{changes}, {failures} in {} s", options.soak));
    column.put("messages a second, tenth by tenth", rates.join(" "));
    column.put("resident memory of the largest broker", format!("{} MB", resident.join(" ")));
    Ok(())
}

fn pids(cluster: &mut Cluster) -> Vec<u32> {
    (0..3).filter_map(|number| Some(cluster.process(number)?.pid())).collect()
}

fn resident(pids: &[u32]) -> Result<String> {
    let megabytes = |pid: &u32| Ok(format!("{:.0}", Usage::of(*pid)?.resident_bytes as f64 / 1e6));
    let megabytes: Vec<String> = pids.iter().map(megabytes).collect::<Result<_>>()?;
    Ok(format!("{} MB", megabytes.join(" / ")))
}

/// Median and worst of five new processes on empty folders.
async fn dev_starts() -> Result<String> {
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(dev_start::first_acknowledged_send().await?);
    }
    let (middle, worst) = middle_and_longest(times);
    Ok(format!("{:.2} s, worst {:.2} s", middle.as_secs_f64(), worst.as_secs_f64()))
}

/// The median of some times, and the longest; zero of none.
fn middle_and_longest(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let at = |place: Option<&Duration>| place.copied().unwrap_or_default();
    (at(times.get(times.len() / 2)), at(times.last()))
}

async fn leader_term(cluster: &mut Cluster) -> Result<u64> {
    let leader = cluster.leader(0).await?;
    Ok(cluster.status(leader).await?.term)
}

/// Bytes written to disk for each byte of body: one long run of sends, then time for what is written behind them.
async fn disk(options: &Run, target: &Target, pids: &[u32], column: &mut Column) -> Result<()> {
    let written = || pids.iter().map(|pid| Ok(Usage::of(*pid)?.written_bytes)).collect::<Result<Vec<u64>>>();
    let runs = [
        ("disk bytes a body byte, 16 messages a call, 1,024 in flight", 1024, 16, options.disk_gb * 1e9),
        ("disk bytes a body byte, one call at a time", 1, 1, 1.0),
    ];
    for (row, in_flight, per_call, least) in runs {
        let pool = Pool::new(TOPIC, options.body, per_call);
        let before = written()?;
        let mut bodies = 0.0;
        while bodies < least {
            let figures = load::send(target, &pool, in_flight, Duration::from_secs(2)).await?;
            bodies += figures.messages as f64 * options.body as f64;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let ratio = |(after, before): (u64, &u64)| format!("{:.2}", (after - before) as f64 / bodies);
        let ratios: Vec<String> = written()?.into_iter().zip(&before).map(ratio).collect();
        column.put(row, format!("{} (of {:.2} GB)", ratios.join(" / "), bodies / 1e9));
    }
    Ok(())
}

/// Kills the leader again and again under 64 senders that behave as SDKs, and takes the longest time without an
/// acknowledgement each time.
async fn write_gaps(cluster: &mut Cluster, kills: usize) -> Result<Vec<Duration>> {
    let producer = Arc::new(Producer::new(&cluster.access(0), &[TOPIC])?);
    let zero = Instant::now();
    let shared = Arc::new(Gap::default());
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..64 {
        let (producer, shared) = (producer.clone(), shared.clone());
        senders.spawn(async move {
            let body = bytes::Bytes::from(vec![0x5A; 1024]);
            let mut number = 0_u64;
            while !shared.over.load(Ordering::Relaxed) {
                number += 1;
                match producer.send(TOPIC, &format!("G{sender:04X}{number:012X}"), None, body.clone()).await {
                    Ok(_) => {
                        let now = zero.elapsed().as_micros() as u64;
                        let before = shared.last_us.swap(now, Ordering::Relaxed);
                        shared.longest_us.fetch_max(now.saturating_sub(before), Ordering::Relaxed);
                    }
                    Err(failure) => {
                        shared.failure.lock().expect("no holder panics").get_or_insert_with(|| failure.to_string());
                    }
                }
                // A load at which a lost node is felt and the machine is not full.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let mut gaps = Vec::new();
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let leader = cluster.leader(0).await?;
        shared.longest_us.store(0, Ordering::Relaxed);
        cluster.kill(leader);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let silence = (zero.elapsed().as_micros() as u64).saturating_sub(shared.last_us.load(Ordering::Relaxed));
        gaps.push(Duration::from_micros(shared.longest_us.load(Ordering::Relaxed).max(silence)));
        cluster.start_node(leader)?;
        voting(cluster, leader).await?;
    }
    shared.over.store(true, Ordering::Relaxed);
    senders.join_all().await;
    if let Some(failure) = shared.failure.lock().expect("no holder panics").take() {
        eprintln!("a send failed in all of its attempts: {failure}");
    }
    Ok(gaps)
}

#[derive(Default)]
struct Gap {
    last_us: AtomicU64,
    longest_us: AtomicU64,
    over: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// Waits until a restarted node follows and is nearly level with its leader.
async fn voting(cluster: &mut Cluster, number: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let leader = cluster.leader(0).await?;
        let (one, two) = (cluster.status(number).await, cluster.status(leader).await);
        if let (Ok(one), Ok(two)) = (one, two)
            && one.role == "follower"
            && one.applied_index.unwrap_or_default() + 1000 > two.committed_index.unwrap_or_default()
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("node {number} did not catch up within a minute\n{}", cluster.log_tails(0));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(not(feature = "nats"))]
async fn measure_nats(_options: &Run, column: &mut Column) -> Result<()> {
    column.name = "NATS JetStream R3, sync_interval: always".into();
    bail!("this build has no NATS client: build with --features nats")
}

#[cfg(feature = "nats")]
async fn measure_nats(options: &Run, column: &mut Column) -> Result<()> {
    column.name = "NATS JetStream R3, sync_interval: always".into();
    let servers = raftmq_tests::nats::Servers::start().await?;
    let pids = servers.pids();
    column.name = format!("NATS JetStream {} R3, sync_interval: always", servers.version);
    servers.publish(options.body, 64, Duration::from_secs(1)).await?;
    for (name, in_flight, per_call) in SEND_RUNS {
        // It has no call that publishes several messages.
        if per_call == 1 {
            let run = servers.publish(options.body, in_flight, Duration::from_secs(options.seconds));
            let row = Row::of(&pids, run).await?;
            column.put(name, send_text(in_flight, &row));
        }
    }
    column.put("resident memory of each broker, after sends", resident(&pids)?);
    Ok(())
}

fn table(columns: &[Column]) -> Result<String> {
    let mut text = String::new();
    let command: Vec<String> = std::env::args().skip(1).collect();
    writeln!(text, "{}; `bench {}`\n", machine(), command.join(" "))?;
    writeln!(text, "| |{}", columns.iter().map(|column| format!(" {} |", column.name)).collect::<String>())?;
    writeln!(text, "| --- |{}", " --- |".repeat(columns.len()))?;
    let mut rows: Vec<&str> = Vec::new();
    for (row, _) in columns.iter().flat_map(|column| &column.cells) {
        if !rows.contains(row) {
            rows.push(row);
        }
    }
    for row in rows {
        let cell = |column: &Column| {
            let found = column.cells.iter().find(|(name, _)| *name == row);
            format!(" {} |", found.map_or("", |(_, cell)| cell.as_str()))
        };
        writeln!(text, "| {row} |{}", columns.iter().map(cell).collect::<String>())?;
    }
    Ok(text)
}

/// Processor, memory, kernel, disk: what the figures depend on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or_default().trim().to_string()
    };
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    format!(
        "{} × {}, {} GB, Linux {}, 16 KiB write + fdatasync {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        field(&read("/proc/cpuinfo"), "model name"),
        memory / 1_000_000,
        read("/proc/sys/kernel/osrelease").trim(),
        fsync().unwrap_or_else(|failure| format!("not measured: {failure}")),
    )
}

fn fsync() -> Result<String> {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir()?;
    let file = std::fs::File::create(dir.path().join("probe"))?;
    let block = vec![7_u8; 16 << 10];
    // Written once before: the log's segments are preallocated too.
    let offset = |number: u64| number % 64 * block.len() as u64;
    for number in 0..64 {
        file.write_all_at(&block, offset(number))?;
    }
    file.sync_all()?;
    let mut times: Vec<Duration> = Vec::new();
    for number in 0..300 {
        let started = Instant::now();
        file.write_all_at(&block, offset(number))?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    let millis = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    Ok(format!("p50 {:.3} ms, p99 {:.3} ms", millis(150), millis(297)))
}

fn quantiles(figures: &Figures) -> String {
    format!("p50 {:.2} ms, p99 {:.2} ms", figures.millis(0.5), figures.millis(0.99))
}

fn thousands(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
