//! What was done to a message, in words and as JSON.

use super::decode_message_id::made_ms;
use crate::time::human;
use raftmq_proto::admin::{ExplainMessageResponse, MessageEvent, QueueTrim};
use serde_json::{Value, json};

/// One event, without its time. `place` says where the message is.
pub(super) fn in_words(event: &MessageEvent, place: &str) -> String {
    let until = human(event.until_ms);
    let what = match event.event.as_str() {
        "STORED" => return format!("STORED {place}"),
        "VISIBLE" => {
            return format!(
                "VISIBLE {place}: its delivery time had come, its transaction was committed, or it is a dead letter"
            );
        }
        "LEASED" if event.renewed => {
            format!("LEASED to {} while its session lasts, at most until {until}", event.client_id)
        }
        "LEASED" => format!("LEASED to {} until {until}", event.client_id),
        "ASKED_AGAIN" => format!("ASKED_AGAIN by the client, which got no answer; until {until}"),
        "CONFIRMED" => "CONFIRMED: it reached its client".to_owned(),
        "EXTENDED" => format!("EXTENDED until {until}"),
        "GIVEN_BACK" => "GIVEN_BACK by the client".to_owned(),
        "RAN_OUT" => "RAN_OUT: the lease ended without an acknowledgement".to_owned(),
        "SESSION_ENDED" => "SESSION_ENDED: the client is gone, and its lease ended".to_owned(),
        "DEAD_LETTERED" => format!("DEAD_LETTERED, offset {} of %DLQ%{}", event.offset, event.consumer_group),
        // Of a newer broker, too.
        other => other.to_owned(),
    };
    let by = if event.consumer_group.is_empty() { "a consumer group that is gone" } else { &event.consumer_group };
    format!("{by}: {what} (attempt {})", event.attempt)
}

pub(super) fn to_json(event: &MessageEvent) -> Value {
    json!({
        "event": event.event, "atMs": event.at_ms, "logIndex": event.log_index, "consumerGroup": event.consumer_group,
        "attempt": event.attempt, "clientId": event.client_id, "untilMs": event.until_ms, "renewed": event.renewed,
        "deadLetterOffset": event.offset,
    })
}

/// Why nothing is known of a message that is not there: its place was trimmed, or all of the time at which its id says that
/// it was made.
pub(super) fn trimmed(
    broker_group: &str,
    place: Option<(u32, u64)>,
    id: &str,
    explained: &ExplainMessageResponse,
) -> Option<String> {
    if let Some((queue, offset)) = place {
        let min = explained.min_offset;
        let when = match explained.trim {
            Some(QueueTrim { at_ms, log_index, .. }) => {
                format!("; the last trim was at {}, log index {log_index}", human(at_ms))
            }
            None => String::new(),
        };
        let text = format!(
            "broker group {broker_group}: offset {offset} of queue {queue} was trimmed, {min} is the first{when}"
        );
        return (offset < min).then_some(text);
    }
    let QueueTrim { at_ms, log_index, horizon_ms } = explained.trim?;
    let made_ms = made_ms(id).filter(|made_ms| *made_ms <= horizon_ms)?;
    Some(format!(
        "broker group {broker_group}: the id is of a message made at {}, and what is from before {} was trimmed; the last \
         trim was at {}, log index {log_index}",
        human(made_ms),
        human(horizon_ms),
        human(at_ms)
    ))
}

#[cfg(test)]
mod tests {
    use super::{ExplainMessageResponse, MessageEvent, QueueTrim, human, in_words, trimmed};

    #[test]
    fn an_event_in_words() {
        let event = |event: &str| MessageEvent {
            event: event.to_owned(),
            consumer_group: "G".to_owned(),
            attempt: 2,
            client_id: "c@1".to_owned(),
            until_ms: 1_700_000_000_000,
            ..MessageEvent::default()
        };
        let until = human(1_700_000_000_000);
        assert_eq!(in_words(&event("STORED"), "here"), "STORED here");
        assert_eq!(in_words(&event("LEASED"), ""), format!("G: LEASED to c@1 until {until} (attempt 2)"));
        assert_eq!(in_words(&event("EXTENDED"), ""), format!("G: EXTENDED until {until} (attempt 2)"));
        assert_eq!(in_words(&event("ACKNOWLEDGED"), ""), "G: ACKNOWLEDGED (attempt 2)");
        let gone = MessageEvent { consumer_group: String::new(), ..event("NEW") };
        assert_eq!(in_words(&gone, ""), "a consumer group that is gone: NEW (attempt 2)");
    }

    #[test]
    fn what_was_trimmed_is_told_from_what_never_was() {
        let horizon_ms = 1_700_000_000_000;
        let trim = Some(QueueTrim { at_ms: horizon_ms + 1, log_index: 9, horizon_ms });
        let explained = ExplainMessageResponse { trim, min_offset: 5, ..ExplainMessageResponse::default() };
        let told = |place, id| trimmed("B", place, id, &explained);
        assert!(told(Some((0, 4)), "").expect("it was trimmed").contains("log index 9"));
        assert_eq!(told(Some((0, 5)), ""), None);
        // Made 2 s after the beginning of 2021, and in 2151.
        assert!(told(None, "0156F7E71C361B21BC0000000200000000").expect("before the trim").contains("was trimmed"));
        assert_eq!(told(None, "0156F7E71C361B21BCF400000200000000"), None);
        assert_eq!(told(None, "a-client-of-its-own"), None);
    }
}
