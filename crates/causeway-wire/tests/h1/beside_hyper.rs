//! Valid traffic read by us and by hyper: the same heads, contents and trailers. And what we write, hyper reads.

use std::convert::Infallible;
use std::sync::mpsc;

use bytes::Bytes;
use causeway_wire::h1::*;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A message as either reads it: what the first line says, fields, content, trailers.
#[derive(Debug, PartialEq)]
struct Message {
    line: String,
    headers: HeaderMap,
    content: Vec<u8>,
    trailers: HeaderMap,
}

/// How a body is sent.
#[derive(Clone, Debug)]
enum Sent {
    Nothing,
    Length(Vec<u8>),
    Chunks(Vec<Vec<u8>>, Vec<(HeaderName, HeaderValue)>),
}

impl Sent {
    fn framing(&self) -> Framing {
        match self {
            Sent::Nothing => Framing::None,
            Sent::Length(content) => Framing::Length(content.len() as u64),
            Sent::Chunks(..) => Framing::Chunked,
        }
    }

    /// Fields and body in another hand than the codec's own.
    fn plainly(&self) -> (String, Vec<u8>) {
        match self {
            Sent::Nothing => (String::new(), Vec::new()),
            Sent::Length(content) => (format!("Content-Length: {}\r\n", content.len()), content.clone()),
            Sent::Chunks(chunks, trailers) => {
                let mut body = Vec::new();
                for chunk in chunks {
                    body.extend_from_slice(format!("{:X};ext=\"1\"\r\n", chunk.len()).as_bytes());
                    body.extend_from_slice(chunk);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(b"00\r\n");
                for (name, value) in trailers {
                    body.extend_from_slice(
                        &[name.as_str().as_bytes(), b":", value.as_bytes(), b" \r\n"].concat(),
                    );
                }
                body.extend_from_slice(b"\r\n");
                // Hyper gives trailers out only where they were announced.
                let names: Vec<&str> = trailers.iter().map(|(name, _)| name.as_str()).collect();
                let announced = if names.is_empty() {
                    String::new()
                } else {
                    format!("Trailer: {}\r\n", names.join(","))
                };
                (format!("TRANSFER-ENCODING:Chunked\r\n{announced}"), body)
            }
        }
    }

    /// The body in the codec's own hand.
    fn written(&self, out: &mut Vec<u8>) {
        match self {
            Sent::Nothing => {}
            Sent::Length(content) => out.extend_from_slice(content),
            Sent::Chunks(chunks, trailers) => {
                for chunk in chunks {
                    write_chunk_header(out, chunk.len());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(CHUNK_END);
                }
                write_trailers(out, &trailers.iter().cloned().collect());
            }
        }
    }
}

// === what is sent ===

fn content(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..most)
}

fn fields(most: usize) -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
    let name = prop_oneof![
        select(&["accept", "cookie", "user-agent", "traceparent", "x-request-id", "etag", "via"][..])
            .prop_map(String::from),
        "[a-z!#$%&'*+.^_`|~0-9-]{1,70}".prop_map(|name| format!("x-{name}")),
    ];
    // Blanks at the ends are the sender's, not the value's.
    let value = prop_oneof!["[!-~]([ -~\t]{0,40}[!-~])?", Just(String::new())].prop_map(|text| {
        let mut bytes = text.into_bytes();
        if let [_, middle, _, ..] = bytes.as_mut_slice() {
            *middle = 0xe9;
        }
        HeaderValue::from_bytes(&bytes).unwrap()
    });
    prop::collection::vec((name.prop_map(|name| name.parse().unwrap()), value), 0..most)
}

fn sent() -> impl Strategy<Value = Sent> {
    let trailers = fields(3).prop_map(|trailers| {
        trailers.into_iter().filter(|(name, _)| name.as_str().starts_with("x-")).collect()
    });
    prop_oneof![
        Just(Sent::Nothing),
        content(300).prop_map(Sent::Length),
        (prop::collection::vec(content(40), 0..5), trailers)
            .prop_map(|(chunks, trailers)| Sent::Chunks(chunks, trailers)),
    ]
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("/".to_owned()),
        "/[a-zA-Z0-9/._~%!$&'()*+,;=:@-]{0,60}(\\?[a-zA-Z0-9/?=&%._~-]{0,40})?",
        "http://[a-z]{1,9}(:[1-9][0-9]{0,3})?/[a-z]{0,9}",
    ]
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        select(vec![Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH]),
        "[A-Z]{1,20}"
            .prop_filter("has no target of its own", |name| name != "CONNECT")
            .prop_map(|name| name.parse().unwrap()),
    ]
}

// === who reads it ===

fn ours(input: &[u8], framing: Framing, line: String, headers: HeaderMap, bytes: usize) -> Message {
    let mut decoder = Decoder::new(framing, &Limits::default());
    let mut content = Vec::new();
    let mut at = bytes;
    let trailers = loop {
        match decoder.decode(&input[at..]).unwrap() {
            Decoded::Data(range) => {
                content.extend_from_slice(&input[at..][range.clone()]);
                at += range.end;
            }
            Decoded::End { consumed, trailers } => {
                assert_eq!(at + consumed, input.len(), "the message ends where its bytes do");
                break trailers;
            }
            Decoded::NeedMore => {
                decoder.end_of_input().unwrap();
                break HeaderMap::new();
            }
        }
    };
    Message { line, headers, content, trailers }
}

fn our_request(input: &[u8]) -> Message {
    let read = request_head(input, &mut Progress::default(), &Limits::default()).unwrap();
    let Parsed::Done(head) = read else { panic!("the head is there whole") };
    let line = format!("{} {} {:?}", head.method, head.uri, head.version);
    ours(input, head.framing, line, head.headers, head.bytes)
}

fn our_response(input: &[u8], method: &Method) -> Message {
    let read = response_head(input, method, &mut Progress::default(), &Limits::default()).unwrap();
    let Parsed::Done(head) = read else { panic!("the head is there whole") };
    let line = format!("{} {:?}", head.status, head.version);
    ours(input, head.framing, line, head.headers, head.bytes)
}

async fn collected(line: String, headers: HeaderMap, body: Incoming) -> Message {
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    Message { line, headers, content: body.to_bytes().to_vec(), trailers }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn hypers_request(input: &[u8]) -> Message {
    let (sender, receiver) = mpsc::channel();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let (parts, body) = request.into_parts();
            let line = format!("{} {} {:?}", parts.method, parts.uri, parts.version);
            sender.send(collected(line, parts.headers, body).await).unwrap();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    run(async {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(input).await.unwrap();
        near.shutdown().await.unwrap();
        let mut http = hyper::server::conn::http1::Builder::new();
        http.half_close(true).serve_connection(TokioIo::new(far), service).await.unwrap();
    });
    receiver.recv().expect("hyper read a request")
}

fn hypers_response(input: &[u8], method: &Method) -> Message {
    run(async {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let (mut client, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(far)).await.unwrap();
        let request = Request::builder().method(method).uri("/").header("host", "a");
        let server = async {
            let mut asked = [0; 1024];
            let _ = near.read(&mut asked).await.unwrap();
            near.write_all(input).await.unwrap();
            near.shutdown().await.unwrap();
            drop(near);
        };
        let answer = async {
            let response = client.send_request(request.body(Full::default()).unwrap()).await.unwrap();
            let (parts, body) = response.into_parts();
            let line = format!("{} {:?}", parts.status, parts.version);
            collected(line, parts.headers, body).await
        };
        let (answer, (), _) = tokio::join!(answer, server, connection);
        answer
    })
}

fn head_lines(fields: &[(HeaderName, HeaderValue)], out: &mut Vec<u8>) {
    for (at, (name, value)) in fields.iter().enumerate() {
        let name = if at % 2 == 0 { name.as_str().to_ascii_uppercase() } else { name.as_str().to_owned() };
        let blanks: &[u8] = [b"".as_slice(), b" ", b"\t ", b"  "][at % 4];
        out.extend_from_slice(&[name.as_bytes(), b":", blanks, value.as_bytes(), blanks, b"\r\n"].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_are_read_alike(
        (method, target, fields, sent) in (method(), target(), fields(12), sent()),
    ) {
        let (framing, body) = sent.plainly();
        let mut input = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{framing}").into_bytes();
        head_lines(&fields, &mut input);
        input.extend_from_slice(b"\r\n");
        input.extend_from_slice(&body);
        prop_assert_eq!(our_request(&input), hypers_request(&input));
    }

    #[test]
    fn responses_are_read_alike(
        (status, fields, sent) in (select(&[200, 201, 204, 304, 404, 500, 599][..]), fields(12), sent()),
        method in select(vec![Method::GET, Method::HEAD, Method::POST]),
    ) {
        let has_no_body = matches!(status, 204 | 304) || method == Method::HEAD;
        let sent = if has_no_body { Sent::Nothing } else { sent };
        let (framing, body) = sent.plainly();
        let mut input = format!("HTTP/1.1 {status} Reason\r\n{framing}").into_bytes();
        head_lines(&fields, &mut input);
        input.extend_from_slice(b"\r\n");
        input.extend_from_slice(&body);
        prop_assert_eq!(our_response(&input, &method), hypers_response(&input, &method));
    }

    #[test]
    fn hyper_reads_the_requests_that_we_write(
        (method, target, fields, sent) in (method(), target(), fields(12), sent()),
    ) {
        let mut headers: HeaderMap = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("a"));
        if let Sent::Chunks(_, trailers) = &sent {
            announce(trailers, &mut headers);
        }
        headers.extend(fields);
        let mut out = Vec::new();
        let uri = target.parse().unwrap();
        write_request_head(&mut out, &method, &uri, &headers, sent.framing(), None);
        sent.written(&mut out);
        let read = hypers_request(&out);
        prop_assert_eq!(&our_request(&out), &read);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        prop_assert_eq!(read.line, format!("{method} {path} HTTP/1.1"));
        let (names, content) = (read.headers.len(), read.content);
        prop_assert!(names >= headers.len());
        prop_assert_eq!(content, whole_content(&sent));
    }

    #[test]
    fn hyper_reads_the_responses_that_we_write((fields, sent) in (fields(12), sent())) {
        let mut headers: HeaderMap = fields.into_iter().collect();
        if let Sent::Chunks(_, trailers) = &sent {
            announce(trailers, &mut headers);
        }
        let framing = if matches!(sent, Sent::Nothing) { Framing::UntilClose } else { sent.framing() };
        let mut out = Vec::new();
        let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
        write_response_head(&mut out, StatusCode::OK, &headers, framing, Some("close"), Some(date));
        sent.written(&mut out);
        let read = hypers_response(&out, &Method::GET);
        prop_assert_eq!(&our_response(&out, &Method::GET), &read);
        prop_assert_eq!(read.content, whole_content(&sent));
    }
}

fn announce(trailers: &[(HeaderName, HeaderValue)], headers: &mut HeaderMap) {
    for (name, _) in trailers {
        headers.append("trailer", HeaderValue::from_str(name.as_str()).unwrap());
    }
}

fn whole_content(sent: &Sent) -> Vec<u8> {
    match sent {
        Sent::Nothing => Vec::new(),
        Sent::Length(content) => content.clone(),
        Sent::Chunks(chunks, _) => chunks.concat(),
    }
}
