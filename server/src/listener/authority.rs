//! Makes several addresses in a request's `:authority` acceptable to our HTTP/2 stack.
//!
//! Clients on gRPC's C core (Python, C++) that are given several addresses of one service name them all in the
//! `:authority` of each request: `10.0.0.1:8081,10.0.0.2:8081`; Go's separates them by semicolons. Nobody reads it, but the stack resets a stream whose
//! authority has more than one port. So the colons behind the first separator are replaced on their way in, each by one
//! other character of the same length, in plain text and in Huffman code alike: no frame changes its size and
//! neither side's header table notices. Everything else passes untouched, and what makes no sense is left to the
//! stack to refuse.

/// What a colon becomes. In Huffman code the two differ in their last bit only, so that a colon can be replaced
/// when its last byte passes, whatever of it passed before.
const REPLACEMENT: u8 = b'B';

const PREFACE_BYTES: u32 = 24;
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: u32 = 5;
const NAME: &[u8] = b":authority";
/// Place of `:authority` in the static header table.
const NAME_INDEX: u8 = 1;

/// Length, first code and number of codes of each length that an authority may use (RFC 7541, appendix B).
const HUFFMAN: [(u8, u32, u32); 10] = [
    (5, 0x0, 10),
    (6, 0x14, 26),
    (7, 0x5c, 32),
    (8, 0xf8, 6),
    (10, 0x3f8, 5),
    (11, 0x7fa, 3),
    (12, 0xffa, 2),
    (13, 0x1ff8, 6),
    (14, 0x3ffc, 2),
    (15, 0x7ffc, 3),
];
const HUFFMAN_COLON: (u8, u32) = (7, 0x5c);
const HUFFMAN_COMMA: (u8, u32) = (8, 0xfa);
const HUFFMAN_SEMICOLON: (u8, u32) = (8, 0xfb);

/// Where in the frames the next byte stands.
#[derive(Debug, Clone, Copy)]
enum Frame {
    /// Bytes that are passed over, then the next frame.
    Skip(u32),
    Header {
        bytes: [u8; FRAME_HEADER_BYTES],
        have: usize,
    },
    /// The length of the padding of a frame of headers.
    PadLength {
        left: u32,
        priority: bool,
    },
    /// The priority before a block of headers.
    Priority {
        skip: u32,
        block: u32,
        padding: u32,
    },
    /// A block of headers, or a part of one.
    Block {
        left: u32,
        padding: u32,
    },
    /// Nothing here can be understood any more.
    Lost,
}

/// Where in a block of headers the next byte stands.
#[derive(Debug, Clone, Copy)]
enum Field {
    Start,
    Integer { value: u32, shift: u32, then: Then },
    NameLength,
    Name { left: u32, matched: Option<usize> },
    ValueLength { authority: bool },
    Value { left: u32, authority: Option<Value> },
}

/// What a long integer says.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// An index that needs nothing more.
    Nothing,
    /// The index of a name; so large a one is not ours.
    ValueLength,
    Name {
        huffman: bool,
    },
    Value {
        authority: bool,
        huffman: bool,
    },
}

/// Inside the value of `:authority`.
#[derive(Debug, Clone, Copy, Default)]
struct Value {
    huffman: bool,
    /// A separator has passed.
    separated: bool,
    /// Bits of a Huffman code that has begun.
    code: u32,
    bits: u8,
}

/// Follows the bytes that come in on one HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Authorities {
    frame: Frame,
    field: Field,
}

impl Authorities {
    /// At the beginning of a connection, before the preface.
    pub(super) fn new() -> Authorities {
        Authorities { frame: Frame::Skip(PREFACE_BYTES), field: Field::Start }
    }

    /// Passes the next bytes of the connection.
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let passed = self.step(bytes);
            bytes = &mut bytes[passed..];
        }
    }

    /// Passes some bytes, one at least.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        match &mut self.frame {
            Frame::Lost => bytes.len(),
            Frame::Skip(left) => {
                let passed = at_most(bytes, *left);
                *left -= size(passed);
                if *left == 0 {
                    self.frame = Frame::Header { bytes: [0; FRAME_HEADER_BYTES], have: 0 };
                }
                passed
            }
            Frame::Header { bytes: header, have } => {
                header[*have] = bytes[0];
                *have += 1;
                if *have == FRAME_HEADER_BYTES {
                    let header = *header;
                    self.frame = self.begin(header);
                }
                1
            }
            Frame::PadLength { left, priority } => {
                let padding = u32::from(bytes[0]);
                let skip = if *priority { PRIORITY_BYTES } else { 0 };
                self.frame = match left.checked_sub(padding + skip) {
                    Some(block) => priority_or_block(skip, block, padding),
                    None => Frame::Lost,
                };
                1
            }
            Frame::Priority { skip, block, padding } => {
                let passed = at_most(bytes, *skip);
                *skip -= size(passed);
                if *skip == 0 {
                    self.frame = priority_or_block(0, *block, *padding);
                }
                passed
            }
            Frame::Block { left, padding } => {
                let part = at_most(bytes, *left);
                *left -= size(part);
                if *left == 0 {
                    self.frame = Frame::Skip(*padding).or_header();
                }
                if !self.block(&mut bytes[..part]) {
                    self.frame = Frame::Lost;
                }
                part
            }
        }
    }

    fn begin(&mut self, header: [u8; FRAME_HEADER_BYTES]) -> Frame {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let (kind, flags) = (header[3], header[4]);
        match kind {
            HEADERS => {
                self.field = Field::Start;
                let priority = flags & PRIORITY != 0;
                let skip = if priority { PRIORITY_BYTES } else { 0 };
                match (flags & PADDED != 0, length.checked_sub(1), length.checked_sub(skip)) {
                    (true, Some(left), _) => Frame::PadLength { left, priority },
                    (false, _, Some(block)) => priority_or_block(skip, block, 0),
                    _ => Frame::Lost,
                }
            }
            CONTINUATION => priority_or_block(0, length, 0),
            _ => Frame::Skip(length).or_header(),
        }
    }

    /// Passes a part of a block of headers; false when it makes no sense.
    fn block(&mut self, mut bytes: &mut [u8]) -> bool {
        while let Some(first) = bytes.first().copied() {
            let mut passed = 1;
            self.field = match self.field {
                Field::Start => start(first),
                Field::Integer { value, shift, then } => {
                    let more = u32::from(first & 0x7f)
                        .checked_shl(shift)
                        .filter(|more| more >> shift == u32::from(first & 0x7f));
                    let Some(value) = more.and_then(|more| value.checked_add(more)) else { return false };
                    if first & 0x80 == 0 { then.with(value) } else { Field::Integer { value, shift: shift + 7, then } }
                }
                Field::NameLength => length(first, Then::Name { huffman: first & 0x80 != 0 }),
                Field::ValueLength { authority } => {
                    length(first, Then::Value { authority, huffman: first & 0x80 != 0 })
                }
                Field::Name { left, matched } => {
                    let matched = matched.filter(|at| NAME.get(*at) == Some(&first)).map(|at| at + 1);
                    match left - 1 {
                        0 => Field::ValueLength { authority: matched == Some(NAME.len()) },
                        left => Field::Name { left, matched },
                    }
                }
                Field::Value { left, authority } => {
                    passed = at_most(bytes, left);
                    let authority = authority.map(|value| value.pass(&mut bytes[..passed]));
                    match left - size(passed) {
                        0 => Field::Start,
                        left => Field::Value { left, authority },
                    }
                }
            };
            bytes = &mut bytes[passed..];
        }
        true
    }
}

impl Frame {
    /// A frame without anything to skip ends at once.
    fn or_header(self) -> Frame {
        match self {
            Frame::Skip(0) => Frame::Header { bytes: [0; FRAME_HEADER_BYTES], have: 0 },
            other => other,
        }
    }
}

impl Then {
    fn with(self, value: u32) -> Field {
        match self {
            Then::Nothing => Field::Start,
            Then::ValueLength => Field::ValueLength { authority: false },
            Then::Name { huffman } => match value {
                0 => Field::ValueLength { authority: false },
                // A name in Huffman code is not looked into: who compresses names uses the static table.
                left => Field::Name { left, matched: if huffman { None } else { Some(0) } },
            },
            Then::Value { authority, huffman } => match value {
                0 => Field::Start,
                left => Field::Value { left, authority: authority.then_some(Value { huffman, ..Value::default() }) },
            },
        }
    }
}

impl Value {
    fn pass(mut self, bytes: &mut [u8]) -> Value {
        for byte in bytes {
            if self.huffman {
                self.pass_huffman(byte);
            } else if *byte == b':' && self.separated {
                *byte = REPLACEMENT;
            } else if *byte == b',' || *byte == b';' {
                self.separated = true;
            }
        }
        self
    }

    fn pass_huffman(&mut self, byte: &mut u8) {
        for bit in (0..8).rev() {
            self.code = self.code << 1 | u32::from(*byte >> bit & 1);
            self.bits = self.bits.saturating_add(1);
            let ends = |(bits, first, codes): &(u8, u32, u32)| {
                *bits == self.bits && self.code.checked_sub(*first).is_some_and(|place| place < *codes)
            };
            if !HUFFMAN.iter().any(ends) {
                continue;
            }
            if [HUFFMAN_COMMA, HUFFMAN_SEMICOLON].contains(&(self.bits, self.code)) {
                self.separated = true;
            } else if (self.bits, self.code) == HUFFMAN_COLON && self.separated {
                *byte |= 1 << bit;
            }
            (self.bits, self.code) = (0, 0);
        }
    }
}

/// The first byte of a header.
fn start(first: u8) -> Field {
    let indexed = |prefix: u8| {
        let index = first & prefix;
        match index {
            0 => Field::NameLength,
            _ if index == prefix => Field::Integer { value: u32::from(prefix), shift: 0, then: Then::ValueLength },
            _ => Field::ValueLength { authority: index == NAME_INDEX },
        }
    };
    let alone = |prefix: u8| match first & prefix {
        index if index == prefix => Field::Integer { value: u32::from(prefix), shift: 0, then: Then::Nothing },
        _ => Field::Start,
    };
    match first {
        0x80.. => alone(0x7f),
        0x40.. => indexed(0x3f),
        0x20.. => alone(0x1f),
        _ => indexed(0x0f),
    }
}

/// The first byte of a string's length.
fn length(first: u8, then: Then) -> Field {
    match first & 0x7f {
        0x7f => Field::Integer { value: 0x7f, shift: 0, then },
        length => then.with(u32::from(length)),
    }
}

fn priority_or_block(skip: u32, block: u32, padding: u32) -> Frame {
    match (skip, block) {
        (0, 0) => Frame::Skip(padding).or_header(),
        (0, left) => Frame::Block { left, padding },
        _ => Frame::Priority { skip, block, padding },
    }
}

/// As many bytes as there are, at most `left`.
fn at_most(bytes: &[u8], left: u32) -> usize {
    bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a part of what a frame's 24 bits of length say")
}

#[cfg(test)]
mod tests {
    use super::Authorities;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn string(text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![];
        match u8::try_from(text.len()) {
            Ok(short @ 0..0x7f) => bytes.push(short),
            _ => {
                bytes.push(0x7f);
                let mut rest = text.len() - 0x7f;
                while rest >= 0x80 {
                    bytes.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
                    rest >>= 7;
                }
                bytes.push(u8::try_from(rest).expect("seven bits"));
            }
        }
        bytes.extend_from_slice(text);
        bytes
    }

    fn header(first: &[u8], value: &str) -> Vec<u8> {
        [first, &string(value.as_bytes())].concat()
    }

    /// What comes out, however the bytes are cut into reads.
    fn check(frames: &[u8], expected: &[u8]) {
        let sent = [PREFACE, frames].concat();
        let expected = [PREFACE, expected].concat();
        for cut in 1..=sent.len() {
            let mut passed = sent.clone();
            let mut authorities = Authorities::new();
            for part in passed.chunks_mut(cut) {
                authorities.pass(part);
            }
            assert_eq!(passed, expected, "in reads of {cut} bytes");
        }
    }

    const SENT: &str = "10.0.0.1:8081,10.0.0.2:8181,10.0.0.3:8281";
    const PASSED: &str = "10.0.0.1:8081,10.0.0.2B8181,10.0.0.3B8281";

    #[test]
    fn only_an_authority_with_several_addresses_changes() {
        let settings = frame(4, 0, &[0; 12]);
        let data = frame(0, 1, format!(":authority{SENT}").as_bytes());
        let with = |authority: &str, path: &str| {
            let mut bytes = settings.clone();
            let name = [&[0x40], string(b":authority").as_slice()].concat();
            let block = [
                vec![0x3f, 0xe1, 0x1f, 0x83],
                header(&name, authority),
                header(&[0x44], path),
                header(&[0x0f, 0x31], SENT),
                vec![0xff, 0x80, 0x01],
                header(&[0x01], authority),
                header(&[0x11], authority),
                header(&[0x41], authority),
            ]
            .concat();
            bytes.extend(frame(1, 4, &block));
            bytes.extend(&data);
            bytes
        };
        check(&with(SENT, SENT), &with(PASSED, SENT));
        check(&with("10.0.0.1:8081", "/p"), &with("10.0.0.1:8081", "/p"));
        check(&with(&SENT.replace(',', ";"), SENT), &with(&PASSED.replace(',', ";"), SENT));
        check(&with("[::1]:8081", &"/p".repeat(300)), &with("[::1]:8081", &"/p".repeat(300)));
        check(&with("", ""), &with("", ""));
    }

    #[test]
    fn padding_priority_and_continuation() {
        let with = |authority: &str| {
            let block = [vec![0x83], header(&[0x41], authority), header(&[0x04], "/p")].concat();
            let (head, tail) = block.split_at(12);
            let padded = [&[3, 0, 0, 0, 0, 9], head, &[0x41, b':', b':']].concat();
            [frame(1, 0x28, &padded), frame(9, 4, tail), frame(1, 4, &header(&[0x41], authority))].concat()
        };
        check(&with(SENT), &with(PASSED));
    }

    /// A few codes of RFC 7541, appendix B.
    fn huffman(text: &str) -> Vec<u8> {
        let (mut bits, mut count, mut bytes) = (0u64, 0, Vec::new());
        for character in text.chars() {
            let (code, length) = match character {
                '0'..='2' => (u64::from(character) - u64::from('0'), 5),
                '3'..='9' => (0x19 + u64::from(character) - u64::from('3'), 6),
                '.' => (0x17, 6),
                ':' => (0x5c, 7),
                'B' => (0x5d, 7),
                ',' => (0xfa, 8),
                ';' => (0xfb, 8),
                other => unreachable!("no code for {other:?} here"),
            };
            bits = bits << length | code;
            count += length;
            while count >= 8 {
                count -= 8;
                bytes.push(u8::try_from(bits >> count & 0xff).expect("eight bits"));
            }
        }
        if count > 0 {
            bytes.push(u8::try_from((bits << (8 - count) | 0xff >> count) & 0xff).expect("eight bits"));
        }
        bytes
    }

    #[test]
    fn huffman_code() {
        let with = |authority: &str| {
            let coded = huffman(authority);
            let mut block = vec![0x41, 0x80 | u8::try_from(coded.len()).expect("short")];
            block.extend(coded);
            frame(1, 4, &block)
        };
        check(&with(SENT), &with(PASSED));
        check(&with("127.0.0.1:8081"), &with("127.0.0.1:8081"));
        check(&with("9.8.7.6:5432,1.0.3.4:11111"), &with("9.8.7.6:5432,1.0.3.4B11111"));
        check(&with("9.8.7.6:5432;1.0.3.4:11111"), &with("9.8.7.6:5432;1.0.3.4B11111"));
    }

    #[test]
    fn nonsense_passes_as_it_is() {
        let long = frame(1, 4, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, b',', b':']);
        check(&long, &long);
        let short = [frame(1, 0x28, &[1, 2]), frame(1, 0x20, &[1]), frame(1, 8, &[])].concat();
        check(&short, &short);
        let all: Vec<u8> = (0..=255).cycle().take(2_000).collect();
        Authorities::new().pass(&mut all.clone());
        for seed in 0..=255u8 {
            let mut bytes: Vec<u8> = all.iter().map(|byte| byte.wrapping_mul(seed).rotate_left(3) ^ seed).collect();
            let block = frame(1, 4, &bytes);
            Authorities::new().pass(&mut [PREFACE, &block].concat());
            Authorities::new().pass(&mut bytes);
        }
    }
}
