//! Log files beside standard output, in RocketMQ's layout:
//!
//! ```text
//! broker.log                             what is written now
//! otherdays/broker-2026-11-30.1.log.gz   what was, by day and number
//! ```
//!
//! A file is rolled when it is as large as it may be and when the day (UTC) is over. Lines are written by a thread of their
//! own (`tracing-appender`): while the disk is slow they wait, and beyond some hundred thousand they are dropped, so that no
//! call ever waits for the disk of the logs. No crate rolls in this layout, so this module does.

use crate::settings::Settings;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Rfc3339};

/// Where rolled files go.
const OTHER_DAYS: &str = "otherdays";

/// Which files a daemon writes its logs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFiles {
    /// The folder (`logFileDir`).
    pub folder: PathBuf,
    /// Name of the file without `.log`.
    pub name: &'static str,
    /// Bytes of a file before it is rolled (`logFileBytes`).
    pub bytes: u64,
    /// Rolled files that are kept (`logFileCount`).
    pub count: usize,
    /// Days that they are kept, 0 for any number (`logFileDays`).
    pub days: u64,
}

impl LogFiles {
    /// Reads the keys. Without `logFileDir` files go to `folder`, and nowhere where that is not given either; with
    /// `logFileCount = 0` nowhere.
    pub fn read(settings: &mut Settings, name: &'static str, folder: Option<PathBuf>) -> Option<LogFiles> {
        let folder = settings.optional_path("logFileDir").or(folder);
        let bytes = settings.number("logFileBytes", 128 << 20, 64 << 10..=4u64 << 30);
        let count = settings.number("logFileCount", 20, 0..=10_000);
        let days = settings.number("logFileDays", 30, 0..=36_500);
        folder.filter(|_| count > 0).map(|folder| LogFiles { folder, name, bytes, count, days })
    }

    fn now(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn other_days(&self) -> PathBuf {
        self.folder.join(OTHER_DAYS)
    }

    /// Day and number of a rolled file of ours.
    fn parse(&self, file: &str) -> Option<(String, u64)> {
        let rest = file.strip_prefix(self.name)?.strip_prefix('-')?;
        let rest = rest.strip_suffix(".gz").unwrap_or(rest).strip_suffix(".log")?;
        let (day, number) = rest.split_once('.')?;
        let is_day = day.len() == 10 && day.bytes().all(|sign| sign.is_ascii_digit() || sign == b'-');
        is_day.then_some(())?;
        Some((day.to_owned(), number.parse().ok()?))
    }

    /// Rolled files, the oldest first.
    fn rolled(&self) -> io::Result<Vec<(String, u64, PathBuf)>> {
        let mut rolled = Vec::new();
        for entry in fs::read_dir(self.other_days())? {
            let entry = entry?;
            if let Some((day, number)) = entry.file_name().to_str().and_then(|name| self.parse(name)) {
                rolled.push((day, number, entry.path()));
            }
        }
        rolled.sort();
        Ok(rolled)
    }

    /// Deletes what is too many or too old, and packs what is not packed yet: in this order, since packing needs room on
    /// what may be a full disk. Goes on after a file that cannot be, and tells of the first.
    fn tidy(&self, today: &str) -> io::Result<()> {
        let rolled = self.rolled()?;
        let oldest = (self.days > 0).then(|| day_before(today, self.days)).flatten();
        let too_many = rolled.len().saturating_sub(self.count);
        let mut outcome = Ok(());
        for (place, (day, _, path)) in rolled.iter().enumerate() {
            let done = if place < too_many || oldest.as_ref().is_some_and(|oldest| day < oldest) {
                fs::remove_file(path)
            } else if is_packed(path) {
                Ok(())
            } else {
                pack(path)
            };
            outcome = outcome.and(done);
        }
        outcome
    }
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// A whole packed file takes the place of one that is not.
fn pack(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let packed = PathBuf::from(&name);
    name.push(".part");
    let part = PathBuf::from(name);
    let written = File::create(&part).and_then(|file| {
        let mut encoder = GzEncoder::new(file, Compression::fast());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.sync_all()
    });
    if let Err(error) = written {
        // It takes room that may be short, and is made anew the next time.
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    fs::rename(&part, &packed)?;
    fs::remove_file(path)
}

/// Tells of trouble with the files, where a line in them may be what cannot be written: on standard error, if that can.
fn tell(trouble: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{trouble}");
}

/// The file that is written now.
pub(super) struct Rolling {
    files: Arc<LogFiles>,
    file: File,
    bytes: u64,
    day: String,
    clock: fn() -> String,
    /// One thread tidies at a time.
    tidying: Arc<Mutex<()>>,
}

impl Rolling {
    /// Opens or makes the file, and tidies what an earlier run left.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub(super) fn open(files: LogFiles, clock: fn() -> String) -> io::Result<Rolling> {
        fs::create_dir_all(files.other_days())?;
        let path = files.now();
        let file = append(&path)?;
        let about = file.metadata()?;
        // What is in it was written up to then.
        let day = if about.len() == 0 { clock() } else { about.modified().map_or_else(|_| clock(), day) };
        let rolling = Rolling { files: Arc::new(files), file, bytes: about.len(), day, clock, tidying: Arc::default() };
        rolling.tidy();
        Ok(rolling)
    }

    fn tidy(&self) {
        let (files, tidying, today) = (self.files.clone(), self.tidying.clone(), (self.clock)());
        let work = move || {
            let _one = tidying.lock();
            if let Err(error) = files.tidy(&today) {
                tell(format_args!("log files in {} cannot be tidied: {error}", files.folder.display()));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("log-files".to_owned()).spawn(work) {
            tell(format_args!("log files are not tidied: {error}"));
        }
    }

    fn roll(&mut self, today: String) -> io::Result<()> {
        let last = self.files.rolled()?.into_iter().filter(|(day, _, _)| *day == self.day).map(|(_, number, _)| number);
        let number = last.max().unwrap_or(0) + 1;
        let to = self.files.other_days().join(format!("{}-{}.{number}.log", self.files.name, self.day));
        match fs::rename(self.files.now(), to) {
            // Somebody took it away, or it was renamed already and its successor could not be opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = append(&self.files.now())?;
        (self.bytes, self.day) = (0, today);
        self.tidy();
        Ok(())
    }
}

impl Write for Rolling {
    /// One call brings whole lines: none is torn apart.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let today = (self.clock)();
        let more = lines.len() as u64;
        if self.bytes > 0 && (self.bytes.saturating_add(more) > self.files.bytes || today != self.day) {
            // Rather a file that is too large than lines that are lost.
            if let Err(error) = self.roll(today.clone()) {
                tell(format_args!("{} cannot be rolled: {error}", self.files.now().display()));
                // It is tried again when as much was written, or another day is over.
                (self.bytes, self.day) = (0, today);
            }
        }
        self.file.write_all(lines)?;
        self.bytes += more;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The day, in UTC: `2026-11-30`.
pub(super) fn today() -> String {
    let mut text = String::new();
    // It fails where a text cannot be written to.
    let _ = Rfc3339.format_time(&mut Writer::new(&mut text));
    text.truncate(10);
    text
}

fn day(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    civil(seconds / DAY.as_secs())
}

const DAY: Duration = Duration::from_secs(86_400);

/// The day so many days before another one; `None` where that is none.
fn day_before(text: &str, days: u64) -> Option<String> {
    let mut parts = text.splitn(3, '-').map(str::parse::<u64>);
    let mut part = || parts.next()?.ok();
    let (year, month, day) = (part()?, part()?, part()?);
    // A year has 366 days at most, and a month 31: the day is found from one that is not after it.
    let from = year.checked_sub(1970)? * 365 + month.checked_sub(1)? * 28;
    let number = (from..from + 366).find(|number| civil(*number) == format!("{year:04}-{month:02}-{day:02}"))?;
    Some(civil(number.saturating_sub(days)))
}

/// A day since the Unix epoch, by whole cycles of 400 years that begin on 1 March.
fn civil(day: u64) -> String {
    const CYCLE_DAYS: u64 = 146_097;
    let day = day + 719_468;
    let (cycle, day) = (day / CYCLE_DAYS, day % CYCLE_DAYS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", cycle * 400 + year + carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn files(folder: &Path, bytes: u64, count: usize, days: u64) -> LogFiles {
        LogFiles { folder: folder.to_owned(), name: "broker", bytes, count, days }
    }

    /// Waits for the thread that tidies; names of the rolled files when there are so many and all are packed, or at last.
    fn settled(rolling: &Rolling, wanted: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..500 {
            let rolled = rolling.files.rolled().expect("the folder is there");
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            names = rolled.iter().map(|(_, _, path)| name(path)).collect();
            if names.len() == wanted && names.iter().all(|name| name.ends_with(".gz")) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        names
    }

    #[test]
    fn a_file_that_is_full_is_rolled_packed_and_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rolling = Rolling::open(files(folder.path(), 100, 3, 0), || "2026-11-30".to_owned()).expect("opens");
        for number in 0..10 {
            writeln!(rolling, "line {number} {}", "x".repeat(40)).expect("is written");
        }
        // Two lines to a file: four were rolled, and the oldest is gone.
        let names = settled(&rolling, 3);
        assert_eq!(names, [2, 3, 4].map(|number| format!("broker-2026-11-30.{number}.log.gz")));
        let packed = File::open(folder.path().join("otherdays").join(&names[2])).expect("is there");
        let mut text = String::new();
        GzDecoder::new(packed).read_to_string(&mut text).expect("unpacks");
        assert!(text.starts_with("line 6") && text.lines().count() == 2, "{text}");
        let now = fs::read_to_string(folder.path().join("broker.log")).expect("is there");
        assert!(now.starts_with("line 8") && now.lines().count() == 2, "{now}");
    }

    #[test]
    fn a_day_that_is_over_is_rolled_and_what_is_too_old_goes() {
        static DAY: AtomicUsize = AtomicUsize::new(0);
        let clock = || ["2026-02-27", "2026-02-28", "2026-03-02"][DAY.load(Ordering::Relaxed)].to_owned();
        let folder = tempfile::tempdir().expect("a folder");
        let mut rolling = Rolling::open(files(folder.path(), 1_000, 9, 2), clock).expect("opens");
        writeln!(rolling, "first").expect("is written");
        DAY.store(1, Ordering::Relaxed);
        writeln!(rolling, "second").expect("is written");
        assert_eq!(settled(&rolling, 1), ["broker-2026-02-27.1.log.gz"]);
        DAY.store(2, Ordering::Relaxed);
        writeln!(rolling, "third").expect("is written");
        assert_eq!(settled(&rolling, 1), ["broker-2026-02-28.1.log.gz"]);
    }

    #[test]
    fn a_file_that_somebody_took_away_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rolling = Rolling::open(files(folder.path(), 100, 3, 0), || "2026-11-30".to_owned()).expect("opens");
        writeln!(rolling, "{}", "x".repeat(90)).expect("is written");
        fs::remove_file(folder.path().join("broker.log")).expect("is there");
        writeln!(rolling, "{}", "y".repeat(90)).expect("is written");
        let now = fs::read_to_string(folder.path().join("broker.log")).expect("is there again");
        assert!(now.starts_with('y'), "{now}");
    }

    #[test]
    fn what_cannot_be_packed_keeps_nothing_from_going() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = files(folder.path(), 100, 1, 0);
        let other = folder.path().join(OTHER_DAYS);
        fs::create_dir_all(&other).expect("a folder");
        for (number, name) in ["broker-2026-11-28.1.log.gz", "broker-2026-11-29.1.log"].iter().enumerate() {
            fs::write(other.join(name), number.to_string()).expect("is written");
        }
        // A folder stands where the packed file is written.
        fs::create_dir_all(other.join("broker-2026-11-29.1.log.gz.part/x")).expect("a folder");
        assert!(files.tidy("2026-11-30").is_err());
        assert!(!other.join("broker-2026-11-28.1.log.gz").exists(), "the file that is too many is gone");
        assert!(other.join("broker-2026-11-29.1.log").exists(), "nothing is lost");
    }

    #[test]
    fn another_run_goes_on_and_leaves_files_of_others_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = folder.path().join("otherdays");
        fs::create_dir_all(&other).expect("a folder");
        for name in [
            "broker-2026-11-29.7.log",
            "broker-x.log",
            "namesrv-2026-11-29.1.log.gz",
            "broker-2026-11-29.7.log.gz.part",
        ] {
            fs::write(other.join(name), "earlier").expect("is written");
        }
        fs::write(folder.path().join("broker.log"), "before\n").expect("is written");
        let rolling = Rolling::open(files(folder.path(), 1_000, 9, 0), today).expect("opens");
        assert_eq!(settled(&rolling, 1), ["broker-2026-11-29.7.log.gz"], "what was not packed is");
        assert_eq!(rolling.bytes, 7);
        assert!(other.join("broker-x.log").exists() && other.join("namesrv-2026-11-29.1.log.gz").exists());
    }

    #[test]
    fn days_before_others() {
        for (day, days, before) in [
            ("2026-03-01", 1, "2026-02-28"),
            ("2024-03-01", 1, "2024-02-29"),
            ("2026-01-01", 365, "2025-01-01"),
            ("2026-12-31", 0, "2026-12-31"),
        ] {
            assert_eq!(day_before(day, days).as_deref(), Some(before), "{day}");
        }
        assert_eq!(day_before("nonsense", 1), None);
        assert_eq!(today().len(), 10);
    }
}
