//! The leader's side: sends a shipment to a member that asks for it, at the pace that the configuration allows.

use super::{PART_BYTES, Pace, SILENCE_MAX, Shipment, WINDOW_BYTES, entries_crc, entry_bytes};
use crate::log::Log;
use crate::network::PeerChannel;
use crate::raft_types::{
    RaftVote, log_entry_to_wire, log_id_from_wire, log_id_to_wire, stored_to_wire, vote_from_wire, vote_to_wire,
};
use crate::types::LogId;
use bytes::Bytes;
use raftmq_proto::raft as wire;
use raftmq_proto::raft::fill_reply::Part as Reply;
use raftmq_proto::raft::fill_request::Part;
use raftmq_proto::raft::raft_client::RaftClient;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Messages that wait to be sent.
const QUEUE: usize = 2;

/// One attempt to fill a member.
pub(crate) struct Send {
    pub(crate) vote: RaftVote,
    pub(crate) shipment: Arc<Shipment>,
    pub(crate) log: Log,
    pub(crate) pace: Arc<Pace>,
    /// Bytes that the member has acknowledged, for whoever waits for it.
    pub(crate) delivered: Arc<AtomicU64>,
    /// Entries below this are with the member.
    pub(crate) filled: Arc<AtomicU64>,
    /// Bytes that were sent to anybody.
    pub(crate) sent_bytes: Arc<AtomicU64>,
}

/// A member that is there, and waits for an offer.
pub(crate) struct Taker {
    outbound: mpsc::Sender<wire::FillRequest>,
    replies: Streaming<wire::FillReply>,
}

impl Taker {
    /// Asks whether the member is there.
    pub(crate) async fn reach(mut client: RaftClient<PeerChannel>) -> Result<Taker, Status> {
        let (outbound, requests) = mpsc::channel(QUEUE);
        let opening = client.fill(ReceiverStream::new(requests));
        let replies = tokio::time::timeout(SILENCE_MAX, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("the member says nothing"))??
            .into_inner();
        Ok(Taker { outbound, replies })
    }
}

/// Offers the shipment and sends what the member lacks of it. Gives the vote that the member has then.
///
/// # Errors
/// The member's, and those of the connection. Another attempt goes on where this one ended.
pub(crate) async fn send(send: &Send, taker: Taker) -> Result<RaftVote, Status> {
    let Taker { outbound, replies } = taker;
    Sending { send, outbound, replies, waiting_bytes: 0, entries: VecDeque::new(), sent: 0 }.run().await
}

struct Sending<'s> {
    send: &'s Send,
    outbound: mpsc::Sender<wire::FillRequest>,
    replies: Streaming<wire::FillReply>,
    /// Bytes that were sent and not acknowledged.
    waiting_bytes: u64,
    /// Bytes that were sent.
    sent: u64,
    /// Of each message with entries that is not acknowledged: bytes sent up to its end, and the entry after it.
    entries: VecDeque<(u64, u64)>,
}

fn local(error: &io::Error) -> Status {
    Status::internal(format!("what is to be sent cannot be read: {error}"))
}

async fn blocking<T: std::marker::Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + std::marker::Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(|error| local(&error))
}

impl Sending<'_> {
    async fn run(mut self) -> Result<RaftVote, Status> {
        let shipment = self.send.shipment.clone();
        let files = shipment.files.iter().map(|(name, bytes)| wire::FillFile { name: name.clone(), bytes: *bytes });
        self.post(Part::Offer(wire::FillOffer {
            vote: Some(vote_to_wire(&self.send.vote)),
            transfer: shipment.transfer,
            end: Some(log_id_to_wire(shipment.end)),
            membership: Some(stored_to_wire(&shipment.meta.last_membership)),
            first: shipment.first(),
            files: files.collect(),
        }))
        .await?;
        let has = match self.reply().await? {
            Reply::Has(has) => has,
            Reply::Installed(installed) => return vote_of(installed),
            _ => return Err(Status::data_loss("the member does not say what it has")),
        };
        let ids: Vec<LogId> = has.ids.into_iter().map(log_id_from_wire).collect();
        let log = self.send.log.clone();
        let (first, end) = (shipment.first(), shipment.end.index);
        let same = blocking(move || highest_of_ours(&log, ids, first, end)).await?;
        self.post(Part::Same(wire::FillSame { id: same.map(log_id_to_wire) })).await?;
        let next = loop {
            match self.reply().await? {
                Reply::Next(next) => break next.index,
                Reply::Taken(_) => {}
                _ => return Err(Status::data_loss("the member does not say where it goes on")),
            }
        };
        if next < shipment.first() || next > shipment.end.index + 1 {
            return Err(Status::data_loss(format!("the member wants to go on at {next}")));
        }
        for (number, (_, bytes)) in shipment.files.iter().enumerate() {
            if !has.files.iter().any(|known| *known as usize == number) {
                self.send_file(number, *bytes).await?;
            }
        }
        self.send_entries(next).await?;
        while self.waiting_bytes > 0 {
            self.settle().await?;
        }
        self.post(Part::End(wire::FillEnd {})).await?;
        loop {
            match self.reply().await? {
                Reply::Installed(installed) => return vote_of(installed),
                Reply::Taken(_) => {}
                _ => return Err(Status::data_loss("the member does not say what became of it")),
            }
        }
    }

    async fn send_file(&mut self, number: usize, bytes: u64) -> Result<(), Status> {
        let path = self.send.shipment.path(number);
        let file = Arc::new(blocking(move || File::open(path)).await?);
        let (mut offset, mut crc) = (0, 0);
        loop {
            let wanted = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(PART_BYTES);
            let file = file.clone();
            let content = blocking(move || {
                let mut content = vec![0; wanted];
                file.read_exact_at(&mut content, offset)?;
                Ok(Bytes::from(content))
            })
            .await?;
            crc = crc32c::crc32c_append(crc, &content);
            let chunk = wire::FillChunk { file: number as u32, offset, content, crc };
            self.post_paced(Part::Chunk(chunk), wanted as u64).await?;
            offset += wanted as u64;
            if offset == bytes {
                return Ok(());
            }
        }
    }

    async fn send_entries(&mut self, mut next: u64) -> Result<(), Status> {
        self.send.filled.store(next, Ordering::Relaxed);
        let end = self.send.shipment.end.index;
        while next <= end {
            let log = self.send.log.clone();
            let entries = blocking(move || log.read(next..end + 1, PART_BYTES)).await?;
            let Some(last) = entries.last() else {
                return Err(Status::internal(format!("entry {next} is not in the log any more")));
            };
            next = last.id.index + 1;
            let bytes = entries.iter().map(entry_bytes).sum();
            let entries: Vec<_> = entries.into_iter().map(log_entry_to_wire).collect();
            let crc = entries_crc(&entries);
            self.entries.push_back((self.sent + bytes, next));
            self.post_paced(Part::Entries(wire::FillEntries { entries, crc }), bytes).await?;
        }
        Ok(())
    }

    /// Sends what is counted, once there is room for it.
    async fn post_paced(&mut self, part: Part, bytes: u64) -> Result<(), Status> {
        while self.waiting_bytes > 0 && self.waiting_bytes + bytes > WINDOW_BYTES {
            self.settle().await?;
        }
        self.send.pace.take(bytes).await;
        self.waiting_bytes += bytes;
        self.sent += bytes;
        self.send.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.post(part).await
    }

    async fn post(&mut self, part: Part) -> Result<(), Status> {
        let request = wire::FillRequest { part: Some(part) };
        if self.outbound.send(request).await.is_ok() {
            return Ok(());
        }
        // The connection knows why.
        self.reply().await.map(|_| ())?;
        Err(Status::unavailable("the member takes nothing more"))
    }

    /// Waits for the next acknowledgement.
    async fn settle(&mut self) -> Result<(), Status> {
        let Reply::Taken(taken) = self.reply().await? else {
            return Err(Status::data_loss("the member does not acknowledge what it was sent"));
        };
        self.waiting_bytes = self.waiting_bytes.saturating_sub(taken.bytes);
        let acknowledged = self.sent.saturating_sub(self.waiting_bytes);
        while let Some((end, next)) = self.entries.front().copied()
            && end <= acknowledged
        {
            self.entries.pop_front();
            self.send.filled.store(next, Ordering::Relaxed);
        }
        self.send.delivered.fetch_add(taken.bytes, Ordering::Relaxed);
        self.send.shipment.taken();
        Ok(())
    }

    async fn reply(&mut self) -> Result<Reply, Status> {
        match tokio::time::timeout(SILENCE_MAX, self.replies.message()).await {
            Ok(Ok(Some(reply))) => reply.part.ok_or_else(|| Status::data_loss("an empty answer")),
            Ok(Ok(None)) => Err(Status::unavailable("the member ended the transfer")),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded(format!("the member has said nothing for {SILENCE_MAX:?}"))),
        }
    }
}

/// The highest of the ids that our log has too, within `first..=end`.
fn highest_of_ours(log: &Log, mut ids: Vec<LogId>, first: u64, end: u64) -> io::Result<Option<LogId>> {
    ids.retain(|id| (first..=end).contains(&id.index));
    ids.sort_by_key(|id| std::cmp::Reverse(id.index));
    for id in ids {
        let ours = log.read(id.index..id.index + 1, 0)?;
        if ours.first().map(|entry| entry.id) == Some(id) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn vote_of(installed: wire::FillInstalled) -> Result<RaftVote, Status> {
    installed.vote.map(vote_from_wire).ok_or_else(|| Status::data_loss("the member names no vote"))
}
