//! Bodies as they come in, in pieces of any size.

use http::HeaderMap;

use super::super::*;
use super::check;

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
