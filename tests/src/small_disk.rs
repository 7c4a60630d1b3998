//! Disks that can be full: file systems in memory, of a size that changes while they are in use.
//!
//! Needs root and a system that permits mounts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A mounted file system; it goes with this, and so should before it whoever uses it.
pub struct SmallDisk {
    dir: TempDir,
}

/// Why there can be no such disk here, or none.
pub fn unavailable() -> Option<String> {
    match SmallDisk::new(1 << 20) {
        Ok(_) => None,
        Err(failure) => Some(format!("{failure:#}")),
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Result<()> {
    let output =
        Command::new(program).args(arguments).arg(path).output().with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(())
}

impl SmallDisk {
    /// An empty disk of `bytes`.
    ///
    /// # Errors
    ///
    /// Not root, or mounts are not permitted.
    pub fn new(bytes: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("raftmq-disk-").tempdir()?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "raftmq-test"], dir.path())?;
        Ok(Self { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes the folder `at`, which must not exist yet, a folder on this disk.
    ///
    /// # Errors
    ///
    /// It exists already.
    pub fn stands_for(&self, at: &Path) -> Result<()> {
        std::os::unix::fs::symlink(self.path(), at).with_context(|| format!("linking {}", at.display()))
    }

    /// Gives it another size. Nothing on it is lost.
    ///
    /// # Errors
    ///
    /// More is in use.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        run("mount", &["-o", &format!("remount,size={bytes}")], self.path())
    }

    /// Takes all the room that is left, but for `but` bytes, for a file that is nobody's.
    ///
    /// # Errors
    ///
    /// Less is left.
    pub fn fill(&self, but: u64) -> Result<PathBuf> {
        let stat = rustix::fs::statvfs(self.path())?;
        let free = stat.f_bavail * stat.f_frsize;
        let path = self.path().join("filler");
        let file = fs::OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
        let bytes = free.checked_sub(but).with_context(|| format!("only {free} bytes are free"))?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that still dies holds it for a moment.
        let _ = run("umount", &["--lazy"], self.path());
    }
}
