//! What the C++ client does otherwise than others.

use std::time::Duration;

use raftmq_proto::rocketmq as pb;
use rand::random;

use super::{Habits, session::Failure};

/// It looks for a session at its access point first and does not start without settings; it pings idle connections, ends
/// its telemetry each hour, says nothing of the length of a push consumer's poll, and never that it goes.
pub const HABITS: Habits = Habits {
    language: "CPP",
    agent: pb::Language::Cpp,
    version: "5.0.4",
    protocol: Some(("x-mq-protocol-version", "v2")),
    client_id,
    first_address_only: false,
    keep_alive: Some(Duration::from_secs(60)),
    telemetry_for: Duration::from_secs(3600),
    telemetry_again: Some(Duration::from_secs(1)),
    settings_within: None,
    receive_bytes_max: usize::MAX,
    push_says_polling: false,
    push_invisible: Some(Duration::from_secs(30)),
    same_attempt,
    backoff_skips: 1,
    simple_is_assigned: true,
    group_chooses_queue: false,
    attempt_of_delayed: true,
    terminates: false,
};

fn client_id(number: usize) -> String {
    format!("localhost@{}#{number}_{}", std::process::id(), random::<u32>())
}

/// After anything but an empty answer, which is no failure here.
fn same_attempt(_: &Failure) -> bool {
    true
}
