//! Clients of HTTP/2 that only make work: their connections end within a bound, everybody else is served on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::net::Stream;
use causeway_proxy::Proxy;
use causeway_testkit::{App, Client, House};
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::common::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
/// What the network in memory holds between two ends, in small frames: they were sent but not read when the end came.
const UNDER_WAY: usize = 64 * 1024 / 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://a/`, in names of HPACK's static table.
fn head() -> Vec<u8> {
    [0x82, 0x86, 0x84, 0x41, 1, b'a'].to_vec()
}

fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head())
}

/// A request whose body never comes.
fn open_request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head())
}

/// The number of the `n`th stream of a client.
fn stream(n: usize) -> u32 {
    1 + 2 * u32::try_from(n).unwrap()
}

/// Frames as they came.
#[derive(Debug)]
struct Came {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frames(mut bytes: &[u8]) -> Vec<Came> {
    let mut all = Vec::new();
    while let [a, b, c, kind, flags, s1, s2, s3, s4, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if rest.len() < length {
            break;
        }
        let stream = u32::from_be_bytes([*s1, *s2, *s3, *s4]);
        all.push(Came { kind: *kind, flags: *flags, stream, payload: rest[..length].to_vec() });
        bytes = &rest[length..];
    }
    all
}

/// The code with which the connection was ended.
fn goaway(came: &[Came]) -> Option<u32> {
    let last = came.iter().rfind(|frame| frame.kind == GOAWAY)?;
    Some(u32::from_be_bytes(last.payload[4..8].try_into().unwrap()))
}

async fn gate(house: &House) -> (App, Proxy) {
    let app = house.service("app", 1).remove(0);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    (app, start_gateway(house).await)
}

async fn get(client: &mut Client) -> String {
    client.send(House::request("GET app.mesh/")).await.unwrap().line()
}

async fn connect(house: &House) -> Stream {
    let mut stream = house.net().connect(gateway_address()).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream
}

/// Sends what `next` says, the rounds counted, until the connection ends; how many it took, and what came back.
async fn flood(house: &House, next: impl Fn(usize) -> Vec<u8>, rounds: usize) -> (usize, Vec<Came>) {
    let (mut reader, mut writer) = tokio::io::split(connect(house).await);
    let is_over = Arc::new(AtomicBool::new(false));
    let read = async {
        let mut bytes = Vec::new();
        // A reset connection is an end too.
        let _ = reader.read_to_end(&mut bytes).await;
        is_over.store(true, Ordering::Relaxed);
        bytes
    };
    let write = async {
        for round in 0..rounds {
            if is_over.load(Ordering::Relaxed) || writer.write_all(&next(round)).await.is_err() {
                return round;
            }
        }
        rounds
    };
    let both = async { tokio::join!(write, read) };
    let (sent, bytes) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("it is ended");
    (sent, frames(&bytes))
}

/// Another client asks all the while, and is answered each time; the flood's connection ends within `bound` rounds.
async fn check(name: &str, bound: usize, next: impl Fn(usize) -> Vec<u8>) {
    check_code(name, bound, ENHANCE_YOUR_CALM, next).await;
}

async fn check_code(name: &str, bound: usize, code: u32, next: impl Fn(usize) -> Vec<u8>) {
    let house = House::new();
    let (_app, _proxy) = gate(&house).await;
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    assert_eq!(get(&mut client).await, "200 app-1");
    let flooding = flood(&house, next, 10 * bound + UNDER_WAY);
    tokio::pin!(flooding);
    let (sent, came) = loop {
        tokio::select! {
            done = &mut flooding => break done,
            answer = get(&mut client) => assert_eq!(answer, "200 app-1", "{name}"),
        }
    };
    assert!(sent <= bound + UNDER_WAY, "{name}: the connection ended after {sent} rounds");
    assert_eq!(goaway(&came), Some(code), "{name}: {sent} rounds, {:?}", came.last());
    // The client above may have been left in the middle of a request.
    assert_eq!(house.ask(gateway_address(), "GET app.mesh/").await.line(), "200 app-1");
}

#[tokio::test]
async fn frames_that_say_nothing_end_their_connection() {
    let ping = |_| frame(PING, 0, 0, b"12345678");
    check("PING", 2_100, ping).await;
    check("PING answers", 2_100, |_| frame(PING, ACK, 0, b"12345678")).await;
    check("SETTINGS", 2_100, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])).await;
    check_code("SETTINGS answers", 2_100, PROTOCOL_ERROR, |_| frame(SETTINGS, ACK, 0, &[])).await;
    check("PRIORITY", 2_100, |_| frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9])).await;
    check("an unknown kind", 2_100, |_| frame(0x42, 0, 0, b"x")).await;
    check("WINDOW_UPDATE", 2_100, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await;
}

#[tokio::test]
async fn empty_data_ends_its_connection() {
    let next = |round| match round {
        0 => open_request(1),
        _ => frame(DATA, 0, 1, &[]),
    };
    check("empty DATA", 2_100, next).await;
}

#[tokio::test]
async fn a_head_without_end_ends_its_connection() {
    for (name, piece) in [("empty", vec![]), ("full", [0x00, 1, b'y', 1, b'z'].repeat(200))] {
        let next = |round| match round {
            0 => frame(HEADERS, END_STREAM, 1, &head()),
            _ => frame(CONTINUATION, 0, 1, &piece),
        };
        check(&format!("CONTINUATION, {name}"), 10, next).await;
    }
}

#[tokio::test]
async fn requests_taken_back_at_once_end_their_connection() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    let take_back =
        |round| [request(stream(round)), frame(RST_STREAM, 0, stream(round), &[0, 0, 0, 8])].concat();
    let (sent, came) = flood(&house, take_back, 20_000).await;
    assert!(sent <= 1_100 + UNDER_WAY, "{sent} rounds");
    assert_eq!(goaway(&came), Some(ENHANCE_YOUR_CALM));
    assert!(app.count() < 1_100, "the service saw {} of them", app.count());
    check("rapid reset", 1_100, take_back).await;
}

/// The client makes us reset its streams, by frames that are errors (CVE-2025-8671).
#[tokio::test]
async fn streams_that_we_are_made_to_reset_end_their_connection() {
    let nothing =
        |round| [open_request(stream(round)), frame(WINDOW_UPDATE, 0, stream(round), &[0, 0, 0, 0])].concat();
    check_code("windows opened by nothing", 1_100, PROTOCOL_ERROR, nothing).await;
    let too_much = |round| {
        let wide = frame(WINDOW_UPDATE, 0, stream(round), &[127, 255, 255, 255]);
        [open_request(stream(round)), wide].concat()
    };
    check("windows opened too far", 1_100, too_much).await;
    let own_priority = |round| {
        let id = stream(round);
        frame(HEADERS, END_HEADERS | END_STREAM | 0x20, id, &[&id.to_be_bytes()[..], &[0], &head()].concat())
    };
    check("streams that depend on themselves", 1_100, own_priority).await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_in_the_end_their_connection_too() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    app.behave(|_| (Duration::from_secs(3600), Response::new(Bytes::new())));
    let (sent, came) = flood(&house, |round| request(stream(round)), 20_000).await;
    assert!(sent < 3_000 + UNDER_WAY, "{sent} rounds");
    let refused = |frame: &&Came| frame.kind == RST_STREAM && frame.payload == [0, 0, 0, 7];
    assert!(came.iter().filter(refused).count() > 100, "first they are refused one by one");
    assert!(app.count() <= 1_024, "{} reached the service", app.count());
}

/// A field of so many bytes that the table keeps.
fn long_field(length: usize) -> Vec<u8> {
    let mut field = vec![0x40, 1, b'x', 127];
    let mut left = length - 127;
    while left >= 128 {
        field.push((left % 128) as u8 | 128);
        left /= 128;
    }
    field.push(left as u8);
    field.resize(field.len() + length, b'v');
    field
}

#[tokio::test]
async fn a_head_that_swells_is_refused_and_the_connection_goes_on() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    let mut seen = 0;
    for (name, fields) in [
        ("70 kB", [head(), long_field(4_000), vec![0xbe; 17]].concat()),
        ("200 fields", [head(), [0x00, 1, b'y', 1, b'z'].repeat(200)].concat()),
    ] {
        let mut socket = connect(&house).await;
        let bytes = [frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields), request(3)].concat();
        socket.write_all(&bytes).await.unwrap();
        let came =
            read_until(&mut socket, |came| came.iter().any(|f| f.stream == 3 && f.flags & END_STREAM != 0))
                .await;
        let first = came.iter().find(|frame| frame.stream == 1).unwrap();
        // 431, written out: there is no such status in the static table.
        assert!(first.kind == HEADERS && !first.payload.starts_with(&[0x88]), "{name}: {first:?}");
        seen += 1;
        assert_eq!(app.count(), seen, "{name}: only the second request reached the service");
    }
}

/// Fields that take a byte each on the wire and 4 kB each when they are read.
#[tokio::test]
async fn an_hpack_bomb_ends_its_connection() {
    let next = |round| {
        let fields = match round {
            0 => [head(), long_field(4_000)].concat(),
            _ => [head(), vec![0xbe; 10_000]].concat(),
        };
        frame(HEADERS, END_HEADERS | END_STREAM, stream(round), &fields)
    };
    check("HPACK bomb", 10, next).await;
}

async fn read_until(socket: &mut Stream, is_done: impl Fn(&[Came]) -> bool) -> Vec<Came> {
    let mut bytes = Vec::new();
    let reading = async {
        let mut buffer = [0; 16 * 1024];
        while !is_done(&frames(&bytes)) {
            match socket.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3600), reading).await;
    frames(&bytes)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    app.behave(|_| (Duration::ZERO, Response::new(Bytes::from(vec![b'x'; 100_000]))));
    let mut socket = house.net().connect(gateway_address()).await.unwrap();
    // Its windows are of no bytes; it answers pings, as a client that lives does.
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    socket.write_all(&[PREFACE, &settings, &request(1)].concat()).await.unwrap();
    let begun = Instant::now();
    let mut seen = 0;
    let cut = loop {
        let came = read_until(&mut socket, |came| !came.is_empty()).await;
        assert!(!came.is_empty(), "the connection ended after {:?}", begun.elapsed());
        for ping in came.iter().filter(|frame| frame.kind == PING && frame.flags & ACK == 0) {
            socket.write_all(&frame(PING, ACK, 0, &ping.payload)).await.unwrap();
        }
        seen += came.iter().filter(|f| f.kind == DATA).map(|f| f.payload.len()).sum::<usize>();
        if came.iter().any(|frame| frame.kind == RST_STREAM && frame.stream == 1) {
            break begun.elapsed();
        }
    };
    assert_eq!(seen, 0);
    assert!((299..330).contains(&cut.as_secs()), "{cut:?}");
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_dead_idle_or_never_begin_are_closed() {
    let house = House::new();
    let (_app, _proxy) = gate(&house).await;
    let closed_after = async |first: &[u8], answers_pings: bool| {
        let mut socket = house.net().connect(gateway_address()).await.unwrap();
        socket.write_all(first).await.unwrap();
        let begun = Instant::now();
        loop {
            let came = read_until(&mut socket, |came| !came.is_empty()).await;
            if came.is_empty() {
                return begun.elapsed().as_secs();
            }
            for ping in came.iter().filter(|frame| frame.kind == PING && frame.flags & ACK == 0) {
                if answers_pings {
                    socket.write_all(&frame(PING, ACK, 0, &ping.payload)).await.unwrap();
                }
            }
        }
    };
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let never = closed_after(&PREFACE[..10], false).await;
    assert!((74..80).contains(&never), "a preface that is not whole: {never} s");
    let dead = closed_after(&begun, false).await;
    assert!((30..60).contains(&dead), "a client that answers no ping: {dead} s");
    let idle = closed_after(&begun, true).await;
    assert!((75..150).contains(&idle), "an idle client: {idle} s");
    let used = closed_after(&[begun.as_slice(), &request(1)].concat(), true).await;
    assert!((75..150).contains(&used), "one that was used once: {used} s");
    let slow = closed_after(&[begun.as_slice(), &frame(HEADERS, 0, 1, &head())].concat(), true).await;
    // An answer to a ping is an error there, silence is no life.
    assert!((10..150).contains(&slow), "a head that is never whole: {slow} s");
}

/// Requests of browsers and gRPC clients with all their side frames, for a long time: nobody is cut off.
#[tokio::test(start_paused = true)]
async fn busy_clients_are_no_floods() {
    let house = House::new();
    let (_app, _proxy) = gate(&house).await;
    let mut socket = connect(&house).await;
    for round in 0..3_000 {
        let id = stream(round);
        let side = [
            frame(PRIORITY, 0, id, &[0, 0, 0, 0, 9]),
            request(id),
            frame(PING, 0, 0, b"measured"),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]),
        ];
        socket.write_all(&side.concat()).await.unwrap();
        let came = read_until(&mut socket, |came| {
            came.iter().any(|frame| frame.stream == id && frame.flags & END_STREAM != 0)
        });
        assert!(came.await.iter().any(|frame| frame.stream == id), "request {round}");
    }
    // Some time later it takes a few back, as callers do whose time is up.
    for round in 3_000..3_900 {
        let id = stream(round);
        let bytes = [request(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat();
        socket.write_all(&bytes).await.unwrap();
    }
    let id = stream(4_000);
    socket.write_all(&request(id)).await.unwrap();
    let came = read_until(&mut socket, |came| came.iter().any(|frame| frame.stream == id));
    assert!(came.await.iter().any(|frame| frame.stream == id && frame.kind == HEADERS));
}

#[tokio::test]
async fn an_answer_of_another_stream_passes_a_client_that_does_not_read_one() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    app.behave(|seen| {
        let length = if seen.line.contains("large") { 300_000 } else { 10 };
        (Duration::ZERO, Response::new(Bytes::from(vec![b'x'; length])))
    });
    let mut socket = connect(&house).await;
    // The connection's window is wide, the stream's stays as it is: 65,535 bytes.
    let large = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &[&[0x82, 0x86, 0x04, 6][..], b"/large", &[0x41, 1, b'a']].concat(),
    );
    let bytes = [large, frame(WINDOW_UPDATE, 0, 0, &[0, 15, 0, 0]), request(3)].concat();
    socket.write_all(&bytes).await.unwrap();
    let is_done = |came: &[Came], stream, length| {
        came.iter().filter(|f| f.kind == DATA && f.stream == stream).map(|f| f.payload.len()).sum::<usize>()
            == length
    };
    let came = read_until(&mut socket, |came| is_done(came, 1, 65_535) && is_done(came, 3, 10)).await;
    assert!(is_done(&came, 3, 10) && is_done(&came, 1, 65_535));
    socket.write_all(&frame(WINDOW_UPDATE, 0, 1, &[0, 15, 0, 0])).await.unwrap();
    let came = read_until(&mut socket, |came| is_done(came, 1, 300_000 - 65_535)).await;
    assert!(is_done(&came, 1, 300_000 - 65_535), "it goes on where it was");
}
