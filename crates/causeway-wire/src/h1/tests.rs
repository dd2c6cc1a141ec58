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

/// A request with this line behind the first one, and a field behind it.
fn with_field(field: &str) -> String {
    format!("POST / HTTP/1.1\r\n{field}\r\nlast: 1\r\n\r\n")
}

fn with_target(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n")
}

#[test]
fn requests_that_are_taken() {
    check(
        &[
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET / HTTP/1.1 None"),
            ("GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1 None"),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1 None"),
            ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0 None close"),
            ("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", "GET / HTTP/1.0 None"),
            ("GET / HTTP/1.0\r\nconnection: close, keep-alive\r\n\r\n", "GET / HTTP/1.0 None close"),
            ("GET / HTTP/1.1\r\nconnection: te , CLOSE\r\n\r\n", "GET / HTTP/1.1 None close"),
            ("GET / HTTP/1.1\r\nconnection: te\r\nconnection: close\r\n\r\n", "GET / HTTP/1.1 None close"),
            ("GET / HTTP/1.1\r\nconnection: closed\r\n\r\n", "GET / HTTP/1.1 None"),
            ("POST / HTTP/1.1\r\ncontent-length:5\r\n\r\nhello", "POST / HTTP/1.1 Length(5) +rest"),
            ("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n", "POST / HTTP/1.0 Length(5) close"),
            ("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", "POST / HTTP/1.1 Length(0)"),
            ("POST / HTTP/1.1\r\ncontent-length: 007\r\n\r\n", "POST / HTTP/1.1 Length(7)"),
            (
                "POST / HTTP/1.1\r\ncontent-length: 18446744073709551615\r\n\r\n",
                "POST / HTTP/1.1 Length(18446744073709551615)",
            ),
            ("POST / HTTP/1.1\r\ntransfer-encoding: \tChunked \t\r\n\r\n", "POST / HTTP/1.1 Chunked"),
            (
                "POST / HTTP/1.1\r\nexpect: 100-Continue\r\ncontent-length: 1\r\n\r\n",
                "POST / HTTP/1.1 Length(1) continue",
            ),
            ("POST / HTTP/1.1\r\nexpect: 100-continue\r\n\r\n", "POST / HTTP/1.1 None"),
            (
                "POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n",
                "POST / HTTP/1.0 Length(1) close",
            ),
            (
                "GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: keep-alive, Upgrade\r\n\r\n",
                "GET / HTTP/1.1 None upgrade",
            ),
            ("GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n", "GET / HTTP/1.1 None"),
            ("GET / HTTP/1.1\r\nconnection: upgrade\r\n\r\n", "GET / HTTP/1.1 None"),
            ("GET / HTTP/1.0\r\nupgrade: a\r\nconnection: upgrade\r\n\r\n", "GET / HTTP/1.0 None close"),
            ("PURGE /?a=b&c[]=\\'() HTTP/1.1\r\n\r\n", "PURGE /?a=b&c[]=\\'() HTTP/1.1 None"),
            ("get / HTTP/1.1\r\n\r\n", "get / HTTP/1.1 None"),
            ("GET //a//b HTTP/1.1\r\n\r\n", "GET //a//b HTTP/1.1 None"),
            ("GET HTTP://a.b:81/c?d HTTP/1.1\r\n\r\n", "GET http://a.b:81/c?d HTTP/1.1 None"),
            ("GET https://a HTTP/1.1\r\n\r\n", "GET https://a/ HTTP/1.1 None"),
            ("OPTIONS * HTTP/1.1\r\n\r\n", "OPTIONS * HTTP/1.1 None"),
            ("OPTIONS /a HTTP/1.1\r\n\r\n", "OPTIONS /a HTTP/1.1 None"),
            ("CONNECT a.b:443 HTTP/1.1\r\n\r\n\x16\x03", "CONNECT a.b:443 HTTP/1.1 None +rest"),
            (
                "CONNECT [::1]:443 HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
                "CONNECT [::1]:443 HTTP/1.1 Length(0)",
            ),
            ("GET / HTTP/1.1\r\na:\r\nb: \t \r\n!#$%&'*+-.^_`|~: x\r\n\r\n", "GET / HTTP/1.1 None"),
            ("GET / HTTP/1.1\r\na: caf\u{e9} \t \"x\"\r\n\r\n", "GET / HTTP/1.1 None"),
        ],
        read_request,
    );
}

#[test]
fn heads_that_have_not_come_whole() {
    for input in [
        "",
        "\r",
        "\r\n",
        "\r\n\r\n",
        "G",
        "GET / HTTP/1.",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\na",
        "GET / HTTP/1.1\r\na: b\r\n",
        "GET / HTTP/1.1\r\na: b\r\n\r",
    ] {
        assert_eq!(read_request(input), "partial", "{input:?}");
    }
    for input in
        ["", "H", "HTTP/1.1 2", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\na: b\r\n\r"]
    {
        assert_eq!(read_response(&Method::GET, input), "partial", "{input:?}");
    }
}

#[test]
fn requests_that_are_refused() {
    check(
        &[
            // Line ends, and lines that go on.
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\nhost: a\n\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\n\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\n\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\na:\nb: c\r\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\na: b\nc: d\r\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\rhost: a\r\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\nhost: a\r\n\rx", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\r\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1 \r\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/1.1\r\na: b\rc: d\r\n\r\n", "BadValue 400"),
            ("GET / HTTP/1.1\r\na: b\r\r\n\r\n", "BadValue 400"),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", "BadName 400"),
            ("GET / HTTP/1.1\r\na: b\r\n\tc\r\n\r\n", "BadName 400"),
            ("GET / HTTP/1.1\r\n a: b\r\n\r\n", "BadName 400"),
            ("GET / HTTP/1.1\r\na: b\r\n \r\n\r\n", "BadName 400"),
            ("\nGET / HTTP/1.1\r\n\r\n", "BadLineEnd 400"),
            ("\r\n\nGET / HTTP/1.1\r\n\r\n", "BadLineEnd 400"),
            ("\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("\rGET / HTTP/1.1\r\n\r\n", "BadLineEnd 400"),
            // The first line.
            ("GET /\r\n", "BadRequestLine 400"),
            ("GET / \r\n\r\n", "BadRequestLine 400"),
            ("GET\r\n\r\n", "BadRequestLine 400"),
            (" GET / HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET  / HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET /  HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET\t/ HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET /\tHTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET /a b HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET /\0 HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET / http/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET / HTTP/1.10\r\n\r\n", "BadLineEnd 400"),
            ("GET / HTTP/11\r\n\r\n", "BadRequestLine 400"),
            ("GET / HTTP /1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET / ICAP/1.0\r\n\r\n", "BadRequestLine 400"),
            ("G(T / HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("G\u{e9}T / HTTP/1.1\r\n\r\n", "BadRequestLine 400"),
            ("GET / HTTP/1.2\r\n\r\n", "BadVersion 505"),
            ("GET / HTTP/2.0\r\n\r\n", "BadVersion 505"),
            ("GET / HTTP/0.9\r\n\r\n", "BadVersion 505"),
            ("GET / HTTP/3.0\r\n\r\n", "BadVersion 505"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "BadVersion 505"),
            ("\x16\x03\x01\x02", "BadRequestLine 400"),
            ("HTTP/1.1 200 OK\r\n\r\n", "BadRequestLine 400"),
            (&format!("{} / HTTP/1.1\r\n\r\n", "A".repeat(33)), "BadRequestLine 400"),
            // No body can be there.
            ("CONNECT a:1 HTTP/1.1\r\ncontent-length: 1\r\n\r\n", "UnexpectedBody 400"),
            ("CONNECT a:1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", "UnexpectedBody 400"),
        ],
        read_request,
    );
}

#[test]
fn targets_that_are_refused() {
    check(
        &[
            ("GET /a#b", "BadTarget 400"),
            ("GET /?a#b", "BadTarget 400"),
            ("GET /#", "BadTarget 400"),
            ("GET http://a/#b", "BadTarget 400"),
            ("GET #", "BadTarget 400"),
            ("GET /caf\u{e9}", "BadTarget 400"),
            ("GET /?q=\u{e9}", "BadTarget 400"),
            ("GET /\x7f", "BadRequestLine 400"),
            ("GET a", "BadTarget 400"),
            ("GET a.b:80", "BadTarget 400"),
            ("GET a.b/c", "BadTarget 400"),
            ("GET ?a", "BadTarget 400"),
            ("GET *", "BadTarget 400"),
            ("GET *a", "BadTarget 400"),
            ("OPTIONS *a", "BadTarget 400"),
            ("OPTIONS a.b:80", "BadTarget 400"),
            ("GET http:/a", "BadTarget 400"),
            ("GET http://", "BadTarget 400"),
            ("GET http:///a", "BadTarget 400"),
            ("GET ftp://a/b", "BadTarget 400"),
            ("GET javascript://a/b", "BadTarget 400"),
            ("CONNECT /a", "BadTarget 400"),
            ("CONNECT *", "BadTarget 400"),
            ("CONNECT a.b", "BadTarget 400"),
            ("CONNECT a.b:", "BadTarget 400"),
            ("CONNECT a.b:70000", "BadTarget 400"),
            ("CONNECT a.b:443/", "BadTarget 400"),
            ("CONNECT u@a.b:443", "BadTarget 400"),
            ("CONNECT http://a.b:443", "BadTarget 400"),
        ],
        |line| read_request(&with_target(line)),
    );
}

#[test]
fn fields_that_are_refused() {
    check(
        &[
            ("host : a", "BadName 400"),
            ("host\t: a", "BadName 400"),
            (": a", "BadName 400"),
            ("host", "BadName 400"),
            ("ho st: a", "BadName 400"),
            ("h\u{e9}: a", "BadName 400"),
            ("h\0: a", "BadName 400"),
            ("(a): b", "BadName 400"),
            ("\0: a", "BadName 400"),
            ("a: b\0c", "BadValue 400"),
            ("a: \x0b", "BadValue 400"),
            ("a: b\x7f", "BadValue 400"),
            ("a: \x1b[2J", "BadValue 400"),
            // Where the body ends: lengths.
            ("content-length: 5\r\ncontent-length: 5", "TwoLengths 400"),
            ("content-length: 5\r\nx: y\r\nContent-Length: 6", "TwoLengths 400"),
            ("content-length: 5, 5", "BadLength 400"),
            ("content-length: 5,", "BadLength 400"),
            ("content-length: +5", "BadLength 400"),
            ("content-length: -1", "BadLength 400"),
            ("content-length: -0", "BadLength 400"),
            ("content-length: 5 5", "BadLength 400"),
            ("content-length: 0x5", "BadLength 400"),
            ("content-length: 5a", "BadLength 400"),
            ("content-length: 5.0", "BadLength 400"),
            ("content-length: 1e3", "BadLength 400"),
            ("content-length: 1_000", "BadLength 400"),
            ("content-length: \"5\"", "BadLength 400"),
            ("content-length: ", "BadLength 400"),
            ("content-length:", "BadLength 400"),
            ("content-length: 18446744073709551616", "BadLength 400"),
            ("content-length: 99999999999999999999999", "BadLength 400"),
            ("content-length: \x0b5", "BadValue 400"),
            ("content-length : 5", "BadName 400"),
            // Codings.
            ("content-length: 5\r\ntransfer-encoding: chunked", "LengthAndCoding 400"),
            ("transfer-encoding: chunked\r\ncontent-length: 5", "LengthAndCoding 400"),
            ("Transfer-Encoding: chunked\r\na: b\r\nContent-Length: 0", "LengthAndCoding 400"),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", "BadCoding 400"),
            ("transfer-encoding: chunked\r\ntransfer-encoding: identity", "BadCoding 400"),
            ("transfer-encoding: gzip\r\ntransfer-encoding: chunked", "BadCoding 400"),
            ("transfer-encoding: gzip, chunked", "UnknownCoding 501"),
            ("transfer-encoding: identity, chunked", "UnknownCoding 501"),
            ("transfer-encoding: chunked, identity", "BadCoding 400"),
            ("transfer-encoding: chunked, chunked", "BadCoding 400"),
            ("transfer-encoding: chunked, gzip, chunked", "BadCoding 400"),
            ("transfer-encoding: gzip", "BadCoding 400"),
            ("transfer-encoding: identity", "BadCoding 400"),
            ("transfer-encoding: , chunked", "BadCoding 400"),
            ("transfer-encoding: chunked,", "BadCoding 400"),
            ("transfer-encoding: chunked;q=1", "BadCoding 400"),
            ("transfer-encoding: chunked chunked", "BadCoding 400"),
            ("transfer-encoding: xchunked", "BadCoding 400"),
            ("transfer-encoding: chunked\u{a0}", "BadCoding 400"),
            ("transfer-encoding: \"chunked\"", "BadCoding 400"),
            ("transfer-encoding: ", "BadCoding 400"),
            ("transfer-encoding:", "BadCoding 400"),
            ("transfer-encoding: \x0bchunked", "BadValue 400"),
            ("transfer-encoding: chunked\x0c", "BadValue 400"),
            ("transfer-encoding : chunked", "BadName 400"),
            ("transfer-encoding\t: chunked", "BadName 400"),
            ("transfer-encoding\0: chunked", "BadName 400"),
            ("transfer-encoding:\r\n chunked", "BadName 400"),
        ],
        |field| read_request(&with_field(field)),
    );
    let old = "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n";
    assert_eq!(read_request(old), "CodingInOldVersion 400");
}

#[test]
fn heads_have_bounds() {
    let fields = |count: usize| "a: b\r\n".repeat(count);
    let request = |fields: &str| read_request(&format!("GET / HTTP/1.1\r\n{fields}\r\n"));
    assert_eq!(request(&fields(128)), "GET / HTTP/1.1 None");
    assert_eq!(request(&fields(129)), "TooManyFields 431");
    let first = "GET / HTTP/1.1\r\na: ".len() + "\r\n\r\n".len();
    let value = |length: usize| request(&format!("a: {}\r\n", "b".repeat(length)));
    assert_eq!(value(Limits::HEAD_BYTES - first), "GET / HTTP/1.1 None");
    assert_eq!(value(Limits::HEAD_BYTES - first + 1), "HeadTooLarge 431");
    let target = |length: usize| read_request(&with_target(&format!("GET /{}", "a".repeat(length - 1))));
    assert!(target(Limits::TARGET_BYTES).ends_with("HTTP/1.1 None"));
    assert_eq!(target(Limits::TARGET_BYTES + 1), "TargetTooLong 414");
    // Without an end of the line in sight, too.
    assert_eq!(read_request(&format!("GET /{}", "a".repeat(Limits::TARGET_BYTES))), "TargetTooLong 414");
    assert_eq!(read_request(&"a".repeat(33)), "BadRequestLine 400");

    let response = |fields: &str| read_response(&Method::HEAD, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
    assert_eq!(response(&fields(128)), "200 HTTP/1.1 None");
    assert_eq!(response(&fields(129)), "TooManyFields");
    assert_eq!(response(&format!("a: {}\r\n", "b".repeat(Limits::HEAD_BYTES))), "HeadTooLarge");
}

/// One more byte each time: nothing is read anew but when a line ends, and what comes out is the same.
#[test]
fn a_head_that_drips_in_is_read_like_a_whole_one() {
    let input = b"\r\nPOST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let end = input.len() - 3;
    let mut progress = Progress::default();
    for length in 0..end {
        let read = request_head(&input[..length], &mut progress, &Limits::default());
        assert!(matches!(read, Ok(Parsed::Partial)), "{length}");
    }
    let read = request_head(&input[..end], &mut progress, &Limits::default());
    let Ok(Parsed::Done(head)) = read else { panic!("{read:?}") };
    assert_eq!((head.bytes, head.framing), (end, Framing::Length(3)));
    // The next one on the same connection begins anew.
    let next = request_head(b"GET / HTTP/1.1\r\n\r\n", &mut progress, &Limits::default());
    assert!(matches!(next, Ok(Parsed::Done(_))));
    // A line that never ends is refused when the head is full, though no line has ended.
    let long = [b"GET / HTTP/1.1\r\na: ".as_slice(), &[b'b'; Limits::HEAD_BYTES]].concat();
    let mut progress = Progress::default();
    for length in [10, 100, Limits::HEAD_BYTES - 1] {
        let read = request_head(&long[..length], &mut progress, &Limits::default());
        assert!(matches!(read, Ok(Parsed::Partial)));
    }
    let read = request_head(&long[..Limits::HEAD_BYTES], &mut progress, &Limits::default());
    assert_eq!(read.err(), Some(Refusal::HeadTooLarge));
}

#[test]
fn values_are_kept_as_they_are() {
    let input = b"GET / HTTP/1.1\r\nX-Mixed:  a\tb \xff \r\nx-mixed: 2\r\nX-Request-ID: 7\r\nEmpty:\r\ncontent-length: 00\r\n\r\n";
    let read = request_head(input, &mut Progress::default(), &Limits::default());
    let Ok(Parsed::Done(head)) = read else { panic!("{read:?}") };
    let fields: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let expected: [(&str, &[u8]); 5] = [
        ("x-mixed", b"a\tb \xff"),
        ("x-mixed", b"2"),
        ("x-request-id", b"7"),
        ("empty", b""),
        ("content-length", b"0"),
    ];
    assert_eq!(fields, expected);
}

/// Names that we know beforehand are the names that would have been read.
#[test]
fn known_names_are_themselves() {
    for name in [
        "keep-alive",
        "tracestate",
        "traceparent",
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-host",
        "proxy-connection",
        "x-forwarded-proto",
        "x-forwarded-by",
        "content-type",
    ] {
        for spelling in [name.to_owned(), name.to_ascii_uppercase()] {
            assert_eq!(fields::name_of(spelling.as_bytes()).unwrap(), name);
        }
    }
}

#[test]
fn responses_that_are_taken() {
    check(
        &[
            ("HTTP/1.1 200 OK\r\n\r\n", "200 HTTP/1.1 UntilClose close"),
            ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\n", "200 HTTP/1.1 UntilClose close"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "200 HTTP/1.1 Length(2)"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n",
                "200 HTTP/1.1 Length(2) close",
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n", "200 HTTP/1.0 Length(2) close"),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n",
                "200 HTTP/1.0 Length(2)",
            ),
            ("HTTP/1.1 500 \r\ntransfer-encoding: chunked\r\n\r\n", "500 HTTP/1.1 Chunked"),
            ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", "200 HTTP/1.1 Length(0)"),
            ("HTTP/1.1 299 caf\u{e9}\r\ncontent-length: 0\r\n\r\n", "299 HTTP/1.1 Length(0)"),
            ("HTTP/1.1 999 \r\ncontent-length: 0\r\n\r\n", "999 HTTP/1.1 Length(0)"),
            // Without a body.
            ("HTTP/1.1 204 No\r\n\r\n", "204 HTTP/1.1 None"),
            ("HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", "204 HTTP/1.1 None"),
            ("HTTP/1.1 304 Same\r\ncontent-length: 7\r\n\r\n", "304 HTTP/1.1 None"),
            ("HTTP/1.1 304 Same\r\ntransfer-encoding: chunked\r\n\r\n", "304 HTTP/1.1 None"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "100 HTTP/1.1 None"),
            ("HTTP/1.1 103 Hints\r\ncontent-length: 0\r\n\r\n", "103 HTTP/1.1 None"),
            ("HTTP/1.1 101 Switching\r\nupgrade: websocket\r\n\r\n", "101 HTTP/1.1 None"),
            // What such a sender does next is anybody's guess, so nothing else is asked of it.
            ("HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", "204 HTTP/1.1 None close"),
            ("HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n", "204 HTTP/1.1 None close"),
        ],
        |input| read_response(&Method::GET, input),
    );
    let with_body = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
    assert_eq!(read_response(&Method::HEAD, with_body), "200 HTTP/1.1 None");
    assert_eq!(read_response(&Method::HEAD, "HTTP/1.1 200 OK\r\n\r\n"), "200 HTTP/1.1 None");
    assert_eq!(read_response(&Method::CONNECT, with_body), "200 HTTP/1.1 None");
    let refused = "HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\n";
    assert_eq!(read_response(&Method::CONNECT, refused), "403 HTTP/1.1 Length(2)");
}

#[test]
fn responses_that_are_refused() {
    check(
        &[
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", "BadStatusLine"),
            ("\n", "BadStatusLine"),
            ("HTTP/1.1 200 OK\n\r\n", "BadLineEnd"),
            ("HTTP/1.1 200 OK\r\na: b\n\r\n", "BadLineEnd"),
            ("HTTP/1.1 200 OK\r\na: b\r\n\n", "BadLineEnd"),
            ("HTTP/1.1 200\n\n", "BadLineEnd"),
            ("HTTP/1.1 200 O\rK\r\n\r\n", "BadStatusLine"),
            ("HTTP/1.1  200 OK\r\n\r\n", "BadStatusLine"),
            ("HTTP/1.1 20 OK\r\n\r\n", "BadStatusLine"),
            ("HTTP/1.1 2000 OK\r\n\r\n", "BadStatusLine"),
            ("HTTP/1.1 099 OK\r\n\r\n", "BadStatusLine"),
            ("HTTP/1.1 +20 OK\r\n\r\n", "BadStatusLine"),
            ("HTTP/2.0 200 OK\r\n\r\n", "BadVersion"),
            ("HTTP/1.2 200 OK\r\n\r\n", "BadVersion"),
            ("ICY 200 OK\r\n\r\n", "BadVersion"),
            ("hello\r\n", "BadVersion"),
            ("HTTP/1.1 200 OK\r\na : b\r\n\r\n", "BadName"),
            ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", "BadName"),
            ("HTTP/1.1 200 OK\r\na: b\0\r\n\r\n", "BadValue"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", "TwoLengths"),
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "BadLength"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "LengthAndCoding"),
            ("HTTP/1.1 304 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "LengthAndCoding"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "UnknownCoding"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n", "BadCoding"),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "CodingInOldVersion"),
            ("HTTP/1.1 100 OK\r\ncontent-length: 5\r\n\r\n", "UnexpectedBody"),
            ("HTTP/1.1 103 OK\r\ntransfer-encoding: chunked\r\n\r\n", "UnexpectedBody"),
        ],
        |input| read_response(&Method::GET, input),
    );
}

/// What is made of a chunked body that comes in pieces of `step` bytes, in a line: content, trailers, bytes behind it.
fn read_chunked(input: &[u8], step: usize) -> String {
    let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
    let mut content = Vec::new();
    let mut taken = 0;
    for mut piece in input.chunks(step) {
        loop {
            match decoder.decode(piece) {
                Ok(Decoded::NeedMore) => break taken += piece.len(),
                Ok(Decoded::Data(range)) => {
                    assert!(!range.is_empty());
                    content.extend_from_slice(&piece[range.clone()]);
                    taken += range.end;
                    piece = &piece[range.end..];
                }
                Ok(Decoded::End { consumed, trailers }) => {
                    let mut line = format!("{:?}", String::from_utf8_lossy(&content));
                    trailers.iter().for_each(|(name, value)| line += &format!(" {name}={value:?}"));
                    let left = input.len() - taken - consumed;
                    return if left > 0 { format!("{line} +{left}") } else { line };
                }
                Err(refusal) => {
                    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(refusal), "a broken body stays broken");
                    return format!("{refusal:?}");
                }
            }
        }
    }
    format!("{:?} {:?}", String::from_utf8_lossy(&content), decoder.end_of_input().unwrap_err())
}

#[test]
fn chunked_bodies() {
    let cases: [(&str, &str); 53] = [
        ("0\r\n\r\n", "\"\""),
        ("000\r\n\r\n", "\"\""),
        ("5\r\nhello\r\n0\r\n\r\n", "\"hello\""),
        ("5\r\nhello\r\nA\r\n, world!!!\r\n0\r\n\r\n", "\"hello, world!!!\""),
        ("0000000000000001\r\na\r\n0\r\n\r\nGET /", "\"a\" +5"),
        ("1;a\r\nx\r\n0;b=c;d=\"e\"\r\n\r\n", "\"x\""),
        ("1; a = b\r\nx\r\n0\r\n\r\n", "\"x\""),
        ("0\r\nx-sum: 7\r\nx-sum: 8\r\n\r\n", "\"\" x-sum=\"7\" x-sum=\"8\""),
        (
            "1\r\na\r\n0\r\nContent-Length: 1\r\nhost: b\r\nTransfer-Encoding: chunked\r\nx: y\r\n\r\n",
            "\"a\" x=\"y\"",
        ),
        ("0\r\nauthorization: b\r\nset-cookie: c\r\n\r\n", "\"\""),
        // Cut short.
        ("", "\"\" CutShort"),
        ("5", "\"\" CutShort"),
        ("5\r\nhel", "\"hel\" CutShort"),
        ("5\r\nhello", "\"hello\" CutShort"),
        ("5\r\nhello\r\n", "\"hello\" CutShort"),
        ("0\r\n", "\"\" CutShort"),
        ("0\r\n\r", "\"\" CutShort"),
        ("0\r\nx: y\r\n", "\"\" CutShort"),
        // Sizes.
        ("\r\n", "BadChunkSize"),
        ("x\r\n", "BadChunkSize"),
        ("0x5\r\nhello\r\n", "BadChunkSize"),
        ("+5\r\nhello\r\n", "BadChunkSize"),
        ("-5\r\nhello\r\n", "BadChunkSize"),
        (" 5\r\nhello\r\n", "BadChunkSize"),
        ("5 \r\nhello\r\n", "BadChunkSize"),
        ("5\t\r\nhello\r\n", "BadChunkSize"),
        ("5 ;a\r\nhello\r\n", "BadChunkSize"),
        ("5_0\r\n", "BadChunkSize"),
        ("5.0\r\n", "BadChunkSize"),
        ("5,5\r\n", "BadChunkSize"),
        (";a\r\n", "BadChunkSize"),
        ("5\nhello\r\n", "BadChunkSize"),
        ("5\rhello\r\n", "BadChunkSize"),
        ("5\r\r\nhello\r\n", "BadChunkSize"),
        ("5\0\r\nhello\r\n", "BadChunkSize"),
        ("00000000000000001\r\na\r\n", "BadChunkSize"),
        ("10000000000000005\r\nhello\r\n", "BadChunkSize"),
        ("fffffffffffffffff\r\n", "BadChunkSize"),
        ("0\n\n", "BadChunkSize"),
        // Extensions.
        ("5;\r\nhello\r\n", "BadExtension"),
        ("5; \r\nhello\r\n", "BadExtension"),
        ("5;a\nhello\r\n", "BadExtension"),
        ("5;\nhello\r\n", "BadExtension"),
        ("5;a\0\r\nhello\r\n", "BadExtension"),
        ("5;a=\"\r\nhello", "\"hello\" CutShort"),
        ("5;a\rb\r\nhello\r\n", "BadChunkSize"),
        // Ends of chunks.
        ("5\r\nhello!\r\n", "BadChunkEnd"),
        ("5\r\nhello\n0\r\n", "BadChunkEnd"),
        ("5\r\nhello\r0\r\n", "BadChunkEnd"),
        ("5\r\nhello0\r\n\r\n", "BadChunkEnd"),
        // Trailers.
        ("0\r\nx: y\n\r\n", "BadLineEnd"),
        ("0\r\nx : y\r\n\r\n", "BadName"),
        ("0\r\nx: y\r\n z\r\n\r\n", "BadName"),
    ];
    for step in [1, 2, 3, 7, 1000] {
        check(&cases, |input| read_chunked(input.as_bytes(), step));
    }
}

#[test]
fn chunked_bodies_have_bounds() {
    let whole = |input: &str| read_chunked(input.as_bytes(), 4096);
    let line = |length: usize| format!("1;{}\r\n", "a".repeat(length - 2));
    assert_eq!(whole(&format!("{}x\r\n0\r\n\r\n", line(Limits::CHUNK_LINE_BYTES))), "\"x\"");
    assert_eq!(whole(&line(Limits::CHUNK_LINE_BYTES + 1)), "ExtensionTooLong");
    // A sender whose extensions outgrow its content is stopped, one that sends as much content is not.
    let small = format!("{}x\r\n", line(200)).repeat(100);
    assert_eq!(whole(&small), "ExtensionTooLong");
    let fair = format!("c8;{}\r\n{}\r\n", "a".repeat(200), "b".repeat(200)).repeat(200);
    assert!(whole(&format!("{fair}0\r\n\r\n")).starts_with("\"bbb"));

    let trailers = |text: &str| whole(&format!("0\r\n{text}\r\n\r\n"));
    assert!(trailers(&format!("a: {}", "b".repeat(Limits::TRAILER_BYTES - 7))).starts_with("\"\" a="));
    assert_eq!(trailers(&format!("a: {}", "b".repeat(Limits::TRAILER_BYTES - 6))), "TrailersTooLarge");
    assert_eq!(whole(&format!("0\r\na: {}", "b".repeat(Limits::TRAILER_BYTES))), "TrailersTooLarge");
    assert_eq!(trailers(&"a: b\r\n".repeat(129)), "TrailersTooLarge");
}

#[test]
fn a_chunk_of_the_largest_size_is_only_a_number() {
    let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
    let input = b"ffffffffffffffff\r\nabc";
    assert_eq!(decoder.decode(input), Ok(Decoded::Data(18..21)));
    assert_eq!(decoder.decode(b"def"), Ok(Decoded::Data(0..3)));
    assert_eq!(decoder.end_of_input(), Err(Refusal::CutShort));
}

#[test]
fn bodies_with_a_length_end_there() {
    let mut decoder = Decoder::new(Framing::Length(5), &Limits::default());
    assert_eq!(decoder.decode(b""), Ok(Decoded::NeedMore));
    assert_eq!(decoder.decode(b"he"), Ok(Decoded::Data(0..2)));
    assert_eq!((decoder.remaining(), decoder.is_ended()), (Some(3), false));
    assert_eq!(decoder.end_of_input(), Err(Refusal::CutShort));
    assert_eq!(decoder.decode(b"lloGET /"), Ok(Decoded::Data(0..3)));
    assert_eq!((decoder.remaining(), decoder.is_ended()), (Some(0), true));
    let end = Decoded::End { consumed: 0, trailers: HeaderMap::new() };
    assert_eq!(decoder.decode(b"GET /"), Ok(end.clone()));
    assert_eq!(decoder.end_of_input(), Ok(()));
    for framing in [Framing::None, Framing::Length(0)] {
        assert_eq!(Decoder::new(framing, &Limits::default()).decode(b"GET /"), Ok(end.clone()));
    }
}

#[test]
fn a_body_may_end_with_its_connection() {
    let mut decoder = Decoder::new(Framing::UntilClose, &Limits::default());
    assert_eq!(decoder.decode(b"abc"), Ok(Decoded::Data(0..3)));
    assert_eq!((decoder.remaining(), decoder.is_ended()), (None, false));
    assert_eq!(decoder.end_of_input(), Ok(()));
    assert!(decoder.is_ended());
}

fn fields_of(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
    }
    map
}

#[test]
fn requests_are_framed_by_what_is_sent() {
    let cases: [(&str, &str, Framing, &str); 9] = [
        ("GET", "/a?b", Framing::None, "GET /a?b HTTP/1.1\r\na: b\r\n\r\n"),
        ("GET", "http://h/a?b", Framing::None, "GET /a?b HTTP/1.1\r\na: b\r\n\r\n"),
        ("GET", "http://h?b", Framing::None, "GET /?b HTTP/1.1\r\na: b\r\n\r\n"),
        ("GET", "http://h", Framing::None, "GET / HTTP/1.1\r\na: b\r\n\r\n"),
        ("OPTIONS", "*", Framing::None, "OPTIONS * HTTP/1.1\r\na: b\r\n\r\n"),
        ("CONNECT", "h:1", Framing::None, "CONNECT h:1 HTTP/1.1\r\na: b\r\n\r\n"),
        ("POST", "/", Framing::None, "POST / HTTP/1.1\r\na: b\r\ncontent-length: 0\r\n\r\n"),
        ("POST", "/", Framing::Length(120), "POST / HTTP/1.1\r\na: b\r\ncontent-length: 120\r\n\r\n"),
        ("PUT", "/", Framing::Chunked, "PUT / HTTP/1.1\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n"),
    ];
    let headers = fields_of(&[("a", "b"), ("content-length", "77"), ("transfer-encoding", "chunked")]);
    for (method, uri, framing, expected) in cases {
        let mut out = Vec::new();
        let method = method.parse().unwrap();
        write_request_head(&mut out, &method, &uri.parse().unwrap(), &headers, framing, None);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn responses_are_framed_by_what_is_sent() {
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    let headers = fields_of(&[("a", "b"), ("content-length", "77"), ("transfer-encoding", "chunked")]);
    let write = |status: u16, headers: &HeaderMap, framing, connection| {
        let mut out = Vec::new();
        let status = http::StatusCode::from_u16(status).unwrap();
        write_response_head(&mut out, status, headers, framing, connection, Some(date));
        String::from_utf8(out).unwrap().replace("\r\n", "|")
    };
    let dated = "date: Sun, 06 Nov 1994 08:49:37 GMT|";
    assert_eq!(
        write(200, &headers, Framing::Length(u64::MAX), None),
        format!("HTTP/1.1 200 OK|a: b|content-length: 18446744073709551615|{dated}|")
    );
    assert_eq!(
        write(404, &headers, Framing::Chunked, Some("close")),
        format!("HTTP/1.1 404 Not Found|a: b|transfer-encoding: chunked|{dated}connection: close||")
    );
    assert_eq!(write(299, &headers, Framing::UntilClose, None), format!("HTTP/1.1 299 |a: b|{dated}|"));
    assert_eq!(
        write(304, &headers, Framing::None, None),
        format!("HTTP/1.1 304 Not Modified|a: b|content-length: 77|{dated}|")
    );
    assert_eq!(write(204, &headers, Framing::None, None), format!("HTTP/1.1 204 No Content|a: b|{dated}|"));
    assert_eq!(write(103, &headers, Framing::None, None), "HTTP/1.1 103 Early Hints|a: b||");
    assert_eq!(
        write(200, &fields_of(&[("date", "then")]), Framing::Length(0), None),
        "HTTP/1.1 200 OK|date: then|content-length: 0||"
    );
}

#[test]
fn chunks_and_trailers_are_written_plainly() {
    for length in [1, 9, 15, 16, 255, 256, 4095, 65_536, usize::MAX] {
        let mut out = Vec::new();
        write_chunk_header(&mut out, length);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), format!("{length:x}\r\n"));
        assert!(out.len() <= CHUNK_HEADER_BYTES_MAX);
    }
    let mut out = Vec::new();
    write_trailers(&mut out, &fields_of(&[("x-sum", "1"), ("content-length", "5"), ("host", "a")]));
    assert_eq!(out, b"0\r\nx-sum: 1\r\n\r\n");
    let mut out = Vec::new();
    write_trailers(&mut out, &HeaderMap::new());
    assert_eq!(out, LAST_CHUNK);
}
