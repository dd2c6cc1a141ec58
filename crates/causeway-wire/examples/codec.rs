//! Measures what the HTTP/1.1 codec costs a message: the best of many short runs, so that a busy machine disturbs it little.
//!
//! `cargo run --release -p causeway-wire --example codec`
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::Instant;

use causeway_wire::h1::*;
use http::Method;

const REQUEST: &[u8] = b"GET /api/v1/items/42?x=1 HTTP/1.1\r\nhost: shop.example:8080\r\nuser-agent: wrk/4.1.0 something\r\n\
    accept: */*\r\naccept-encoding: gzip, deflate\r\nconnection: keep-alive\r\nx-request-id: 0123456789abcdef0123456789abcdef\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\ncontent-type: text/plain\r\n\
    date: Sun, 06 Nov 1994 08:49:37 GMT\r\nserver: x\r\n\r\n";

fn time(what: &str, mut work: impl FnMut()) {
    const ROUNDS: u32 = 100;
    let round = || {
        let begun = Instant::now();
        (0..ROUNDS).for_each(|_| work());
        begun.elapsed() / ROUNDS
    };
    let best = std::iter::repeat_with(round).take(4_000).min().unwrap_or_default();
    println!("{what:28} {:5} ns", best.as_nanos());
}

fn request() -> RequestHead {
    let read = request_head(black_box(REQUEST), &mut Progress::default(), &Limits::default());
    let Ok(Parsed::Done(head)) = read else { panic!("it is a right head: {read:?}") };
    head
}

fn response() -> ResponseHead {
    let read = response_head(black_box(RESPONSE), &Method::GET, &mut Progress::default(), &Limits::default());
    let Ok(Parsed::Done(head)) = read else { panic!("it is a right head: {read:?}") };
    head
}

fn main() {
    time("read a request, 6 fields", || drop(black_box(request())));
    time("read a response, 4 fields", || drop(black_box(response())));
    let (asked, answered) = (request(), response());
    let mut out = Vec::with_capacity(4096);
    time("write that request", || {
        out.clear();
        write_request_head(
            &mut out,
            &asked.method,
            &asked.uri,
            black_box(&asked.headers),
            asked.framing,
            None,
        );
    });
    time("write that response", || {
        out.clear();
        let headers = black_box(&answered.headers);
        write_response_head(&mut out, answered.status, headers, answered.framing, None, None);
    });
    let body = [b"64\r\n".as_slice(), &[b'x'; 100], b"\r\n0\r\n\r\n"].concat();
    time("read 100 bytes in a chunk", || {
        let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
        let mut rest = black_box(body.as_slice());
        while let Ok(Decoded::Data(range)) = decoder.decode(rest) {
            rest = &rest[range.end..];
        }
    });
}
