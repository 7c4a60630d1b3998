//! What filling a member costs those who send: a group of which one member is lost again and again, and replaced.
//!
//! ```text
//! all three │ two, the third was killed ┃ an empty third is filled │ it catches up ┃ all three │ two …
//!  at rest  │          at rest          ┃    mqadmin replacePeer …                 ┃  at rest  │
//! ```
//! Clients call the two members that stay, throughout: what differs from window to window is the third member alone.
//! With two at rest it is missing; while it is filled it is missing still, for its vote comes last. So the fill itself
//! costs what the rate is below that of two at rest, and the loss of a member together with the fill what it is below
//! that of three. Every member and the clients share the processors of this machine: what the member that is filled
//! takes of them is in the cost, as it would not be on machines of their own. Retention takes what is too much while all
//! three are there, and waits for the third otherwise (for 30 s where it is dead): its work is in their rate alone.

use std::{
    process::ExitStatus,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use raftmq_proto::admin as pb;
use raftmq_tests::{
    cluster::{Cluster, Options},
    load::{self, Pool, Target},
    usage::Usage,
};
use tokio::{process::Child, time::sleep};

use super::{Column, Run, TOPIC, thousands};

/// Sends under way, of one message each.
const IN_FLIGHT: usize = 256;

/// Connections to each of the two members that stay.
const CONNECTIONS_EACH: usize = 2;

const SEGMENT_BYTES: u64 = 64 << 20;

/// Bounds how fast a leader fills members.
const PACE_KEY: &str = "fillBytesPerSecondMax";

/// What was begun before a window is over.
const SETTLE: Duration = Duration::from_secs(2);

/// Between two looks at a fill.
const LOOK: Duration = Duration::from_millis(50);

/// A fill that takes longer goes on without sends, which the log would keep on three disks until it is over.
const LOADED_MAX: Duration = Duration::from_secs(120);

/// What was kept for the member goes within this time after it has it.
const TRIMMED_WITHIN: Duration = Duration::from_secs(120);

/// A fill may take this long beside three times what the leader's log takes at its bound.
const SPARE: Duration = Duration::from_secs(180);

#[derive(Args, Clone)]
pub struct Fills {
    /// Gigabytes of log that each member keeps in `--only fill`, which a new one is filled with
    #[arg(long, default_value_t = 2.0)]
    fill_gb: f64,
    /// Members that are lost and replaced in `--only fill`, one after the other; windows take `--seconds` each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    fills: u32,
    /// MiB a second at which `--only fill` lets a member be filled; the broker's own choice when none
    #[arg(long)]
    fill_mib: Option<u64>,
}

pub async fn measure(options: &Run, column: &mut Column) -> Result<()> {
    column.name = "RaftMQ ×3, SYNC_FLUSH, a member is filled".into();
    let mut group = Group::start(options).await?;
    column.put("bound of a fill", format!("{PACE_KEY} = {} bytes a second ({})", group.pace, group.pace_source));
    let sent = group.send_more_than_is_kept(options.body).await?;
    let kept = gigabytes(group.kept);
    column.put("log that each member keeps", format!("{kept} GB, after {} GB of bodies", gigabytes(sent)));
    let (mut rests, mut fills) = (vec![group.rest().await?], Vec::new());
    for number in 1..=options.fills.fills {
        fills.push(group.fill().await.with_context(|| format!("fill {number} of {}", options.fills.fills))?);
        rests.push(group.rest().await?);
    }
    put_rates(column, &rests, &fills, group.window);
    put_ratios(column, &rests, &fills);
    let each = |show: fn(&Fill) -> String| fills.iter().map(show).collect::<Vec<_>>().join(", ");
    column.put("each fill, from the command to its last byte", each(Fill::speed));
    column.put("from the command to the vote", each(Fill::to_the_vote));
    put_cores(column, &rests, &fills);
    column.put("failed calls", group.failures.load(Ordering::Relaxed).to_string());
    Ok(())
}

/// How a window went.
struct Window {
    length: Duration,
    /// Messages answered OK in a second.
    rate: f64,
    /// Processors in use: by the generator, the leader, the follower that stays, and the third member.
    cores: [f64; 4],
}

/// Totals at some moment; what lies between two of them is a window.
struct Mark {
    at: Instant,
    answered: u64,
    cpu: [Duration; 4],
}

impl Mark {
    fn until(&self, end: &Mark) -> Window {
        let length = end.at - self.at;
        let seconds = length.as_secs_f64().max(1e-9);
        let cores = std::array::from_fn(|at| end.cpu[at].saturating_sub(self.cpu[at]).as_secs_f64() / seconds);
        Window { length, rate: (end.answered - self.answered) as f64 / seconds, cores }
    }
}

/// Windows without a fill, one after the other.
struct Rest {
    all: Window,
    /// With the third member killed.
    two: Window,
}

/// One loss of the third member, made good.
struct Fill {
    /// From the command on, as long as other windows or until the fill was over.
    window: Window,
    /// From the command to the last byte, or as long as there were sends.
    whole: Window,
    /// After it, until the member had its vote or as long as there were sends. None where those ended before.
    following: Option<Window>,
    bytes: u64,
    took: Duration,
    /// From the command to the vote.
    voted_after: Duration,
    /// There were sends until then.
    under_load: bool,
}

impl Fill {
    fn speed(&self) -> String {
        let (seconds, megabytes) = (self.took.as_secs_f64(), self.bytes as f64 / 1e6);
        format!("{seconds:.1} s for {} GB ({:.1} MB/s)", gigabytes(self.bytes), megabytes / seconds.max(1e-9))
    }

    fn to_the_vote(&self) -> String {
        let last = if self.under_load { "" } else { " (at the end without sends)" };
        format!("{:.1} s{last}", self.voted_after.as_secs_f64())
    }
}

/// A group under measurement.
struct Group {
    cluster: Cluster,
    leader: usize,
    /// The follower that stays.
    other: usize,
    /// The member that is lost.
    third: usize,
    term: u64,
    target: Target,
    pool: Pool,
    window: Duration,
    /// `fileReservedSize`.
    kept: u64,
    /// What [`PACE_KEY`] is, and who said so.
    pace: u64,
    pace_source: String,
    answered: AtomicU64,
    failures: AtomicU64,
}

impl Group {
    async fn start(options: &Run) -> Result<Self> {
        let kept = ((options.fills.fill_gb * 1e9) as u64).max(2 * SEGMENT_BYTES);
        let mut settings = vec![("fileReservedSize".to_owned(), kept.to_string())];
        settings.extend(options.fills.fill_mib.map(|mib| (PACE_KEY.to_owned(), (mib << 20).to_string())));
        let segment_bytes = Some(SEGMENT_BYTES);
        let mut cluster = Cluster::start(Options { segment_bytes, settings, ..Default::default() }).await?;
        cluster.create_topic(TOPIC, 8).await?;
        cluster.caught_up(0, Duration::from_secs(20)).await?;
        let leader = cluster.leader(0).await?;
        let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);
        let term = cluster.status(leader).await?.term;
        let config = cluster.admin_client(leader).await?.get_config(pb::GetConfigRequest {}).await?.into_inner();
        let setting = config.settings.into_iter().find(|setting| setting.key == PACE_KEY);
        let pb::Setting { value, source, .. } = setting.with_context(|| format!("a broker has {PACE_KEY}"))?;
        let nodes = [leader, other].map(|number| cluster.nodes[number].grpc);
        Ok(Self {
            target: Target::through(&nodes, TOPIC, CONNECTIONS_EACH).await?,
            pool: Pool::new(TOPIC, options.body, 1),
            cluster,
            leader,
            other,
            third,
            term,
            window: Duration::from_secs(options.seconds.max(1)),
            kept,
            pace: value.unwrap_or_default().parse::<u64>().with_context(|| format!("{PACE_KEY} is a number"))?.max(1),
            pace_source: if source.is_empty() { "its default".to_owned() } else { "set by --fill-mib".to_owned() },
            answered: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Sends until retention has taken the beginning: a new member could fetch the whole log otherwise, at any speed.
    /// Gives the bytes of bodies.
    async fn send_more_than_is_kept(&mut self, body: usize) -> Result<u64> {
        let pool = Pool::new(TOPIC, body, 16);
        let mut bytes = 0;
        while self.cluster.status(self.leader).await?.purged_index.is_none_or(|index| index == 0) {
            ensure!(bytes < 3 * self.kept + (2 << 30), "{bytes} bytes of bodies were sent, and nothing goes");
            let figures = load::send(&self.target, &pool, IN_FLIGHT, Duration::from_secs(1)).await?;
            bytes += figures.messages * body as u64;
        }
        self.trimmed().await?;
        Ok(bytes)
    }

    fn mark(&self) -> Result<Mark> {
        let of = |number: usize| self.cluster.usage(number).map(|usage| usage.cpu);
        let generator = Usage::of(std::process::id())?.cpu;
        // The third is not always there.
        let cpu = [generator, of(self.leader)?, of(self.other)?, of(self.third).unwrap_or_default()];
        Ok(Mark { at: Instant::now(), answered: self.answered.load(Ordering::Relaxed), cpu })
    }

    /// Sends as long as `script` runs.
    async fn under_load<T>(&self, script: impl Future<Output = Result<T>>) -> Result<T> {
        let over = AtomicBool::new(false);
        let goes_on = |_| !over.load(Ordering::Relaxed);
        let load = load::send_while(&self.target, &self.pool, IN_FLIGHT, goes_on, &self.answered);
        let script = async {
            let outcome = script.await;
            over.store(true, Ordering::Relaxed);
            outcome
        };
        let (figures, outcome) = tokio::join!(load, script);
        let (outcome, figures) = (outcome?, figures?);
        if let Some(failure) = figures.first_failure {
            eprintln!("{} calls failed: {failure}", figures.failures);
        }
        self.failures.fetch_add(figures.failures, Ordering::Relaxed);
        let term = self.cluster.status(self.leader).await?.term;
        ensure!(term == self.term, "term {} became {term}: the windows say nothing of one another", self.term);
        Ok(outcome)
    }

    async fn at_rest(&self, who: &str) -> Result<Window> {
        let window = self.under_load(async {
            sleep(SETTLE).await;
            let begun = self.mark()?;
            sleep(self.window).await;
            Ok(begun.until(&self.mark()?))
        });
        let window = window.await?;
        eprintln!("{who} at rest: {} /s", thousands(window.rate));
        Ok(window)
    }

    /// Both windows without a fill. The third member is dead then.
    async fn rest(&mut self) -> Result<Rest> {
        let all = self.at_rest("all three").await?;
        self.cluster.kill(self.third);
        Ok(Rest { all, two: self.at_rest("two of three").await? })
    }

    /// Puts an empty member in the place of the dead one, as the line that it logs says.
    async fn fill(&mut self) -> Result<Fill> {
        self.cluster.wipe(self.third)?;
        self.cluster.start_node(self.third)?;
        let line = self.cluster.admission(self.third, "replacePeer").await?;
        let bytes = self.cluster.status(self.leader).await?.log_bytes;
        let limit = Duration::from_secs(3 * bytes / self.pace) + SPARE;
        let (mut filling, last) = self.under_load(self.fill_under_load(&line)).await?;
        while filling.ended.is_none() {
            let late = filling.begun.at.elapsed() > limit;
            ensure!(!late, "it takes more than {limit:?}\n{}", self.cluster.log_tails(0));
            sleep(LOOK).await;
            filling.look(self)?;
        }
        let fill = filling.over(&last).await?;
        eprintln!("two of three, while the third is filled: {} /s; {}", thousands(fill.window.rate), fill.speed());
        self.cluster.caught_up(0, Duration::from_secs(60)).await?;
        self.trimmed().await?;
        Ok(fill)
    }

    async fn fill_under_load(&self, line: &[String]) -> Result<(Filling, Mark)> {
        sleep(SETTLE).await;
        let mut filling = Filling::begin(self, line)?;
        while !filling.was_under_load_long_enough(self.window) {
            sleep(LOOK).await;
            filling.look(self)?;
        }
        Ok((filling, self.mark()?))
    }

    /// Waits until no member's log is much larger than it should be, which more than one window would feel.
    async fn trimmed(&self) -> Result<()> {
        let deadline = Instant::now() + TRIMMED_WITHIN;
        for number in self.cluster.running(0) {
            while self.cluster.status(number).await?.log_bytes > self.kept + 8 * SEGMENT_BYTES {
                ensure!(Instant::now() < deadline, "the log of node {number} does not shrink");
                sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

/// A fill under way.
struct Filling {
    command: Child,
    begun: Mark,
    /// Bytes of the leader's log before.
    said: usize,
    /// The end of the window that counts.
    window: Option<Mark>,
    /// The last byte is there, and how many there were.
    filled: Option<(Mark, u64)>,
    ended: Option<(Mark, ExitStatus)>,
}

impl Filling {
    fn begin(group: &Group, line: &[String]) -> Result<Self> {
        let words: Vec<&str> = line.iter().map(String::as_str).chain(["-y"]).collect();
        let said = group.cluster.log(group.leader).len();
        let mut command = group.cluster.mqadmin_command(None, &words)?;
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let begun = group.mark()?;
        let command = command.spawn()?;
        Ok(Self { command, begun, said, window: None, filled: None, ended: None })
    }

    fn look(&mut self, group: &Group) -> Result<()> {
        // First: whoever has its vote was filled before.
        if self.ended.is_none()
            && let Some(status) = self.command.try_wait()?
        {
            self.ended = Some((group.mark()?, status));
        }
        if self.filled.is_none()
            && let Some(bytes) = filled_with(group.cluster.log(group.leader).get(self.said..).unwrap_or_default())
        {
            self.filled = Some((group.mark()?, bytes));
        }
        let is_over = self.filled.is_some() || self.ended.is_some() || self.begun.at.elapsed() >= group.window;
        if self.window.is_none() && is_over {
            self.window = Some(group.mark()?);
        }
        Ok(())
    }

    /// It has its vote, or what comes after the fill was seen for as long as other windows are.
    fn was_under_load_long_enough(&self, window: Duration) -> bool {
        let followed = self.filled.as_ref().is_some_and(|(filled, _)| filled.at.elapsed() >= window);
        self.ended.is_some() || followed || self.begun.at.elapsed() >= LOADED_MAX + window
    }

    /// `last` is when sends ended.
    async fn over(self, last: &Mark) -> Result<Fill> {
        let output = self.command.wait_with_output().await?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "mqadmin replacePeer did not do it: {text}");
        let (Some(window), Some((ended, _))) = (self.window, self.ended) else { bail!("it is not over") };
        let (filled, bytes) = self.filled.context("the member was not filled: the log had all that it lacked")?;
        let begun = &self.begun;
        let filled_under_load = filled.at <= last.at;
        Ok(Fill {
            window: begun.until(&window),
            whole: begun.until(if filled_under_load { &filled } else { last }),
            following: filled_under_load.then(|| filled.until(last)),
            bytes,
            took: filled.at - begun.at,
            voted_after: ended.at - begun.at,
            under_load: ended.at <= last.at,
        })
    }
}

/// What a leader's log says that a member took, once it has all of it.
fn filled_with(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains("a member was filled"))?;
    line.split_once(" bytes=")?.1.split_whitespace().next()?.parse().ok()
}

fn put_rates(column: &mut Column, rests: &[Rest], fills: &[Fill], window: Duration) {
    let rates = |windows: Vec<&Window>| {
        let of = |window: &&Window| format!("{} in {:.1} s", thousands(window.rate), window.length.as_secs_f64());
        windows.iter().map(of).collect::<Vec<_>>().join(", ")
    };
    column
        .put("all three at rest: 1 message a call, 256 in flight", rates(rests.iter().map(|rest| &rest.all).collect()));
    column.put("two of three at rest", rates(rests.iter().map(|rest| &rest.two).collect()));
    let mut cell = rates(fills.iter().map(|fill| &fill.window).collect());
    let short = fills.iter().filter(|fill| fill.took < window).count();
    if short > 0 {
        let seconds = window.as_secs();
        cell += &format!(" ({short} of {} fills were over before {seconds} s, and count until then)", fills.len());
    }
    column.put("two of three, while the third is filled", cell);
    column.put("the same over all of each fill", rates(fills.iter().map(|fill| &fill.whole).collect()));
    let following = fills.iter().filter_map(|fill| fill.following.as_ref()).collect();
    column.put("two of three, while the third catches up with the log", rates(following));
}

fn put_ratios(column: &mut Column, rests: &[Rest], fills: &[Fill]) {
    let mut put = |row, part: fn(&Fill) -> &Window, whole: fn(&Rest) -> &Window| {
        let around = rests.windows(2).map(|around| around.iter().map(|rest| whole(rest).rate).sum::<f64>() / 2.0);
        let ratios: Vec<f64> = fills.iter().zip(around).map(|(fill, rest)| part(fill).rate / rest).collect();
        column.put(row, ratios_text(&ratios));
    };
    put("while filled ÷ two at rest, mean of before and after", |fill| &fill.window, |rest| &rest.two);
    put("while filled ÷ all three at rest, mean of before and after", |fill| &fill.window, |rest| &rest.all);
    put("over all of each fill ÷ two at rest", |fill| &fill.whole, |rest| &rest.two);
    put("over all of each fill ÷ all three at rest", |fill| &fill.whole, |rest| &rest.all);
    let ratios: Vec<f64> = rests.iter().map(|rest| rest.two.rate / rest.all.rate).collect();
    column.put("two at rest ÷ all three at rest", ratios_text(&ratios));
}

fn ratios_text(ratios: &[f64]) -> String {
    let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
    format!("{} (mean {:.3})", each.join(" "), ratios.iter().sum::<f64>() / ratios.len() as f64)
}

fn put_cores(column: &mut Column, rests: &[Rest], fills: &[Fill]) {
    let mean = |windows: Vec<&Window>| {
        let of = |at: usize| windows.iter().map(|window| window.cores[at]).sum::<f64>() / windows.len() as f64;
        (0..4).map(|at| format!("{:.2}", of(at))).collect::<Vec<_>>().join(" + ")
    };
    let all = mean(rests.iter().map(|rest| &rest.all).collect());
    let two = mean(rests.iter().map(|rest| &rest.two).collect());
    let filled = mean(fills.iter().map(|fill| &fill.window).collect());
    column.put(
        "processors in use by generator + leader + follower + third",
        format!("{all} with all three at rest, {two} with two, {filled} while the third is filled"),
    );
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e9)
}
