//! What workers share: when to stop, what they counted, and the lines about it.

use super::Bounds;
use crate::output::Format;
use crate::time::{human, now_ms};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

/// Calls that are under way at the end have this long to end.
const DRAIN: Duration = Duration::from_secs(20);
/// Longer times count as this long, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;

/// Times of one kind, in microseconds: since the last line, and since the beginning.
struct Times {
    lately: Histogram<u64>,
    ever: Histogram<u64>,
}

impl Times {
    fn new() -> Times {
        // Three digits of an hour in microseconds: bounds that are known to be good.
        let empty = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are good");
        Times { lately: empty.clone(), ever: empty }
    }

    fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(LONGEST_US).clamp(1, LONGEST_US);
        self.lately.saturating_record(us);
        self.ever.saturating_record(us);
    }
}

struct Counted {
    times: Vec<Times>,
    messages: u64,
    bytes: u64,
    /// Messages since the last line.
    lately: u64,
    failed: u64,
    retried: u64,
    problem: Option<String>,
}

/// What workers count. All of them run on one thread.
pub(super) struct Load {
    counted: RefCell<Counted>,
    quantity: u64,
    taken: std::cell::Cell<u64>,
    stop: watch::Sender<bool>,
    /// What the times are of.
    names: &'static [&'static str],
    verb: &'static str,
}

impl Load {
    pub(super) fn new(bounds: &Bounds, verb: &'static str, names: &'static [&'static str]) -> Load {
        let counted = Counted {
            times: names.iter().map(|_| Times::new()).collect(),
            messages: 0,
            bytes: 0,
            lately: 0,
            failed: 0,
            retried: 0,
            problem: None,
        };
        Load {
            counted: RefCell::new(counted),
            quantity: bounds.quantity,
            taken: std::cell::Cell::new(0),
            stop: watch::Sender::new(false),
            names,
            verb,
        }
    }

    /// Whether there is to be one more, of so many; it is counted as begun.
    pub(super) fn goes_on(&self, messages: u64) -> bool {
        if *self.stop.borrow() || (self.quantity > 0 && self.taken.get() >= self.quantity) {
            return false;
        }
        self.taken.set(self.taken.get() + messages);
        true
    }

    /// Waits until nothing new is to begin.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // It ends with the load itself.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Messages that went well, with a time of each kind.
    pub(super) fn done(&self, messages: u64, bytes: u64, times: &[Duration]) {
        let mut counted = self.counted.borrow_mut();
        counted.messages += messages;
        counted.lately += messages;
        counted.bytes += bytes;
        for (kind, took) in counted.times.iter_mut().zip(times) {
            kind.record(*took);
        }
    }

    pub(super) fn retried(&self) {
        self.counted.borrow_mut().retried += 1;
    }

    /// Messages that came to nothing, and why; the first reason is shown.
    pub(super) fn failed(&self, messages: u64, why: impl Into<String>) {
        let mut counted = self.counted.borrow_mut();
        counted.failed += messages;
        if counted.problem.is_none() {
            counted.problem = Some(why.into());
        }
    }

    /// Runs the workers until they have all ended; returns how long that took.
    pub(super) async fn run(
        &self,
        bounds: &Bounds,
        workers: Vec<impl Future<Output = ()>>,
        format: Format,
    ) -> Duration {
        let began = Instant::now();
        // On this thread, each when it is woken.
        let all = workers.into_iter().collect::<FuturesUnordered<_>>().collect::<()>();
        let mut all = std::pin::pin!(all);
        let every = Duration::from_millis(bounds.interval);
        let mut lines = interval_at(began + every, every);
        lines.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end = std::pin::pin!(sleep(bounds.time()));
        let mut last = began;
        loop {
            tokio::select! {
                () = &mut all => break,
                _ = lines.tick() => {
                    self.say(&self.line(last.elapsed()), format);
                    last = Instant::now();
                }
                () = &mut end => {
                    self.stop.send_replace(true);
                    let _ = timeout(DRAIN, &mut all).await;
                    break;
                }
                pressed = tokio::signal::ctrl_c() => {
                    // Where the system gives no signals there are none to wait for.
                    if pressed.is_err() {
                        continue;
                    }
                    self.say("stopping; press Ctrl-C once more to stop at once", Format::Json);
                    self.stop.send_replace(true);
                    tokio::select! {
                        _ = timeout(DRAIN, &mut all) => {}
                        _ = tokio::signal::ctrl_c() => {}
                    }
                    break;
                }
            }
        }
        began.elapsed()
    }

    /// Lines stand beside the document that programs read.
    fn say(&self, line: &str, format: Format) {
        match format {
            Format::Text => println!("{line}"),
            Format::Json => eprintln!("{line}"),
        }
    }

    fn line(&self, since: Duration) -> String {
        let mut counted = self.counted.borrow_mut();
        let mut line = format!("Current Time: {} | TPS: {:.0}", human(now_ms()), rate(counted.lately, since));
        for (name, kind) in self.names.iter().zip(&mut counted.times) {
            line += &format!(
                " | Max {name}(ms): {:.1} | Average {name}(ms): {:7.3}",
                ms(kind.lately.max()),
                kind.lately.mean() / 1_000.0
            );
            kind.lately.reset();
        }
        counted.lately = 0;
        format!("{line} | {} Failed: {}", self.verb, counted.failed)
    }

    /// The summary as text, and for programs.
    pub(super) fn summary(&self, took: Duration) -> (String, Value, Option<String>) {
        let counted = self.counted.borrow();
        let (messages, per_second) = (counted.messages, rate(counted.messages, took));
        let mut text = format!(
            "[Complete] {} Total: {messages} | {} TPS: {per_second:.0} | {:.1} MiB/s | {} Failed: {} | Retried: {} | {:.1} s\n",
            self.verb,
            self.verb,
            rate(counted.bytes, took) / 1_048_576.0,
            self.verb,
            counted.failed,
            counted.retried,
            took.as_secs_f64()
        );
        let mut json = json!({
            "messages": messages, "failed": counted.failed, "retried": counted.retried, "bytes": counted.bytes,
            "seconds": took.as_secs_f64(), "tps": per_second,
        });
        for (name, kind) in self.names.iter().zip(&counted.times) {
            let at = |quantile: f64| ms(kind.ever.value_at_quantile(quantile));
            let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), ms(kind.ever.max()));
            let mean = kind.ever.mean() / 1_000.0;
            text += &format!(
                "{name}(ms): average {mean:.3} | p50 {p50:.3} | p99 {p99:.3} | p99.9 {p999:.3} | max {max:.3}\n"
            );
            json[name.to_lowercase()] = json!({
                "averageMs": mean, "p50Ms": p50, "p99Ms": p99, "p999Ms": p999, "maxMs": max,
            });
        }
        (text, json, counted.problem.clone())
    }
}

// What is shown has few digits.
#[allow(clippy::cast_precision_loss)]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(0.001)
}

#[allow(clippy::cast_precision_loss)]
fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}
