//! Official clients, unchanged, against real processes: Python (PyPI), Rust (crates.io), Java (Maven Central), Node.js
//! (npm) and Go (its module proxy). The access point is the leader, then each follower; over TLS and without.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

const MESSAGES: u64 = 10_000;

/// A clean end hands its messages over within this.
const TAKEOVER_AFTER_TERMINATION: Duration = Duration::from_secs(1);

/// A death is noticed after 2.5 of the Python client's heartbeat periods of 10 s.
const TAKEOVER_AFTER_DEATH: Duration = Duration::from_secs(25);

/// What clients and a busy machine of two cores add to either: a push consumer asks for its queues every 5 s.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(8);

/// What a broker group's own retry policy lets a push consumer wait before the second attempt.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// No client is without an answer to a send for longer when its leader dies: an election, the client's own timeout of
/// a request, and a busy machine of two cores.
const SEND_GAP_MS: u64 = 10_000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cache() -> PathBuf {
    std::env::var_os("RAFTMQ_CACHE")
        .map_or_else(|| Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/raftmq"), PathBuf::from)
}

/// A Python with the official client, fetched when there is none.
async fn python() -> Result<PathBuf> {
    if let Some(python) = std::env::var_os("RAFTMQ_PYTHON") {
        return Ok(python.into());
    }
    let output = Command::new(root().join("../scripts/python-client.sh")).output().await?;
    ensure!(output.status.success(), "python-client.sh: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// The program around the official Rust client, built when its sources are newer. It has a build folder of its own:
/// its dependencies are its own too.
async fn rust_client() -> Result<PathBuf> {
    let target = cache().join("target-official");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--quiet"])
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .current_dir(root().join("official/rust"))
        .output()
        .await?;
    ensure!(output.status.success(), "the official Rust client: {}", String::from_utf8_lossy(&output.stderr));
    Ok(target.join("debug/official-rust"))
}

/// Clients whose programs understand the same scenarios, each fetched and built by `scripts/NAME-client.sh`.
const CLIENTS: [&str; 3] = ["java", "node", "go"];

/// The program around one of [`CLIENTS`].
async fn client(name: &str) -> Result<PathBuf> {
    let script = root().join(format!("../scripts/{name}-client.sh"));
    let output = Command::new(&script).output().await.with_context(|| script.display().to_string())?;
    ensure!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// A client program under way.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Plain,
    Tls,
}

impl Program {
    fn start(program: &Path, arguments: &[&str], home: &Path) -> Result<Self> {
        Self::start_over(program, arguments, home, Transport::Plain)
    }

    fn start_over(program: &Path, arguments: &[&str], home: &Path, transport: Transport) -> Result<Self> {
        let name = arguments.join(" ");
        let stderr = std::fs::File::create(home.join(format!("client-{:08x}.log", rand::random::<u32>())))?;
        let mut child = Command::new(program)
            .args(arguments)
            // The Python client logs below its user's home.
            .env("HOME", home)
            .env("OFFICIAL_TLS", if transport == Transport::Tls { "1" } else { "0" })
            // Of these clients Node.js alone verifies certificates.
            .env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", home.join(CERTIFICATE))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        Ok(Self { child, lines, name })
    }

    /// The next line that starts with `word`; an error when the program ends before or it takes too long.
    async fn line(&mut self, word: &str, limit: Duration) -> Result<String> {
        let read = async {
            while let Some(line) = self.lines.next_line().await? {
                if let Some(rest) = line.strip_prefix(word) {
                    return Ok(rest.trim().to_string());
                }
            }
            bail!("{} ended without a line {word}", self.name)
        };
        tokio::time::timeout(limit, read)
            .await
            .with_context(|| format!("{}: no line {word} in {limit:?}", self.name))?
    }

    async fn result(&mut self, limit: Duration) -> Result<Value> {
        Ok(serde_json::from_str(&self.line("RESULT", limit).await?)?)
    }
}

fn number(result: &Value, name: &str) -> u64 {
    result[name].as_u64().unwrap_or(u64::MAX)
}

fn judge_roundtrip(name: &str, count: u64, result: &Value) -> Result<()> {
    println!("{name}: {result}");
    let exact = [("sent", count), ("distinct", count), ("deliveries", count), ("foreign", 0)];
    let wrong: Vec<_> = exact.iter().filter(|(field, expected)| number(result, field) != *expected).collect();
    ensure!(wrong.is_empty(), "{name}: expected {wrong:?}, got {result}");
    for field in ["wrong", "failures"] {
        ensure!(result[field].as_array().is_none_or(Vec::is_empty), "{name}: {field}: {result}");
    }
    ensure!(result["ack_failures"].as_u64().unwrap_or_default() == 0, "{name}: {result}");
    Ok(())
}

fn judge_redelivery(name: &str, count: u64, result: &Value) -> Result<()> {
    judge_again(name, count, Duration::from_millis(number(result, "invisible_ms")), result)
}

/// Each message came twice, the second time not sooner than it should.
fn judge_again(name: &str, count: u64, after: Duration, result: &Value) -> Result<()> {
    println!("{name}: {result}");
    let exact = [("sent", count), ("first", count), ("second", count), ("repeated", 0)];
    let wrong: Vec<_> = exact.iter().filter(|(field, expected)| number(result, field) != *expected).collect();
    ensure!(wrong.is_empty(), "{name}: expected {wrong:?}, got {result}");
    let (min, max) = (number(result, "min_gap_ms"), number(result, "max_gap_ms"));
    let [min, max] = [min, max].map(Duration::from_millis);
    ensure!(min >= after, "{name}: a message came back {min:?} after it was left: {result}");
    ensure!(max <= after + TAKEOVER_MARGIN, "{name}: a message came back only after {max:?}: {result}");
    Ok(())
}

/// Everything one access point is asked for; `accesses` go one after the other.
struct Bench {
    cluster: Cluster,
    accesses: Vec<(String, SocketAddr)>,
}

/// What the brokers show over TLS, below the cluster's folder.
const CERTIFICATE: &str = "certificate.pem";

async fn start() -> Result<Bench> {
    start_with(Options::default()).await
}

async fn start_with(options: Options) -> Result<Bench> {
    let mut cluster = Cluster::prepare(options).await?;
    let shown = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()])?;
    let (certificate, key) = (cluster.dir().join(CERTIFICATE), cluster.dir().join("key.pem"));
    std::fs::write(&certificate, shown.cert.pem())?;
    std::fs::write(&key, shown.signing_key.serialize_pem())?;
    for node in &cluster.nodes {
        let mut config = std::fs::OpenOptions::new().append(true).open(&node.config)?;
        writeln!(config, "tlsCertPath = {}\ntlsKeyPath = {}", certificate.display(), key.display())?;
    }
    cluster.start_all().await?;
    let leader = cluster.leader(0).await?;
    let accesses = [("leader", leader), ("follower-1", (leader + 1) % 3), ("follower-2", (leader + 2) % 3)];
    let accesses = accesses.iter().map(|(name, number)| ((*name).to_string(), cluster.nodes[*number].grpc)).collect();
    Ok(Bench { cluster, accesses })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn ten_thousand_messages_exactly_once() -> Result<()> {
    let python = python().await?;
    let rust = rust_client().await?;
    let mut bench = start().await?;
    let program = root().join("official/python/official.py");
    let program = program.to_str().context("a path of ours is text")?;
    let count = MESSAGES.to_string();
    let limit = Duration::from_secs(150);
    for (name, access) in bench.accesses.clone() {
        let access = access.to_string();
        for client in ["python", "rust"] {
            let topic = format!("exactly-{client}-{name}");
            bench.cluster.create_topic(&topic, 8).await?;
            let scenario = ["roundtrip", &access, &topic, &format!("readers-{client}-{name}"), &count];
            let mut run = match client {
                "python" => Program::start(&python, &[&[program], &scenario[..]].concat(), bench.cluster.dir())?,
                _ => Program::start(&rust, &scenario, bench.cluster.dir())?,
            };
            let result = run.result(limit).await.with_context(|| bench.cluster.log_tails(0))?;
            judge_roundtrip(&format!("{client} through the {name}"), MESSAGES, &result)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn what_is_not_acknowledged_comes_back() -> Result<()> {
    let python = python().await?;
    let rust = rust_client().await?;
    let mut bench = start().await?;
    let program = root().join("official/python/official.py");
    let program = program.to_str().context("a path of ours is text")?;
    let limit = Duration::from_secs(90);
    let mut runs = Vec::new();
    for (name, access) in bench.accesses.clone() {
        let access = access.to_string();
        for client in ["python", "rust"] {
            let topic = format!("again-{client}-{name}");
            bench.cluster.create_topic(&topic, 4).await?;
            let scenario = ["redelivery", &access, &topic, &format!("forgetful-{client}-{name}"), "30"];
            let run = match client {
                "python" => Program::start(&python, &[&[program], &scenario[..]].concat(), bench.cluster.dir())?,
                _ => Program::start(&rust, &scenario, bench.cluster.dir())?,
            };
            runs.push((format!("{client} through the {name}"), run));
        }
    }
    for (name, mut run) in runs {
        let result = run.result(limit).await.with_context(|| bench.cluster.log_tails(0))?;
        judge_redelivery(&name, 30, &result)?;
    }
    Ok(())
}

/// A push consumer holds messages and dies, or says that it goes; another member of its group finishes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn another_consumer_takes_over() -> Result<()> {
    let python = python().await?;
    let mut bench = start().await?;
    let program = root().join("official/python/official.py");
    let program = program.to_str().context("a path of ours is text")?;
    let held = 20;
    let mut pairs = Vec::new();
    for (number, (name, access)) in bench.accesses.clone().into_iter().enumerate() {
        let killed = number != 0;
        let access = access.to_string();
        let (topic, group) = (format!("taken-{name}"), format!("takers-{name}"));
        bench.cluster.create_topic(&topic, 4).await?;
        let home = bench.cluster.dir().to_path_buf();
        let count = held.to_string();
        let run =
            |scenario: &str| Program::start(&python, &[program, scenario, &access, &topic, &group, &count], &home);
        let mut holder = run("hold")?;
        run("send")?.result(Duration::from_secs(60)).await?;
        while holder.line("HELD", Duration::from_secs(60)).await?.parse::<u64>()? < held {}
        let mut taker = run("take")?;
        taker.line("READY", Duration::from_secs(60)).await?;
        pairs.push((name, killed, holder, taker));
    }
    let mut ends = Vec::new();
    for (_, killed, holder, _) in &mut pairs {
        if *killed {
            holder.child.start_kill()?;
        } else {
            holder.child.stdin.as_mut().context("stdin is piped")?.write_all(b"\n").await?;
            // The client takes its time before it tells the brokers, and tells them last.
            holder.line("ENDED", Duration::from_secs(60)).await?;
        }
        ends.push(Instant::now());
    }
    for ((name, killed, _holder, mut taker), ended) in pairs.into_iter().zip(ends) {
        let result = taker.result(Duration::from_secs(100)).await.with_context(|| bench.cluster.log_tails(0))?;
        let took = ended.elapsed();
        println!("take over through the {name}, killed {killed}: {took:?} {result}");
        ensure!(number(&result, "distinct") == held && number(&result, "deliveries") == held, "{name}: {result}");
        ensure!(result["attempts"] == serde_json::json!([2]), "{name}: {result}");
        let bound = if killed { TAKEOVER_AFTER_DEATH } else { TAKEOVER_AFTER_TERMINATION } + TAKEOVER_MARGIN;
        ensure!(took <= bound, "{name}: the takeover took {took:?}, more than {bound:?}");
    }
    Ok(())
}

/// The official Rust client has simple consumers only, whose leases end by their own time and not with their client.
/// One is killed in the middle of a poll: what it held comes back when its leases end and not before, and what is
/// sent afterwards goes to the other at once, past the poll of the dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_simple_consumer_takes_over() -> Result<()> {
    let rust = rust_client().await?;
    let mut bench = start().await?;
    let (held, late) = (20, 5);
    let lease = Duration::from_secs(10);
    for (name, access) in bench.accesses.clone() {
        let access = access.to_string();
        let (topic, group) = (format!("simply-taken-{name}"), format!("simple-takers-{name}"));
        bench.cluster.create_topic(&topic, 4).await?;
        let home = bench.cluster.dir().to_path_buf();
        let patience = Duration::from_secs(60);
        let run = |scenario: &str, count: u64| {
            Program::start(&rust, &[scenario, &access, &topic, &group, &count.to_string()], &home)
        };
        let mut holder = run("hold", held)?;
        holder.line("READY", patience).await?;
        let leased_after = Instant::now();
        run("send", held)?.result(patience).await?;
        while holder.line("HELD", patience).await?.parse::<u64>()? < held {}
        let leased_before = Instant::now();
        holder.child.kill().await?;
        let mut taker = run("take", held + late)?;
        taker.line("READY", patience).await?;
        run("send", late)?.result(patience).await?;
        let sent = Instant::now();
        for _ in 0..late {
            ensure!(taker.line("TOOK", patience).await? == "1", "{name}: what was sent last is no first attempt");
        }
        let late_took = sent.elapsed();
        ensure!(taker.line("TOOK", patience).await? == "2", "{name}: what the dead held is no second attempt");
        let first = leased_after.elapsed();
        let result = taker.result(patience).await.with_context(|| bench.cluster.log_tails(0))?;
        let last = leased_before.elapsed();
        println!("take over from a simple consumer through the {name}: {late_took:?}, {first:?} to {last:?}: {result}");
        // Each once: the late ones have other attempts than the held ones with the same bodies.
        ensure!(number(&result, "distinct") == held + late, "{name}: {result}");
        ensure!(late_took <= TAKEOVER_AFTER_TERMINATION + TAKEOVER_MARGIN, "{name}: new messages took {late_took:?}");
        ensure!(first >= lease, "{name}: what the dead held came back after {first:?}");
        ensure!(last <= lease + TAKEOVER_MARGIN, "{name}: what the dead held came back only after {last:?}");
    }
    Ok(())
}

/// One scenario of one of [`CLIENTS`] under way.
struct Run {
    name: String,
    program: Program,
}

impl Bench {
    /// Starts a scenario of some of [`CLIENTS`] through one access point, on topics and groups of their own.
    async fn run(
        &mut self,
        clients: &[&str],
        scenario: &str,
        access: usize,
        transport: Transport,
        count: u64,
        queues: u32,
    ) -> Result<Vec<Run>> {
        let (place, address) = self.accesses[access].clone();
        let mut runs = Vec::new();
        for client_name in clients {
            let name = format!("{scenario} in {client_name} through the {place}, {transport:?}");
            let topic = format!("{scenario}-{client_name}-{place}-{transport:?}");
            self.cluster.create_topic(&topic, queues).await?;
            let arguments = [scenario, &address.to_string(), &topic, &format!("{topic}-group"), &count.to_string()];
            let program = Program::start_over(&client(client_name).await?, &arguments, self.cluster.dir(), transport)?;
            runs.push(Run { name, program });
        }
        Ok(runs)
    }

    /// Waits for every run and judges its result.
    async fn judge(&self, runs: Vec<Run>, judge: impl Fn(&str, &Value) -> Result<()>) -> Result<()> {
        for mut run in runs {
            let result = run.program.result(Duration::from_secs(150)).await;
            let result = result.with_context(|| format!("{}\n{}", run.name, self.cluster.log_tails(0)))?;
            judge(&run.name, &result)?;
        }
        Ok(())
    }

    /// Simple and push consumers get `count` messages once each, through the leader and a follower, both with and
    /// without TLS.
    async fn exactly_once(&mut self, count: u64) -> Result<()> {
        for (access, simple, push) in [(0, Transport::Tls, Transport::Plain), (1, Transport::Plain, Transport::Tls)] {
            for (scenario, transport) in [("roundtrip", simple), ("push", push)] {
                let runs = self.run(&CLIENTS, scenario, access, transport, count, 8).await?;
                self.judge(runs, |name, result| judge_roundtrip(name, count, result)).await?;
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_node_and_go_get_each_message_once() -> Result<()> {
    start().await?.exactly_once(1_000).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn java_node_and_go_get_each_of_ten_thousand_once() -> Result<()> {
    start().await?.exactly_once(MESSAGES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_node_and_go_get_again_what_they_leave() -> Result<()> {
    let mut bench = start().await?;
    let mut runs = bench.run(&CLIENTS, "redelivery", 0, Transport::Plain, 30, 4).await?;
    runs.extend(bench.run(&CLIENTS, "redelivery", 1, Transport::Tls, 30, 4).await?);
    bench.judge(runs, |name, result| judge_redelivery(name, 30, result)).await?;
    let runs = bench.run(&CLIENTS, "invisible", 1, Transport::Plain, 10, 4).await?;
    bench.judge(runs, |name, result| judge_redelivery(name, 10, result)).await?;
    // Each client waits as long as the policy says that it was given, in the form that it understands.
    let runs = bench.run(&CLIENTS, "retry", 1, Transport::Tls, 10, 4).await?;
    bench.judge(runs, |name, result| judge_again(name, 10, RETRY_AFTER, result)).await?;
    let mut runs = bench.run(&CLIENTS, "filter", 1, Transport::Plain, 50, 4).await?;
    runs.extend(bench.run(&CLIENTS, "sql", 1, Transport::Plain, 50, 4).await?);
    bench.judge(runs, |name, result| judge_roundtrip(name, 50, result)).await
}

/// What a topic of transactional messages is told to be before `Bench::run` finds it.
async fn transactional(bench: &Bench, topic: &str) -> Result<()> {
    let arguments = ["updateTopic", "-c", "RaftCluster", "-t", topic, "-a", "+message.type=TRANSACTION"];
    let deadline = Instant::now() + LEADER_WITHIN;
    loop {
        let output = bench.cluster.mqadmin(&arguments).await?;
        if output.status.success() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{output:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Pairs of transactions that a client leaves open: one that it commits when it is asked, and one that it rolls back.
const OPEN_TRANSACTIONS: u64 = 15;

/// Brokers that ask soon.
fn asking() -> Options {
    let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let settings = vec![setting("transactionTimeOut", "500"), setting("transactionCheckInterval", "3000")];
    Options { settings, ..Options::default() }
}

fn judge_orphans(name: &str, result: &Value) -> Result<()> {
    judge_roundtrip(name, OPEN_TRANSACTIONS, result)?;
    ensure!(number(result, "asked") == 2 * OPEN_TRANSACTIONS, "{name}: {result}");
    Ok(())
}

/// Transactions that producers leave open: each client is asked about all of them, in a form that it understands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_node_and_go_are_asked_about_their_open_transactions() -> Result<()> {
    let mut bench = start_with(asking()).await?;
    for (access, transport) in [(0, Transport::Tls), (1, Transport::Plain)] {
        let place = bench.accesses[access].0.clone();
        for name in CLIENTS {
            transactional(&bench, &format!("orphan-{name}-{place}-{transport:?}")).await?;
        }
        let runs = bench.run(&CLIENTS, "orphan", access, transport, OPEN_TRANSACTIONS, 4).await?;
        bench.judge(runs, judge_orphans).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn python_is_asked_about_its_open_transactions() -> Result<()> {
    let bench = start_with(asking()).await?;
    let program = root().join("official/python/official.py");
    let program = program.to_str().context("a path of ours is text")?;
    transactional(&bench, "orphan-python").await?;
    let (access, count) = (bench.accesses[1].1.to_string(), OPEN_TRANSACTIONS.to_string());
    let arguments = [program, "orphan", &access, "orphan-python", "orphan-python-group", &count];
    let mut run = Program::start(&python().await?, &arguments, bench.cluster.dir())?;
    let result = run.result(Duration::from_secs(110)).await.with_context(|| bench.cluster.log_tails(0))?;
    judge_orphans("python", &result)
}

/// The leader is the access point of each client and dies under load. Whatever was answered OK comes, and sends go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_node_and_go_carry_on_when_the_leader_dies() -> Result<()> {
    let mut bench = start().await?;
    let count = 300;
    let mut runs = bench.run(&["java", "node"], "carry", 0, Transport::Tls, count, 8).await?;
    // Over TLS Go's client cannot be given more than one address of a queue.
    runs.extend(bench.run(&["go"], "carry", 0, Transport::Plain, count, 8).await?);
    for run in &mut runs {
        run.program.line("UNDER_LOAD", Duration::from_secs(90)).await.with_context(|| run.name.clone())?;
    }
    let leader = bench.cluster.leader(0).await?;
    bench.cluster.kill(leader);
    for run in &mut runs {
        run.program.child.stdin.as_mut().context("stdin is piped")?.write_all(b"\n").await?;
    }
    bench.cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
    bench
        .judge(runs, |name, result| {
            println!("{name}: {result}");
            ensure!(number(result, "missing") == 0, "{name}: messages that were answered OK did not come: {result}");
            ensure!(number(result, "after") >= count, "{name}: sends did not go on: {result}");
            ensure!(number(result, "send_gap_ms") <= SEND_GAP_MS, "{name}: {result}");
            Ok(())
        })
        .await
}

/// A push consumer holds messages and dies; another member of its group finishes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn another_push_consumer_takes_over_in_java_node_and_go() -> Result<()> {
    let mut bench = start().await?;
    let (held, patience) = (20, Duration::from_secs(60));
    let (place, address) = bench.accesses[1].clone();
    let mut pairs = Vec::new();
    for name in CLIENTS {
        let topic = format!("left-{name}-{place}");
        bench.cluster.create_topic(&topic, 4).await?;
        let (program, home) = (client(name).await?, bench.cluster.dir().to_path_buf());
        let (access, group, count) = (address.to_string(), format!("{topic}-group"), held.to_string());
        let run = |scenario: &str| {
            Program::start_over(&program, &[scenario, &access, &topic, &group, &count], &home, Transport::Tls)
        };
        let mut holder = run("hold")?;
        run("send")?.result(patience).await?;
        while holder.line("HELD", patience).await?.parse::<u64>()? < held {}
        let mut taker = run("take")?;
        taker.line("READY", patience).await?;
        pairs.push((name, holder, taker));
    }
    for (_, holder, _) in &mut pairs {
        holder.child.kill().await?;
    }
    let ended = Instant::now();
    let mut taken = Vec::new();
    for (name, _holder, mut taker) in pairs {
        taker.line("TAKEN", Duration::from_secs(100)).await.with_context(|| bench.cluster.log_tails(0))?;
        taken.push((name, ended.elapsed(), taker));
    }
    for (name, took, mut taker) in taken {
        let result = taker.result(patience).await.with_context(|| bench.cluster.log_tails(0))?;
        println!("take over in {name}: {took:?} {result}");
        ensure!(number(&result, "distinct") == held && number(&result, "deliveries") == held, "{name}: {result}");
        ensure!(result["attempts"] == serde_json::json!([2]), "{name}: {result}");
        let bound = TAKEOVER_AFTER_DEATH + TAKEOVER_MARGIN;
        ensure!(took <= bound, "{name}: the takeover took {took:?}, more than {bound:?}");
    }
    Ok(())
}
