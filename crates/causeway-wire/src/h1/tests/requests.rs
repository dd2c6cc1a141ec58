//! Heads of requests.

use http::Method;

use super::super::*;
use super::{check, read_request, read_response};

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
            (
                "GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 1\r\n\r\n",
                "GET / HTTP/1.1 Length(1)",
            ),
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
