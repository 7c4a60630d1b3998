//! The stored form of what a broker group replicates: one Raft entry, and one message in it.
//!
//! ```text
//! u8 format = 1
//! u32le length of the head | head: raftmq.command.v1.Entry
//! u32le slots | slots × u32le end of the blob, counted from the start of the first one
//! blobs, one raftmq.command.v1.StoredMessage per slot
//! ```
//!
//! Another layout is another format, which a leader writes only once the version of commands that brings it is active
//! (`machine/version.rs`); whoever meets a format that it does not know stops.
//!
//! Slots of an entry are numbered through all its batches. Apply decodes the head alone; a body is read by
//! (log index, slot) without touching its neighbours. Everything here may come from a disk or another node:
//! decoding answers errors and never panics.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use raftmq_proto::command::{Entry, StoredMessage};

/// The layout that [`encode_entry`] writes.
pub const FORMAT: u8 = 1;

/// Why bytes are not an entry, or not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The first byte names a layout that this build does not know.
    #[error("entry has format {0}, this build knows format {FORMAT}")]
    Format(u8),
    /// The bytes end before, or do not end with, what they announce.
    #[error("entry is malformed: {0}")]
    Malformed(&'static str),
    /// A command of it is of a kind that this build does not know.
    #[error("entry has a command of a kind that this build does not know")]
    Unknown,
    /// A protobuf message in it does not decode.
    #[error("entry does not decode: {0}")]
    Decode(String),
    /// The entry has no such slot.
    #[error("entry has {slots} slots, slot {slot} was asked for")]
    Slot {
        /// Slot that was asked for.
        slot: u32,
        /// Slots there are.
        slots: u32,
    },
    /// A part is longer than its length field can say (4 GiB).
    #[error("entry is too large")]
    TooLarge,
}

impl From<prost::DecodeError> for PayloadError {
    fn from(error: prost::DecodeError) -> Self {
        PayloadError::Decode(error.to_string())
    }
}

/// A batch as its node encoded it, with the blobs of its slots in order.
#[derive(Debug, Clone, Default)]
pub struct EncodedBatch {
    /// An encoded `raftmq.command.v1.Batch`.
    pub batch: Bytes,
    /// Encoded messages, see [`encode_message`].
    pub blobs: Vec<Bytes>,
}

/// Protobuf tags of `Entry.time_ms` (field 1, varint) and `Entry.batches` (field 2, length-delimited).
const TIME_TAG: u8 = 1 << 3;
const BATCH_TAG: u8 = (2 << 3) | 2;

/// Builds an entry of batches that are encoded already: one pass, one buffer, nothing decoded.
///
/// # Errors
/// [`PayloadError::TooLarge`] beyond 4 GiB.
pub fn encode_entry(time_ms: u64, batches: &[EncodedBatch]) -> Result<Bytes, PayloadError> {
    use prost::encoding::{encode_varint, encoded_len_varint};
    let length = |bytes: usize| u32::try_from(bytes).map_err(|_| PayloadError::TooLarge);

    let time_length = if time_ms == 0 { 0 } else { 1 + encoded_len_varint(time_ms) };
    let head_length =
        batches.iter().fold(time_length, |sum, b| sum + 1 + encoded_len_varint(b.batch.len() as u64) + b.batch.len());
    let slots: usize = batches.iter().map(|b| b.blobs.len()).sum();
    let blob_length: usize = batches.iter().flat_map(|b| &b.blobs).map(Bytes::len).sum();
    length(blob_length)?;

    let mut out = BytesMut::with_capacity(9 + head_length + 4 * slots + blob_length);
    out.put_u8(FORMAT);
    out.put_u32_le(length(head_length)?);
    if time_ms != 0 {
        out.put_u8(TIME_TAG);
        encode_varint(time_ms, &mut out);
    }
    for batch in batches {
        out.put_u8(BATCH_TAG);
        encode_varint(batch.batch.len() as u64, &mut out);
        out.put_slice(&batch.batch);
    }
    out.put_u32_le(length(slots)?);
    let mut end = 0;
    for blob in batches.iter().flat_map(|b| &b.blobs) {
        end += blob.len();
        out.put_u32_le(length(end)?);
    }
    for blob in batches.iter().flat_map(|b| &b.blobs) {
        out.put_slice(blob);
    }
    Ok(out.freeze())
}

/// An entry's payload, taken apart but not decoded.
#[derive(Debug, Clone)]
pub struct Payload {
    head: Bytes,
    ends: Bytes,
    blobs: Bytes,
}

impl Payload {
    /// Checks the frame; nothing is copied.
    ///
    /// # Errors
    /// When the bytes are not what [`encode_entry`] writes.
    pub fn parse(mut payload: Bytes) -> Result<Payload, PayloadError> {
        let format = take(&mut payload, 1, "it is empty")?[0];
        if format != FORMAT {
            return Err(PayloadError::Format(format));
        }
        let head_length = take_u32(&mut payload, "the head has no length")?;
        let head = take(&mut payload, head_length as usize, "the head is cut")?;
        let slots = take_u32(&mut payload, "the slots have no count")?;
        let table = (slots as usize).checked_mul(4).ok_or(PayloadError::TooLarge)?;
        let ends = take(&mut payload, table, "the slot table is cut")?;
        let parsed = Payload { head, ends, blobs: payload };
        let end = if slots == 0 { 0 } else { parsed.end(slots - 1) };
        if end != parsed.blobs.len() {
            return Err(PayloadError::Malformed("the blobs are cut or something follows them"));
        }
        Ok(parsed)
    }

    /// Decodes the head.
    ///
    /// # Errors
    /// When it is not an `Entry`, its batches claim other slots than there are, or a command of it is unknown.
    pub fn entry(&self) -> Result<Entry, PayloadError> {
        let entry = Entry::decode(self.head.clone())?;
        let claimed: u64 = entry.batches.iter().map(|batch| u64::from(batch.slots)).sum();
        if claimed != u64::from(self.slots()) {
            return Err(PayloadError::Malformed("its batches claim other slots than it has"));
        }
        // What is left out in decoding tells a command of an unknown kind from one that says nothing.
        let empty = entry.batches.iter().flat_map(|batch| &batch.commands).any(|command| command.kind.is_none());
        if empty && entry.encoded_len() != self.head.len() {
            return Err(PayloadError::Unknown);
        }
        Ok(entry)
    }

    /// Blobs in the entry.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.ends.len() / 4).expect("the table was cut out by a u32 count of slots")
    }

    /// The blob at `slot`, sharing the payload's memory.
    ///
    /// # Errors
    /// When there is no such slot, or the slot table makes no sense there.
    pub fn slot(&self, slot: u32) -> Result<Bytes, PayloadError> {
        let slots = self.slots();
        if slot >= slots {
            return Err(PayloadError::Slot { slot, slots });
        }
        let start = if slot == 0 { 0 } else { self.end(slot - 1) };
        let end = self.end(slot);
        if start > end || end > self.blobs.len() {
            return Err(PayloadError::Malformed("the slot table is not in order"));
        }
        Ok(self.blobs.slice(start..end))
    }

    /// The message at `slot`; its body shares the payload's memory.
    ///
    /// # Errors
    /// As [`Payload::slot`] and [`decode_message`].
    pub fn message(&self, slot: u32) -> Result<StoredMessage, PayloadError> {
        decode_message(self.slot(slot)?)
    }

    fn end(&self, slot: u32) -> usize {
        let at = slot as usize * 4;
        let mut end = [0; 4];
        end.copy_from_slice(&self.ends[at..at + 4]);
        u32::from_le_bytes(end) as usize
    }
}

fn take(from: &mut Bytes, length: usize, what: &'static str) -> Result<Bytes, PayloadError> {
    if from.len() < length { Err(PayloadError::Malformed(what)) } else { Ok(from.split_to(length)) }
}

fn take_u32(from: &mut Bytes, what: &'static str) -> Result<u32, PayloadError> {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&take(from, 4, what)?);
    Ok(u32::from_le_bytes(bytes))
}

/// The blob of a message.
#[must_use]
pub fn encode_message(message: &StoredMessage) -> Bytes {
    message.encode_to_vec().into()
}

/// The message of a blob; its body shares the blob's memory.
///
/// # Errors
/// When the blob is not a `StoredMessage`.
pub fn decode_message(blob: Bytes) -> Result<StoredMessage, PayloadError> {
    Ok(StoredMessage::decode(blob)?)
}

#[cfg(test)]
mod tests {
    use super::{EncodedBatch, Payload, PayloadError, encode_entry, encode_message};
    use bytes::Bytes;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use prost::Message;
    use raftmq_proto::command::{Batch, Entry, StoredMessage};

    fn batch(node: u64, blobs: &[&[u8]]) -> EncodedBatch {
        let slots = u32::try_from(blobs.len()).expect("few blobs");
        let batch = Batch { node, boot: 1, sequence: 2, settled: 1, slots, ..Batch::default() };
        EncodedBatch {
            batch: batch.encode_to_vec().into(),
            blobs: blobs.iter().map(|b| Bytes::copy_from_slice(b)).collect(),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn layout_is_fixed() {
        let payload = encode_entry(300, &[batch(7, &[b"ab", b""]), batch(8, &[b"c"])]).expect("small");
        let head = "08ac02 120a08071001180220012802 120a08081001180220012801";
        let slots = "03000000 02000000 02000000 03000000 616263";
        assert_eq!(hex(&payload), format!("01 1b000000 {head} {slots}").replace(' ', ""));
    }

    #[test]
    fn a_message_keeps_its_layout() {
        let message = StoredMessage {
            topic: "t".into(),
            message_id: "m".into(),
            tag: Some("a".into()),
            born_ms: 5,
            body: Bytes::from_static(b"xy"),
            ..StoredMessage::default()
        };
        assert_eq!(hex(&encode_message(&message)), "0a017412016d1a016140057a027879");
    }

    #[test]
    fn wrong_bytes_are_refused() {
        let good = encode_entry(1, &[batch(7, &[b"ab", b"c"])]).expect("small");
        assert_eq!(Payload::parse(Bytes::new()).expect_err("empty"), PayloadError::Malformed("it is empty"));
        assert_eq!(Payload::parse(Bytes::from_static(&[9])).expect_err("format"), PayloadError::Format(9));
        for cut in 1..good.len() {
            assert!(Payload::parse(good.slice(..cut)).is_err(), "cut at {cut}");
        }
        let mut longer = good.to_vec();
        longer.push(0);
        assert!(Payload::parse(longer.into()).is_err());
        let parsed = Payload::parse(good).expect("good");
        assert_eq!(parsed.slot(2).expect_err("no slot 2"), PayloadError::Slot { slot: 2, slots: 2 });

        let entry_of = |command: &[u8]| {
            // One command in one batch, each behind its tag and length.
            let mut bytes = vec![(6 << 3) | 2, command.len() as u8];
            bytes.extend_from_slice(command);
            let encoded = EncodedBatch { batch: bytes.into(), blobs: Vec::new() };
            Payload::parse(encode_entry(1, &[encoded]).expect("small")).expect("frame is fine").entry()
        };
        assert!(entry_of(&[]).expect("says nothing").batches[0].commands[0].kind.is_none());
        // Field 1000, a message of no bytes: what a newer build may add.
        assert_eq!(entry_of(&[0xc2, 0x3e, 0]).expect_err("a kind of later"), PayloadError::Unknown);

        let mut claims_more = batch(7, &[b"ab"]);
        claims_more.blobs.push(Bytes::new());
        let payload = Payload::parse(encode_entry(1, &[claims_more]).expect("small")).expect("frame is fine");
        assert!(matches!(payload.entry(), Err(PayloadError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn entries_come_back(
            time_ms in any::<u64>(),
            batches in proptest::collection::vec(
                (any::<u64>(), proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..5)), 0..5),
        ) {
            let encoded: Vec<_> = batches
                .iter()
                .map(|(node, blobs)| batch(*node, &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>()))
                .collect();
            let payload = Payload::parse(encode_entry(time_ms, &encoded).expect("small")).expect("parses");
            let entry = payload.entry().expect("decodes");
            let decoded: Vec<_> = encoded.iter().map(|b| Batch::decode(b.batch.clone()).expect("batch")).collect();
            prop_assert_eq!(&entry, &Entry { time_ms, batches: decoded });
            let blobs: Vec<_> = batches.iter().flat_map(|(_, blobs)| blobs.clone()).collect();
            prop_assert_eq!(payload.slots() as usize, blobs.len());
            for (slot, blob) in blobs.iter().enumerate() {
                prop_assert_eq!(&payload.slot(slot as u32).expect("slot")[..], &blob[..]);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<(u16, u8)>()) {
            let check = |bytes: Vec<u8>| {
                if let Ok(payload) = Payload::parse(bytes.into()) {
                    let _ = payload.entry();
                    for slot in 0..payload.slots().min(300) {
                        let _ = payload.message(slot);
                    }
                }
            };
            check(bytes);
            let mut good = encode_entry(9, &[batch(7, &[b"ab", b"c"])]).expect("small").to_vec();
            let at = usize::from(flip.0) % good.len();
            good[at] ^= flip.1;
            check(good);
            prop_assert!(true);
        }
    }
}
