//! W3C's `traceparent`: which span something belongs to.

use std::fmt;

/// A span of a trace that is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Context {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
}

impl Context {
    /// The beginning of another trace.
    pub(crate) fn fresh() -> Context {
        // An id of zeros would be none.
        Context { trace: (rand::random::<u128>() | 1).to_be_bytes(), span: (rand::random::<u64>() | 1).to_be_bytes() }
    }

    /// Another span of the same trace.
    pub(crate) fn child(self) -> Context {
        Context { trace: self.trace, ..Context::fresh() }
    }

    /// Reads a `traceparent`; `None` for what is none, and for traces that are not sampled.
    pub(crate) fn sampled(text: &str) -> Option<Context> {
        let mut parts = text.splitn(5, '-');
        let [version] = bytes::<1>(parts.next()?)?;
        let (trace, span) = (bytes::<16>(parts.next()?)?, bytes::<8>(parts.next()?)?);
        let [flags] = bytes::<1>(parts.next()?)?;
        // Later versions may have more behind what this one has.
        let is_whole = version != 0xff && (version > 0 || parts.next().is_none());
        let is_one = is_whole && trace != [0; 16] && span != [0; 8];
        (is_one && flags & 1 == 1).then_some(Context { trace, span })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", u128::from_be_bytes(self.trace), u64::from_be_bytes(self.span))
    }
}

/// So many bytes in lower-case hexadecimal.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::Context;
    use proptest::prelude::{prop_assert_eq, proptest};

    #[test]
    fn what_is_a_sampled_traceparent() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = format!("00-{trace}-{span}-01");
        assert_eq!(Context::sampled(&good).expect("it is one").to_string(), good);
        for text in [format!("00-{trace}-{span}-03"), format!("cc-{trace}-{span}-01-what-the-future-brings")] {
            assert_eq!(Context::sampled(&text).expect("it is one").to_string(), good, "{text}");
        }
        for text in [
            String::new(),
            format!("00-{trace}-{span}-00"),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}-{span}x-01"),
            format!("00-{trace}-{}-01", &span[1..]),
            format!("0-{trace}-{span}-01"),
            format!("00-{trace}-{span}-é1"),
        ] {
            assert_eq!(Context::sampled(&text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn ours_read_back_and_garbage_never_panics(text in ".{0,80}") {
            let _ = Context::sampled(&text);
            let context = Context::fresh();
            prop_assert_eq!(Context::sampled(&context.to_string()), Some(context));
            prop_assert_eq!(context.child().trace, context.trace);
        }
    }
}
