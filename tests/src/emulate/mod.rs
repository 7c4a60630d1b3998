//! A client of ours that behaves on the wire as one of the official clients that are in no registry: what it sends, in
//! which order, with which headers and deadlines, where it connects to, and what it makes of the answers. It proves what
//! a broker does with such calls, and nothing about the code of those clients.
//!
//! - [`cpp`] and [`csharp`] say what is their own, as [`Habits`].
//! - [`session`] has channels, telemetry, heartbeats and routes; [`producer`] and [`consumer`] stand on it.
//! - [`scenario`] has what the programs around the official clients have, too: see [`crate::official`].

pub mod consumer;
pub mod cpp;
pub mod csharp;
pub mod features;
pub mod producer;
pub mod scenario;
pub mod session;

use std::time::Duration;

use raftmq_proto::rocketmq as pb;

/// What one client does otherwise than another.
#[derive(Debug)]
pub struct Habits {
    /// `x-mq-language`.
    pub language: &'static str,
    /// The language in its settings, which has a list of names of its own.
    pub agent: pb::Language,
    /// `x-mq-client-version`.
    pub version: &'static str,
    /// The header that names the protocol, and its value.
    pub protocol: Option<(&'static str, &'static str)>,
    /// Its own id, made of the number of the client in its process.
    pub client_id: fn(usize) -> String,
    /// Of a queue's addresses it uses the first and no other.
    pub first_address_only: bool,
    /// How often an idle connection is asked whether it lives.
    pub keep_alive: Option<Duration>,
    /// Deadline of its telemetry stream.
    pub telemetry_for: Duration,
    /// A telemetry stream that ended is opened again after so long; never when none.
    pub telemetry_again: Option<Duration>,
    /// It starts without settings after so long; never when none.
    pub settings_within: Option<Duration>,
    /// No answer may be larger.
    pub receive_bytes_max: usize,
    /// Whether a push consumer's receive says how long the poll may take; its deadline follows the settings anyhow.
    pub push_says_polling: bool,
    /// What a push consumer's receive asks for, though the broker renews its leases.
    pub push_invisible: Option<Duration>,
    /// Whether a receive that failed with `failure` is asked again under the same attempt id.
    pub same_attempt: fn(&session::Failure) -> bool,
    /// A failed message waits for the delay of its attempt and so many more.
    pub backoff_skips: usize,
    /// A simple consumer asks for its queues by QueryAssignment.
    pub simple_is_assigned: bool,
    /// A message group decides about the queue of a send.
    pub group_chooses_queue: bool,
    /// Delayed messages carry their delivery time, cut to 32 bits, as their attempt.
    pub attempt_of_delayed: bool,
    /// Says that it goes.
    pub terminates: bool,
}

/// Both clients wait so long for an answer to any call but a poll.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a send is tried.
pub const SEND_ATTEMPTS: usize = 3;

/// The habits that a word stands for.
///
/// # Errors
///
/// No client is called so.
pub fn habits(client: &str) -> anyhow::Result<&'static Habits> {
    match client {
        "cpp" => Ok(&cpp::HABITS),
        "csharp" => Ok(&csharp::HABITS),
        other => anyhow::bail!("no client is called {other}"),
    }
}
