//! Parts of messages and of what is asked about them.

use prost_types::Timestamp;
use raftmq_proto::rocketmq::Resource;

/// A name without a namespace.
#[must_use]
pub fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.to_owned() })
}

/// Ms since the Unix epoch; 0 for none.
#[must_use]
pub fn millis(at: Option<&Timestamp>) -> u64 {
    at.map_or(0, |at| u64::try_from(at.seconds).unwrap_or(0) * 1_000 + u64::try_from(at.nanos).unwrap_or(0) / 1_000_000)
}

/// From ms since the Unix epoch.
#[must_use]
pub fn timestamp(ms: u64) -> Timestamp {
    // At most 999,999,999.
    let nanos = i32::try_from(ms % 1_000 * 1_000_000).unwrap_or_default();
    Timestamp { seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX), nanos }
}

/// A body that a terminal or a page shows as it is.
#[must_use]
pub fn text(body: &[u8]) -> Option<&str> {
    let shows = |text: &&str| !text.chars().any(|sign| sign.is_control() && !matches!(sign, '\n' | '\r' | '\t'));
    std::str::from_utf8(body).ok().filter(shows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        for ms in [0, 1, 1_795_457_287_123] {
            assert_eq!(millis(Some(&timestamp(ms))), ms);
        }
    }
}
