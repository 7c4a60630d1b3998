//! The text format of Java properties files: reading and writing.
//!
//! `key = value`, `key: value` or `key value`; `#` and `!` start comments; a line that ends in an odd number of
//! backslashes goes on in the next one; `\t \n \r \f \uXXXX` and `\` before any other character are escapes.

use std::fmt::Write;

use thiserror::Error;

/// One `key = value` of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// As written, escapes resolved.
    pub key: String,
    /// As written, escapes resolved, without the white space in front of it and behind it.
    pub value: String,
    /// Where it starts, from 1.
    pub line: usize,
}

/// A line that is no property.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct PropertyError {
    /// Where it starts, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a whole file. Properties keep the file's order and repeats; every bad line is reported.
pub fn parse(text: &str) -> Result<Vec<Property>, Vec<PropertyError>> {
    let mut properties = Vec::new();
    let mut errors = Vec::new();
    for (line, logical) in logical_lines(text) {
        match parse_line(&logical) {
            Ok((key, _)) if key.is_empty() => {
                errors.push(PropertyError { line, reason: "a value without a key".to_owned() });
            }
            Ok((key, value)) => properties.push(Property { key, value, line }),
            Err(reason) => errors.push(PropertyError { line, reason }),
        }
    }
    if errors.is_empty() { Ok(properties) } else { Err(errors) }
}

/// Writes one property so that [`parse`] reads it back.
pub fn render(key: &str, value: &str) -> String {
    let mut line = String::with_capacity(key.len() + value.len() + 1);
    escape(&mut line, key, true);
    line.push('=');
    escape(&mut line, value, false);
    line
}

/// Lines with their continuations joined, without comments and blank ones, and where each starts.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, natural) in text.split('\n').enumerate() {
        let natural = natural.strip_suffix('\r').unwrap_or(natural);
        let trimmed = natural.trim_start();
        if !open && (trimmed.is_empty() || trimmed.starts_with(['#', '!'])) {
            continue;
        }
        let slashes = trimmed.bytes().rev().take_while(|byte| *byte == b'\\').count();
        let goes_on = slashes % 2 == 1;
        let piece = if goes_on { &trimmed[..trimmed.len() - 1] } else { trimmed };
        match lines.last_mut() {
            Some((_, line)) if open => line.push_str(piece),
            _ => lines.push((index + 1, piece.to_owned())),
        }
        open = goes_on;
    }
    lines
}

fn parse_line(line: &str) -> Result<(String, String), String> {
    let mut escaped = false;
    let mut end = line.len();
    for (at, character) in line.char_indices() {
        if !escaped && (character == '=' || character == ':' || character.is_whitespace()) {
            end = at;
            break;
        }
        escaped = !escaped && character == '\\';
    }
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    // White space behind a value is never meant: Java keeps it, and users of it are bitten by it.
    Ok((unescape(&line[..end])?, unescape(rest.trim())?))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    // A character outside the basic plane is written as two escapes, a surrogate pair.
    let mut high: Option<u16> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let mut unit = None;
        let plain = match character {
            '\\' => match characters.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = characters.by_ref().take(4).collect();
                    if digits.len() != 4 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                        return Err(format!("\\u needs four hexadecimal digits, not \"{digits}\""));
                    }
                    unit = u16::from_str_radix(&digits, 16).ok();
                    ' '
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        match (high.take(), unit) {
            (Some(first), Some(second)) => match char::decode_utf16([first, second]).next() {
                Some(Ok(pair)) => out.push(pair),
                _ => return Err(format!("\\u{first:04x}\\u{second:04x} is half a character")),
            },
            (Some(first), None) => return Err(format!("\\u{first:04x} is half a character")),
            (None, Some(unit)) => match char::from_u32(u32::from(unit)) {
                Some(character) => out.push(character),
                None => high = Some(unit),
            },
            (None, None) => out.push(plain),
        }
    }
    match high {
        Some(unit) => Err(format!("\\u{unit:04x} is half a character")),
        None => Ok(out),
    }
}

fn escape(out: &mut String, text: &str, is_key: bool) {
    let last = text.chars().count().saturating_sub(1);
    for (at, character) in text.chars().enumerate() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '=' | ':' | ' ' if is_key => out.extend(['\\', character]),
            '#' | '!' if is_key && at == 0 => out.extend(['\\', character]),
            ' ' if at == 0 || at == last => out.push_str("\\u0020"),
            character if character.is_control() || (character.is_whitespace() && character != ' ') => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            character => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, render};

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let read = parse(text).expect("the text is good");
        let read: Vec<_> = read.iter().map(|property| (property.key.as_str(), property.value.as_str())).collect();
        assert_eq!(read, expected, "{text:?}");
    }

    #[test]
    fn reads_what_java_reads() {
        check("a=1\nb: 2\nc 3\n d = 4 \r\n", &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
        check("# no\n  ! no\n\n\t\na=1", &[("a", "1")]);
        check("peers=n0-h:1;\\\n   n1-h:2\nx=y", &[("peers", "n0-h:1;n1-h:2"), ("x", "y")]);
        check("path=c:\\\\tmp\\\\\nx=y", &[("path", "c:\\tmp\\"), ("x", "y")]);
        check("a\\=b\\:c\\ d=e=f:g", &[("a=b:c d", "e=f:g")]);
        check("a=\\u00e9\\ud83d\\ude00\\t.", &[("a", "é😀\t.")]);
        check("a\nb=\nc", &[("a", ""), ("b", ""), ("c", "")]);
        check("\u{feff}a=1", &[("a", "1")]);
        check("a=1\\\n# not a comment", &[("a", "1# not a comment")]);
        check("a=1\\", &[("a", "1")]);
        check("", &[]);
    }

    #[test]
    fn reports_every_bad_line() {
        let errors = parse("a=1\n=2\nb=\\u12x\nc=\\ud83d\nd=\\ud83dx").expect_err("four lines are bad");
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        assert_eq!(errors[1].to_string(), "line 3: \\u needs four hexadecimal digits, not \"12x\"");
    }

    #[test]
    fn writes_what_it_reads() {
        for (key, value) in
            [("a", "b"), ("a b:c=d", " x\\y "), ("#a", "#b"), ("!", "é😀"), ("k", "a\nb\tc\u{7}"), ("\u{3000}k", "")]
        {
            let read = parse(&render(key, value)).expect("rendered text is good");
            assert_eq!(read.len(), 1);
            assert_eq!((read[0].key.as_str(), read[0].value.as_str()), (key, value), "{}", render(key, value));
        }
    }
}
