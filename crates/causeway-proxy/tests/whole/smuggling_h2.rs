//! Requests in HTTP/2 that would become two in HTTP/1.1: what the frames say is one request, written down plainly, or none.

use std::time::Duration;

use causeway_proxy::Proxy;
use causeway_testkit::{App, House};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;

const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nhost: app.mesh\r\n\r\n";

async fn gate(house: &House) -> (App, Proxy) {
    let app = house.service("app", 1).remove(0);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    (app, start_gateway(house).await)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as HPACK writes them without any table: whatever bytes they hold.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let mut coded = match text.len() {
            short @ 0..127 => vec![u8::try_from(short).unwrap()],
            long => {
                let mut left = long - 127;
                let mut coded = vec![127];
                while left >= 128 {
                    coded.push((left % 128) as u8 | 128);
                    left /= 128;
                }
                coded.push(left as u8);
                coded
            }
        };
        coded.extend_from_slice(text.as_bytes());
        coded
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// Sends one request on a connection of its own, its trailers behind its body; what kinds of frames came back on its stream.
async fn send(house: &House, head: &[(&str, &str)], body: &str, trailers: &[(&str, &str)]) -> Vec<u8> {
    let mut stream = house.net().connect(gateway_address()).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, b""));
    let (end_stream, end_headers) = (1, 4);
    let is_alone = body.is_empty() && trailers.is_empty();
    bytes.extend(frame(1, end_headers | if is_alone { end_stream } else { 0 }, 1, &fields(head)));
    if !body.is_empty() {
        bytes.extend(frame(0, if trailers.is_empty() { end_stream } else { 0 }, 1, body.as_bytes()));
    }
    if !trailers.is_empty() {
        bytes.extend(frame(1, end_headers | end_stream, 1, &fields(trailers)));
    }
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(read)) = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await
        && read > 0
    {
        answer.extend_from_slice(&buffer[..read]);
    }
    let mut kinds = Vec::new();
    let mut rest = answer.as_slice();
    while let [a, b, c, kind, _, stream @ ..] = rest
        && stream.len() >= 4
    {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if stream[3] == 1 || *kind == 7 {
            kinds.push(*kind);
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    kinds
}

type Fields<'a> = &'a [(&'a str, &'a str)];

const PLAIN: Fields<'static> =
    &[(":method", "POST"), (":scheme", "http"), (":authority", "app.mesh"), (":path", "/one")];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut head: Vec<_> = PLAIN.to_vec();
    for (name, value) in more {
        match head.iter_mut().find(|(there, _)| there == name && name.starts_with(':')) {
            Some(field) => field.1 = value,
            None => head.push((name, value)),
        }
    }
    head
}

#[tokio::test(start_paused = true)]
async fn a_request_in_frames_is_one_request_or_none() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    let chunked = format!("0\r\n\r\n{SMUGGLED}");
    let line = "/one HTTP/1.1\r\nhost: app.mesh\r\n\r\nGET /admin";
    let value = "y\r\n\r\nGET /admin HTTP/1.1\r\nhost: app.mesh\r\n\r\n";
    let attacks: &[(&[(&str, &str)], &str)] = &[
        (&[("transfer-encoding", "chunked")], &chunked),
        (&[("transfer-encoding", "chunked"), ("content-length", "44")], &chunked),
        (&[("connection", "transfer-encoding"), ("x", "y")], &chunked),
        (&[("connection", "close")], ""),
        (&[("upgrade", "h2c")], ""),
        (&[("te", "chunked")], ""),
        (&[("content-length", "0")], SMUGGLED),
        (&[("content-length", "5")], SMUGGLED),
        (&[("content-length", "4000")], SMUGGLED),
        (&[("content-length", "0"), ("content-length", "39")], SMUGGLED),
        (&[("content-length", "39"), ("content-length", "0")], SMUGGLED),
        (&[("content-length", "39, 0")], SMUGGLED),
        (&[("content-length", "+39")], SMUGGLED),
        (&[("content-length", "0x27")], SMUGGLED),
        (&[("content-length", "39 ")], SMUGGLED),
        (&[("content-length", "")], SMUGGLED),
        (&[("x", value)], ""),
        (&[("x", "y\ntransfer-encoding: chunked")], &chunked),
        (&[("x", "y\rz")], ""),
        (&[("x", "y\0")], ""),
        (&[("x: y\r\ntransfer-encoding", "chunked")], &chunked),
        (&[("transfer-encoding: chunked\r\nx", "y")], &chunked),
        (&[("Transfer-Encoding", "chunked")], &chunked),
        (&[("transfer-encoding ", "chunked")], &chunked),
        (&[("", "y")], ""),
        (&[(":path", line)], ""),
        (&[(":path", "/one two")], ""),
        (&[(":path", "one")], ""),
        (&[(":path", "")], ""),
        (&[(":path", "*")], ""),
        (&[(":method", "GET /admin HTTP/1.1\r\nhost: app.mesh\r\n\r\nPOST")], ""),
        (&[(":method", "GET /admin?")], ""),
        (&[(":authority", "app.mesh\r\ntransfer-encoding: chunked")], &chunked),
        (&[(":authority", "app.mesh/admin")], ""),
        (&[(":authority", "user@app.mesh")], ""),
        (&[("host", "other")], ""),
        (&[("host", "app.mesh"), ("host", "app.mesh")], ""),
        (&[(":unknown", "x")], ""),
    ];
    let mut wrong = Vec::new();
    for (more, body) in attacks {
        let before = app.count();
        let frames = send(&house, &with(more), body, &[]).await;
        // A head with an answer (1), a stream reset (3) or the connection ended (7): anything but silence.
        if app.count() != before || frames.is_empty() {
            wrong.push(format!("{more:?} {body:?}: frames {frames:?}, seen {:?}", &app.seen()[before..]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The door is open, and a body that looks like a request is a body; so is one that looks like chunks.
    for (more, body) in
        [(&[("content-length", "39")] as &[_], SMUGGLED), (&[], SMUGGLED), (&[], chunked.as_str()), (&[], "")]
    {
        let before = app.count();
        let frames = send(&house, &with(more), body, &[]).await;
        assert_eq!(frames.first(), Some(&1), "{more:?} {body:?}: {frames:?}");
        let seen = app.seen().split_off(before);
        let seen: Vec<_> = seen.iter().map(|seen| (seen.line.as_str(), seen.body.as_ref())).collect();
        assert_eq!(seen, [("POST /one", body.as_bytes())]);
    }
}

/// Trailers are written into a chunked body: they must not end it early, nor say how it is framed.
#[tokio::test(start_paused = true)]
async fn trailers_stay_trailers() {
    let house = House::new();
    let (app, _proxy) = gate(&house).await;
    let value = "y\r\n\r\nGET /admin HTTP/1.1\r\nhost: app.mesh\r\n\r\n";
    for trailers in [
        &[("x", value)] as Fields<'_>,
        &[("x\r\n\r\nGET /admin HTTP/1.1\r\nhost", "app.mesh")],
        &[("content-length", "0")],
        &[("transfer-encoding", "chunked")],
        &[("host", "other")],
        &[(":path", "/admin")],
        &[("X", "y")],
    ] {
        send(&house, PLAIN, "hello", trailers).await;
    }
    let seen = app.seen();
    assert!(seen.iter().all(|seen| seen.line == "POST /one" && seen.body == "hello"), "{seen:?}");
    let before = app.count();
    let frames = send(&house, PLAIN, "hello", &[("x-sum", "7")]).await;
    assert_eq!((frames.first(), app.count()), (Some(&1), before + 1));
}
