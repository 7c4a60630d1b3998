//! Calls that are being served at the moment, by the names of RocketMQ's thread pools.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicI64, Ordering};

const PROCESSORS: [&str; 6] = ["send", "pull", "ack", "end_transaction", "heartbeat", "admin"];

/// Which of them RocketMQ gives a call to.
fn processor(rpc: &str) -> usize {
    match rpc {
        "SendMessage" => 0,
        "ReceiveMessage" => 1,
        "AckMessage" | "ChangeInvisibleDuration" => 2,
        "EndTransaction" => 3,
        "Heartbeat" => 4,
        _ => 5,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProcessor {
    processor: &'static str,
}

/// How many calls each has.
#[derive(Default)]
pub(super) struct Served([AtomicI64; PROCESSORS.len()]);

/// A call that is being served, until this is dropped.
pub(crate) struct Serving<'s>(&'s AtomicI64);

impl Served {
    pub(super) fn begin(&self, rpc: &str) -> Serving<'_> {
        let calls = &self.0[processor(rpc)];
        calls.fetch_add(1, Ordering::Relaxed);
        Serving(calls)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let family: Family<OfProcessor, Gauge> = Family::default();
        for (processor, calls) in PROCESSORS.into_iter().zip(&self.0) {
            family.get_or_create(&OfProcessor { processor }).set(calls.load(Ordering::Relaxed));
        }
        registry.register("rocketmq_processor_watermark", "Calls that are being served, without long polls", family);
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_while_it_is_served() {
        let served = Served::default();
        let shown = || {
            let mut registry = Registry::default();
            served.register(&mut registry);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("it is text");
            let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
            lines.retain(|line| !line.ends_with(" 0"));
            lines.sort();
            lines
        };
        let name =
            |processor: &str, calls| format!("rocketmq_processor_watermark{{processor=\"{processor}\"}} {calls}");
        let sends = (served.begin("SendMessage"), served.begin("SendMessage"));
        let other = served.begin("QueryRoute");
        assert_eq!(shown(), [name("admin", 1), name("send", 2)]);
        drop((sends, other));
        assert!(shown().is_empty());
    }
}
