//! A message in full: its properties, and its body as text, JSON, or hexadecimal, unpacked where it is GZIP.

use crate::app::Visit;
use crate::phrase::Phrase as P;
use crate::view::{bytes, text, time};
use flate2::read::GzDecoder;
use maud::{Markup, html};
use raftmq_admin_client::message::{self, millis};
use raftmq_proto::rocketmq::{Encoding, Message, MessageType};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;

/// Bytes of a body that are shown; a small packed one may unpack to anything.
const SHOWN_MAX: usize = 256 << 10;
/// Bytes of a line of hexadecimal.
const HEX_LINE: usize = 16;

/// How a body is shown.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Text(String),
    Json(String),
    Hex(String),
}

/// A body as it is shown.
#[derive(Debug, PartialEq, Eq)]
struct Body {
    form: Form,
    /// It was unpacked.
    gzip: bool,
    /// There is more of it.
    cut: bool,
}

fn body(message: &Message) -> Body {
    let says = message.system_properties.as_ref().is_some_and(|known| known.body_encoding() == Encoding::Gzip);
    // Senders pack bodies without saying so, too.
    let unpacked = if says || message.body.starts_with(b"\x1f\x8b") { unpack(&message.body) } else { None };
    let gzip = unpacked.is_some();
    let all = unpacked.unwrap_or_else(|| message.body.get(..=SHOWN_MAX).unwrap_or(&message.body).to_vec());
    let cut = all.len() > SHOWN_MAX;
    let mut shown = all.get(..SHOWN_MAX).unwrap_or(&all);
    if cut
        && let Err(error) = std::str::from_utf8(shown)
        && error.error_len().is_none()
    {
        // Not in the middle of a letter.
        shown = &shown[..error.valid_up_to()];
    }
    let form = match message::text(shown) {
        Some(text) => match pretty(text) {
            Some(json) => Form::Json(json),
            None => Form::Text(text.to_owned()),
        },
        None => Form::Hex(hex(shown)),
    };
    Body { form, gzip, cut }
}

/// At most one byte more than is shown; nothing when it is not GZIP after all.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut unpacked = Vec::new();
    let limit = u64::try_from(SHOWN_MAX).unwrap_or(u64::MAX) + 1;
    GzDecoder::new(packed).take(limit).read_to_end(&mut unpacked).ok()?;
    Some(unpacked)
}

/// A JSON object or list with line breaks, its keys and numbers as they were sent.
fn pretty(text: &str) -> Option<String> {
    let text = text.trim();
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    serde_json::to_string_pretty(&value).ok()
}

fn hex(bytes: &[u8]) -> String {
    let mut lines = String::new();
    for (number, line) in bytes.chunks(HEX_LINE).enumerate() {
        let _ = write!(lines, "{:08x} ", number * HEX_LINE);
        for byte in line {
            let _ = write!(lines, " {byte:02x}");
        }
        let letters: String = line
            .iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
            .collect();
        let _ = writeln!(lines, "{}  {letters}", "   ".repeat(HEX_LINE - line.len()));
    }
    lines
}

pub(super) fn kind(message: &Message) -> String {
    let value = message.system_properties.as_ref().map_or(0, |known| known.message_type);
    MessageType::try_from(value)
        .map_or_else(|_| value.to_string(), |known| known.as_str_name().trim_start_matches("MESSAGE_TYPE_").to_owned())
}

/// The beginning of a body, in a line.
pub(super) fn excerpt(message: &Message) -> String {
    let start = message.body.get(..256).unwrap_or(&message.body);
    let text: String = String::from_utf8_lossy(start)
        .chars()
        .map(|sign| if sign.is_control() { ' ' } else { sign })
        .take(80)
        .collect();
    text
}

/// All of a message.
pub(super) fn full(visit: &Visit, broker_group: &str, message: &Message) -> Markup {
    let t = |phrase| visit.t(phrase);
    let known = message.system_properties.clone().unwrap_or_default();
    let user: BTreeMap<&String, &String> = message.user_properties.iter().collect();
    let shown = body(message);
    let form = match &shown.form {
        Form::Text(_) => "TEXT",
        Form::Json(_) => "JSON",
        Form::Hex(_) => "HEX",
    };
    let (Form::Text(content) | Form::Json(content) | Form::Hex(content)) = &shown.form;
    // One that waits is in no queue yet.
    let place = known.queue_offset.map_or("–".to_owned(), |at| format!("{} · {at}", known.queue_id));
    let place = format!("{broker_group} · {place}");
    html! {
        h2 { (t(P::Properties)) }
        dl.facts {
            dt { (t(P::MessageId)) } dd { (text(&known.message_id)) }
            dt { (t(P::Topic)) } dd { (message.topic.as_ref().map_or("–", |topic| topic.name.as_str())) }
            dt { (t(P::MessageType)) } dd { (kind(message)) }
            dt { (t(P::QueueAndOffset)) } dd { (place) }
            dt { (t(P::Tag)) } dd { (known.tag.as_deref().unwrap_or("–")) }
            dt { (t(P::Keys)) } dd { (text(&known.keys.join(" "))) }
            @if let Some(name) = &known.lite_topic { dt { (t(P::LiteTopic)) } dd { (name) } }
            @if let Some(priority) = known.priority { dt { (t(P::Priority)) } dd { (priority) } }
            @if let Some(name) = &known.message_group { dt { (t(P::MessageGroup)) } dd { (name) } }
            dt { (t(P::BornAt)) } dd { (time(millis(known.born_timestamp.as_ref()))) " · " (text(&known.born_host)) }
            dt { (t(P::StoredAt)) } dd { (time(millis(known.store_timestamp.as_ref()))) " · " (text(&known.store_host)) }
            @if known.delivery_timestamp.is_some() { dt { (t(P::DeliverAt)) } dd { (time(millis(known.delivery_timestamp.as_ref()))) } }
            @if let Some(attempt) = known.delivery_attempt { dt { (t(P::Attempt)) } dd { (attempt) } }
            @if let Some(letter) = &known.dead_letter_queue { dt { (t(P::DeadLetterOf)) } dd { (letter.topic) " · " (letter.message_id) } }
            @for (key, value) in user { dt { code { (key) } } dd { (value) } }
        }
        h2 { (t(P::Body)) }
        p.faint { (form) @if shown.gzip { " · GZIP" } " · " (bytes(message.body.len() as u64)) @if shown.cut { " · " (t(P::BodyCut)) " " (bytes(SHOWN_MAX as u64)) } }
        pre tabindex="0" { (content) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;

    fn shown(bytes: &[u8]) -> Body {
        body(&Message { body: bytes.to_vec().into(), ..Message::default() })
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).expect("memory takes it");
        packed.finish().expect("memory takes it")
    }

    #[test]
    fn bodies_are_shown_as_what_they_are() {
        assert_eq!(shown(b"hello").form, Form::Text("hello".to_owned()));
        assert_eq!(shown(b"{\"a\":[1]}").form, Form::Json("{\n  \"a\": [\n    1\n  ]\n}".to_owned()));
        assert_eq!(shown(b"{not json}").form, Form::Text("{not json}".to_owned()));
        let Form::Hex(lines) = shown(b"\xff\x00A").form else { unreachable!("no text") };
        assert!(lines.starts_with("00000000  ff 00 41 ") && lines.ends_with("  ..A\n"), "{lines:?}");
        assert_eq!(shown(b""), Body { form: Form::Text(String::new()), gzip: false, cut: false });
    }

    #[test]
    fn packed_bodies_are_unpacked_within_bounds() {
        let small = shown(&gzip("größe".as_bytes()));
        assert_eq!(small, Body { form: Form::Text("größe".to_owned()), gzip: true, cut: false });
        let bomb = shown(&gzip(&vec![b'x'; 64 << 20]));
        assert!(bomb.gzip && bomb.cut);
        assert_eq!(bomb.form, Form::Text("x".repeat(SHOWN_MAX)));
        let torn = &gzip(b"hello")[..12];
        assert!(!shown(torn).gzip);
        let long = shown("é".repeat(SHOWN_MAX).as_bytes());
        assert!(long.cut && matches!(long.form, Form::Text(_)));
    }
}
