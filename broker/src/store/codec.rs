//! Bytes of row values: fixed big-endian numbers and varints, read without panics.

use super::StateError;

/// Appends a LEB128 number: 7 bits a byte, low bits first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a row value from front to back.
pub(crate) struct Reader<'r> {
    table: &'static str,
    rest: &'r [u8],
}

impl<'r> Reader<'r> {
    pub(crate) fn new(table: &'static str, value: &'r [u8]) -> Reader<'r> {
        Reader { table, rest: value }
    }

    pub(crate) fn corrupt(&self, what: &str) -> StateError {
        StateError::Corrupt { table: self.table, what: what.to_owned() }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'r [u8], StateError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.corrupt("row is cut"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, StateError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StateError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_be_bytes(bytes))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StateError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_be_bytes(bytes))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, StateError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.corrupt("number is too long"))
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, StateError> {
        u32::try_from(self.varint()?).map_err(|_| self.corrupt("number is too large"))
    }

    pub(crate) fn varint_u16(&mut self) -> Result<u16, StateError> {
        u16::try_from(self.varint()?).map_err(|_| self.corrupt("number is too large"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'r [u8], StateError> {
        let length = usize::try_from(self.varint()?).map_err(|_| self.corrupt("row is cut"))?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<String, StateError> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.corrupt("text is not UTF-8"))
    }

    /// Bytes that were not read yet.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Capacity for `count` values that take a byte at least: never more than the row can hold.
    pub(crate) fn capacity(&self, count: u32) -> usize {
        (count as usize).min(self.rest.len())
    }

    pub(crate) fn end(self) -> Result<(), StateError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.corrupt("row is too long")) }
    }
}

/// The number that a key holds at `at`.
pub(crate) fn key_u64(table: &'static str, key: &[u8], at: usize) -> Result<u64, StateError> {
    let mut reader = Reader::new(table, key);
    reader.take(at)?;
    reader.u64()
}

#[cfg(test)]
mod tests {
    use super::{Reader, put_bytes, put_varint};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn numbers_come_back(value in any::<u64>(), bits in 0u32..64, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let value = value >> bits;
            let mut row = Vec::new();
            put_varint(&mut row, value);
            put_bytes(&mut row, &bytes);
            let mut reader = Reader::new("test", &row);
            prop_assert_eq!(reader.varint().expect("number"), value);
            prop_assert_eq!(reader.bytes().expect("bytes"), &bytes[..]);
            reader.end().expect("end");
        }

        #[test]
        fn garbage_never_panics(row in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader::new("test", &row);
            while reader.varint().is_ok() && reader.bytes().is_ok() && reader.u32().is_ok() {}
        }
    }
}
