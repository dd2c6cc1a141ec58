//! What we write.

use http::HeaderMap;

use super::super::*;

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
