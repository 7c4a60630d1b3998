//! Why a call failed, in sentences that say what to do.

use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No name server answered.
    #[error(
        "no name server answers: {reasons}; start one with mqnamesrv, or name the right one with -n HOST:PORT or \
         NAMESRV_ADDR (or a broker's brokerIP1:listenPort with -b, where a command takes it)"
    )]
    NoNameServer {
        /// Each address and why it did not answer.
        reasons: String,
    },
    /// The name servers do not know what was asked for.
    #[error("{0}")]
    Unknown(String),
    /// No node of a broker group answered.
    #[error("no node of broker group {broker_group} answers: {reasons}")]
    NoNode {
        /// The broker group.
        broker_group: String,
        /// Each address and why it did not answer.
        reasons: String,
    },
    /// Nobody who leads took a change of the members.
    #[error(
        "broker group {broker_group} had no leader for {seconds} s that could change its members: {reasons}; a majority \
         of its voters must be up (haStatus shows who is), then run the command again: it goes on from where it stopped"
    )]
    NoLeader {
        /// The broker group.
        broker_group: String,
        /// How long one was looked for.
        seconds: u64,
        /// Each address and what it said.
        reasons: String,
    },
    /// A node refused.
    #[error("{address}: {message}")]
    Refused {
        /// The node.
        address: String,
        /// gRPC's code.
        code: Code,
        /// What it said.
        message: String,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Usage(String),
}

impl AdminError {
    /// What a node answered with.
    #[must_use]
    pub fn refused(address: &str, status: &Status) -> AdminError {
        let message = match reason(status) {
            message if message.is_empty() => format!("{:?}", status.code()),
            message => message,
        };
        AdminError::Refused { address: address.to_owned(), code: status.code(), message }
    }
}

/// Why a call did not arrive, or what the node said about not being able to: the innermost cause.
pub fn reason(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut innermost = None;
    while let Some(error) = source {
        innermost = Some(error.to_string());
        source = error.source();
    }
    innermost.unwrap_or_else(|| status.message().to_owned())
}
