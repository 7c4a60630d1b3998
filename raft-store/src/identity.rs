//! Whose folder this is. Written once, checked at every start, so that no disk speaks for another node.
//!
//! ```text
//! <data>/IDENTITY    cluster, group, label, node id, disk id; written when the folder is first used
//! <data>/LOCK        held while a process uses the folder
//! <data>/MANIFEST    which log folder and which state folder are in use; replaced as a whole
//! <log>/log-<epoch>/     the Raft log
//! <data>/state-<n>/      the rows
//! <data>/pins/           checkpoints that somebody reads
//! <data>/incoming/       snapshots that are being received
//! ```
//!
//! Both files are `key=value` lines under a checksum, to be read by eye; they are replaced by writing a new file,
//! syncing it, renaming it and syncing the folder.

use crate::disk::{Disk, DiskLock, OpenMode, read_exact_at};
use crate::error::StartError;
use crate::types::{DiskId, LogId, NodeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const IDENTITY: &str = "IDENTITY";
const MANIFEST: &str = "MANIFEST";
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
        self.log.join(&self.manifest.lock().log)
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
        let mut manifest = self.manifest.lock();
        let next = Manifest { log: manifest.log.clone(), state: number, installed };
        write_lines(&*self.disk, &self.data.join(MANIFEST), &next.lines())?;
        *manifest = next;
        Ok(())
    }

    /// Deletes what no MANIFEST names: replaced states, checkpoints and snapshots of an earlier run.
    fn clean(&self) {
        let state = format!("state-{}", self.state_number());
        let Ok(entries) = std::fs::read_dir(&self.data) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let stale = name == "pins" || name == "incoming" || (name.starts_with("state-") && name != state);
            if !stale {
                continue;
            }
            match std::fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!(folder = name, "deleted a folder that is no longer in use"),
                Err(error) => tracing::warn!(folder = name, %error, "a folder that is no longer in use stays"),
            }
        }
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
            lines.insert("installed".to_owned(), format!("{} {:016x} {}", id.term, id.node, id.index));
        }
        lines
    }

    fn parse(lines: &BTreeMap<String, String>) -> Option<Manifest> {
        let installed = match lines.get("installed") {
            Some(text) => {
                let mut words = text.split(' ');
                Some(LogId {
                    term: words.next()?.parse().ok()?,
                    node: NodeId::from_str_radix(words.next()?, 16).ok()?,
                    index: words.next()?.parse().ok()?,
                })
            }
            None => None,
        };
        let log = lines.get("log")?.clone();
        log.starts_with("log-").then_some(())?;
        Some(Manifest { log, state: lines.get("state")?.parse().ok()?, installed })
    }
}

fn damaged(path: &Path, what: &str) -> StartError {
    StartError::Corrupt { path: path.to_path_buf(), what: what.to_owned() }
}

/// Something of a node in folders that name none.
fn leftover(disk: &dyn Disk, data: &Path, log: &Path) -> io::Result<Option<String>> {
    for folder in [data, log] {
        for name in disk.list(folder)?.into_iter().chain(disk.list_dirs(folder)?) {
            if name == MANIFEST || name.starts_with("log-") || name.starts_with("state-") {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// Lines of a file that [`write_lines`] wrote; `None` when there is no file.
fn read_lines(disk: &dyn Disk, path: &Path) -> io::Result<Option<BTreeMap<String, String>>> {
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

fn write_lines(disk: &dyn Disk, path: &Path, lines: &BTreeMap<String, String>) -> io::Result<()> {
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
