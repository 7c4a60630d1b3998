//! What the C# client does otherwise than others.

use std::time::Duration;

use raftmq_proto::rocketmq as pb;
use rand::random;

use super::{Habits, session::Failure};

/// It knows one address of each queue, waits a few seconds for settings and then goes on without, never opens a telemetry
/// stream again, and receives no answer above its library's 4 MiB.
pub const HABITS: Habits = Habits {
    language: "DOTNET",
    agent: pb::Language::DotNet,
    version: "5.1.0",
    protocol: None,
    client_id,
    first_address_only: true,
    keep_alive: None,
    telemetry_for: Duration::from_secs(3650 * 24 * 3600),
    telemetry_again: None,
    settings_within: Some(Duration::from_secs(6)),
    receive_bytes_max: 4 << 20,
    push_says_polling: true,
    push_invisible: None,
    same_attempt,
    backoff_skips: 0,
    simple_is_assigned: false,
    group_chooses_queue: true,
    attempt_of_delayed: false,
    terminates: true,
};

fn client_id(number: usize) -> String {
    format!("localhost@{}@{number}@{:x}", std::process::id(), random::<u32>())
}

fn same_attempt(failure: &Failure) -> bool {
    matches!(failure, Failure::Transport(tonic::Code::DeadlineExceeded, _))
}
