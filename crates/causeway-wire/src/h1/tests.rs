//! What is taken and what is refused, as data.

mod bodies;
mod requests;
mod responses;
mod writing;

use http::Method;

use super::*;

/// What our reader makes of `input`, in a line.
fn read_request(input: &str) -> String {
    match request_head(input.as_bytes(), &mut Progress::default(), &Limits::default()) {
        Ok(Parsed::Partial) => "partial".into(),
        Ok(Parsed::Done(head)) => {
            let mut line = format!("{} {} {:?} {:?}", head.method, head.uri, head.version, head.framing);
            for (is_set, word) in [
                (!head.is_persistent, " close"),
                (head.expects_continue, " continue"),
                (head.upgrade, " upgrade"),
                (head.bytes < input.len(), " +rest"),
            ] {
                line.push_str(if is_set { word } else { "" });
            }
            line
        }
        Err(refusal) => format!("{refusal:?} {}", refusal.status().as_u16()),
    }
}

fn read_response(method: &Method, input: &str) -> String {
    match response_head(input.as_bytes(), method, &mut Progress::default(), &Limits::default()) {
        Ok(Parsed::Partial) => "partial".into(),
        Ok(Parsed::Done(head)) => {
            let close = if head.is_persistent { "" } else { " close" };
            format!("{} {:?} {:?}{close}", head.status.as_u16(), head.version, head.framing)
        }
        Err(refusal) => format!("{refusal:?}"),
    }
}

fn check(cases: &[(&str, &str)], read: impl Fn(&str) -> String) {
    let wrong: Vec<String> = cases
        .iter()
        .map(|(input, expected)| (input, expected, read(input)))
        .filter(|(_, expected, read)| *expected != read)
        .map(|(input, expected, read)| format!("{input:?}\n  is      {read}\n  must be {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
