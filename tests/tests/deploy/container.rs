//! The image without an engine: what the Dockerfile's last stage says is done to an empty folder, and its programs run
//! from there as a container's do, as its user, in namespaces of mounts, processes and network of their own.
//!
//! The base image is this machine's `/usr`, read-only. Needs root, iproute2 and util-linux.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use raftmq_tests::cluster::{Host, program};
use raftmq_tests::root;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Prepares the root of a container in its own mount namespace: `$1` the image, `$2` the container's folder, which has
/// `hosts`, and `data` and `etc` where something is mounted over the image's, `$3` `ro` for a root that nobody can write.
/// The rest is the command.
const ENTER: &str = r#"
set -e
image=$1 own=$2 mode=$3; shift 3
mount --bind "$image" "$image"
for part in bin sbin lib lib64 share; do
  [ ! -e "/usr/$part" ] || mount --bind -o ro "/usr/$part" "$image/usr/$part"
done
mount -t proc proc "$image/proc"
mount -t tmpfs -o mode=755 dev "$image/dev"
for device in null zero random urandom; do : >"$image/dev/$device"; mount --bind "/dev/$device" "$image/dev/$device"; done
mount -t tmpfs -o mode=1777 tmp "$image/tmp"
mount --bind "$own/hosts" "$image/etc/hosts"
if [ -d "$own/data" ]; then mount --bind "$own/data" "$image/var/lib/raftmq"; fi
if [ -d "$own/etc" ]; then mount --bind "$own/etc" "$image/etc/raftmq"; fi
[ "$mode" != ro ] || mount -o remount,bind,ro "$image"
exec chroot "$image" "$@"
"#;

/// What the Dockerfile makes.
pub struct Image {
    /// Its files.
    pub root: PathBuf,
    /// `ENV`.
    pub environment: BTreeMap<String, String>,
    /// `CMD`.
    pub command: Vec<String>,
    /// The command of `HEALTHCHECK`.
    pub health: Vec<String>,
    /// `EXPOSE`.
    pub ports: BTreeSet<u16>,
    user: String,
    folder: String,
    volume: String,
}

/// A list of words as JSON.
fn words(text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).with_context(|| format!("{text} is no list of words"))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

impl Image {
    /// Does to the folder `at`, which must not be there, what the Dockerfile says.
    ///
    /// # Errors
    ///
    /// A step fails, or is one that this does not know.
    pub fn make(at: &Path) -> Result<Self> {
        let text = fs::read_to_string(root().join("deploy/container/Dockerfile"))?;
        let mut image = Self {
            root: at.to_owned(),
            environment: BTreeMap::new(),
            command: Vec::new(),
            health: Vec::new(),
            ports: BTreeSet::new(),
            user: String::new(),
            folder: String::new(),
            volume: String::new(),
        };
        fs::DirBuilder::new().mode(0o755).create(at)?;
        let mut stages = 0;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (instruction, rest) = line.split_once(' ').with_context(|| format!("{line} says nothing"))?;
            stages += usize::from(instruction == "FROM");
            let step = if stages == 1 { image.build(instruction, rest) } else { image.step(instruction, rest) };
            step.with_context(|| line.to_owned())?;
        }
        ensure!(stages == 2, "{stages} stages");
        let numeric = image.user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0));
        ensure!(numeric && image.user.contains(':'), "USER {} could be root", image.user);
        Ok(image)
    }

    /// A step of the stage that builds: cargo did that here, and what comes after it is done.
    fn build(&self, instruction: &str, rest: &str) -> Result<()> {
        match instruction {
            "FROM" | "WORKDIR" | "COPY" => Ok(()),
            "RUN" if rest.starts_with("apt-get update &&") || rest.starts_with("make build ") => Ok(()),
            "RUN" => {
                let bin = program("mqbroker")?;
                let bin = bin.parent().context("programs are in a folder")?.display().to_string();
                let here = rest.replace("/target/release", &bin).replace("/image", &self.root.display().to_string());
                run(Command::new("sh").args(["-ec", &here]).current_dir(root())).map(drop)
            }
            _ => bail!("nobody taught this test {instruction}"),
        }
    }

    fn step(&mut self, instruction: &str, rest: &str) -> Result<()> {
        match (instruction, rest) {
            ("FROM", _) => self.base()?,
            // That is where the stage before put its files.
            ("COPY", "--from=build /image /") => {}
            ("COPY", _) => {
                let (from, to) =
                    rest.strip_prefix("--from=build ").and_then(|rest| rest.split_once(' ')).context("two places")?;
                let name = Path::new(from).file_name().context("a file")?;
                let to = self.root.join(to.trim_start_matches('/'));
                fs::create_dir_all(&to)?;
                // The stage that builds is Debian's, as this machine is, where it is one.
                if Path::new(from).exists() {
                    fs::copy(from, to.join(name))?;
                }
            }
            ("RUN", _) => {
                let own = tempfile::tempdir()?;
                fs::write(own.path().join("hosts"), "")?;
                let mut command = Command::new("unshare");
                command.args(["--mount", "--", "sh", "-c", ENTER, "sh"]).arg(&self.root).arg(own.path());
                run(command.args(["rw", "sh", "-ec", rest]).env("PATH", "/usr/sbin:/usr/bin"))?;
            }
            ("USER", _) => rest.clone_into(&mut self.user),
            ("WORKDIR", _) => rest.clone_into(&mut self.folder),
            ("VOLUME", _) => rest.clone_into(&mut self.volume),
            ("ENV", _) => {
                for pair in rest.split(' ') {
                    let (key, value) = pair.split_once('=').context("key=value")?;
                    self.environment.insert(key.to_owned(), value.to_owned());
                }
            }
            ("EXPOSE", _) => self.ports = rest.split(' ').map(str::parse).collect::<Result<_, _>>()?,
            ("HEALTHCHECK", _) => self.health = words(rest.split_once("CMD ").context("a command")?.1)?,
            ("CMD", _) => self.command = words(rest)?,
            _ => bail!("nobody taught this test {instruction}"),
        }
        Ok(())
    }

    /// The places of the base image, which are this machine's while a container runs.
    fn base(&self) -> Result<()> {
        for folder in [
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "usr/share",
            "proc",
            "dev",
            "tmp",
            "etc/raftmq",
            "var/lib/raftmq",
        ] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        fs::write(self.root.join("etc/hosts"), "")?;
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), self.root.join(name))?;
        }
        Ok(())
    }

    /// A volume, which begins with what the image has there: nothing, and to whom it belongs.
    fn volume(&self, at: &Path) -> Result<()> {
        let of = fs::metadata(self.root.join(self.volume.trim_start_matches('/')))?;
        fs::DirBuilder::new().mode(0o750).create(at)?;
        Ok(chown(at, Some(of.uid()), Some(of.gid()))?)
    }
}

/// How a container is to be.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Its host name.
    pub name: &'a str,
    /// Its address.
    pub host: &'a Host,
    /// What it runs; the image's command when empty.
    pub command: Vec<String>,
    /// Over the image's.
    pub environment: BTreeMap<String, String>,
    /// Names that it can look up.
    pub hosts: &'a [(String, IpAddr)],
    /// Nobody can write but to its volume and `/tmp`.
    pub read_only: bool,
}

/// A container; it is killed with this, and its volume stays.
pub struct Container {
    child: Child,
    /// What its own processes see as the first.
    first: Pid,
    tail: Vec<String>,
    root: PathBuf,
    log: PathBuf,
}

impl Container {
    /// Starts one whose volume (`data`), log, and files for `/etc/raftmq` (`etc`) are in the folder `at`.
    ///
    /// # Errors
    ///
    /// It cannot be started; that it ends soon is none.
    pub fn start(image: &Image, at: &Path, wanted: &Wanted) -> Result<Self> {
        ensure!(image.volume == "/var/lib/raftmq", "this test mounts no volume at {}", image.volume);
        if !at.join("data").exists() {
            image.volume(&at.join("data"))?;
        }
        let lines = wanted.hosts.iter().map(|(name, address)| format!("{address} {name}\n"));
        fs::write(at.join("hosts"), format!("127.0.0.1 localhost\n{}", lines.collect::<String>()))?;
        let mut environment = image.environment.clone();
        environment.extend([("HOME".into(), "/".into()), ("HOSTNAME".into(), wanted.name.into())]);
        environment.extend(wanted.environment.clone());
        let (user, group) = image.user.split_once(':').context("USER has a group")?;
        let mut tail: Vec<String> =
            ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs", "--pdeathsig", "KILL"]
                .map(str::to_owned)
                .into();
        tail.extend(["--inh-caps=-all", "env", "-i", "-C", &image.folder].map(str::to_owned));
        tail.extend(environment.iter().map(|(key, value)| format!("{key}={value}")));
        let log = at.join("log");
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &wanted.host.namespace]);
        command.args(["unshare", "--mount", "--pid", "--fork", "--", "sh", "-c", ENTER, "sh"]);
        command.arg(&image.root).arg(at).arg(if wanted.read_only { "ro" } else { "rw" }).args(&tail);
        command.args(if wanted.command.is_empty() { &image.command } else { &wanted.command });
        let mut child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        let first = loop {
            let found = fs::read_to_string(&children).unwrap_or_default();
            // unshare has one child; before it is unshare, there is none.
            if let Some(first) = found.split_whitespace().next() {
                break Pid::from_raw(first.parse()?).context("a process id is never zero")?;
            }
            let ended = child.try_wait()?;
            ensure!(ended.is_none(), "{}: {ended:?}: {}", wanted.name, fs::read_to_string(&log)?);
            ensure!(Instant::now() < deadline, "{} does not start", wanted.name);
            std::thread::sleep(Duration::from_millis(5));
        };
        Ok(Self { child, first, tail, root: image.root.clone(), log })
    }

    /// Runs a command inside, as an engine's `exec` does.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let first = self.first.as_raw_nonzero().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &first, "--mount", "--pid", "--net", "--", "chroot"]);
        Ok(command.arg(&self.root).args(&self.tail).args(words).output()?)
    }

    /// The first process as the machine knows it.
    pub fn pid(&self) -> i32 {
        self.first.as_raw_nonzero().get()
    }

    /// Sends its first process a signal, as an engine's `stop` and `kill` do.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.first, signal)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It runs for longer than `limit`.
    pub fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "it still runs after {limit:?}: {}", self.output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it wrote.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Listens on a port of every address of a host, as an engine does where it publishes one.
///
/// # Errors
///
/// The host is not there, or the port is taken on it.
pub fn listen_at(host: &Host, port: u16) -> Result<TcpListener> {
    let namespace = File::open(Path::new("/var/run/netns").join(&host.namespace))?;
    // A thread of its own: it stays there.
    let listening = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    });
    let listener = listening.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?;
    listener.with_context(|| format!("port {port} of {}", host.namespace))
}
