//! Programs around clients, against a cluster of real processes: the official ones, fetched from their registries, and
//! ours that behave as the C++ and C# clients, which are in no registry ([`crate::emulate`]).
//!
//! Each program is called with a scenario, an access point, a topic, a consumer group and a count. What it says on stdout
//! is a word and more on each line; the last one is `RESULT` and a JSON object, which [`judge`] has rules for.

pub mod judge;

use std::{
    fmt,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::OnceCell,
};

use crate::cluster::{self, Cluster, Options};

/// No scenario of a thousand messages takes longer, on two cores with other work.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Lines of a program's stderr that a failure shows.
const STDERR_LINES: usize = 120;

/// What the brokers show over TLS, below the cluster's folder.
const CERTIFICATE: &str = "certificate.pem";

/// A client of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// `rocketmq-client-java` from Maven Central.
    Java,
    /// `rocketmq-client-nodejs` from npm.
    Node,
    /// `rocketmq-clients/golang/v5` from Go's module proxy.
    Go,
    /// `rocketmq-python-client` from PyPI.
    Python,
    /// `rocketmq` from crates.io.
    Rust,
    /// Ours that behaves as the C++ client.
    Cpp,
    /// Ours that behaves as the C# client.
    CSharp,
}

impl fmt::Display for Client {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(match self {
            Self::Java => "java",
            Self::Node => "node",
            Self::Go => "go",
            Self::Python => "python",
            Self::Rust => "rust",
            Self::Cpp => "cpp",
            Self::CSharp => "csharp",
        })
    }
}

/// A program, and the words that come before the scenario.
#[derive(Debug)]
struct Launch {
    program: PathBuf,
    words: Vec<String>,
}

impl Client {
    /// The official ones.
    pub const OFFICIAL: [Self; 5] = [Self::Java, Self::Node, Self::Go, Self::Python, Self::Rust];

    /// All, ours included.
    pub const EVERY: [Self; 7] = [Self::Java, Self::Node, Self::Go, Self::Python, Self::Rust, Self::Cpp, Self::CSharp];

    /// Those with push consumers; they can change an invisible duration, too.
    pub const PUSHING: [Self; 6] = [Self::Java, Self::Node, Self::Go, Self::Python, Self::Cpp, Self::CSharp];

    /// What it can do of it: the Python client finds no host name to verify in a list of addresses, and the Rust client no
    /// certificate to trust.
    pub fn transport(self, wanted: Transport) -> Transport {
        match self {
            Self::Java | Self::Node | Self::Go => wanted,
            Self::Python | Self::Rust | Self::Cpp | Self::CSharp => Transport::Plain,
        }
    }

    /// Fetches and builds its program once in a process; the scripts know what is there already.
    async fn launch(self) -> Result<&'static Launch> {
        static LAUNCHES: [OnceCell<Launch>; 7] = [const { OnceCell::const_new() }; 7];
        LAUNCHES[self as usize].get_or_try_init(|| self.prepare()).await
    }

    /// The command that runs this client's program of `docs/quickstart.md`, which takes an address; `None` for those of
    /// ours, which stand for clients that cannot be shown.
    ///
    /// # Errors
    ///
    /// The client cannot be fetched or built.
    pub async fn quickstart(self) -> Result<Option<Command>> {
        let source = |name: &str| official().join("../../quickstart").join(name);
        let program = &self.launch().await?.program;
        let home = program.parent().context("a program is in a folder")?;
        let (program, words) = match self {
            Self::Java => {
                let classes = home.join("build/lib/*");
                (PathBuf::from("java"), vec!["-cp".into(), classes, source("java/Quickstart.java")])
            }
            Self::Node => (PathBuf::from("node"), vec![source("node/quickstart.js")]),
            Self::Go => (home.join("quickstart-go"), Vec::new()),
            Self::Python => (program.clone(), vec![source("python/quickstart.py")]),
            Self::Rust => (home.join("quickstart"), Vec::new()),
            Self::Cpp | Self::CSharp => return Ok(None),
        };
        let mut command = Command::new(program);
        command.args(words).env("NODE_PATH", home.join("node_modules")).env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(Some(command))
    }

    async fn prepare(self) -> Result<Launch> {
        let words = match self {
            Self::Python => vec![official().join("python/official.py").display().to_string()],
            Self::Cpp | Self::CSharp => vec![self.to_string()],
            _ => Vec::new(),
        };
        let program = match (self, std::env::var_os("RAFTMQ_PYTHON")) {
            (Self::Cpp | Self::CSharp, _) => cluster::program("emulated-client")?,
            (Self::Python, Some(python)) => python.into(),
            _ => {
                let script = official().join(format!("../../scripts/{self}-client.sh"));
                let output = Command::new(&script).output().await.with_context(|| script.display().to_string())?;
                let errors = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{}: {errors}", script.display());
                String::from_utf8(output.stdout)?.trim().into()
            }
        };
        Ok(Launch { program, words })
    }
}

fn official() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("official")
}

/// How a client reaches the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP/2 as it is.
    Plain,
    /// With a certificate that clients which verify any can verify.
    Tls,
}

/// A client's program under way; it dies with this.
pub struct Program {
    /// What it was asked.
    pub name: String,
    /// Whose it is.
    pub client: Client,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: PathBuf,
}

impl Program {
    /// Starts `client` with `arguments`: scenario, access point, topic, consumer group, count. It logs below `home`.
    ///
    /// # Errors
    ///
    /// It cannot be fetched, built or started.
    pub async fn start(client: Client, arguments: &[&str], home: &Path, transport: Transport) -> Result<Self> {
        let launch = client.launch().await?;
        let name = format!("{client} {}", arguments.join(" "));
        let stderr = home.join(format!("client-{client}-{:08x}.log", rand::random::<u32>()));
        let mut child = Command::new(&launch.program)
            .args(&launch.words)
            .args(arguments)
            // Several of the clients log below their user's home.
            .env("HOME", home)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("OFFICIAL_TLS", if transport == Transport::Tls { "1" } else { "0" })
            // Of the clients that are run over TLS, Node.js alone verifies certificates.
            .env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", home.join(CERTIFICATE))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&stderr)?)
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let stdin = child.stdin.take().context("stdin is piped")?;
        Ok(Self { name, client, child, stdin, lines, stderr })
    }

    /// What stands behind `word` on the next line that starts with it.
    ///
    /// # Errors
    ///
    /// The program ended before, or took longer than `limit`; the error has the end of its stderr.
    pub async fn line(&mut self, word: &str, limit: Duration) -> Result<String> {
        let read = async {
            while let Some(line) = self.lines.next_line().await? {
                if let Some(rest) = line.strip_prefix(word) {
                    return Ok(rest.trim().to_string());
                }
            }
            bail!("the program ended")
        };
        let read = tokio::time::timeout(limit, read).await.unwrap_or_else(|_| bail!("{limit:?} are over"));
        read.with_context(|| format!("{}: no line {word}\n{}", self.name, self.stderr_tail()))
    }

    /// The JSON object behind `word` on the next line that starts with it.
    ///
    /// # Errors
    ///
    /// As [`Program::line`].
    pub async fn object(&mut self, word: &str, limit: Duration) -> Result<Value> {
        Ok(serde_json::from_str(&self.line(word, limit).await?)?)
    }

    /// What it prints last.
    ///
    /// # Errors
    ///
    /// As [`Program::line`].
    pub async fn result(&mut self, limit: Duration) -> Result<Value> {
        self.object("RESULT", limit).await
    }

    /// Writes a line to its stdin.
    ///
    /// # Errors
    ///
    /// It ended.
    pub async fn tell(&mut self, word: &str) -> Result<()> {
        let written = self.stdin.write_all(format!("{word}\n").as_bytes()).await;
        written.with_context(|| format!("{} does not listen\n{}", self.name, self.stderr_tail()))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    ///
    /// It cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    fn stderr_tail(&self) -> String {
        let text = std::fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(STDERR_LINES)..].join("\n");
        format!("--- the end of its stderr\n{tail}\n---")
    }
}

/// A cluster of three nodes, and the ways into it.
pub struct Bench {
    /// Its processes.
    pub cluster: Cluster,
    /// The leader as the bench started, and the followers, by name.
    pub accesses: Vec<(String, SocketAddr)>,
}

/// What a scenario needs beside a topic of NORMAL messages and a consumer group that makes itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs {
    /// Queues of the topic; 4 where nothing is said.
    pub queues: Option<u32>,
    /// `message.type` of the topic.
    pub message_type: Option<&'static str>,
    /// Whether push consumers of the group consume in order.
    pub ordered: bool,
    /// Deliveries after the first.
    pub retry_max: Option<u32>,
}

impl Bench {
    /// Starts three nodes with a certificate that clients can verify, and where nothing makes topics by itself.
    ///
    /// # Errors
    ///
    /// The cluster does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// The same, with settings that the nodes have beside.
    ///
    /// # Errors
    ///
    /// As [`Bench::start`].
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Self> {
        let settings = [("autoCreateTopicEnable", "false")].iter().chain(settings);
        let settings = settings.map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect();
        let mut cluster = Cluster::prepare(Options { settings, ..Options::default() }).await?;
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
        let accesses =
            accesses.iter().map(|(name, number)| ((*name).to_string(), cluster.nodes[*number].grpc)).collect();
        Ok(Self { cluster, accesses })
    }

    /// Starts a scenario of a client through one access point, on a topic and a group of its own.
    ///
    /// # Errors
    ///
    /// The topic is refused, or the program does not start.
    pub async fn run(
        &self,
        client: Client,
        scenario: &str,
        access: usize,
        transport: Transport,
        count: u64,
        needs: Needs,
    ) -> Result<Program> {
        let (place, address) = &self.accesses[access];
        let topic = format!("{scenario}-{client}-{place}-{transport:?}");
        let group = format!("{topic}-group");
        self.cluster.put_topic(&topic, needs.queues.unwrap_or(4), needs.message_type).await?;
        self.cluster.put_consumer_group(&group, needs.ordered, needs.retry_max).await?;
        let arguments = [scenario, &address.to_string(), &topic, &group, &count.to_string()];
        Program::start(client, &arguments, self.cluster.dir(), transport).await
    }

    /// Waits for the result of every program and judges it; the error names all that failed.
    ///
    /// # Errors
    ///
    /// A program did not end well, or its result is not what it must be.
    pub async fn judge(&self, programs: Vec<Program>, judge: impl Fn(&str, &Value) -> Result<()>) -> Result<()> {
        let mut failures = Vec::new();
        for mut program in programs {
            let outcome = program.result(PATIENCE).await.and_then(|result| judge(&program.name, &result));
            failures.extend(outcome.err().map(|failure| format!("{failure:#}")));
        }
        ensure!(failures.is_empty(), "{}\n{}", failures.join("\n"), self.cluster.log_tails(0));
        Ok(())
    }
}
