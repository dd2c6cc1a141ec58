//! How long a request may still take, as it says itself: `grpc-timeout` and `Causeway-Deadline`.
//!
//! In:    the fields of a request's head.      Out: the time that is left, the smallest that is said; the fields for the next hop.
//! Owner: nobody; every function is pure.
//! Invariant: a value that is not exactly of its form is as if it were not there: a guess could cut a good request short.
//! Not here: what is done when the time is over (`causeway-proxy`).
//!
//! Both fields say what is *left* and not when it ends: hosts' clocks differ by more than many a time limit is long, while the way
//! of a message between two hosts, by which the relative form is too generous, is short. `Causeway-Deadline` is `1500ms` or `2s`, up
//! to eight digits; it has a unit of two letters so that nobody takes gRPC's `m` (milliseconds) for that of Kubernetes (minutes).

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};

/// What is left of a call's time, in the form of gRPC.
pub static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// What is left of a request's time.
pub static CAUSEWAY_DEADLINE: HeaderName = HeaderName::from_static("causeway-deadline");

/// Both forms allow so many digits.
const DIGITS_MAX: usize = 8;
/// The first number that does not fit into so many.
const TOO_LARGE: u128 = 100_000_000;

/// Whether a message is one of gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| {
        let rest = kind.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';' | b'-')))
    })
}

/// What is left of a request's time: the smallest that its fields say. `grpc-timeout` is heard in calls of gRPC only.
pub fn remaining(headers: &HeaderMap) -> Option<Duration> {
    let ours = headers.get_all(&CAUSEWAY_DEADLINE).iter().filter_map(parse).min();
    let grpcs = match headers.contains_key(&GRPC_TIMEOUT) && is_grpc(headers) {
        true => headers.get_all(&GRPC_TIMEOUT).iter().filter_map(parse_grpc).min(),
        false => None,
    };
    match (ours, grpcs) {
        (Some(ours), Some(grpcs)) => Some(ours.min(grpcs)),
        (ours, grpcs) => ours.or(grpcs),
    }
}

/// Reads a `Causeway-Deadline`.
pub fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.as_bytes();
    if let Some(digits) = text.strip_suffix(b"ms") {
        return number(digits).map(Duration::from_millis);
    }
    number(text.strip_suffix(b"s")?).map(Duration::from_secs)
}

/// Reads a `grpc-timeout`: up to eight digits and a unit (`H M S m u n`).
pub fn parse_grpc(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    let number = number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = (1..=DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// `Causeway-Deadline` for what is left. Part of a millisecond counts whole: zero would say that it is over.
pub fn value(left: Duration) -> HeaderValue {
    match left.as_nanos().div_ceil(1_000_000) {
        millis if millis < TOO_LARGE => value_of(millis, "ms"),
        _ => value_of(u128::from(left.as_secs()).min(TOO_LARGE - 1), "s"),
    }
}

/// `grpc-timeout` for what is left, in the finest unit that holds it.
pub fn grpc_value(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos();
    let units = [(1_000, "u"), (1_000_000, "m"), (1_000_000_000, "S")];
    let fits = units.into_iter().map(|(unit, name)| (nanos.div_ceil(unit), name));
    match fits.into_iter().find(|(number, _)| *number < TOO_LARGE) {
        Some((number, unit)) => value_of(number, unit),
        None => value_of((nanos / 3_600_000_000_000).min(TOO_LARGE - 1), "H"),
    }
}

fn value_of(number: u128, unit: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{number}{unit}")).expect("digits and letters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn exactly_the_forms_that_are_documented_are_read() {
        for (text, expected) in [
            ("1500ms", Some(Duration::from_millis(1500))),
            ("0ms", Some(Duration::ZERO)),
            ("2s", Some(Duration::from_secs(2))),
            ("99999999ms", Some(Duration::from_millis(99_999_999))),
            ("100000000ms", None),
            ("ms", None),
            ("1500", None),
            ("1500m", None),
            ("1.5s", None),
            ("-1ms", None),
            ("+1ms", None),
            (" 1ms", None),
            ("1 ms", None),
            ("1ms, 2ms", None),
            ("1MS", None),
            ("", None),
        ] {
            assert_eq!(parse(&HeaderValue::from_str(text).unwrap()), expected, "{text:?}");
        }
    }

    #[test]
    fn grpcs_own_form_is_read_by_its_rules() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("999999999n", None),
            ("S", None),
            ("3", None),
            ("3s", None),
            ("-3S", None),
            ("3 S", None),
            ("", None),
        ] {
            assert_eq!(parse_grpc(&HeaderValue::from_str(text).unwrap()), expected, "{text:?}");
        }
    }

    #[test]
    fn the_smallest_that_is_said_counts() {
        const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");
        for (fields, expected) in [
            (&[][..], None),
            (&[("causeway-deadline", "70ms")], Some(70)),
            (&[("causeway-deadline", "70ms"), ("causeway-deadline", "60ms")], Some(60)),
            (&[("causeway-deadline", "70ms"), ("causeway-deadline", "soon")], Some(70)),
            (&[("grpc-timeout", "50m")], None),
            (&[("grpc-timeout", "50m"), GRPC], Some(50)),
            (&[("grpc-timeout", "50m"), ("causeway-deadline", "70ms"), GRPC], Some(50)),
            (&[("grpc-timeout", "50m"), ("causeway-deadline", "40ms"), GRPC], Some(40)),
            (&[("grpc-timeout", "x"), ("causeway-deadline", "40ms"), GRPC], Some(40)),
        ] {
            assert_eq!(remaining(&head(fields)), expected.map(Duration::from_millis), "{fields:?}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", true),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&head(&[("content-type", kind)])), expected, "{kind}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_never_says_less_than_is_left() {
        for nanos in [0, 1, 999_999, 1_000_000, 1_500_000_001, 99_999_999_000, 100_000_000_000, u64::MAX] {
            let left = Duration::from_nanos(nanos);
            let (ours, grpcs) = (parse(&value(left)).unwrap(), parse_grpc(&grpc_value(left)).unwrap());
            assert!(ours >= left && ours < left + Duration::from_millis(1) || nanos == u64::MAX, "{ours:?}");
            assert!(grpcs >= left || nanos == u64::MAX, "{grpcs:?}");
            assert!(grpcs < left + Duration::from_millis(1) || nanos == u64::MAX, "{grpcs:?}");
            assert_eq!(ours.is_zero(), nanos == 0, "a little is not nothing");
        }
        assert_eq!(value(Duration::MAX), "99999999s");
        assert_eq!(grpc_value(Duration::MAX), "99999999H");
    }
}
