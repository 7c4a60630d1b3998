//! Finds messages through the public Admin service, call after call until the end of the log, with a word on standard
//! error when that takes long.

use super::message::{resource, timestamp};
use super::public::{check, on_group_admin};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use clap::Args;
use raftmq_proto::rocketmq::list_message_request::SearchKey;
use raftmq_proto::rocketmq::{Code, ListMessageRequest, Message};
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::Instant;

/// Messages of one answer.
const BATCH: i32 = 64;
/// Between two words about a search that goes on.
const WORD_EVERY: Duration = Duration::from_secs(3);

/// How long is looked for messages.
#[derive(Debug, Args)]
pub(super) struct Patience {
    /// Give up after so many seconds of reading.
    #[arg(long = "within", value_name = "SECONDS", default_value_t = 60)]
    within: u64,
}

impl Patience {
    pub(super) fn until(&self) -> Instant {
        // A year is as good as for ever.
        Instant::now() + Duration::from_secs(self.within.min(31_536_000))
    }

    /// What is said of a search that was given up.
    pub(super) fn gave_up(&self, broker_group: &str) -> String {
        format!(
            "broker group {broker_group}: not read to the end within {} s; name a shorter time, or more seconds with \
             --within",
            self.within
        )
    }
}

/// What is looked for. Without a key, every message.
#[derive(Debug, Clone, Default)]
pub(super) struct Search {
    pub topic: String,
    pub key: Option<SearchKey>,
    /// Stored then or later, ms since the Unix epoch; where the broker thinks it best when not given.
    pub from_ms: Option<u64>,
    /// Stored then or earlier.
    pub until_ms: Option<u64>,
    /// Only in this queue of the broker group.
    pub queue: Option<u16>,
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// There is no more.
    All,
    /// Whoever asked has enough.
    Enough,
    /// It took too long.
    Late,
    /// The broker group has no such topic.
    NoTopic,
}

/// Hands each message that is found to `each`, queue after queue, until that breaks.
pub(super) async fn search(
    directory: &Directory,
    group: &Group,
    search: &Search,
    until: Instant,
    mut each: impl FnMut(Message) -> ControlFlow<()>,
) -> Result<End, AdminError> {
    let mut request = ListMessageRequest {
        topic: resource(&search.topic),
        max_message_nums: BATCH,
        begin_timestamp: search.from_ms.map(timestamp),
        end_timestamp: search.until_ms.map(timestamp),
        search_key: search.key.clone(),
        broker_name: search.queue.map(|_| group.name.clone()),
        queue_id: search.queue.map(i32::from),
        ..ListMessageRequest::default()
    };
    let began = Instant::now();
    let (mut said, mut found) = (began, 0_u64);
    loop {
        let (address, answer) = on_group_admin(directory, group, |mut node| {
            let request = request.clone();
            async move { Ok(node.query_message(request).await?.into_inner()) }
        })
        .await?;
        match answer.status.as_ref().map(raftmq_proto::rocketmq::Status::code) {
            Some(Code::MessageNotFound) => return Ok(End::All),
            Some(Code::TopicNotFound) => return Ok(End::NoTopic),
            _ => check(&address, answer.status.as_ref())?,
        }
        for message in answer.messages {
            found += 1;
            if each(message).is_break() {
                return Ok(End::Enough);
            }
        }
        if answer.scroll_id.is_empty() {
            return Ok(End::All);
        }
        if Instant::now() >= until {
            return Ok(End::Late);
        }
        if said.elapsed() >= WORD_EVERY {
            said = Instant::now();
            let seconds = began.elapsed().as_secs();
            eprintln!("mqadmin: reading {} for {seconds} s, {found} messages so far", group.name);
        }
        request.scroll_id = Some(answer.scroll_id);
    }
}
