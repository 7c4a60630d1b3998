//! Asking before something is done that cannot be undone, or that takes something away from clients that run.

use crate::error::AdminError;
use clap::Args;
use std::io::IsTerminal as _;

/// `-y`.
#[derive(Debug, Args)]
pub(crate) struct Consent {
    /// Do not ask first.
    #[arg(short = 'y', long = "yes")]
    yes: bool,
}

impl Consent {
    /// Asks where somebody can be asked, and goes on where nobody can: RocketMQ has no `-y` for these commands, and
    /// its users' scripts do not say it.
    pub(crate) fn ask(&self, what: &str) -> Result<(), AdminError> {
        if self.asks() { asked(what) } else { Ok(()) }
    }

    /// Whether [`Consent::ask`] would ask: what the question is about need not be looked up otherwise.
    pub(crate) fn asks(&self) -> bool {
        !self.yes && std::io::stdin().is_terminal()
    }

    /// Asks, and wants `-y` where nobody can be asked.
    pub(crate) fn need(&self, what: &str) -> Result<(), AdminError> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(AdminError::Usage(format!("{what} Say -y to do so without being asked.")));
        }
        asked(what)
    }
}

fn asked(what: &str) -> Result<(), AdminError> {
    eprint!("{what} Go on? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" if read.is_ok() => Ok(()),
        _ => Err(AdminError::Usage("nothing was changed".to_owned())),
    }
}
