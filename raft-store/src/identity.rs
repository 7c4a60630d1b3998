//! Whose folder this is. Written once, checked at every start, so that no disk speaks for another node.
//!
//! ```text
//! <data>/IDENTITY    cluster, group, label, node id, disk id; written when the folder is first used
//! <data>/LOCK        held while a process uses the folder
//! <data>/MANIFEST    which log folder and which state folder are in use; replaced as a whole
//! <log>/log-<epoch>/     the Raft log
//! <data>/state-<n>/      the rows
//! <data>/pins/           checkpoints that somebody reads
//! <data>/incoming/       what a leader fills this node with; TRANSFER names the log folder that belongs to it
//! ```
//!
//! Both files are `key=value` lines under a checksum, to be read by eye; they are replaced by writing a new file,
//! syncing it, renaming it and syncing the folder.

use crate::disk::{Disk, DiskLock, OpenMode, read_exact_at};
use crate::error::StartError;
use crate::ship::Transfer;
use crate::types::{DiskId, LogId, NodeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const IDENTITY: &str = "IDENTITY";
const MANIFEST: &str = "MANIFEST";
const LOG_FOLDER: &str = "log-";
const LOCK: &str = "LOCK";
const FORMAT: &str = "1";

/// IDENTITY and MANIFEST are a few lines; more is not ours.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;

/// Who this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) group: String,
    pub(crate) label: String,
    pub(crate) node: NodeId,
    pub(crate) disk: DiskId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Manifest {
    log: String,
    state: u64,
    /// Where the snapshot ended that the state folder began as. The log may still end before it: the purge up
    /// to it follows the installation.
    installed: Option<LogId>,
}

/// The folder of one node, locked.
pub(crate) struct Home {
    disk: Arc<dyn Disk>,
    data: PathBuf,
    log: PathBuf,
    identity: Identity,
    manifest: Mutex<Manifest>,
    /// Number of the log folder that was last made.
    log_number: AtomicU64,
    _lock: Box<dyn DiskLock>,
}

impl Home {
    /// Opens the folder `data`, or makes it this node's when it is empty.
    ///
    /// # Errors
    /// When the folder is in use, belongs to another node, or cannot be read; the error says what to do.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        data: &Path,
        log: &Path,
        cluster: &str,
        group: &str,
        label: &str,
    ) -> Result<Home, StartError> {
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_path_buf();
            move |source| StartError::Io { what, path, source }
        };
        disk.create_dir_all(data).map_err(failed("create the data folder", data))?;
        disk.create_dir_all(log).map_err(failed("create the log folder", log))?;
        let lock = match disk.lock(&data.join(LOCK)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(StartError::Locked { path: data.to_path_buf() });
            }
            Err(error) => return Err(failed("lock", &data.join(LOCK))(error)),
        };
        let path = data.join(IDENTITY);
        let identity = match read_lines(&*disk, &path).map_err(failed("read", &path))? {
            Some(lines) => {
                let identity = Identity::parse(&lines)
                    .ok_or_else(|| damaged(&path, "it names no cluster, group, label, node and disk"))?;
                identity.check(data, cluster, group, label)?;
                identity
            }
            None => {
                if let Some(stranger) = leftover(&*disk, data, log).map_err(failed("list", data))? {
                    return Err(StartError::Foreign {
                        path: data.to_path_buf(),
                        what: format!("it holds {stranger} but no {IDENTITY} file"),
                        todo: "give the node an empty folder, or restore the file".to_owned(),
                    });
                }
                let identity = Identity {
                    cluster: cluster.to_owned(),
                    group: group.to_owned(),
                    label: label.to_owned(),
                    node: rand::random::<NodeId>() | 1,
                    disk: DiskId(rand::random::<u128>() | 1),
                };
                write_lines(&*disk, &path, &identity.lines()).map_err(failed("write", &path))?;
                identity
            }
        };
        let path = data.join(MANIFEST);
        let manifest = match read_lines(&*disk, &path).map_err(failed("read", &path))? {
            Some(lines) => {
                Manifest::parse(&lines).ok_or_else(|| damaged(&path, "it names no log and no state folder"))?
            }
            None => {
                if let Some(stranger) = leftover(&*disk, data, log).map_err(failed("list", data))? {
                    return Err(damaged(&path, &format!("it is missing although {stranger} is there")));
                }
                let manifest = Manifest { log: "log-1".to_owned(), state: 1, installed: None };
                write_lines(&*disk, &path, &manifest.lines()).map_err(failed("write", &path))?;
                manifest
            }
        };
        let home = Home {
            disk,
            data: data.to_path_buf(),
            log: log.to_path_buf(),
            identity,
            manifest: Mutex::new(manifest),
            log_number: AtomicU64::new(0),
            _lock: lock,
        };
        home.clean();
        Ok(home)
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Folder of the log in use.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.log_folder(&self.log_name())
    }

    pub(crate) fn log_name(&self) -> String {
        self.manifest.lock().log.clone()
    }

    pub(crate) fn log_folder(&self, name: &str) -> PathBuf {
        self.log.join(name)
    }

    /// Name of a log folder that was never used.
    pub(crate) fn fresh_log_name(&self) -> io::Result<String> {
        let names = self.disk.list_dirs(&self.log)?;
        let used = names.iter().chain(std::iter::once(&self.log_name())).filter_map(|name| log_number(name)).max();
        // A folder that was deleted may come back when the power goes; its name must not be another's by then.
        let number = used.unwrap_or(0).max(self.log_number.load(Ordering::Relaxed)) + 1;
        self.log_number.store(number, Ordering::Relaxed);
        Ok(format!("{LOG_FOLDER}{number}"))
    }

    /// Deletes a log folder that is not the one in use.
    pub(crate) fn remove_log(&self, name: &str) -> io::Result<()> {
        if name == self.log_name() || !self.disk.list_dirs(&self.log)?.iter().any(|known| known == name) {
            return Ok(());
        }
        self.disk.remove_dir_all(&self.log_folder(name))?;
        self.disk.sync_dir(&self.log)
    }

    /// Folder of what a leader fills this node with.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.data.join("incoming")
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Number of the state folder in use.
    pub(crate) fn state_number(&self) -> u64 {
        self.manifest.lock().state
    }

    pub(crate) fn state_path(&self, number: u64) -> PathBuf {
        self.data.join(format!("state-{number}"))
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.data.join("pins")
    }

    /// Where the snapshot ended that the state began as, when it began as one.
    pub(crate) fn installed(&self) -> Option<LogId> {
        self.manifest.lock().installed
    }

    /// Makes the state folder of this number the one in use, durably.
    pub(crate) fn set_state(&self, number: u64, installed: Option<LogId>) -> io::Result<()> {
        self.set_world(number, &self.log_name(), installed)
    }

    /// Makes this state folder and this log folder the ones in use, durably, both or neither.
    pub(crate) fn set_world(&self, state: u64, log: &str, installed: Option<LogId>) -> io::Result<()> {
        let mut manifest = self.manifest.lock();
        let next = Manifest { log: log.to_owned(), state, installed };
        write_lines(&*self.disk, &self.data.join(MANIFEST), &next.lines())?;
        *manifest = next;
        Ok(())
    }

    /// Deletes what no MANIFEST names: replaced states and logs, checkpoints of an earlier run, and what a leader sent
    /// unless it can be gone on with.
    fn clean(&self) {
        let state = format!("state-{}", self.state_number());
        for entry in std::fs::read_dir(&self.data).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name == "pins" || (name.starts_with("state-") && name != state) {
                deleted(name, std::fs::remove_dir_all(entry.path()));
            }
        }
        let incoming = self.incoming();
        let in_use = self.log_name();
        let staged = Transfer::read(&*self.disk, &incoming).ok().flatten().filter(|staged| staged.log != in_use);
        let dirs = |folder: &Path| self.disk.list_dirs(folder).unwrap_or_default();
        match &staged {
            None if dirs(&self.data).iter().any(|name| name == "incoming") => {
                deleted("incoming", self.disk.remove_dir_all(&incoming).and_then(|()| self.disk.sync_dir(&self.data)));
            }
            None => {}
            Some(staged) => {
                for name in dirs(&incoming).iter().filter(|name| **name != staged.folder()) {
                    deleted(name, self.disk.remove_dir_all(&incoming.join(name)));
                }
            }
        }
        for name in dirs(&self.log) {
            let kept = name == in_use || staged.as_ref().is_some_and(|staged| staged.log == name);
            if !kept && log_number(&name).is_some() {
                deleted(&name, self.remove_log(&name));
            }
        }
    }
}

fn log_number(name: &str) -> Option<u64> {
    name.strip_prefix(LOG_FOLDER)?.parse().ok()
}

fn deleted(folder: &str, outcome: io::Result<()>) {
    match outcome {
        Ok(()) => tracing::info!(folder, "deleted a folder that is no longer in use"),
        Err(error) => tracing::warn!(folder, %error, "a folder that is no longer in use stays"),
    }
}

impl Identity {
    fn lines(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("cluster".to_owned(), self.cluster.clone()),
            ("group".to_owned(), self.group.clone()),
            ("label".to_owned(), self.label.clone()),
            ("node".to_owned(), format!("{:016x}", self.node)),
            ("disk".to_owned(), self.disk.to_string()),
        ])
    }

    fn parse(lines: &BTreeMap<String, String>) -> Option<Identity> {
        Some(Identity {
            cluster: lines.get("cluster")?.clone(),
            group: lines.get("group")?.clone(),
            label: lines.get("label")?.clone(),
            node: NodeId::from_str_radix(lines.get("node")?, 16).ok()?,
            disk: DiskId(u128::from_str_radix(lines.get("disk")?, 16).ok()?),
        })
    }

    fn check(&self, data: &Path, cluster: &str, group: &str, label: &str) -> Result<(), StartError> {
        for (what, key, ours, configured) in [
            ("cluster", "brokerClusterName", &self.cluster, cluster),
            ("broker group", "brokerName", &self.group, group),
            ("node", "the node's label", &self.label, label),
        ] {
            if ours != configured {
                return Err(StartError::Foreign {
                    path: data.to_path_buf(),
                    what: format!("it belongs to {what} {ours}, the configuration says {configured}"),
                    todo: format!("correct {key}, or give the node the folder that is its own"),
                });
            }
        }
        Ok(())
    }
}

impl Manifest {
    fn lines(&self) -> BTreeMap<String, String> {
        let mut lines =
            BTreeMap::from([("log".to_owned(), self.log.clone()), ("state".to_owned(), self.state.to_string())]);
        if let Some(id) = self.installed {
            lines.insert("installed".to_owned(), id_text(id));
        }
        lines
    }

    fn parse(lines: &BTreeMap<String, String>) -> Option<Manifest> {
        let installed = match lines.get("installed") {
            Some(text) => Some(parse_id(text)?),
            None => None,
        };
        let log = lines.get("log")?.clone();
        log_number(&log)?;
        Some(Manifest { log, state: lines.get("state")?.parse().ok()?, installed })
    }
}

/// An entry's id, as a line of a file has it.
pub(crate) fn id_text(id: LogId) -> String {
    format!("{} {:016x} {}", id.term, id.node, id.index)
}

/// What [`id_text`] wrote.
pub(crate) fn parse_id(text: &str) -> Option<LogId> {
    let mut words = text.split(' ');
    Some(LogId {
        term: words.next()?.parse().ok()?,
        node: NodeId::from_str_radix(words.next()?, 16).ok()?,
        index: words.next()?.parse().ok()?,
    })
}

fn damaged(path: &Path, what: &str) -> StartError {
    StartError::Corrupt { path: path.to_path_buf(), what: what.to_owned() }
}

/// Something of a node in folders that name none.
fn leftover(disk: &dyn Disk, data: &Path, log: &Path) -> io::Result<Option<String>> {
    for folder in [data, log] {
        for name in disk.list(folder)?.into_iter().chain(disk.list_dirs(folder)?) {
            if name == MANIFEST || name.starts_with(LOG_FOLDER) || name.starts_with("state-") {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// Lines of a file that [`write_lines`] wrote; `None` when there is no file.
pub(crate) fn read_lines(disk: &dyn Disk, path: &Path) -> io::Result<Option<BTreeMap<String, String>>> {
    let Some(bytes) = read_file(disk, path)? else { return Ok(None) };
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let text = String::from_utf8(bytes).map_err(|_| invalid("the file is not text"))?;
    let (body, crc) =
        text.rsplit_once("crc=").ok_or_else(|| invalid("the file has no checksum line; was it edited or cut?"))?;
    if u32::from_str_radix(crc.trim(), 16).ok() != Some(crc32c::crc32c(body.as_bytes())) {
        return Err(invalid("the file fails its checksum; was it edited?"));
    }
    let lines: BTreeMap<String, String> = body
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if lines.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(invalid("the file is of a format that this version does not know"));
    }
    Ok(Some(lines))
}

pub(crate) fn write_lines(disk: &dyn Disk, path: &Path, lines: &BTreeMap<String, String>) -> io::Result<()> {
    let mut text = format!("format={FORMAT}\n");
    for (key, value) in lines {
        if value.contains(['\n', '\r']) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{key} has a line break in it")));
        }
        text.push_str(&format!("{key}={value}\n"));
    }
    let crc = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("crc={crc:08x}\n"));
    replace_file(disk, path, text.as_bytes())
}

/// Content of a small file; `None` when there is none.
fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.size()?;
    if size > SMALL_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file has {size} bytes, too many")));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    read_exact_at(&*file, 0, &mut bytes)?;
    Ok(Some(bytes))
}

/// Gives `path` a new content: after a crash at any instant it has the old one or the new one as a whole.
fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match disk.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&new, OpenMode::Create)?;
    file.write_at(0, &mut [IoSlice::new(bytes)])?;
    file.sync_data()?;
    drop(file);
    disk.rename(&new, path)?;
    let folder = path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file has a folder"))?;
    disk.sync_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::Home;
    use crate::disk::{Fault, MemoryDisk};
    use crate::error::StartError;
    use crate::types::LogId;
    use std::path::Path;
    use std::sync::Arc;

    fn open(disk: &MemoryDisk) -> Result<Home, StartError> {
        let folder = Path::new("/nowhere/n0");
        Home::open(Arc::new(disk.clone()), folder, folder, "cluster", "group", "n0")
    }

    #[test]
    fn an_interrupted_first_start_is_begun_again() {
        for call in 0.. {
            let disk = MemoryDisk::new();
            disk.fail_at(call, Fault::Halt);
            if open(&disk).is_ok() {
                assert!(call > 4, "the faults were never met");
                return;
            }
            for kept in [false, true] {
                let after = disk.after_power_loss(&|_| kept);
                let identity = open(&after).expect("begins again").identity().clone();
                let again = open(&after.after_power_loss(&|_| false)).expect("opens again");
                assert_eq!(*again.identity(), identity, "an identity changed that had been used");
            }
        }
    }

    #[test]
    fn an_interrupted_change_of_the_manifest_leaves_the_old_or_the_new_one() {
        let installed = Some(LogId { term: 2, node: 7, index: 99 });
        for call in 0.. {
            let disk = MemoryDisk::new();
            let home = open(&disk).expect("opens");
            let identity = home.identity().clone();
            disk.fail_at(disk.calls() + call, Fault::Halt);
            let changed = home.set_state(2, installed).is_ok();
            drop(home);
            for kept in [false, true] {
                let home = open(&disk.after_power_loss(&|_| kept)).expect("opens again");
                assert_eq!(*home.identity(), identity);
                let found = (home.state_number(), home.installed());
                assert!(found == (2, installed) || (found == (1, None) && !changed), "{found:?} at call {call}");
            }
            if changed {
                return;
            }
        }
    }

    #[test]
    fn an_edited_file_is_refused() {
        let disk = MemoryDisk::new();
        drop(open(&disk).expect("opens"));
        let path = Path::new("/nowhere/n0/IDENTITY");
        let text = String::from_utf8(disk.bytes(path).expect("written")).expect("text");
        disk.replace(path, text.replace("label=n0", "label=n1").into_bytes());
        let Err(error) = open(&disk) else { unreachable!("an edited identity was taken") };
        assert!(error.to_string().contains("was it edited"), "{error}");
    }
}
