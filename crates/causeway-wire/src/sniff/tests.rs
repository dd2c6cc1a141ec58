use proptest::prelude::*;

use super::*;

/// A ClientHello with these extensions, cut into records of at most `record` bytes.
fn client_hello(server_name: Option<&str>, alpn: &[&str], record: usize) -> Vec<u8> {
    let sized = |width: usize, bytes: &[u8]| {
        let mut out = bytes.len().to_be_bytes()[8 - width..].to_vec();
        out.extend_from_slice(bytes);
        out
    };
    let mut extensions = Vec::new();
    let mut extend = |kind: u16, body: &[u8]| {
        extensions.extend_from_slice(&kind.to_be_bytes());
        extensions.extend(sized(2, body));
    };
    extend(0x2a2a, b"");
    if let Some(name) = server_name {
        let entry = [&[0][..], &sized(2, name.as_bytes())].concat();
        extend(SERVER_NAME, &sized(2, &entry));
    }
    if !alpn.is_empty() {
        let names: Vec<u8> = alpn.iter().flat_map(|name| sized(1, name.as_bytes())).collect();
        extend(ALPN, &sized(2, &names));
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(sized(1, &[9; 32]));
    body.extend(sized(2, &[0x13, 0x01]));
    body.extend(sized(1, &[0]));
    body.extend(sized(2, &extensions));
    let message = [&[CLIENT_HELLO][..], &sized(3, &body)].concat();
    message.chunks(record).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &sized(2, part)].concat()).collect()
}

fn tls(server_name: Option<&str>, alpn: &[&str]) -> Sniffed {
    let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Sniffed::Tls(Hello { server_name: server_name.map(str::to_owned), alpn })
}

#[test]
fn first_bytes_are_told_apart() {
    use Sniffed::{Http1, Http2, NeedMore, Unknown};
    for (bytes, expected) in [
        ("", NeedMore),
        ("GET / HTTP/1.1\r\n", Http1),
        ("\r\nGET / HTTP/1.0\r\nHost: x\r\n\r\n", Http1),
        ("M-SEARCH * HTTP/1.1\r\n", Http1),
        ("CONNECT db:5432 HTTP/1.1\r\n", Http1),
        ("GET http://cart.mesh/ HTTP/1.1\r\n", Http1),
        ("GET /", NeedMore),
        ("GET / HTTP/1.", NeedMore),
        ("GET / HTTP/1.1\r", NeedMore),
        ("GET / HTTP/2.0\r\n", Unknown),
        ("GET / HTTP/1.1\n", Unknown),
        ("GET /\r\n", Unknown),
        ("EHLO mail.example\r\n", Unknown),
        ("SSH-2.0-OpenSSH_9.2\r\n", Unknown),
        ("*1\r\n$4\r\nPING\r\n", Unknown),
        ("get key\r\n", Unknown),
        ("CONNECT {\"verbose\":false}\r\n", Unknown),
        ("\r\n\r\nGET / HTTP/1.1\r\n", Unknown),
        (" GET / HTTP/1.1\r\n", Unknown),
        ("\x00\x00\x00\x08\x04\u{2}\x16/", Unknown),
        ("P", NeedMore),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", NeedMore),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2),
        ("PRI * HTTP/1.1\r\n", Http1),
        ("\x16\x03", NeedMore),
        ("\x16\x02\x01", Unknown),
        ("\x16\x03\x01\x00\x05\x02", Unknown),
        ("\x16\x03\x01\x00\x05\x01", NeedMore),
        ("\x16\x03\x01\x00\x00", Unknown),
    ] {
        assert_eq!(sniff(bytes.as_bytes()), expected, "{bytes:?}");
    }
    let long = "x".repeat(METHOD_MAX + 1);
    assert_eq!(sniff(long.as_bytes()), Unknown);
    let endless = format!("GET /{}", "x".repeat(BYTES_MAX));
    assert_eq!(sniff(&endless.as_bytes()[..BYTES_MAX - 1]), NeedMore);
    assert_eq!(sniff(endless.as_bytes()), Unknown, "there is an answer at the bound");
}

#[test]
fn a_hello_says_where_it_wants_to_go() {
    for record in [1, 3, 70, RECORD_MAX] {
        let bytes = client_hello(Some("Cart.Mesh."), &["h2", "http/1.1"], record);
        assert_eq!(sniff(&bytes), tls(Some("cart.mesh"), &["h2", "http/1.1"]), "records of {record}");
    }
    assert_eq!(sniff(&client_hello(None, &[], 99)), tls(None, &[]));
    let broken = client_hello(Some("a b"), &["h2"], 999);
    assert_eq!(sniff(&broken), tls(None, &[]), "a name that is no name makes the hello unreadable");
}

#[test]
fn a_hello_without_an_end_is_tls_all_the_same() {
    let mut bytes = vec![HANDSHAKE, 3, 1, 0x40, 0x00, CLIENT_HELLO, 0x00, 0x3f, 0x00];
    assert_eq!(sniff(&bytes), Sniffed::NeedMore);
    bytes.resize(BYTES_MAX, 0);
    assert_eq!(sniff(&bytes), tls(None, &[]));
    bytes[6] = 0xff;
    assert_eq!(sniff(&bytes[..9]), tls(None, &[]), "one that is longer than we read is known at once");
}

#[test]
fn hosts_are_found_before_the_request_is_read() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\n", Host::NeedMore),
        ("GET / HTTP/1.1\r\nHost: cart.mesh", Host::NeedMore),
        ("GET / HTTP/1.1\r\nAccept: x\r\nhOsT:  cart.mesh:81 \r\n", Host::Named("cart.mesh:81")),
        ("GET / HTTP/1.1\r\nAccept: x\r\n\r\nHost: cart.mesh\r\n", Host::None),
        ("GET http://cart.mesh?q HTTP/1.1\r\n", Host::Named("cart.mesh")),
        ("GET / HTTP/1.1\r\nHost:\r\n", Host::None),
    ] {
        assert_eq!(host(head.as_bytes()), expected, "{head:?}");
    }
}

fn beginnings() -> impl Strategy<Value = Vec<u8>> {
    let name = proptest::option::of("[a-zA-Z0-9.-]{1,40}");
    let hello = (name, proptest::collection::vec("[a-z0-9/.]{1,12}", 0..4), 1..200usize).prop_map(
        |(name, alpn, record)| {
            let alpn: Vec<&str> = alpn.iter().map(String::as_str).collect();
            client_hello(name.as_deref(), &alpn, record)
        },
    );
    let line = "[A-Z]{1,8} /[a-z?&=]{0,30} HTTP/1\\.[01]\r\n(Host: [a-z.]{1,20}\r\n)?\r\n";
    let line = line.prop_map(String::into_bytes);
    let noise = proptest::collection::vec(any::<u8>(), 0..200);
    let broken =
        (hello.clone(), any::<proptest::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        });
    (prop_oneof![hello, line, Just(PREFACE.to_vec()), noise.clone(), broken], noise).prop_map(
        |(mut bytes, more)| {
            bytes.extend(more);
            bytes
        },
    )
}

proptest! {
    /// Wherever the bytes are cut: until the answer is there more are asked for, and then it stays.
    #[test]
    fn however_bytes_are_cut_the_answer_is_the_same(bytes in beginnings()) {
        let mut first = Sniffed::NeedMore;
        for end in 0..=bytes.len() {
            let said = sniff(&bytes[..end]);
            if first == Sniffed::NeedMore {
                first = said;
            } else {
                prop_assert_eq!(&said, &first, "at {}", end);
            }
        }
    }

    #[test]
    fn a_host_once_found_stays(bytes in beginnings()) {
        let mut first = Host::NeedMore;
        for end in 0..=bytes.len() {
            let said = host(&bytes[..end]);
            match first {
                Host::NeedMore if sniff(&bytes[..end]) == Sniffed::Http1 => first = said,
                Host::NeedMore => {}
                first => prop_assert_eq!(said, first, "at {}", end),
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut hello = vec![HANDSHAKE, 3, 1];
        hello.extend(&bytes);
        let _ = (sniff(&hello), sniff(&bytes), host(&bytes));
    }
}
