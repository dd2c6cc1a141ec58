//! The DNS of transparent mode over real sockets on loopback, with resolvers of the tests' own behind it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use causeway_base::net::{BindOptions, Net};
use causeway_base::{OnFailure, Scope};
use causeway_proxy::Named;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;

const CART: Ipv4Addr = Ipv4Addr::new(240, 240, 1, 2);
const WWW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

struct Mesh;

impl Names for Mesh {
    async fn name(&self, host: &str) -> Named {
        match host {
            "cart" | "cart.mesh" => Named::Service(CART),
            "full.mesh" => Named::Full,
            "slow.mesh" => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Named::Nobody
            }
            host if host.ends_with(".mesh") => Named::Nobody,
            _ => Named::Foreign,
        }
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

async fn dns(resolvers: Vec<SocketAddr>) -> (Ports, Scope) {
    let scope = Scope::root("dns");
    let resolvers = Resolvers::these(resolvers);
    let on = IpAddr::V4(Ipv4Addr::LOCALHOST);
    (start(Arc::new(Mesh), &Net::tcp(), "mesh", on, resolvers, &scope).await.unwrap(), scope)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    question
}

async fn send(to: SocketAddr, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket.send_to(bytes, to).await.unwrap();
    let mut buffer = vec![0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut buffer)).await;
    Message::from_vec(&buffer[..received.expect("an answer").unwrap()]).unwrap()
}

/// Asks by UDP; the answer is to be of this question.
async fn ask(dns: &Ports, question: &Message) -> Message {
    let answer = send(dns.udp, &question.to_vec().unwrap()).await;
    assert_eq!(answer.metadata.id, question.metadata.id);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(answer.queries, question.queries);
    answer
}

fn addresses(answer: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    };
    answer.answers.iter().filter_map(address).collect()
}

/// A resolver that answers each question by UDP with what `answer` makes of it, several times if it likes.
async fn resolver(answer: impl Fn(Message) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    let address = socket.local_addr().unwrap();
    Scope::root("resolver").spawn("serve", OnFailure::Log, async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, asker) = socket.recv_from(&mut buffer).await?;
            for answer in answer(Message::from_vec(&buffer[..length])?) {
                socket.send_to(&answer, asker).await?;
            }
        }
    });
    address
}

fn found(question: &Message, address: Ipv4Addr) -> Vec<u8> {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    let query = question.queries[0].clone();
    answer.add_answer(Record::from_rdata(query.name.clone(), 60, RData::A(address.into())));
    answer.add_query(query);
    answer.to_vec().unwrap()
}

#[tokio::test]
async fn names_of_the_mesh_have_addresses_and_nothing_else() {
    let (dns, _scope) = dns(vec![]).await;
    for name in ["cart.mesh.", "CaRt.Mesh.", "cart."] {
        let answer = ask(&dns, &question(name, RecordType::A)).await;
        assert_eq!(addresses(&answer), [CART], "{name}");
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.queries[0].name.to_ascii(), name, "the case that was asked for comes back");
        let empty = ask(&dns, &question(name, RecordType::AAAA)).await;
        assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
        assert!(empty.answers.is_empty() && empty.authorities.len() == 1, "{empty}");
    }
    let nobody = ask(&dns, &question("nobody.mesh.", RecordType::A)).await;
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        nobody.authorities[0].name.to_ascii(),
        "mesh.",
        "it may be kept that there is none, not for long"
    );
    assert!(nobody.authorities[0].ttl <= 5);
    let full = ask(&dns, &question("full.mesh.", RecordType::A)).await;
    assert_eq!(full.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_question_with_extensions_is_answered_with_them() {
    let (dns, _scope) = dns(vec![]).await;
    let mut question = question("cart.mesh.", RecordType::A);
    assert!(ask(&dns, &question).await.edns.is_none());
    question.set_edns(Edns::new());
    assert!(ask(&dns, &question).await.edns.is_some());
}

#[tokio::test]
async fn what_is_no_question_is_refused_or_not_answered() {
    let (dns, _scope) = dns(vec![]).await;
    let two = {
        let mut two = question("cart.mesh.", RecordType::A);
        two.add_query(two.queries[0].clone());
        two.to_vec().unwrap()
    };
    assert_eq!(send(dns.udp, &two).await.metadata.response_code, ResponseCode::FormErr);
    let garbage = [1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 200];
    let answer = send(dns.udp, &garbage).await;
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (0x0102, ResponseCode::FormErr));
    let mut update = question("cart.mesh.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    let refused = send(dns.udp, &update.to_vec().unwrap()).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::NotImp);
    // An answer gets none: the one to the question after it comes first.
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    let mut answer = question("cart.mesh.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    let asked = question("nobody.mesh.", RecordType::A);
    for bytes in [answer.to_vec().unwrap(), vec![1], asked.to_vec().unwrap()] {
        socket.send_to(&bytes, dns.udp).await.unwrap();
    }
    let mut buffer = vec![0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.id, asked.metadata.id);
}

#[tokio::test]
async fn the_rest_is_asked_of_the_machines_resolvers() {
    let www = resolver(|question| vec![found(&question, WWW)]).await;
    let (dns, _scope) = dns(vec![www]).await;
    let answer = ask(&dns, &question("www.example.", RecordType::A)).await;
    assert_eq!(addresses(&answer), [WWW]);
}

#[tokio::test]
async fn false_answers_are_waited_past() {
    let forger = resolver(|question| {
        let forged = Ipv4Addr::new(6, 6, 6, 6);
        let mut other_id = question.clone();
        other_id.metadata.id = question.metadata.id.wrapping_add(1);
        let mut other_name = question.clone();
        other_name.queries[0].name = Name::from_ascii("bank.example.").unwrap();
        let mut no_answer = Message::from_vec(&found(&question, forged)).unwrap();
        no_answer.metadata.message_type = MessageType::Query;
        vec![
            vec![0],
            found(&other_id, forged),
            found(&other_name, forged),
            no_answer.to_vec().unwrap(),
            found(&question, WWW),
        ]
    })
    .await;
    let (dns, _scope) = dns(vec![forger]).await;
    assert_eq!(addresses(&ask(&dns, &question("www.example.", RecordType::A)).await), [WWW]);
}

#[tokio::test]
async fn ids_are_drawn_anew_for_each_question() {
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let ids = seen.clone();
    let www = resolver(move |question| {
        ids.lock().push(question.metadata.id);
        vec![found(&question, WWW)]
    })
    .await;
    let (dns, _scope) = dns(vec![www]).await;
    let mut question = question("www.example.", RecordType::A);
    question.metadata.id = 7;
    for _ in 0..8 {
        ask(&dns, &question).await;
    }
    let ids = seen.lock().clone();
    assert!(ids.iter().filter(|id| **id == 7).count() < 3, "{ids:?}");
    assert!(ids.windows(2).any(|pair| pair[1] != pair[0].wrapping_add(1)), "{ids:?}");
}

#[tokio::test]
async fn a_resolver_that_fails_is_not_the_only_one() {
    let failing = resolver(|question| {
        let (id, code) = (question.metadata.id, ResponseCode::ServFail);
        vec![Message::error_msg(id, OpCode::Query, code).to_vec().unwrap()]
    })
    .await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let www = resolver(move |question| {
        counter.fetch_add(1, Ordering::Relaxed);
        vec![found(&question, WWW)]
    })
    .await;
    // Nobody listens at the first: a refusal of the kernel's.
    let closed = UdpSocket::bind(loopback()).await.unwrap().local_addr().unwrap();
    let (dns, _scope) = dns(vec![closed, failing, www]).await;
    assert_eq!(addresses(&ask(&dns, &question("www.example.", RecordType::A)).await), [WWW]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let (dns, _scope) = self::dns(vec![closed]).await;
    let failed = ask(&dns, &question("www.example.", RecordType::A)).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn questions_by_tcp_are_answered_on_one_connection() {
    let mut listener = Net::tcp().bind(loopback(), BindOptions::default()).unwrap();
    let resolver = listener.local_addr().unwrap();
    Scope::root("resolver").spawn("serve", OnFailure::Log, async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let question = Message::from_vec(&read_message(&mut stream).await?)?;
            write_message(&mut stream, &found(&question, WWW)).await?;
        }
    });
    let (dns, _scope) = dns(vec![resolver]).await;
    let mut stream = Net::tcp().connect(dns.tcp).await.unwrap();
    for (name, address) in [("cart.mesh.", CART), ("www.example.", WWW), ("cart.", CART)] {
        let question = question(name, RecordType::A);
        write_message(&mut stream, &question.to_vec().unwrap()).await.unwrap();
        let answer = Message::from_vec(&read_message(&mut stream).await.unwrap()).unwrap();
        assert_eq!((answer.metadata.id, addresses(&answer)), (question.metadata.id, vec![address]));
    }
}

#[tokio::test]
async fn one_question_too_many_is_answered_at_once() {
    let (dns, _scope) = dns(vec![]).await;
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    let slow = question("slow.mesh.", RecordType::A).to_vec().unwrap();
    let mut buffer = vec![0; 512];
    let mut refused = 0;
    for _ in 0..QUESTIONS_MAX + 20 {
        socket.send_to(&slow, dns.udp).await.unwrap();
        // Datagrams may be lost where a buffer is full: they are taken one by one.
        if let Ok(length) = socket.try_recv(&mut buffer) {
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
            refused += 1;
        }
        tokio::task::yield_now().await;
    }
    while refused == 0 {
        socket.send_to(&slow, dns.udp).await.unwrap();
        let received = tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut buffer)).await;
        refused += usize::from(received.is_ok());
    }
}
