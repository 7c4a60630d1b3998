//! Progress of what takes long, on standard error: a bar where somebody looks at it, elsewhere a line now and then.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Where standard error is no terminal, progress is a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Characters of the bar.
const BAR_CHARS: u64 = 30;

/// `[###...] 50 %`
pub(crate) fn bar(done: u64, of: u64) -> String {
    let done = done.min(of);
    let filled = usize::try_from(done * BAR_CHARS / of.max(1)).unwrap_or_default();
    let (filled, rest) = ("#".repeat(filled), ".".repeat((BAR_CHARS as usize).saturating_sub(filled)));
    format!("[{filled}{rest}] {} %", done * 100 / of.max(1))
}

/// The line that says how far something is.
pub(crate) struct Progress {
    terminal: bool,
    /// Something stands on the terminal's line.
    open: bool,
    said: Option<Instant>,
}

impl Progress {
    /// Says at once what it is told first.
    pub(crate) fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), open: false, said: None }
    }

    /// Of what is mostly over at once: where there is no terminal it says nothing until it has taken a while.
    pub(crate) fn patient() -> Progress {
        Progress { said: Some(Instant::now()), ..Progress::new() }
    }

    /// Where there is no terminal, `news` are said at once, and the rest now and then.
    pub(crate) fn show(&mut self, text: &str, news: bool) {
        if self.terminal {
            // Nobody reads it when standard error is closed.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
            self.open = true;
        } else if news || self.said.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            eprintln!("{text}");
            self.said = Some(Instant::now());
        }
    }

    /// So much of so much.
    pub(crate) fn step(&mut self, done: usize, of: usize, what: &str) {
        self.show(&format!("{}: {done} of {of} {what}", bar(done as u64, of as u64)), false);
    }

    /// Leaves the line of the bar.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            eprintln!();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn the_bar_is_as_long_as_it_should_be() {
        assert_eq!(bar(50, 100), format!("[{}{}] 50 %", "#".repeat(15), ".".repeat(15)));
        assert_eq!(bar(0, 0), format!("[{}] 0 %", ".".repeat(30)));
        assert_eq!(bar(9, 7), format!("[{}] 100 %", "#".repeat(30)));
    }
}
