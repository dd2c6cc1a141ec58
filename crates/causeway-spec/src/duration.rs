//! Durations as people write them: Gateway API's form (GEP-2257) `1m30s`, and days where something is kept for long.
//!
//! In:    text.     Out: [`Duration`], and text again.
//! Owner: nobody; pure functions, used by every door.
//! Invariant: `parse_long(&format(d))` is `d` to the millisecond.
//! Not here: reporting a bad one with its place (`reader.rs`).

use std::time::Duration;

/// What a duration may look like, for messages.
pub const FORM: &str = "numbers with the units h, m, s and ms, such as \"10s\", \"1m30s\" or \"200ms\"";
/// Most parts of one duration (days are one more), and most digits of one part (GEP-2257).
const PARTS_MAX: usize = 4;
const DIGITS_MAX: usize = 5;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads Gateway API's form, `([0-9]{1,5}(h|m|s|ms)){1,4}`; `None` when it is not that.
pub fn parse(text: &str) -> Option<Duration> {
    read(text, false)
}

/// Reads the same with days as well (`7d`, `1d12h`).
pub fn parse_long(text: &str) -> Option<Duration> {
    read(text, true)
}

fn read(text: &str, with_days: bool) -> Option<Duration> {
    let mut rest = text;
    let mut millis: u64 = 0;
    for _ in 0..PARTS_MAX + usize::from(with_days) {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        if digits > DIGITS_MAX || (unit == "d" && !with_days) {
            return None;
        }
        millis += number.parse::<u64>().ok()? * factor;
        rest = after;
        if rest.is_empty() {
            return Some(Duration::from_millis(millis));
        }
    }
    None
}

/// The shortest text for `duration`, whole milliseconds (`0s`, `1m30s`, `200ms`); days only beyond 99999 hours, which the
/// form without days cannot say.
pub fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let needs_days = rest / 3_600_000 > 99_999;
    let mut text = String::new();
    for (unit, factor) in UNITS.iter().skip(usize::from(!needs_days)) {
        if rest >= *factor {
            text.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_gep_2257() {
        for (text, millis) in [
            ("0s", 0),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("200ms", 200),
            ("1h", 3_600_000),
            ("30m1h", 5_400_000),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in
            ["", "10", "s", "1.5s", "-1s", "100000s", "1d", "1h1m1s1ms1s", "10 s", "1S", "1µs", "٣s", "1hs"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(parse_long("7d"), Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_long("1d12h"), Some(Duration::from_secs(129_600)));
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for millis in [0, 1, 999, 1000, 61_001, 86_400_000, 359_996_400_000, 400_000_000_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_long(&format(duration)), Some(duration), "{}", format(duration));
        }
        assert_eq!(format(Duration::from_secs(90)), "1m30s");
        assert_eq!(format(Duration::from_secs(86_400)), "24h");
    }
}
