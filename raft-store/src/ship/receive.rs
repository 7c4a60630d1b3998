//! The member's side: takes what a leader offers, and has Raft install it once it is whole.

use super::staging::{Offer, OfferedFile, Place, Staging};
use super::{Transfer, entries_crc};
use crate::group::Shared;
use crate::log::{Done, Entry};
use crate::raft_types::{
    RaftVote, SnapshotMeta, StoredMembership, Types, entry_from_wire, from_raft_vote, log_id_from_wire, log_id_to_wire,
    stored_from_wire, to_log_entry, to_raft_log_id, vote_from_wire, vote_to_wire,
};
use crate::replica::read_applied;
use crate::snapshot::SnapshotData;
use crate::state::State;
use futures::{Stream, StreamExt, stream};
use openraft::type_config::alias::SnapshotOf;
use parking_lot::Mutex;
use raftmq_proto::raft as wire;
use raftmq_proto::raft::fill_reply::Part as Reply;
use raftmq_proto::raft::fill_request::Part;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// An earlier transfer has so long to notice that its leader is gone.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// A leader that sends slowly has so long for the largest entry; one that is gone is noticed by the connection.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(120);

/// Replies that wait to be sent.
const REPLIES_MAX: usize = 16;

type Turn = OwnedMutexGuard<Option<Staging>>;

/// What a node needs to be filled.
pub(crate) struct Receiver {
    place: Place,
    tables: &'static [&'static str],
    /// One transfer at a time; what is open of it.
    turn: Arc<tokio::sync::Mutex<Option<Staging>>>,
    /// Bytes of files and entries that were taken since the node started.
    pub(crate) taken_bytes: AtomicU64,
}

/// All that belongs to a snapshot, checked. Nobody else touches it as long as this is there.
pub struct Received {
    turn: Mutex<Turn>,
    place: Place,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Received")
    }
}

impl Received {
    /// Does something with what was received.
    ///
    /// # Errors
    /// Those of `work`, and when it is installed already.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Staging) -> io::Result<T>) -> io::Result<T> {
        let turn = self.turn.lock();
        work(turn.as_ref().ok_or_else(|| io::Error::other("what was received is gone"))?)
    }

    /// It is in use now: what is left under `incoming/` goes.
    pub(crate) fn installed(&self) {
        let staging = self.turn.lock().take();
        if let Err(error) = Staging::discard(&self.place, staging) {
            tracing::warn!(%error, "what was received stays under incoming until the next start");
        }
    }
}

impl Receiver {
    pub(crate) fn new(place: Place, tables: &'static [&'static str]) -> Receiver {
        Receiver { place, tables, turn: Arc::default(), taken_bytes: AtomicU64::new(0) }
    }

    /// Deletes what was received when the node came to have those entries in another way.
    pub(crate) async fn tidy(&self, applied: u64) {
        let Ok(mut turn) = self.turn.clone().try_lock_owned() else { return };
        let place = self.place.clone();
        let tidying = tokio::task::spawn_blocking(move || {
            let end = match turn.as_ref() {
                Some(staging) => Some(staging.end()),
                None => {
                    let transfer = Transfer::read(place.home.disk().as_ref(), &place.home.incoming());
                    transfer.ok().flatten().map(|transfer| transfer.end)
                }
            };
            if end.is_some_and(|end| end.index <= applied) {
                let held = turn.take();
                Staging::discard(&place, held)
            } else {
                Ok(())
            }
        });
        if let Ok(Err(error)) = tidying.await {
            tracing::warn!(%error, "what was received and is not needed stays until the next start");
        }
    }

    async fn turn(&self) -> Result<Turn, Status> {
        tokio::time::timeout(TURN_WAIT, self.turn.clone().lock_owned())
            .await
            .map_err(|_| Status::unavailable("an earlier transfer to this node is still under way"))
    }
}

/// The answers to a leader that fills this node.
pub(crate) fn replies(
    shared: Arc<Shared>,
    inbound: Streaming<wire::FillRequest>,
) -> impl Stream<Item = Result<wire::FillReply, Status>> {
    let (tell, told) = mpsc::channel(REPLIES_MAX);
    let taking = stream::once(async move { Taking { shared, inbound, tell }.run().await });
    let failure = taking.filter_map(async |taken| taken.err().map(Err));
    stream::select(ReceiverStream::new(told).map(Ok), failure)
}

/// Entries that are being written.
struct Written {
    done: oneshot::Receiver<io::Result<()>>,
    bytes: u64,
}

struct Taking {
    shared: Arc<Shared>,
    inbound: Streaming<wire::FillRequest>,
    tell: mpsc::Sender<wire::FillReply>,
}

/// What is offered, and by whom.
struct Offered {
    vote: RaftVote,
    membership: StoredMembership,
    offer: Offer,
}

fn bad(what: impl fmt::Display) -> Status {
    Status::data_loss(what.to_string())
}

impl Taking {
    async fn run(mut self) -> Result<(), Status> {
        let Some(Part::Offer(offer)) = self.next().await? else {
            return Err(Status::invalid_argument("a transfer begins with an offer"));
        };
        let Offered { vote, membership, offer } = offered(offer)?;
        let metrics = self.shared.metrics();
        let has = metrics.last_applied.max(metrics.local_committed).map_or(0, |id| id.index);
        if from_raft_vote(&metrics.vote) > from_raft_vote(&vote) || has >= offer.end.index {
            return self.tell(Reply::Installed(wire::FillInstalled { vote: Some(vote_to_wire(&metrics.vote)) })).await;
        }
        let (end, first, transfer) = (offer.end, offer.first, offer.transfer);
        let turn = self.shared.receiver().turn().await?;
        let place = self.shared.receiver().place.clone();
        let turn = blocking(turn, move |turn| {
            let begun = Staging::begin(&place, offer, turn.take())?;
            *turn = Some(begun);
            Ok(())
        })
        .await
        .map_err(|error| broken(&error))?;
        tracing::info!(upto = %end, first, transfer = format_args!("{transfer:x}"), "a leader fills this node");
        let taken = self.take(turn).await;
        let turn = match taken {
            Ok(turn) => turn,
            Err(Stop::Broken(status)) => return Err(status),
            Err(Stop::Failed(error)) => {
                self.discard(&error).await;
                return Err(broken(&error));
            }
        };
        let tables = self.shared.receiver().tables;
        let wanted = membership.clone();
        let checked = blocking(turn, move |turn| match turn.as_ref() {
            Some(staging) => check(staging, tables, &wanted),
            None => Err(io::Error::other("what was received is gone")),
        })
        .await;
        let turn = match checked {
            Ok(turn) => turn,
            Err(error) => {
                self.discard(&error).await;
                return Err(broken(&error));
            }
        };
        let received = Received { turn: Mutex::new(turn), place: self.shared.receiver().place.clone() };
        let meta = SnapshotMeta { last_log_id: Some(to_raft_log_id(end)), last_membership: membership };
        let snapshot = SnapshotOf::<Types, SnapshotData> { meta, snapshot: SnapshotData::Received(Arc::new(received)) };
        let answer = self.shared.raft().install_full_snapshot(vote, snapshot).await;
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        self.tell(Reply::Installed(wire::FillInstalled { vote: Some(vote_to_wire(&answer.vote)) })).await
    }

    /// Takes all that the leader sends.
    async fn take(&mut self, mut turn: Turn) -> Result<Turn, Stop> {
        let staging = turn.as_ref().ok_or_else(gone)?;
        let ids = staging.has(self.shared.log()).into_iter().map(log_id_to_wire).collect();
        let has = wire::FillHas { files: staging.complete(), ids };
        self.tell(Reply::Has(has)).await?;
        let Some(Part::Same(same)) = self.next().await? else {
            return Err(Status::invalid_argument("the leader does not say what is the same").into());
        };
        let (own, same) = (self.shared.log().clone(), same.id.map(log_id_from_wire));
        turn = blocking(turn, move |turn| turn.as_mut().ok_or_else(lost)?.go_on_after(same, &own).map(|_| ())).await?;
        let index = turn.as_ref().ok_or_else(gone)?.next();
        self.tell(Reply::Next(wire::FillNext { index })).await?;
        let mut writing: VecDeque<Written> = VecDeque::new();
        let mut ended = false;
        while !ended || !writing.is_empty() {
            tokio::select! {
                written = first(&mut writing) => {
                    written.0?;
                    self.taken(written.1).await?;
                }
                part = next(&mut self.inbound), if !ended => match part? {
                    Some(Part::Chunk(chunk)) => {
                        let bytes = chunk.content.len() as u64;
                        turn = blocking(turn, move |turn| {
                            let staging = turn.as_mut().ok_or_else(lost)?;
                            staging.take_chunk(chunk.file, chunk.offset, &chunk.content, chunk.crc)
                        })
                        .await?;
                        self.taken(bytes).await?;
                    }
                    Some(Part::Entries(part)) => {
                        let entries = checked(part)?;
                        let bytes = entries.iter().map(super::entry_bytes).sum();
                        let (tell, done) = oneshot::channel();
                        let done_with: Done = Box::new(move |result| {
                            // The receiver is gone only when the transfer is.
                            let _ = tell.send(result);
                        });
                        turn.as_ref().ok_or_else(gone)?.take_entries(entries, done_with)?;
                        writing.push_back(Written { done, bytes });
                    }
                    Some(Part::End(_)) => ended = true,
                    Some(_) => return Err(Status::invalid_argument("the leader offers twice").into()),
                    None => return Err(Status::cancelled("the leader ended the transfer").into()),
                },
            }
        }
        Ok(turn)
    }

    async fn next(&mut self) -> Result<Option<Part>, Status> {
        next(&mut self.inbound).await
    }

    async fn taken(&self, bytes: u64) -> Result<(), Status> {
        self.shared.receiver().taken_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tell(Reply::Taken(wire::FillTaken { bytes })).await
    }

    async fn tell(&self, part: Reply) -> Result<(), Status> {
        let reply = wire::FillReply { part: Some(part) };
        self.tell.send(reply).await.map_err(|_| Status::cancelled("the leader is gone"))
    }

    /// What could not be written or was wrong is not gone on with.
    async fn discard(&self, error: &io::Error) {
        tracing::warn!(%error, "what a leader sent is not taken; it is to begin again");
        let Ok(turn) = self.shared.receiver().turn().await else { return };
        let place = self.shared.receiver().place.clone();
        let discarded = blocking(turn, move |turn| Staging::discard(&place, turn.take())).await;
        if let Err(error) = discarded {
            tracing::warn!(%error, "what was received stays until the next start");
        }
    }
}

/// Why nothing more is taken.
enum Stop {
    /// The connection, or a leader that makes no sense. What is kept can be gone on with.
    Broken(Status),
    /// What is kept cannot be relied on.
    Failed(io::Error),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Stop {
        Stop::Broken(status)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            // It was not taken, and what was before is as good as it was.
            io::ErrorKind::InvalidData => Stop::Broken(bad(error)),
            _ => Stop::Failed(error),
        }
    }
}

fn lost() -> io::Error {
    io::Error::other("what was received is gone")
}

fn gone() -> Stop {
    Stop::Failed(lost())
}

fn broken(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::InvalidData => bad(error),
        _ => Status::unavailable(format!("the member could not keep what it was sent: {error}")),
    }
}

async fn next(inbound: &mut Streaming<wire::FillRequest>) -> Result<Option<Part>, Status> {
    match tokio::time::timeout(LEADER_SILENCE_MAX, inbound.message()).await {
        Ok(Ok(Some(message))) => message.part.map(Some).ok_or_else(|| Status::invalid_argument("an empty message")),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("the leader has said nothing for long")),
    }
}

/// The entries that were asked for first, once they are written.
async fn first(writing: &mut VecDeque<Written>) -> (io::Result<()>, u64) {
    let Some(written) = writing.front_mut() else { return std::future::pending().await };
    let result = (&mut written.done).await.unwrap_or_else(|_| Err(io::Error::other("the log is gone")));
    let bytes = written.bytes;
    writing.pop_front();
    (result, bytes)
}

/// Runs `work` where it may block. The turn ends with it, whoever waits for it.
async fn blocking(
    mut turn: Turn,
    work: impl FnOnce(&mut Option<Staging>) -> io::Result<()> + Send + 'static,
) -> io::Result<Turn> {
    tokio::task::spawn_blocking(move || work(&mut turn).map(|()| turn)).await.map_err(io::Error::other)?
}

fn offered(offer: wire::FillOffer) -> Result<Offered, Status> {
    let (Some(vote), Some(end), Some(membership)) = (offer.vote, offer.end, offer.membership) else {
        return Err(Status::invalid_argument("the offer names no vote, end or membership"));
    };
    if (end.term, end.node) > (vote.term, vote.node) {
        // Raft itself would stop the node.
        return Err(Status::invalid_argument("the offer ends with an entry of a later leader"));
    }
    Ok(Offered {
        vote: vote_from_wire(vote),
        membership: stored_from_wire(membership).map_err(bad)?,
        offer: Offer {
            transfer: offer.transfer,
            end: log_id_from_wire(end),
            first: offer.first,
            files: offer.files.into_iter().map(|file| OfferedFile { name: file.name, bytes: file.bytes }).collect(),
        },
    })
}

/// The entries of a message, if it is what the leader sent.
fn checked(part: wire::FillEntries) -> Result<Vec<Entry>, Stop> {
    if entries_crc(&part.entries) != part.crc || part.entries.is_empty() {
        return Err(bad("entries fail their checksum: they were damaged on their way").into());
    }
    let entries = part.entries.into_iter().map(|entry| entry_from_wire(entry).map(to_log_entry));
    entries.collect::<Result<_, _>>().map_err(|error| bad(error).into())
}

/// Whether what was received is what was offered.
fn check(staging: &Staging, tables: &[&'static str], membership: &StoredMembership) -> io::Result<()> {
    staging.check_whole()?;
    let unreadable = |error: crate::state::StateError| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the rows that were received are not legible: {error}"))
    };
    let state = State::open_read_only(&staging.folder(), tables).map_err(unreadable)?;
    let applied = read_applied(&state).map_err(unreadable)?;
    if applied.id != Some(staging.end()) || applied.membership != *membership {
        let what = format!("the rows end at {:?}, the offer says {}", applied.id, staging.end());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(())
}
