//! What the results of scenarios must be, whatever client made them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// What clients and a busy machine of two cores add to any time.
pub const MARGIN: Duration = Duration::from_secs(8);

/// Message groups of a FIFO scenario, in turn.
const MESSAGE_GROUPS: u64 = 3;

/// Message groups of the scenario with two broker groups, in turn.
const APART_GROUPS: u64 = 12;

/// Lite topics of a scenario, in turn.
const LITE_TOPICS: u64 = 3;

/// A number in a result; one that no judge accepts when there is none.
pub fn number(result: &Value, name: &str) -> u64 {
    result[name].as_u64().unwrap_or(u64::MAX)
}

fn exactly(name: &str, result: &Value, expected: &[(&str, u64)]) -> Result<()> {
    println!("{name}: {result}");
    let wrong: Vec<_> = expected.iter().filter(|(field, value)| number(result, field) != *value).collect();
    ensure!(wrong.is_empty(), "{name}: expected {wrong:?}, got {result}");
    Ok(())
}

/// Each of `count` messages came once and was as it was sent.
///
/// # Errors
///
/// It is not so.
pub fn once(name: &str, count: u64, result: &Value) -> Result<()> {
    exactly(name, result, &[("sent", count), ("distinct", count), ("deliveries", count), ("foreign", 0)])?;
    for field in ["wrong", "failures"] {
        ensure!(result[field].as_array().is_none_or(Vec::is_empty), "{name}: {field}: {result}");
    }
    ensure!(result["ack_failures"].as_u64().unwrap_or_default() == 0, "{name}: {result}");
    Ok(())
}

/// Each message came twice, the second time when its invisible duration was over.
///
/// # Errors
///
/// It is not so.
pub fn redelivery(name: &str, count: u64, result: &Value) -> Result<()> {
    again(name, count, Duration::from_millis(number(result, "invisible_ms")), result)
}

/// Each message came twice, the second time not sooner than `after` and not much later.
///
/// # Errors
///
/// It is not so.
pub fn again(name: &str, count: u64, after: Duration, result: &Value) -> Result<()> {
    exactly(name, result, &[("sent", count), ("first", count), ("second", count), ("repeated", 0)])?;
    let [min, max] = ["min_gap_ms", "max_gap_ms"].map(|field| Duration::from_millis(number(result, field)));
    ensure!(min >= after, "{name}: a message came back {min:?} after it was left: {result}");
    ensure!(max <= after + MARGIN, "{name}: a message came back only after {max:?}: {result}");
    Ok(())
}

/// How much of a recall a client lets its user see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// It has none.
    None,
    /// It takes the answer that there is no such message any more for a success.
    Blind,
    /// It says whether the recall won.
    Seen,
}

/// Delayed messages came at their time; what was recalled did not come, and what came cannot be recalled any more.
///
/// # Errors
///
/// It is not so.
pub fn delay(name: &str, count: u64, recall: Recall, result: &Value) -> Result<()> {
    let recalled = if recall == Recall::None { 0 } else { count / 3 };
    let expected = [
        ("sent", count),
        ("recalled", recalled),
        ("came", count - recalled),
        ("recalled_came", 0),
        ("repeated", 0),
        ("wrong_time", 0),
    ];
    exactly(name, result, &expected)?;
    let [earliest, latest] = ["earliest_ms", "latest_ms"].map(|field| result[field].as_i64());
    ensure!(earliest.context("a message came")? >= 0, "{name}: a message came before its time: {result}");
    ensure!(latest.context("a message came")? <= MARGIN.as_millis() as i64, "{name}: a message came late: {result}");
    ensure!(recall != Recall::Seen || result["late_recall"] != "", "{name}: what was delivered was recalled: {result}");
    Ok(())
}

/// Committed messages came, rolled back ones did not, and open ones only if the broker asked about them.
///
/// # Errors
///
/// It is not so.
pub fn transaction(name: &str, count: u64, result: &Value) -> Result<()> {
    let expected = [("sent", count), ("committed_came", count / 3), ("rolled_back_came", 0), ("repeated", 0)];
    exactly(name, result, &expected)?;
    ensure!(number(result, "open_came") <= number(result, "checked"), "{name}: nobody committed them: {result}");
    Ok(())
}

/// A producer was asked about each of its 2 × `count` open transactions: what it committed then came once, and what it
/// rolled back did not.
///
/// # Errors
///
/// It is not so.
pub fn orphans(name: &str, count: u64, result: &Value) -> Result<()> {
    once(name, count, result)?;
    ensure!(number(result, "asked") == 2 * count, "{name}: it was not asked about each: {result}");
    Ok(())
}

/// Each message group came in order, and the one message that failed came again before its successors.
///
/// # Errors
///
/// It is not so.
pub fn fifo(name: &str, count: u64, result: &Value) -> Result<()> {
    exactly(name, result, &[("sent", count)])?;
    let in_order = |group: u64| {
        let all = (group..count).step_by(MESSAGE_GROUPS as usize);
        // The second of the first group fails once.
        all.flat_map(|sequence| vec![sequence; if sequence == MESSAGE_GROUPS { 2 } else { 1 }]).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (0..MESSAGE_GROUPS).map(in_order).collect();
    ensure!(result["orders"] == json!(expected), "{name}: expected {expected:?}, got {result}");
    Ok(())
}

/// Each message group came in order and whole, whichever broker group keeps it, but for the messages whose tag the consumer
/// did not want.
///
/// # Errors
///
/// It is not so.
pub fn apart(name: &str, count: u64, result: &Value) -> Result<()> {
    exactly(name, result, &[("sent", count)])?;
    let mut orders: Vec<Vec<u64>> = serde_json::from_value(result["orders"].clone())?;
    // A send whose answer was lost is made again, as another message.
    orders.iter_mut().for_each(Vec::dedup);
    let wanted = |sequence: &u64| sequence / APART_GROUPS % 3 != 1;
    let of = |group: u64| (group..count).step_by(APART_GROUPS as usize).filter(wanted).collect::<Vec<_>>();
    let expected: Vec<Vec<u64>> = (0..APART_GROUPS).map(of).collect();
    ensure!(orders == expected, "{name}: expected {expected:?}, got {result}");
    Ok(())
}

/// Each lite topic that was subscribed to came in order and whole, the message that failed again before its successors;
/// the one that was left had nothing more, and the one that nobody subscribed to nothing at all.
///
/// # Errors
///
/// It is not so.
pub fn lite(name: &str, count: u64, result: &Value) -> Result<()> {
    exactly(name, result, &[("sent", count)])?;
    let mut orders: Vec<Vec<u64>> = serde_json::from_value(result["orders"].clone())?;
    // What failed comes again, and so may what was sent or acknowledged as the leader died, but never after a successor.
    orders.iter_mut().for_each(Vec::dedup);
    let of = |number: u64, until: u64| (0..until).map(|turn| number + LITE_TOPICS * turn).collect::<Vec<_>>();
    let expected = [of(0, count + 1), of(1, count), Vec::new()];
    ensure!(orders == expected, "{name}: expected {expected:?}, got {result}");
    let attempts: Vec<u64> = serde_json::from_value(result["attempts"].clone())?;
    ensure!(attempts.len() >= 2 && attempts[0] == 1, "{name}: {result}");
    ensure!(result["wrong"].as_array().is_some_and(Vec::is_empty), "{name}: {result}");
    Ok(())
}

/// The highest priority came first.
///
/// # Errors
///
/// It is not so.
pub fn priority(name: &str, count: u64, result: &Value) -> Result<()> {
    exactly(name, result, &[("sent", count)])?;
    let came: Vec<u64> = serde_json::from_value(result["priorities"].clone())?;
    ensure!(came.len() as u64 == count && came.is_sorted_by(|one, next| one >= next), "{name}: {result}");
    ensure!(came.first() == Some(&2) && came.last() == Some(&0), "{name}: {result}");
    Ok(())
}

/// Each message was tried `attempts` times and then came once as a dead letter, its attempts counted anew.
///
/// # Errors
///
/// It is not so.
pub fn dead_letter(name: &str, count: u64, attempts: u64, result: &Value) -> Result<()> {
    once(name, count, result)?;
    let expected = json!((1..=attempts).collect::<Vec<_>>());
    let tried = result["attempts"].as_object().context("attempts by message")?;
    ensure!(tried.len() as u64 == count, "{name}: {result}");
    ensure!(tried.values().all(|tries| *tries == expected), "{name}: expected {expected} for each, got {result}");
    Ok(())
}

/// The largest body came as it was, and a larger one was refused.
///
/// # Errors
///
/// It is not so.
pub fn largest(name: &str, result: &Value) -> Result<()> {
    exactly(name, result, &[("came", 1)])?;
    ensure!(result["whole"] == true, "{name}: the body changed: {result}");
    ensure!(result["error"].as_str().is_some_and(|text| !text.is_empty()), "{name}: one byte too many: {result}");
    Ok(())
}

/// An unknown topic was refused as such, and a known one taken.
///
/// # Errors
///
/// It is not so.
pub fn unknown_topic(name: &str, result: &Value) -> Result<()> {
    exactly(name, result, &[])?;
    let error = result["error"].as_str().unwrap_or_default().to_lowercase();
    let told =
        ["40402", "topic_not_found", "topicnotfound", "failed to fetch topic"].iter().any(|word| error.contains(word));
    ensure!(told, "{name}: the error does not say that there is no such topic: {result}");
    ensure!(result["after"] == "", "{name}: the producer does not go on: {result}");
    Ok(())
}
