//! Preloaded (`LD_PRELOAD`) into a node by tests: writes down what of the files that the log's own layer does not see,
//! RocksDB's, would outlast a power loss. Never part of what is shipped.
//!
//! It stands before the functions of libc through which files are changed. What concerns `state-*`, `pins` and
//! `incoming` in the node's folder becomes a line of a journal, and each file that is created there gets a second name
//! in a folder of the test's, so that its bytes are still there when RocksDB has unlinked it. What that means once the
//! power goes, `tests/src/disk_journal.rs` computes. Everything else goes to the kernel as it is.
//!
//! | line, words separated by tabs | |
//! | --- | --- |
//! | `file` path inode, `link` path inode, `mkdir` path inode | a name came into being |
//! | `rename` path path, `unlink` path, `rmdir` path | names changed |
//! | `sync` inode bytes | so many bytes of a file are durable |
//! | `syncdir` inode | the names in a folder are durable as they are |
//! | `overwrite` inode, `truncate` inode bytes | written below the end, cut: RocksDB does neither to what it has synced |
//! | `failed` call path | this call was answered with EIO, as the test wished |
//!
//! A line of names follows its call and stands in the order of the calls; that of a sync follows what it promises. So
//! whenever the process is killed, what is not in the journal was promised to nobody.
//!
//! It is full of unsafe code, as no other crate is: there is no other way to stand in the place of a C function. The
//! calls themselves are made with `syscall`, which leaves nobody to call in circles.

#![allow(unsafe_code, reason = "it stands in the place of functions of libc")]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_void};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Folder of the test's that gets `journal` and, in `inodes`, a second name of every file.
const FOLDER_VARIABLE: &str = "RAFTMQ_TEST_JOURNAL";
/// The node's folder, absolute.
const ROOT_VARIABLE: &str = "RAFTMQ_TEST_JOURNAL_ROOT";
/// Number of the call that fails, from 1, those to RocksDB's own log file left out; none when it is not set.
const FAIL_VARIABLE: &str = "RAFTMQ_TEST_JOURNAL_FAIL";
/// Set to 1: syncs succeed and do nothing.
const LIE_VARIABLE: &str = "RAFTMQ_TEST_JOURNAL_LIE";

/// Inode of the file or folder of ours that a descriptor stands for; 0 for everything else. Some close without `close`,
/// and numbers of descriptors and inodes come again, so an entry only says where to look.
static OPEN: [AtomicU64; 1 << 16] = [const { AtomicU64::new(0) }; 1 << 16];

struct Journal {
    folder: Vec<u8>,
    root: Vec<u8>,
    file: c_int,
    lies: bool,
    fail_at: u64,
    calls: AtomicU64,
    /// Held over each change of names and its line.
    order: Mutex<()>,
}

/// Where a path leads.
enum Place {
    /// The node's folder itself.
    Root,
    /// Something of ours in it.
    Inside(CString),
}

fn variable(name: &str) -> Option<Vec<u8>> {
    std::env::var_os(name).map(OsStringExt::into_vec).filter(|value| !value.is_empty())
}

fn journal() -> Option<&'static Journal> {
    static JOURNAL: OnceLock<Option<Journal>> = OnceLock::new();
    let open = || {
        let (folder, root) = (variable(FOLDER_VARIABLE)?, variable(ROOT_VARIABLE)?);
        let path = CString::new([&folder[..], b"/journal"].concat()).ok()?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        let file = real_open(libc::AT_FDCWD, path.as_ptr(), flags, 0o644);
        let fail_at = variable(FAIL_VARIABLE).and_then(|text| String::from_utf8(text).ok()?.parse().ok()).unwrap_or(0);
        let lies = variable(LIE_VARIABLE).is_some_and(|value| value == b"1");
        (file >= 0).then(|| Journal {
            folder,
            root,
            file,
            lies,
            fail_at,
            calls: AtomicU64::new(0),
            order: Mutex::new(()),
        })
    };
    JOURNAL.get_or_init(open).as_ref()
}

impl Journal {
    fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One write, so that lines of several threads do not mix.
    fn record(&self, words: &[&[u8]]) {
        let mut line = words.join(&b'\t');
        line.push(b'\n');
        // SAFETY: the bytes are there.
        unsafe { libc::syscall(libc::SYS_write, self.file, line.as_ptr(), line.len()) };
    }

    fn record_inode(&self, what: &str, path: &CStr, inode: u64) {
        self.record(&[what.as_bytes(), path.to_bytes(), inode.to_string().as_bytes()]);
    }

    /// Where `path` leads, relative to the folder that `folder` stands for; none where it is nothing of ours.
    fn place(&self, folder: c_int, path: *const c_char) -> Option<Place> {
        if path.is_null() {
            return None;
        }
        // SAFETY: callers of libc give a C string.
        let path = unsafe { CStr::from_ptr(path) }.to_bytes();
        let whole = match (path.first()?, usize::try_from(folder).ok().and_then(|at| OPEN.get(at))) {
            (b'/', _) => path.to_vec(),
            (_, Some(open)) if open.load(Ordering::Relaxed) != 0 => [&path_of(folder)?[..], b"/", path].concat(),
            _ => return None,
        };
        self.place_of(&whole)
    }

    fn place_of(&self, whole: &[u8]) -> Option<Place> {
        let mut plain: Vec<u8> = Vec::with_capacity(whole.len());
        for part in whole.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            plain.push(b'/');
            plain.extend_from_slice(part);
        }
        let rest = plain.strip_prefix(&self.root[..])?;
        if rest.is_empty() {
            return Some(Place::Root);
        }
        let first = rest.strip_prefix(b"/")?.split(|byte| *byte == b'/').next()?;
        let ours = first.starts_with(b"state-") || first == b"pins" || first == b"incoming";
        ours.then(|| CString::new(plain).ok().map(Place::Inside))?
    }

    fn inside(&self, folder: c_int, path: *const c_char) -> Option<CString> {
        match self.place(folder, path)? {
            Place::Root => None,
            Place::Inside(path) => Some(path),
        }
    }

    /// Gives a new file its second name, by which the test finds its bytes.
    fn keep(&self, path: &CStr, inode: u64) {
        let Ok(kept) = CString::new([&self.folder[..], b"/inodes/", inode.to_string().as_bytes()].concat()) else {
            return;
        };
        let here = libc::AT_FDCWD;
        // SAFETY: both are C strings.
        unsafe { libc::syscall(libc::SYS_linkat, here, path.as_ptr(), here, kept.as_ptr(), 0) };
    }

    /// Counts a call; whether it is the one that fails.
    fn fails(&self, what: &str, path: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        if self.fail_at == 0 {
            return false;
        }
        let path = path().unwrap_or_default();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name.starts_with(b"LOG") || self.calls.fetch_add(1, Ordering::Relaxed) + 1 != self.fail_at {
            return false;
        }
        self.record(&[b"failed", what.as_bytes(), &path]);
        // SAFETY: the thread's own errno.
        unsafe { *libc::__errno_location() = libc::EIO };
        true
    }

    /// A change of names, its line after it, and nothing in between.
    fn change(&self, what: &str, path: &CStr, call: impl FnOnce() -> c_int, line: impl FnOnce(&Self)) -> c_int {
        let _order = self.order();
        if self.fails(what, || Some(path.to_bytes().to_vec())) {
            return -1;
        }
        let outcome = call();
        if outcome >= 0 {
            line(self);
        }
        outcome
    }
}

fn real_open(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's arguments, as they came.
    unsafe { libc::syscall(libc::SYS_openat, folder, path, flags, mode) as c_int }
}

fn status_of(fd: c_int) -> Option<libc::stat> {
    // SAFETY: all zeros is a stat, and fstat fills it.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    (unsafe { libc::fstat(fd, &raw mut status) } == 0).then_some(status)
}

fn status_at(path: &CStr) -> Option<libc::stat> {
    // SAFETY: all zeros is a stat, and fstatat fills it.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let found = unsafe { libc::fstatat(libc::AT_FDCWD, path.as_ptr(), &raw mut status, libc::AT_SYMLINK_NOFOLLOW) };
    (found == 0).then_some(status)
}

fn path_of(fd: c_int) -> Option<Vec<u8>> {
    let link = CString::new(format!("/proc/self/fd/{fd}")).ok()?;
    let mut path = vec![0_u8; 4096];
    // SAFETY: the buffer is as long as is said.
    let bytes = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    path.truncate(usize::try_from(bytes).ok()?);
    Some(path)
}

/// The journal, and what a descriptor of ours stands for.
fn ours(fd: c_int) -> Option<(&'static Journal, libc::stat)> {
    let open = OPEN.get(usize::try_from(fd).ok()?)?;
    let inode = open.load(Ordering::Relaxed);
    if inode == 0 {
        return None;
    }
    let journal = journal()?;
    let status = status_of(fd).filter(|status| status.st_ino == inode);
    let status = status.filter(|_| path_of(fd).is_some_and(|path| journal.place_of(&path).is_some()));
    if status.is_none() {
        open.store(0, Ordering::Relaxed);
    }
    Some((journal, status?))
}

/// From now on a descriptor stands for this, or for nothing of ours.
fn stands_for(fd: c_int, inode: u64) {
    if let Some(open) = usize::try_from(fd).ok().and_then(|at| OPEN.get(at)) {
        open.store(inode, Ordering::Relaxed);
    }
}

fn open_at(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let Some((journal, place)) = journal().and_then(|journal| Some((journal, journal.place(folder, path)?))) else {
        let fd = real_open(folder, path, flags, mode);
        stands_for(fd, 0);
        return fd;
    };
    let fd = match &place {
        Place::Inside(whole) if flags & (libc::O_CREAT | libc::O_TRUNC) != 0 => {
            let before = status_at(whole);
            let open = || real_open(folder, path, flags, mode);
            journal.change("open", whole, open, |journal| {
                let Some(inode) = status_at(whole).map(|status| status.st_ino) else { return };
                match before {
                    None => {
                        journal.keep(whole, inode);
                        journal.record_inode("file", whole, inode);
                    }
                    Some(before) if flags & libc::O_TRUNC != 0 && before.st_size > 0 => {
                        journal.record(&[b"truncate", inode.to_string().as_bytes(), b"0"]);
                    }
                    Some(_) => {}
                }
            })
        }
        _ => real_open(folder, path, flags, mode),
    };
    if fd >= 0 {
        // Not after a failure: the question would put its own error in the place of the call's.
        stands_for(fd, status_of(fd).map_or(0, |status| status.st_ino));
    }
    fd
}

/// Whether a write may go on. `at`: where, for those that say so.
fn may_write(fd: c_int, at: Option<i64>) -> bool {
    let Some((journal, status)) = ours(fd) else { return true };
    if journal.fails("write", || path_of(fd)) {
        return false;
    }
    // SAFETY: plain questions about a descriptor.
    let appends = unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_APPEND != 0;
    // SAFETY: as above.
    let at = at.unwrap_or_else(|| unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) });
    if !appends && at < status.st_size {
        journal.record(&[b"overwrite", status.st_ino.to_string().as_bytes()]);
    }
    true
}

fn sync(fd: c_int, call: c_long) -> c_int {
    // SAFETY: the caller's arguments, as they came.
    let real = || unsafe { libc::syscall(call, fd) as c_int };
    let Some((journal, status)) = ours(fd) else { return real() };
    let is_folder = status.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let root = path_of(fd).is_some_and(|path| path == journal.root);
    if !root && journal.fails(if is_folder { "sync of a folder" } else { "sync" }, || path_of(fd)) {
        return -1;
    }
    if journal.lies && !root {
        return 0;
    }
    let inode = status.st_ino.to_string();
    if is_folder {
        let _order = journal.order();
        let outcome = real();
        if outcome == 0 {
            journal.record(&[b"syncdir", inode.as_bytes()]);
        }
        return outcome;
    }
    let outcome = real();
    if outcome == 0 {
        journal.record(&[b"sync", inode.as_bytes(), status.st_size.to_string().as_bytes()]);
    }
    outcome
}

fn truncate_to(fd: c_int, bytes: i64) -> c_int {
    if let Some((journal, status)) = ours(fd) {
        if journal.fails("truncate", || path_of(fd)) {
            return -1;
        }
        if bytes < status.st_size {
            journal.record(&[b"truncate", status.st_ino.to_string().as_bytes(), bytes.to_string().as_bytes()]);
        }
    }
    // SAFETY: the caller's arguments, as they came.
    unsafe { libc::syscall(libc::SYS_ftruncate, fd, bytes) as c_int }
}

fn rename_at(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_uint) -> c_int {
    // SAFETY: the caller's arguments, as they came.
    let real = || unsafe { libc::syscall(libc::SYS_renameat2, from_dir, from, to_dir, to, flags) as c_int };
    let places = journal().and_then(|j| Some((j, j.inside(from_dir, from)?, j.inside(to_dir, to)?)));
    let Some((journal, source, target)) = places else { return real() };
    journal.change("rename", &target, real, |journal| {
        journal.record(&[b"rename", source.to_bytes(), target.to_bytes()]);
    })
}

fn link_at(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's arguments, as they came.
    let real = || unsafe { libc::syscall(libc::SYS_linkat, from_dir, from, to_dir, to, flags) as c_int };
    let Some((journal, target)) = journal().and_then(|j| Some((j, j.inside(to_dir, to)?))) else { return real() };
    journal.change("link", &target, real, |journal| {
        if let Some(status) = status_at(&target) {
            journal.record_inode("link", &target, status.st_ino);
        }
    })
}

fn unlink_at(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's arguments, as they came.
    let real = || unsafe { libc::syscall(libc::SYS_unlinkat, folder, path, flags) as c_int };
    let Some((journal, whole)) = journal().and_then(|j| Some((j, j.inside(folder, path)?))) else { return real() };
    let what = if flags & libc::AT_REMOVEDIR == 0 { "unlink" } else { "rmdir" };
    journal.change(what, &whole, real, |journal| journal.record(&[what.as_bytes(), whole.to_bytes()]))
}

fn mkdir_at(folder: c_int, path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the caller's arguments, as they came.
    let real = || unsafe { libc::syscall(libc::SYS_mkdirat, folder, path, mode) as c_int };
    let Some((journal, whole)) = journal().and_then(|j| Some((j, j.inside(folder, path)?))) else { return real() };
    journal.change("mkdir", &whole, real, |journal| {
        if let Some(status) = status_at(&whole) {
            journal.record_inode("mkdir", &whole, status.st_ino);
        }
    })
}

/// Functions of libc, each the same as one above.
macro_rules! stand_in {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty = $body:expr;)*) => {
        $(#[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $kind),*) -> $result {
            $body
        })*
    };
}

const HERE: c_int = libc::AT_FDCWD;

// `open` and its kin take their mode as a variable argument, which comes where a third or fourth one does.
stand_in! {
    open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int = open_at(HERE, path, flags, mode);
    open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int = open_at(HERE, path, flags, mode);
    __open_2(path: *const c_char, flags: c_int) -> c_int = open_at(HERE, path, flags, 0);
    __open64_2(path: *const c_char, flags: c_int) -> c_int = open_at(HERE, path, flags, 0);
    openat(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int =
        open_at(folder, path, flags, mode);
    openat64(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int =
        open_at(folder, path, flags, mode);
    fsync(fd: c_int) -> c_int = sync(fd, libc::SYS_fsync);
    fdatasync(fd: c_int) -> c_int = sync(fd, libc::SYS_fdatasync);
    ftruncate(fd: c_int, bytes: i64) -> c_int = truncate_to(fd, bytes);
    ftruncate64(fd: c_int, bytes: i64) -> c_int = truncate_to(fd, bytes);
    rename(from: *const c_char, to: *const c_char) -> c_int = rename_at(HERE, from, HERE, to, 0);
    renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int =
        rename_at(from_dir, from, to_dir, to, 0);
    renameat2(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_uint) -> c_int =
        rename_at(from_dir, from, to_dir, to, flags);
    link(from: *const c_char, to: *const c_char) -> c_int = link_at(HERE, from, HERE, to, 0);
    linkat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_int) -> c_int =
        link_at(from_dir, from, to_dir, to, flags);
    unlink(path: *const c_char) -> c_int = unlink_at(HERE, path, 0);
    unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int = unlink_at(folder, path, flags);
    rmdir(path: *const c_char) -> c_int = unlink_at(HERE, path, libc::AT_REMOVEDIR);
    mkdir(path: *const c_char, mode: c_uint) -> c_int = mkdir_at(HERE, path, mode);
    mkdirat(folder: c_int, path: *const c_char, mode: c_uint) -> c_int = mkdir_at(folder, path, mode);
    close(fd: c_int) -> c_int = {
        stands_for(fd, 0);
        // SAFETY: the caller's argument, as it came.
        unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
    };
    write(fd: c_int, bytes: *const c_void, count: usize) -> isize = {
        if !may_write(fd, None) {
            return -1;
        }
        // SAFETY: the caller's arguments, as they came.
        unsafe { libc::syscall(libc::SYS_write, fd, bytes, count) as isize }
    };
    writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> isize = {
        if !may_write(fd, None) {
            return -1;
        }
        // SAFETY: the caller's arguments, as they came.
        unsafe { libc::syscall(libc::SYS_writev, fd, parts, count) as isize }
    };
    pwrite(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize = write_at(fd, bytes, count, at);
    pwrite64(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize = write_at(fd, bytes, count, at);
}

fn write_at(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    if !may_write(fd, Some(at)) {
        return -1;
    }
    // SAFETY: the caller's arguments, as they came.
    unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, count, at) as isize }
}
