//! A disk over the real one that forgets what was not synced when the process is killed.
//!
//! Content waits in memory until its file is synced, and names until their directory is. Reads see both at once,
//! so the program notices nothing until it dies. Length is reserved on the real file at once, as zeros.

use super::real::{RealDisk, RealFile};
use super::{Disk, DiskFile, DiskLock, OpenMode};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Part of the name of a file whose creation was not synced. One that a dead process left is as good as absent.
const UNSYNCED: &str = ".unsynced-";

/// What a name stands for before its directory is synced.
#[derive(Debug, Clone)]
enum NameChange {
    /// The file that is at the physical path gets this name.
    Bind {
        physical: PathBuf,
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct Names {
    /// Changes by directory, in order; `sync_dir` carries them out.
    changes: HashMap<PathBuf, Vec<NameChange>>,
    /// Where a changed name's file is now; `None` when the name is gone.
    physical: BTreeMap<PathBuf, Option<PathBuf>>,
    /// Directories whose leftovers of a killed process were removed.
    cleaned: BTreeSet<PathBuf>,
    created: u64,
}

/// Content by inode, so that everyone who opened a file sees the same unsynced bytes. Kept while somebody has the
/// file open, which also keeps its inode number from being given to another file, or while it has such bytes.
type Contents = HashMap<(u64, u64), Arc<Content>>;

/// A disk that loses unsynced writes and names when the process dies. See [`super::POWER_LOSS_VARIABLE`].
#[derive(Debug, Default)]
pub struct PowerLossDisk {
    /// What each sync of content takes longer than the real disk's.
    sync_delay: Duration,
    names: Mutex<Names>,
    contents: Mutex<Contents>,
}

#[derive(Debug)]
struct Content {
    file: RealFile,
    sync_delay: Duration,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    /// Writes in order: where, and what.
    writes: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug)]
struct PowerLossFile(Arc<Content>);

impl PowerLossDisk {
    /// A disk over the operating system's files, slower than they are by `sync_delay` for each sync of content. What
    /// is written meanwhile stays unsynced.
    #[must_use]
    pub fn new(sync_delay: Duration) -> Self {
        Self { sync_delay, ..Self::default() }
    }

    fn clean(names: &mut Names, dir: &Path) -> io::Result<()> {
        if names.cleaned.insert(dir.to_path_buf()) && dir.exists() {
            for name in RealDisk::names(dir, false)? {
                if name.contains(UNSYNCED) {
                    fs::remove_file(dir.join(name))?;
                }
            }
        }
        Ok(())
    }
}

impl Names {
    /// Where the file of a name is, by what readers must see.
    fn find(&self, path: &Path) -> Option<PathBuf> {
        match self.physical.get(path) {
            Some(bound) => bound.clone(),
            None => path.exists().then(|| path.to_path_buf()),
        }
    }

    fn change(&mut self, dir: &Path, change: NameChange) {
        self.changes.entry(dir.to_path_buf()).or_default().push(change);
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

fn absent(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl Disk for PowerLossDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let dir = parent(path);
        let file = {
            let mut names = self.names.lock();
            Self::clean(&mut names, &dir)?;
            match (mode, names.find(path)) {
                (OpenMode::Create, Some(_)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AlreadyExists,
                        format!("{} exists already", path.display()),
                    ));
                }
                (OpenMode::Create, None) => {
                    names.created += 1;
                    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
                    let physical = dir.join(format!("{name}{UNSYNCED}{}", names.created));
                    let file = RealDisk::open_file(&physical, mode)?;
                    names.physical.insert(path.to_path_buf(), Some(physical.clone()));
                    names.change(&dir, NameChange::Bind { physical, path: path.to_path_buf() });
                    file
                }
                // Always writable: what one handle leaves unsynced, another may sync.
                (_, Some(physical)) => RealDisk::open_file(&physical, OpenMode::Write)?,
                (_, None) => return Err(absent(path)),
            }
        };
        let metadata = file.0.metadata()?;
        let mut contents = self.contents.lock();
        contents.retain(|_, content| Arc::strong_count(content) > 1 || !content.pending.lock().writes.is_empty());
        let content = contents
            .entry((metadata.dev(), metadata.ino()))
            .or_insert_with(|| Arc::new(Content { file, sync_delay: self.sync_delay, pending: Mutex::default() }));
        Ok(Arc::new(PowerLossFile(Arc::clone(content))))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = self.names.lock();
        Self::clean(&mut names, dir)?;
        let mut found: BTreeSet<String> =
            RealDisk::names(dir, false)?.into_iter().filter(|name| !name.contains(UNSYNCED)).collect();
        for (path, physical) in &names.physical {
            if parent(path) == dir
                && let Some(name) = path.file_name().and_then(|name| name.to_str())
            {
                if physical.is_some() {
                    found.insert(name.to_owned());
                } else {
                    found.remove(name);
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk::names(dir, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        let physical = names.find(from).ok_or_else(|| absent(from))?;
        names.physical.insert(to.to_path_buf(), Some(physical));
        names.physical.insert(from.to_path_buf(), None);
        names.change(&parent(to), NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        names.find(path).ok_or_else(|| absent(path))?;
        names.physical.insert(path.to_path_buf(), None);
        names.change(&parent(path), NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        names.changes.retain(|changed, _| !changed.starts_with(dir));
        names.physical.retain(|path, _| !path.starts_with(dir));
        RealDisk.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        for change in names.changes.remove(dir).unwrap_or_default() {
            match change {
                NameChange::Bind { physical, path } => fs::rename(physical, path)?,
                NameChange::Rename { from, to } => fs::rename(from, to)?,
                NameChange::Remove(path) => fs::remove_file(path)?,
            }
        }
        // The real directory now shows what readers saw. Content that is still unsynced stays with its inode.
        names.physical.retain(|path, _| parent(path) != dir);
        RealDisk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(dir)
    }

    fn total_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.total_bytes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        RealDisk.lock(path)
    }
}

impl Content {
    /// Carries the pending writes over to the file.
    fn write_out(&self) -> io::Result<()> {
        let mut pending = self.pending.lock();
        for (offset, bytes) in pending.writes.drain(..) {
            self.file.write_at(offset, &mut [IoSlice::new(&bytes)])?;
        }
        Ok(())
    }
}

impl DiskFile for PowerLossFile {
    fn size(&self) -> io::Result<u64> {
        let pending = self.0.pending.lock();
        let end = pending.writes.iter().map(|(offset, bytes)| offset + bytes.len() as u64).max().unwrap_or(0);
        Ok(self.0.file.size()?.max(end))
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.0.file.preallocate(bytes)
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        self.0.pending.lock().writes.push((offset, bytes));
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let pending = self.0.pending.lock();
        let mut read = self.0.file.read_at(offset, buffer)?;
        buffer[read..].fill(0);
        let end = offset + buffer.len() as u64;
        for (at, bytes) in &pending.writes {
            let from = offset.max(*at);
            let until = end.min(at + bytes.len() as u64);
            if from < until {
                let target = (from - offset) as usize..(until - offset) as usize;
                read = read.max(target.end);
                buffer[target].copy_from_slice(&bytes[(from - at) as usize..(until - at) as usize]);
            }
        }
        Ok(read)
    }

    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(self.0.sync_delay);
        self.0.write_out()?;
        self.0.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        // Rare (recovery and tests of it), and always followed by a sync: no need to hold it back.
        let mut pending = self.0.pending.lock();
        for (offset, written) in &mut pending.writes {
            let keep = bytes.saturating_sub(*offset).min(written.len() as u64);
            written.truncate(keep as usize);
        }
        self.0.file.set_len(bytes)
    }
}
