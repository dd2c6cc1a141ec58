//! The `Date` that answers get on their way when they have none (RFC 9110 section 6.6.1).

use std::time::{Duration, UNIX_EPOCH};

use causeway_model::Timestamp;
use http::HeaderValue;
use parking_lot::Mutex;

/// A worker's date, made once a second.
#[derive(Debug)]
pub(crate) struct Date {
    made: Mutex<(u64, HeaderValue)>,
}

impl Date {
    pub(crate) fn new() -> Self {
        Date { made: Mutex::new((0, value(0))) }
    }

    /// The field's value at a moment.
    pub(crate) fn at(&self, now: Timestamp) -> HeaderValue {
        let seconds = now.as_millis() / 1000;
        let mut made = self.made.lock();
        if made.0 != seconds {
            *made = (seconds, value(seconds));
        }
        made.1.clone()
    }
}

fn value(seconds: u64) -> HeaderValue {
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::try_from(text).expect("a date is visible ASCII and blanks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_changes_with_the_second() {
        let date = Date::new();
        assert_eq!(date.at(Timestamp::from_millis(784_111_777_999)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date.at(Timestamp::from_millis(784_111_778_000)), "Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
