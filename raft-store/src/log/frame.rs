//! Frames: the records of a segment, byte by byte.
//!
//! ```text
//!  0  header checksum u32   CRC32C of bytes 4..56, seeded with disk id and segment number; never 0
//!  4  payload length  u32
//!  8  kind u8 | flags u8 | reserved u16
//! 12  payload checksum u32  CRC32C of the payload alone, as its proposer computed it
//! 16  leader term u64 | leader node u64 | index u64
//! 40  durable u64           this segment was synced up to this offset when the frame was built
//! 48  store time u64        milliseconds since 1970, never 0, never decreasing along the log
//! 56  payload, then zeros up to a multiple of 8
//! ```
//! All numbers are little endian. The seed makes a frame valid in one segment of one disk only, so bytes that
//! an earlier use of the blocks left behind can never be taken for a record. `durable` covers records of every
//! kind, votes included: a later frame proves that an unreadable one had been promised to somebody.

use crate::types::LogId;

/// Bytes before a frame's payload.
pub const HEADER_BYTES: usize = 56;
/// Largest payload.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Vote: granted by a majority. Truncation: nothing is left. Hint: nothing is known to be committed. Footer: of the
/// segment before, whose tail was cut.
pub const FLAG: u8 = 1;

/// What a frame records. Every code has at least two bits set, so that one flipped bit in zeros makes none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An entry with a command.
    Command = 0x11,
    /// An entry without content.
    Blank = 0x12,
    /// An entry with a membership.
    Membership = 0x14,
    /// The node's vote; index is unused.
    Vote = 0x21,
    /// Entries after this id are gone; with [`FLAG`] all are.
    TruncateAfter = 0x22,
    /// The Raft-visible log starts after this id.
    PurgeUpto = 0x24,
    /// Entries up to this id were known to be committed.
    CommitHint = 0x28,
    /// Last frame of a sealed segment: where its entries are.
    SegmentFooter = 0x41,
    /// A snapshot took the place of the log: it goes on after this id.
    LogReset = 0x42,
}

impl Kind {
    fn from_code(code: u8) -> Option<Kind> {
        Some(match code {
            0x11 => Kind::Command,
            0x12 => Kind::Blank,
            0x14 => Kind::Membership,
            0x21 => Kind::Vote,
            0x22 => Kind::TruncateAfter,
            0x24 => Kind::PurgeUpto,
            0x28 => Kind::CommitHint,
            0x41 => Kind::SegmentFooter,
            0x42 => Kind::LogReset,
            _ => return None,
        })
    }

    /// The frame carries an entry of the log.
    #[must_use]
    pub fn is_entry(self) -> bool {
        matches!(self, Kind::Command | Kind::Blank | Kind::Membership)
    }
}

/// A frame's header without its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// What it records.
    pub kind: Kind,
    /// See [`FLAG`].
    pub flags: u8,
    /// Bytes of payload.
    pub payload_bytes: u32,
    /// CRC32C of the payload.
    pub payload_crc: u32,
    /// The entry, or what the record is about.
    pub id: LogId,
    /// Offset up to which the segment was known to be synced.
    pub durable: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoFrame {
    /// Nothing was ever written here, or only a stray bit.
    Blank,
    /// Something was, and it is damaged or was not written as a whole.
    Bad,
}

/// Seed of the header checksums of a segment.
#[must_use]
pub fn seed(disk_id: u128, segment: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&disk_id.to_le_bytes()), &segment.to_le_bytes())
}

/// Bytes that a frame with this payload occupies.
#[must_use]
pub fn frame_bytes(payload: usize) -> u64 {
    (HEADER_BYTES + payload).next_multiple_of(8) as u64
}

/// A checksum that is stored: 0 stands for "nothing was written".
#[must_use]
pub fn stored_crc(crc: u32) -> u32 {
    if crc == 0 { 1 } else { crc }
}

impl Frame {
    /// The header's bytes, and the checksum they start with.
    #[must_use]
    pub fn encode(&self, seed: u32) -> ([u8; HEADER_BYTES], u32) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8] = self.kind as u8;
        bytes[9] = self.flags;
        bytes[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.term.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.node.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.id.index.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.durable.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.time_ms.to_le_bytes());
        let crc = stored_crc(crc32c::crc32c_append(seed, &bytes[4..]));
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Reads a header; gives the frame and its checksum.
    ///
    /// # Errors
    /// [`NoFrame`] says whether anything was written here.
    pub fn decode(bytes: &[u8; HEADER_BYTES], seed: u32) -> Result<(Frame, u32), NoFrame> {
        let crc = read_u32(bytes, 0);
        if crc == 0 || bytes[8] == 0 {
            return Err(NoFrame::Blank);
        }
        let Some(kind) = Kind::from_code(bytes[8]) else { return Err(NoFrame::Bad) };
        let payload_bytes = read_u32(bytes, 4);
        let time_ms = read_u64(bytes, 48);
        if stored_crc(crc32c::crc32c_append(seed, &bytes[4..])) != crc
            || payload_bytes as usize > PAYLOAD_BYTES_MAX
            || time_ms == 0
        {
            return Err(NoFrame::Bad);
        }
        let frame = Frame {
            kind,
            flags: bytes[9],
            payload_bytes,
            payload_crc: read_u32(bytes, 12),
            id: LogId { term: read_u64(bytes, 16), node: read_u64(bytes, 24), index: read_u64(bytes, 32) },
            durable: read_u64(bytes, 40),
            time_ms,
        };
        Ok((frame, crc))
    }

    /// Bytes that the frame occupies, padding included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        frame_bytes(self.payload_bytes as usize)
    }
}

/// A little endian number; the caller has checked the length.
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// A little endian number; the caller has checked the length.
pub fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    /// What follows the first 12 bytes, in all the headers below.
    const REST: &str = "d4c3b2a103000000000000008877665544332211990000000000000010200000000000007b6c50c4a0010000";

    /// Every kind with its flags, and how the header starts that stands for it on disk.
    #[test]
    fn golden_headers() {
        let golden = [
            (Kind::Command, 0, "364e3de70201000011000000"),
            (Kind::Blank, 0, "3a6946c30201000012000000"),
            (Kind::Membership, 0, "2227b08b0201000014000000"),
            (Kind::Vote, FLAG, "48d45fe40201000021010000"),
            (Kind::TruncateAfter, FLAG, "44f324c00201000022010000"),
            (Kind::PurgeUpto, 0, "00badac70201000024000000"),
            (Kind::CommitHint, 0, "302636560201000028000000"),
            (Kind::SegmentFooter, 0, "50e982330201000041000000"),
            (Kind::LogReset, 0, "5ccef9170201000042000000"),
        ];
        for (kind, flags, expected) in golden {
            let frame = Frame {
                kind,
                flags,
                payload_bytes: 0x0102,
                payload_crc: 0xA1B2_C3D4,
                id: LogId { term: 3, node: 0x1122_3344_5566_7788, index: 0x99 },
                durable: 0x2010,
                time_ms: 1_790_000_000_123,
            };
            let seed = seed(0x00FF_EEDD_CCBB_AA99_8877_6655_4433_2211, 5);
            let (bytes, crc) = frame.encode(seed);
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text, format!("{expected}{REST}"), "{kind:?}");
            assert_eq!(Frame::decode(&bytes, seed), Ok((frame, crc)));
            assert_eq!(Frame::decode(&bytes, seed ^ 1), Err(NoFrame::Bad), "a frame of another segment");
        }
    }

    #[test]
    fn zeros_and_stray_bits_are_blank() {
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = [0; HEADER_BYTES];
            assert_eq!(Frame::decode(&bytes, 7), Err(NoFrame::Blank));
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Frame::decode(&bytes, 7), Err(NoFrame::Blank), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not(bytes in any::<[u8; HEADER_BYTES]>(), seed in any::<u32>()) {
            if let Ok((frame, crc)) = Frame::decode(&bytes, seed) {
                let (again, crc_again) = frame.encode(seed);
                assert_eq!((again, crc_again), (bytes, crc));
            }
        }

        #[test]
        fn headers_come_back(
            term in any::<u64>(), node in any::<u64>(), index in any::<u64>(), durable in any::<u64>(),
            payload_bytes in 0..PAYLOAD_BYTES_MAX as u32, payload_crc in any::<u32>(), seed in any::<u32>(),
        ) {
            let id = LogId { term, node, index };
            let frame = Frame { kind: Kind::Command, flags: 0, payload_bytes, payload_crc, id, durable, time_ms: 1 };
            let (bytes, crc) = frame.encode(seed);
            assert_eq!(Frame::decode(&bytes, seed), Ok((frame, crc)));
        }
    }
}
