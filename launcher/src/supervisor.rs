//! Runs the processes of a layout: starts them, starts them again when they die, stops them.
//!
//! Each process has a task of its own and runs in a process group of its own, so that Ctrl-C reaches the supervisor
//! alone and the order of stopping is ours: brokers first, while name servers still answer.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process, test_kill_process},
};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::layout::{Layout, Process};

/// Pause before a dead process is started again; doubles up to the maximum while it dies young.
const RESTART_PAUSE_MIN: Duration = Duration::from_secs(2);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A process that lived this long did not die young.
const SETTLED: Duration = Duration::from_secs(20);

/// From SIGTERM to SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// A process shows no command line in the instant after its start, and when it is dead and not yet waited for.
const COMMAND_LOOKS: u32 = 20;

/// What happened to a process.
#[derive(Debug)]
pub enum Event {
    /// It runs.
    Started {
        /// Which one.
        label: String,
        /// Its process id.
        pid: u32,
        /// Not for the first time.
        again: bool,
    },
    /// It ended although nobody asked it to.
    Died {
        /// Which one.
        label: String,
        /// How it ended.
        how: String,
        /// When it is started again.
        restart_in: Duration,
        /// The last lines of its log.
        last_words: Vec<String>,
    },
    /// Its program cannot be run at all.
    CannotStart {
        /// Which one.
        label: String,
        /// From the system.
        error: String,
    },
}

/// The folder of the programs, and what was checked before anything starts.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// The programs beside this one.
    pub fn beside_this_one() -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("the system does not say where this program is")?;
        let folder = this.parent().context("a program lies in a folder")?;
        // Tests run from a folder below the programs'.
        let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
        Self::in_folder(folder)
    }

    /// The programs in a folder.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let programs = Self { folder: folder.to_owned() };
        for program in ["mqnamesrv", "mqbroker", "raftmq-dashboard"] {
            let path = programs.path(program);
            if !path.is_file() {
                bail!("{} is not there: build all programs first (make build)", path.display());
            }
        }
        Ok(programs)
    }

    /// Where a program lies.
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }
}

/// A running cluster.
pub struct Supervisor {
    stop_brokers: CancellationToken,
    stop_name_servers: CancellationToken,
    brokers: TaskTracker,
    name_servers: TaskTracker,
    _lock: OwnedFd,
}

impl Supervisor {
    /// Writes the layout's files and starts its processes. Fails at once when another supervisor uses the data folder
    /// or a port is taken.
    pub fn start(layout: &Layout, programs: &Programs, events: mpsc::Sender<Event>) -> anyhow::Result<Self> {
        layout.write()?;
        let lock = lock(&layout.data)?;
        for process in layout.processes() {
            end_leftover(&process)?;
        }
        for process in layout.processes() {
            ports_are_free(&process)?;
        }
        let supervisor = Self {
            stop_brokers: CancellationToken::new(),
            stop_name_servers: CancellationToken::new(),
            brokers: TaskTracker::new(),
            name_servers: TaskTracker::new(),
            _lock: lock,
        };
        for process in layout.processes() {
            let program = programs.path(process.program);
            let (tasks, stop) = if process.program == "mqnamesrv" {
                (&supervisor.name_servers, supervisor.stop_name_servers.clone())
            } else {
                (&supervisor.brokers, supervisor.stop_brokers.clone())
            };
            tasks.spawn(keep_running(process, program, stop, events.clone()));
        }
        supervisor.brokers.close();
        supervisor.name_servers.close();
        Ok(supervisor)
    }

    /// Stops the brokers and the dashboard, then the name servers, and returns when all are gone.
    pub async fn stop(self) {
        self.stop_brokers.cancel();
        self.brokers.wait().await;
        self.stop_name_servers.cancel();
        self.name_servers.wait().await;
    }
}

/// Sends SIGKILL to a process of a layout, after making sure that the id still belongs to it.
pub fn kill(layout: &Layout, label: &str) -> anyhow::Result<u32> {
    let process = layout.processes().into_iter().find(|process| process.label == label);
    let process = process.with_context(|| format!("the cluster has no {label}"))?;
    let pid = layout.pid(label).with_context(|| format!("{label} does not run"))?;
    let system_pid = running(&process, pid).with_context(|| format!("{label} does not run any more"))?;
    kill_process(system_pid, Signal::KILL).with_context(|| format!("cannot kill {label}, process {pid}"))?;
    Ok(pid)
}

/// Sends SIGKILL to every process of a layout that runs.
pub fn kill_all(layout: &Layout) {
    for process in layout.processes() {
        // One that has ended already is what is wanted.
        let _ = kill(layout, &process.label);
    }
}

async fn keep_running(process: Process, program: PathBuf, stop: CancellationToken, events: mpsc::Sender<Event>) {
    let mut pause = RESTART_PAUSE_MIN;
    let mut again = false;
    while !stop.is_cancelled() {
        let started = Instant::now();
        let how = match spawn(&process, &program) {
            Ok(mut child) => {
                let pid = child.id().unwrap_or_default();
                tell(&events, Event::Started { label: process.label.clone(), pid, again }).await;
                again = true;
                tokio::select! {
                    ended = child.wait() => describe(ended),
                    () = stop.cancelled() => {
                        end(&mut child).await;
                        let _ = fs::remove_file(&process.pid_file);
                        return;
                    }
                }
            }
            Err(error) => {
                tell(&events, Event::CannotStart { label: process.label.clone(), error: format!("{error:#}") }).await;
                return;
            }
        };
        let _ = fs::remove_file(&process.pid_file);
        pause = if started.elapsed() >= SETTLED { RESTART_PAUSE_MIN } else { pause };
        let last_words = last_lines(&process.log, 3);
        tell(&events, Event::Died { label: process.label.clone(), how, restart_in: pause, last_words }).await;
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    // Nobody listens while the cluster is being stopped.
    let _ = events.send(event).await;
}

fn spawn(process: &Process, program: &Path) -> anyhow::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&process.log)
        .with_context(|| format!("cannot write {}", process.log.display()))?;
    let child = Command::new(program)
        .arg("-c")
        .arg(&process.config)
        // These would win over the configuration written for this cluster.
        .env_remove("NAMESRV_ADDR")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let pid = child.id().context("a process has an id until it is waited for")?;
    let mut file =
        File::create(&process.pid_file).with_context(|| format!("cannot write {}", process.pid_file.display()))?;
    writeln!(file, "{pid}")?;
    Ok(child)
}

/// SIGTERM, then SIGKILL when that takes too long.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(system_pid) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(STOP_GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn describe(ended: std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match ended {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with status {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
        Err(error) => format!("is lost: {error}"),
    }
}

fn last_lines(path: &Path, count: usize) -> Vec<String> {
    // Logs of this run are short enough to be read whole by the time a process dies young; of others the end counts.
    const TAIL_BYTES: usize = 4096;
    let bytes = fs::read(path).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

fn lock(data: &Path) -> anyhow::Result<OwnedFd> {
    let path = data.join("run").join("supervisor.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let descriptor = OwnedFd::from(file);
    if flock(&descriptor, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("a cluster runs already with the data folder {}: stop it (Ctrl-C there) or name another", data.display());
    }
    // The run before is kept beside this one's.
    for entry in fs::read_dir(data.join("logs"))? {
        let log = entry?.path();
        if log.extension().is_some_and(|extension| extension == "log") {
            fs::rename(&log, log.with_extension("log.1"))?;
        }
    }
    Ok(descriptor)
}

/// A supervisor that was killed leaves its processes behind; they hold ports and data.
fn end_leftover(process: &Process) -> anyhow::Result<()> {
    let Some(pid) = fs::read_to_string(&process.pid_file).ok().and_then(|text| text.trim().parse().ok()) else {
        return Ok(());
    };
    let Some(system_pid) = running(process, pid) else {
        fs::remove_file(&process.pid_file)?;
        return Ok(());
    };
    kill_process(system_pid, Signal::TERM)?;
    let deadline = Instant::now() + STOP_GRACE;
    while test_kill_process(system_pid).is_ok() {
        if Instant::now() > deadline {
            bail!("{} of an earlier run, process {pid}, does not stop: kill it", process.label);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The process with this id, when it is the one that was started with this configuration and not another program
/// that got the number later.
fn running(process: &Process, pid: u32) -> Option<Pid> {
    let system_pid = system_pid(pid)?;
    test_kill_process(system_pid).ok()?;
    let config = process.config.as_os_str().as_encoded_bytes();
    for _ in 0..COMMAND_LOOKS {
        let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else {
            // Systems without /proc: the id is all there is.
            return (!Path::new("/proc/self").exists()).then_some(system_pid);
        };
        if !command.is_empty() {
            return command.split(|byte| *byte == 0).any(|argument| argument == config).then_some(system_pid);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

fn system_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn ports_are_free(process: &Process) -> anyhow::Result<()> {
    for (what, port) in &process.ports {
        std::net::TcpListener::bind(("127.0.0.1", *port)).with_context(|| {
            format!("port {port} of {} ({what}) is taken by another program: stop it first, or give a new data folder and --free-ports", process.label)
        })?;
    }
    Ok(())
}
