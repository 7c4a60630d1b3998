//! Points in time as RocketMQ's tools print them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "a tool stands outside the cluster: its clock decides nothing there")]
pub fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-11-23 18:08:07,123`; `-` for 0, which means never.
pub fn human(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    let (seconds, millis) = (ms / 1_000, ms % 1_000);
    let (year, month, day) = date(seconds / 86_400);
    let second = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02},{millis:03}",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Ms since the Unix epoch of `yyyy-MM-dd#HH:mm:ss:SSS`, in UTC.
pub fn parse(text: &str) -> Option<u64> {
    let (day, time) = text.split_once('#')?;
    let numbers = |text: &str, sign: char| text.split(sign).map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>();
    let (day, time) = (numbers(day, '-')?, numbers(time, ':')?);
    let ([year @ 1970..=9999, month, day], [hour @ 0..24, minute @ 0..60, second @ 0..60, ms @ 0..1000]) =
        (&day[..], &time[..])
    else {
        return None;
    };
    // From a day that is not later, at most a year and some days on.
    let from = (year - 1970) * 365;
    let days = (from..from + 1_000).find(|at| date(*at) == (*year, *month, *day))?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + ms)
}

/// A point in time as flags take it, in ms since the Unix epoch: `now`, that many ms, or what [`parse`] reads.
pub fn point(text: &str) -> Result<u64, String> {
    if ["now", "currentTimeMillis"].contains(&text) {
        return Ok(now_ms());
    }
    let time = text.parse().ok().or_else(|| parse(text));
    time.ok_or_else(|| format!("{text:?} is neither now, nor ms since 1970, nor yyyy-MM-dd#HH:mm:ss:SSS"))
}

/// Year, month and day of a day since the Unix epoch, by whole 400-year cycles that begin on 1 March.
fn date(day: u64) -> (u64, u64, u64) {
    const CYCLE_DAYS: u64 = 146_097;
    let day = day + 719_468;
    let (cycle, day) = (day / CYCLE_DAYS, day % CYCLE_DAYS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn known_times() {
        for (ms, text) in [
            (0, "-"),
            (1, "1970-01-01 00:00:00,001"),
            (951_782_400_000, "2000-02-29 00:00:00,000"),
            (1_709_251_199_999, "2024-02-29 23:59:59,999"),
            (1_709_251_200_000, "2024-03-01 00:00:00,000"),
            (1_795_457_287_123, "2026-11-23 18:08:07,123"),
            (4_107_542_399_000, "2100-02-28 23:59:59,000"),
        ] {
            assert_eq!(human(ms), text);
        }
    }
}
