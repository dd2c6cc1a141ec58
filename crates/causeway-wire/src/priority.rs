//! The urgency of a request: the `Priority` field (RFC 9218), from 0 (first) to 7 (last).

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

/// The field's name.
pub static PRIORITY: HeaderName = HeaderName::from_static("priority");

/// The urgency of a request that says nothing (RFC 9218 section 4.1).
pub const URGENCY_DEFAULT: u8 = 3;
/// The least urgent.
pub const URGENCY_LAST: u8 = 7;

/// What the field says: the member `u` of a dictionary (RFC 8941 section 3.2), the last one where it stands twice. `None` when it is not
/// said; a value that is no urgency counts as not said (RFC 9218 section 4).
pub fn urgency(headers: &HeaderMap) -> Option<u8> {
    let mut found = None;
    for value in headers.get_all(&PRIORITY) {
        for member in value.as_bytes().split(|byte| *byte == b',') {
            let member = member.trim_ascii();
            let member = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
            if let [b'u', b'=', digit @ b'0'..=b'7'] = member {
                found = Some(digit - b'0');
            }
        }
    }
    found
}

/// The field that says an urgency.
pub fn field(urgency: u8) -> HeaderValue {
    const FIELDS: [HeaderValue; 8] = [
        HeaderValue::from_static("u=0"),
        HeaderValue::from_static("u=1"),
        HeaderValue::from_static("u=2"),
        HeaderValue::from_static("u=3"),
        HeaderValue::from_static("u=4"),
        HeaderValue::from_static("u=5"),
        HeaderValue::from_static("u=6"),
        HeaderValue::from_static("u=7"),
    ];
    FIELDS[usize::from(urgency.min(URGENCY_LAST))].clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_u_is_the_urgency_and_anything_else_is_passed_over() {
        for (fields, expected) in [
            (&["u=0"][..], Some(0)),
            (&["u=7, i"], Some(7)),
            (&["i, u=5"], Some(5)),
            (&["u=5;x=1"], Some(5)),
            (&["u=1", "u=6"], Some(6)),
            (&["u=8"], None),
            (&["u=-1"], None),
            (&["u=3.0"], None),
            (&["U=1"], None),
            (&["urgency=1"], None),
            (&[""], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(&PRIORITY, HeaderValue::from_static(field));
            }
            assert_eq!(urgency(&headers), expected, "{fields:?}");
        }
        for level in 0..=URGENCY_LAST {
            let mut headers = HeaderMap::new();
            headers.insert(&PRIORITY, field(level));
            assert_eq!(urgency(&headers), Some(level));
        }
    }
}
