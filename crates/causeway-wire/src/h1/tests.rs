//! What is taken and what is refused, as data.

use http::{HeaderMap, Method};

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

#[test]
fn requests_that_are_taken() {
    check(
        &[
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET / HTTP/1.1 None"),
            ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0 None close"),
            ("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", "GET / HTTP/1.0 None"),
            ("GET / HTTP/1.1\r\nconnection: te , CLOSE\r\n\r\n", "GET / HTTP/1.1 None close"),
            ("POST / HTTP/1.1\r\ncontent-length:5\r\n\r\nhello", "POST / HTTP/1.1 Length(5) +rest"),
            ("POST / HTTP/1.1\r\ntransfer-encoding: \tChunked \t\r\n\r\n", "POST / HTTP/1.1 Chunked"),
        ],
        read_request,
    );
}

#[test]
fn requests_that_are_refused() {
    check(
        &[
            ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", "BadName 400"),
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", "BareLf 400"),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", "BareLf 400"),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", "BareLf 400"),
            ("GET /\r\n", "BadRequestLine 400"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "BadVersion 505"),
        ],
        read_request,
    );
}

#[test]
fn responses() {
    check(
        &[
            ("HTTP/1.1 200 OK\r\n\r\n", "200 HTTP/1.1 UntilClose close"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "200 HTTP/1.1 Length(2)"),
            ("HTTP/1.1 204 No\r\n\r\n", "204 HTTP/1.1 None"),
        ],
        |input| read_response(&Method::GET, input),
    );
}

/// The whole body as it is read from `input` in pieces of `step` bytes.
fn read_body(framing: Framing, input: &[u8], step: usize) -> Result<(Vec<u8>, HeaderMap), Refusal> {
    let mut decoder = Decoder::new(framing, &Limits::default());
    let mut content = Vec::new();
    for mut piece in input.chunks(step) {
        loop {
            match decoder.decode(piece)? {
                Decoded::NeedMore => break,
                Decoded::Data(range) => {
                    content.extend_from_slice(&piece[range.clone()]);
                    piece = &piece[range.end..];
                }
                Decoded::End { trailers, .. } => return Ok((content, trailers)),
            }
        }
    }
    decoder.end_of_input().map(|()| (content, HeaderMap::new()))
}

#[test]
fn bodies() {
    for step in 1..40 {
        let input = b"5\r\nhello\r\nA;x=y\r\n, world!!!\r\n0\r\nx-sum: 7\r\ncontent-length: 1\r\n\r\n";
        let (content, trailers) = read_body(Framing::Chunked, input, step).unwrap();
        assert_eq!(content, b"hello, world!!!");
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["x-sum"], "7");
    }
}
