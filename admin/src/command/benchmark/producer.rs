//! `benchmark producer`: many sends at a time, each counted when it is answered.

use super::super::probe::TOPIC;
use super::super::public::Client;
use super::Bounds;
use super::load::Load;
use super::route::{Way, ways};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Format, Outcome};
use bytes::Bytes;
use clap::Args;
use raftmq_admin_client::message::{resource, timestamp};
use raftmq_proto::rocketmq::{
    Code, Encoding, Message, MessageType, Permission, SendMessageRequest, SendMessageResponse, SystemProperties,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Attempts at one send, as clients make them.
const ATTEMPTS: usize = 3;
/// After a send that came to nothing, so that a cluster which is down is not asked as fast as possible.
const PAUSE: Duration = Duration::from_millis(100);

/// Send messages, so many calls at a time.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin benchmark producer -n localhost:9876 -t TOOLS_BENCHMARK -w 64 -s 1024")]
pub(super) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic", default_value = TOPIC)]
    topic: String,
    /// Calls at a time.
    #[arg(short = 'w', long = "threadCount", value_name = "CALLS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    workers: u32,
    /// Bytes of a body.
    #[arg(short = 's', long = "messageSize", value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    size: u32,
    /// Messages in one call.
    #[arg(long = "batch", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    batch: u32,
    /// Give each message a key.
    #[arg(short = 'k', long = "keyEnable", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    keys: bool,
    /// Spread messages over so many tags.
    #[arg(short = 'l', long = "tagCount", value_name = "TAGS", default_value_t = 0)]
    tags: u32,
    /// Delay each message by so many milliseconds; the topic must be of type DELAY.
    #[arg(long = "delay", value_name = "MS", default_value_t = 0)]
    delay: u64,
    /// Accepted and ignored: there is no topic of traces.
    #[arg(short = 'm', long = "msgTraceEnable", hide = true, action = clap::ArgAction::Set)]
    _trace: Option<bool>,
    #[command(flatten)]
    bounds: Bounds,
}

pub(super) async fn run(directory: &Directory, arguments: &Arguments, format: Format) -> Result<Outcome, AdminError> {
    let client = Client::new("mqadmin-benchmark", directory.token.credentials.clone());
    let ways = ways(directory, &client, &arguments.topic, Permission::Write).await?;
    let load = Load::new(&arguments.bounds, "Send", &["RT"]);
    let body = Bytes::from(vec![b'a'; arguments.size as usize]);
    let worker = |number: u32| work(&client, &ways, &load, arguments, &body, number as usize);
    let workers = (0..arguments.workers).map(worker).collect();
    let took = load.run(&arguments.bounds, workers, format).await;
    let (text, json, problem) = load.summary(took);
    Ok(Outcome { text, json, failures: problem.into_iter().collect() })
}

async fn work(client: &Client, ways: &[Way], load: &Load, arguments: &Arguments, body: &Bytes, number: usize) {
    let batch = u64::from(arguments.batch);
    let (mut queue, mut sent) = (number, 0_u32);
    while load.goes_on(batch) {
        let messages: Vec<Message> = (0..arguments.batch)
            .map(|place| message(client, arguments, body, sent.wrapping_mul(arguments.batch).wrapping_add(place)))
            .collect();
        sent = sent.wrapping_add(1);
        let began = Instant::now();
        let mut outcome = Err(String::new());
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                load.retried();
            }
            let way = &ways[queue % ways.len()];
            // The next one goes to the next queue, and so does another attempt, to another node of it.
            queue = queue.wrapping_add(1);
            let mut node = way.nodes[attempt % way.nodes.len()].clone();
            let request = client.request(SendMessageRequest { messages: messages.clone() });
            outcome = match node.send_message(request).await {
                Ok(answer) => problem(&answer.into_inner()),
                Err(status) => Err(crate::connect::at(&arguments.topic, &status)),
            };
            if outcome.is_ok() {
                break;
            }
        }
        match outcome {
            Ok(()) => load.done(batch, batch * u64::from(arguments.size), &[began.elapsed()]),
            Err(why) => {
                load.failed(batch, why);
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether all were stored.
fn problem(answer: &SendMessageResponse) -> Result<(), String> {
    let statuses = answer.entries.iter().filter_map(|entry| entry.status.as_ref()).chain(answer.status.as_ref());
    match statuses.into_iter().find(|status| status.code() != Code::Ok) {
        Some(status) => Err(format!("{}: {}", status.code().as_str_name(), status.message)),
        None => Ok(()),
    }
}

fn message(client: &Client, arguments: &Arguments, body: &Bytes, number: u32) -> Message {
    let message_id = client.message_id();
    let now = crate::time::now_ms();
    let delayed = arguments.delay > 0;
    let kind = if delayed { MessageType::Delay } else { MessageType::Normal };
    Message {
        topic: resource(&arguments.topic),
        system_properties: Some(SystemProperties {
            tag: number.checked_rem(arguments.tags).map(|tag| format!("tag{tag}")),
            keys: if arguments.keys { vec![message_id.clone()] } else { Vec::new() },
            message_id,
            body_encoding: Encoding::Identity.into(),
            message_type: kind.into(),
            born_timestamp: Some(timestamp(now)),
            born_host: "mqadmin".to_owned(),
            delivery_timestamp: delayed.then(|| timestamp(now.saturating_add(arguments.delay))),
            ..SystemProperties::default()
        }),
        body: body.clone(),
        ..Message::default()
    }
}
