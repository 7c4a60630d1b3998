//! Preloaded (`LD_PRELOAD`) into a node by tests: its wall clock is off by what a file says. Never part of what is shipped.
//!
//! The file has one number, signed, 64 bits, in this machine's order: milliseconds. It is mapped, so that whoever writes
//! another number makes the clock of the running node jump, as an operator or a wrong time server does. The monotonic
//! clocks go on as they are, as they do in reality.
//!
//! Not modelled: threads that wait until a time of day. The kernel wakes them by its own clock. Nothing of ours waits
//! so, and of RocksDB only what writes its statistics.

#![allow(unsafe_code, reason = "it stands in the place of functions of libc")]

use std::ffi::{c_int, c_void};
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};

/// Names the file.
const FILE_VARIABLE: &std::ffi::CStr = c"RAFTMQ_TEST_CLOCK";
const NANOS: i64 = 1_000_000_000;

/// Where the number is mapped; null before the first look, and `NONE` when there is no file.
static MAPPED: AtomicPtr<AtomicI64> = AtomicPtr::new(null_mut());
const NONE: usize = usize::MAX;

/// What the wall clock is off by, in milliseconds. Allocates nothing: allocators ask for the time too.
fn offset_ms() -> i64 {
    let mut at = MAPPED.load(Ordering::Acquire);
    if at.is_null() {
        // Two threads may both do this first: they map the same file.
        at = map().unwrap_or(without_provenance_mut(NONE));
        MAPPED.store(at, Ordering::Release);
    }
    // SAFETY: it is mapped for as long as the process lives, and aligned as pages are.
    if at.addr() == NONE { 0 } else { unsafe { &*at }.load(Ordering::Relaxed) }
}

fn map() -> Option<*mut AtomicI64> {
    // SAFETY: a C string; nobody changes the environment of a node.
    let path = unsafe { libc::getenv(FILE_VARIABLE.as_ptr()) };
    if path.is_null() {
        return None;
    }
    // SAFETY: `getenv` gave a C string.
    let file = unsafe { libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    let bytes = size_of::<AtomicI64>();
    // SAFETY: a new mapping, of a file that is open.
    let at = unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file, 0) };
    // SAFETY: a mapping outlives its descriptor.
    unsafe { libc::close(file) };
    (at != libc::MAP_FAILED).then_some(at.cast())
}

fn is_wall_clock(clock: libc::clockid_t) -> bool {
    [libc::CLOCK_REALTIME, libc::CLOCK_REALTIME_COARSE, libc::CLOCK_TAI].contains(&clock)
}

fn time_of(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    // SAFETY: the caller's arguments, as they came. By `syscall`, which leaves nobody to call in circles.
    let outcome = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    if outcome == 0 && is_wall_clock(clock) {
        // SAFETY: the kernel has just written there.
        let time = unsafe { &mut *time };
        let nanos = time.tv_nsec + offset_ms() % 1_000 * 1_000_000;
        time.tv_sec += offset_ms() / 1_000 + nanos.div_euclid(NANOS);
        time.tv_nsec = nanos.rem_euclid(NANOS);
    }
    outcome
}

#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    time_of(clock, time)
}

#[unsafe(no_mangle)]
extern "C" fn gettimeofday(time: *mut libc::timeval, _zone: *mut c_void) -> c_int {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let outcome = time_of(libc::CLOCK_REALTIME, &raw mut now);
    if outcome == 0 && !time.is_null() {
        // SAFETY: the caller's place for it.
        unsafe { *time = libc::timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1_000 } };
    }
    outcome
}

#[unsafe(no_mangle)]
extern "C" fn time(seconds: *mut libc::time_t) -> libc::time_t {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    if time_of(libc::CLOCK_REALTIME, &raw mut now) != 0 {
        return -1;
    }
    if !seconds.is_null() {
        // SAFETY: the caller's place for it.
        unsafe { *seconds = now.tv_sec };
    }
    now.tv_sec
}
