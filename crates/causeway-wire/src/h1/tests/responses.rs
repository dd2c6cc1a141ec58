//! Heads of responses.

use http::Method;

use super::{check, read_response};

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
