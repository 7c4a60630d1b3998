//! Logs on standard output, and in files where that is wanted: `yyyy-MM-dd HH:mm:ss.SSS LEVEL thread - message field=value`, in UTC.
//!
//! ERROR means that a person should look; WARN that something was refused or went on in a worse way; INFO is what an
//! operator wants to read about a healthy node, a changed leader included.

mod file;

pub use file::LogFiles;

use std::{
    fmt,
    io::Write as _,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
        writer::{BoxMakeWriter, MakeWriterExt as _},
    },
    registry::LookupSpan,
};

/// The consensus library reports every message and every attempt to reach a dead peer; what an operator needs to
/// know of it the raft store says. A later directive for the same target overrides this one.
const QUIET: &str = "openraft=error";

/// Target of the lines about changed metadata and refused callers; they carry its name, so that they can be collected.
pub const AUDIT: &str = "audit";

/// Keeps log files open; what is not written yet is when this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Logs {
    _files: Option<WorkerGuard>,
}

/// Log files cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("logFileDir = {folder} cannot be written: {reason}; logFileCount = 0 does without files", folder = folder.display())]
pub struct LogError {
    folder: std::path::PathBuf,
    reason: std::io::Error,
}

/// Starts logging for the whole process, and sends panics there too. `level` is what a `RUST_LOG` that is unset or
/// wrong means: a level (`info`) or directives (`info,raft_store=debug`).
///
/// Does nothing when the process logs already, so that tests may start several daemons in one process.
///
/// # Errors
/// [`LogError`]; then nothing is logged.
pub fn start(level: &str, files: Option<LogFiles>) -> Result<Logs, LogError> {
    let filter = std::env::var("RUST_LOG")
        .ok()
        .filter(|directives| !directives.trim().is_empty())
        .and_then(|directives| EnvFilter::try_new(directives).ok())
        .or_else(|| EnvFilter::try_new(format!("{QUIET},{level}")).ok())
        .unwrap_or_else(|| EnvFilter::new(format!("{QUIET},info")));
    let (writer, guard) = match files {
        Some(files) => {
            let folder = files.folder.clone();
            let rolling = file::Rolling::open(files, file::today).map_err(|reason| LogError { folder, reason })?;
            let (writer, guard) = NonBlockingBuilder::default().lossy(true).thread_name("logs").finish(rolling);
            (BoxMakeWriter::new(std::io::stdout.and(writer)), Some(guard))
        }
        None => (BoxMakeWriter::new(std::io::stdout), None),
    };
    // Of a line that cannot be written it would tell by a macro that panics when that cannot be written either: a full
    // disk under both outputs would end the process.
    let builder = tracing_subscriber::fmt().log_internal_errors(false);
    let builder = builder.with_env_filter(filter).with_ansi(false).event_format(Line);
    let builder = builder.with_writer(writer);
    let builder = builder.with_filter_reloading();
    let handle = builder.reload_handle();
    if builder.try_init().is_ok() {
        log_panics();
        CHANGE.get_or_init(|| Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())));
    }
    Ok(Logs { _files: guard })
}

type Change = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Puts another filter in the place of the one that logging started with.
static CHANGE: OnceLock<Change> = OnceLock::new();

/// Logs from now on what `level` says, as for [`start`], until the process ends.
///
/// # Errors
/// Why the level is as it was.
pub fn change(level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|error| error.to_string())?;
    CHANGE.get().ok_or_else(|| "this process does not log".to_owned())?(filter)
}

/// Writes a line to standard output, as scripts wait for; where that cannot be written, nobody waits.
pub fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Variables with Java's options say nothing to us: says so once, and only when they are set.
pub fn notice_java_options() {
    let set: Vec<&str> = ["JAVA_OPT", "JAVA_OPT_EXT", "JAVA_OPTS"]
        .into_iter()
        .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        .collect();
    if !set.is_empty() {
        tracing::info!("{} ignored: there is no Java machine and no heap to size here", set.join(", "));
    }
}

/// Lets one line through per interval, for whatever a stranger can cause as often as they like.
#[derive(Debug)]
pub struct Limited {
    started: Instant,
    every: Duration,
    /// Milliseconds after `started` from which the next line may pass.
    next_ms: AtomicU64,
    suppressed: AtomicU64,
}

impl Limited {
    /// The first line passes at once.
    pub fn every(every: Duration) -> Self {
        Self { started: Instant::now(), every, next_ms: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Whether a line may be written now; with how many were not since the last one that was.
    pub fn pass(&self) -> Option<u64> {
        let elapsed = self.started.elapsed();
        let now_ms = millis(elapsed);
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let after_ms = millis(elapsed + self.every);
        let passes = now_ms >= next_ms
            && self.next_ms.compare_exchange(next_ms, after_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if passes {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn log_panics() {
    let inherited = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(place, "panic: {text}");
        inherited(info);
    }));
}

/// The format of a line, as users of RocketMQ grep it.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        writer.write_str(&local_style(&time))?;
        let thread = std::thread::current();
        write!(writer, " {} {} - ", event.metadata().level(), thread.name().unwrap_or("unnamed"))?;
        if event.metadata().target() == AUDIT {
            write!(writer, "{AUDIT}: ")?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                let extensions = span.extensions();
                if let Some(fields) = extensions.get::<FormattedFields<N>>()
                    && !fields.is_empty()
                {
                    write!(writer, " {fields}")?;
                }
            }
        }
        writer.write_char('\n')
    }
}

/// `2026-11-23T18:08:07.123456Z` → `2026-11-23 18:08:07.123`.
fn local_style(rfc3339: &str) -> String {
    match (rfc3339.get(..10), rfc3339.get(11..23)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => rfc3339.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::{Limited, Line, local_style};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_time_level_thread_message_fields() {
        let captured = Captured::default();
        let sink = captured.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || sink.clone()).with_ansi(false).event_format(Line).finish();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("node", broker_group = "RaftNode00", node = "n0");
            let _inside = span.enter();
            tracing::info!(topic = "T", queues = 8, "topic created");
            tracing::info!(target: "audit", user = "root", "topic changed");
        });
        let bytes = captured.0.lock().expect("no writer panics").clone();
        let line = String::from_utf8(bytes).expect("lines are text");
        let (time, rest) = line.split_at(23);
        assert_eq!(time.len(), "2026-11-23 18:08:07.123".len());
        assert!(time.bytes().all(|byte| byte.is_ascii_digit() || b"- :.".contains(&byte)), "{line}");
        assert!(rest.starts_with(" INFO "), "{line}");
        assert!(rest.contains(" - audit: topic changed user=\"root\""), "{line}");
        assert!(
            rest.contains(" - topic created topic=\"T\" queues=8 broker_group=\"RaftNode00\" node=\"n0\"\n"),
            "{line}"
        );
    }

    #[test]
    fn a_limited_line_passes_once_per_interval_and_counts_the_rest() {
        let hourly = Limited::every(Duration::from_secs(3600));
        assert_eq!(hourly.pass(), Some(0));
        assert_eq!(hourly.pass(), None);
        let always = Limited::every(Duration::ZERO);
        assert_eq!(always.pass(), Some(0));
        assert_eq!(always.pass(), Some(0));
    }

    #[test]
    fn times_are_cut_to_milliseconds() {
        assert_eq!(local_style("2026-11-23T18:08:07.123456Z"), "2026-11-23 18:08:07.123");
        assert_eq!(local_style("odd"), "odd");
    }
}
