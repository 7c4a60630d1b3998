//! The text of a receipt handle: a client's opaque proof of one leased message.
//!
//! ```text
//! version u8 │ hash of the broker group u32 │ consumer group id u64 │ lease id u64 │ item u32 │ nonce u64
//! ```
//!
//! All big-endian, written as hexadecimal digits. A handle names no node, so it is valid on every one, and it stays
//! valid for the whole life of its lease. A message that waits for its delivery time or for the end of its transaction
//! is named in the same way:
//!
//! ```text
//! version u8 │ hash of the broker group u32 │ log index u64 │ slot u32 │ delivery time u64 │ hash of the message id u64
//! ```

use raftmq_proto::command::Handle;
use xxhash_rust::xxh3::xxh3_64;

const VERSION: u8 = 1;
const BYTES: usize = 1 + 4 + 8 + 8 + 4 + 8;

const WAITING_VERSION: u8 = 2;
const WAITING_BYTES: usize = 1 + 4 + 8 + 4 + 8 + 8;

/// Names a message that waits in the log for its place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingHandle {
    /// Index of its entry.
    pub log_index: u64,
    /// Slot in the entry.
    pub slot: u32,
    /// When it is due, ms since the Unix epoch; 0 for a half message.
    pub delivery_ms: u64,
    /// [`message_id_hash`] of its message id.
    pub message_id_hash: u64,
}

/// The hash of a message id in rows and handles.
#[must_use]
pub fn message_id_hash(message_id: &str) -> u64 {
    xxh3_64(message_id.as_bytes())
}

/// Why a text is not a handle that this broker group gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// Not the form of a handle: a forged one, or one of another kind of server.
    #[error("the receipt handle is malformed")]
    Malformed,
    /// Well formed, but of another broker group, which alone knows the lease.
    #[error("the receipt handle is of another broker group")]
    OtherBrokerGroup,
}

/// Writes and reads the handles of one broker group.
#[derive(Debug, Clone, Copy)]
pub struct Handles {
    broker_group: u32,
}

impl Handles {
    /// For the broker group of that name.
    #[must_use]
    pub fn of(broker_group: &str) -> Handles {
        let hash = xxh3_64(broker_group.as_bytes());
        Handles { broker_group: u32::try_from(hash >> 32).expect("the upper half of 64 bits") }
    }

    /// The text that a client gets.
    #[must_use]
    pub fn text(&self, handle: &Handle) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.broker_group.to_be_bytes());
        bytes.extend_from_slice(&handle.consumer_group_id.to_be_bytes());
        bytes.extend_from_slice(&handle.lease_id.to_be_bytes());
        bytes.extend_from_slice(&handle.item.to_be_bytes());
        bytes.extend_from_slice(&handle.nonce.to_be_bytes());
        upper_hex(&bytes)
    }

    /// What the text says.
    ///
    /// # Errors
    /// [`HandleError`] when this broker group never wrote it.
    pub fn parse(&self, text: &str) -> Result<Handle, HandleError> {
        let bytes: [u8; BYTES] = bytes_of(text).ok_or(HandleError::Malformed)?;
        let mut rest = self.ours(&bytes, VERSION)?;
        Ok(Handle {
            consumer_group_id: take(&mut rest, 8),
            lease_id: take(&mut rest, 8),
            item: u32::try_from(take(&mut rest, 4)).expect("four bytes"),
            nonce: take(&mut rest, 8),
        })
    }

    /// The text that names a message that waits: a recall handle, or a transaction id.
    #[must_use]
    pub fn waiting_text(&self, handle: &WaitingHandle) -> String {
        let mut bytes = Vec::with_capacity(WAITING_BYTES);
        bytes.push(WAITING_VERSION);
        bytes.extend_from_slice(&self.broker_group.to_be_bytes());
        bytes.extend_from_slice(&handle.log_index.to_be_bytes());
        bytes.extend_from_slice(&handle.slot.to_be_bytes());
        bytes.extend_from_slice(&handle.delivery_ms.to_be_bytes());
        bytes.extend_from_slice(&handle.message_id_hash.to_be_bytes());
        upper_hex(&bytes)
    }

    /// What such a text says.
    ///
    /// # Errors
    /// [`HandleError`] when this broker group never wrote it.
    pub fn parse_waiting(&self, text: &str) -> Result<WaitingHandle, HandleError> {
        let bytes: [u8; WAITING_BYTES] = bytes_of(text).ok_or(HandleError::Malformed)?;
        let mut rest = self.ours(&bytes, WAITING_VERSION)?;
        Ok(WaitingHandle {
            log_index: take(&mut rest, 8),
            slot: u32::try_from(take(&mut rest, 4)).expect("four bytes"),
            delivery_ms: take(&mut rest, 8),
            message_id_hash: take(&mut rest, 8),
        })
    }

    /// What follows version and broker group, where they are right.
    fn ours<'b>(&self, bytes: &'b [u8], version: u8) -> Result<&'b [u8], HandleError> {
        let mut rest = bytes;
        if take(&mut rest, 1) != u64::from(version) {
            return Err(HandleError::Malformed);
        }
        if take(&mut rest, 4) != u64::from(self.broker_group) {
            return Err(HandleError::OtherBrokerGroup);
        }
        Ok(rest)
    }
}

/// Takes a big-endian number of up to eight bytes off the front; callers know that they are there.
fn take(rest: &mut &[u8], count: usize) -> u64 {
    let (taken, left) = rest.split_at(count);
    *rest = left;
    taken.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
}

/// Upper-case hexadecimal digits, as digests and handles are written.
#[must_use]
pub fn upper_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Reads hexadecimal digits in either case; `None` for anything else.
fn bytes_of<const COUNT: usize>(text: &str) -> Option<[u8; COUNT]> {
    let digits = text.as_bytes();
    if digits.len() != COUNT * 2 {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = [0; COUNT];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{HandleError, Handles, WaitingHandle, upper_hex};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use raftmq_proto::command::Handle;

    proptest! {
        #[test]
        fn a_handle_reads_back(consumer_group_id in any::<u64>(), lease_id in any::<u64>(), item in any::<u32>(), nonce in any::<u64>()) {
            let handle = Handle { consumer_group_id, lease_id, item, nonce };
            let text = Handles::of("RaftNode00").text(&handle);
            prop_assert_eq!(Handles::of("RaftNode00").parse(&text), Ok(handle));
            prop_assert_eq!(Handles::of("RaftNode00").parse(&text.to_lowercase()), Ok(handle));
            prop_assert_eq!(Handles::of("RaftNode01").parse(&text), Err(HandleError::OtherBrokerGroup));
        }

        #[test]
        fn the_name_of_a_message_that_waits_reads_back(log_index in any::<u64>(), slot in any::<u32>(), delivery_ms in any::<u64>(), message_id_hash in any::<u64>()) {
            let handle = WaitingHandle { log_index, slot, delivery_ms, message_id_hash };
            let text = Handles::of("RaftNode00").waiting_text(&handle);
            prop_assert_eq!(Handles::of("RaftNode00").parse_waiting(&text), Ok(handle));
            prop_assert_eq!(Handles::of("RaftNode00").parse(&text), Err(HandleError::Malformed));
            prop_assert_eq!(Handles::of("RaftNode01").parse_waiting(&text), Err(HandleError::OtherBrokerGroup));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = Handles::of("RaftNode00").parse(&text);
            let _ = Handles::of("RaftNode00").parse_waiting(&text);
        }
    }

    #[test]
    fn other_texts_are_malformed() {
        let handles = Handles::of("RaftNode00");
        let good = handles.text(&Handle { consumer_group_id: 1, lease_id: 2, item: 3, nonce: 4 });
        let longer = format!("{good}0");
        let foreign = good.replacen("01", "02", 1);
        let cut = &good[..good.len() - 2];
        let sign = good.replacen("01", "+1", 1);
        for text in ["", "x", "0 1700000000000 60000 0 0 broker-a 1 17 4096", cut, &longer, &foreign, &sign] {
            assert_eq!(handles.parse(text), Err(HandleError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn digits_are_upper_case() {
        assert_eq!(upper_hex(&[0, 0x0f, 0xab, 0xff]), "000FABFF");
    }
}
