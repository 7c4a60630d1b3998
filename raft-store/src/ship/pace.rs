//! How fast a leader may send to members that it fills, all of them together.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes are sent at most this fast, evenly: what was not used is lost.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When the next byte may go.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second: bytes_per_second.max(1), next: Mutex::default() }
    }

    /// Waits until `bytes` may be sent.
    pub(crate) async fn take(&self, bytes: u64) {
        let at = {
            let mut next = self.next.lock();
            let now = Instant::now();
            let at = next.map_or(now, |next| next.max(now));
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
            *next = Some(at + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX >> 8)));
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn two_senders_share_the_pace_and_a_pause_is_not_made_up_for() {
        let pace = Pace::new(1_000);
        let since = Instant::now();
        let send = async || {
            for _ in 0..5 {
                pace.take(500).await;
            }
        };
        tokio::join!(send(), send());
        assert_eq!(since.elapsed().as_millis(), 4_500);
        tokio::time::advance(Duration::from_secs(60)).await;
        let since = Instant::now();
        send().await;
        assert_eq!(since.elapsed().as_millis(), 2_000);
    }
}
