//! Asks the machine's own resolvers what is not ours to answer, and gives their answer on as it is.
//!
//! Invariant: an answer is taken only from the address that was asked, to the port that asked, with the id that was drawn for it and
//! the question that was asked; anything else is waited past.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use causeway_base::net::Net;
use hickory_proto::op::{Header, Message, Query, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::resolvers::Resolvers;
use super::{Transport, read_message, write_message};

/// How long one resolver has. The C library gives five seconds and asks the next one then; with less, two can be asked before the app
/// itself asks again.
const ANSWER: Duration = Duration::from_secs(2);
/// How often the list is gone through: a datagram may be lost.
const ROUNDS: usize = 2;
/// Longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

pub(super) struct Forward {
    net: Net,
    resolvers: Resolvers,
}

impl Forward {
    pub(super) fn new(net: Net, resolvers: Resolvers) -> Self {
        Forward { net, resolvers }
    }

    /// The answer to a question, with its asker's own id.
    ///
    /// # Errors
    /// When no resolver answers; what the last one did instead.
    pub(super) async fn ask(&self, question: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        let mut refusal = None;
        for resolver in (0..ROUNDS).flat_map(|_| self.resolvers.addresses()) {
            // A number that nobody can guess, of the system's own making.
            let mut own = question.to_vec();
            own[..2].copy_from_slice(&Message::query().metadata.id.to_be_bytes());
            let asking = async {
                match transport {
                    Transport::Udp => self.ask_udp(resolver, &own).await,
                    Transport::Tcp => self.ask_tcp(resolver, &own).await,
                }
            };
            match tokio::time::timeout(ANSWER, asking).await {
                Ok(Ok(mut answer)) => {
                    answer[..2].copy_from_slice(&question[..2]);
                    // One that cannot, or does not want to, may not be the only one.
                    match code(&answer) {
                        Some(ResponseCode::ServFail | ResponseCode::Refused) if refusal.is_none() => {
                            refusal = Some(answer);
                        }
                        Some(ResponseCode::ServFail | ResponseCode::Refused) => {}
                        _ => return Ok(answer),
                    }
                }
                Ok(Err(error)) => last = error,
                Err(late) => last = late.into(),
            }
        }
        refusal.ok_or(last)
    }

    async fn ask_udp(&self, resolver: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.net.datagrams(resolver).await?;
        socket.send(question).await?;
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if answers(&buffer[..length], question) {
                return Ok(buffer[..length].to_vec());
            }
        }
    }

    async fn ask_tcp(&self, resolver: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.net.connect(resolver).await?;
        write_message(&mut stream, question).await?;
        loop {
            let answer = read_message(&mut stream).await?;
            if answers(&answer, question) {
                return Ok(answer);
            }
        }
    }
}

/// Whether this is an answer to exactly that question.
fn answers(answer: &[u8], question: &[u8]) -> bool {
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let asked = query(question);
    // A resolver that fails may leave the question out.
    let repeats = match query(answer) {
        None => {
            code(answer).is_some_and(|code| code != ResponseCode::NoError && code != ResponseCode::NXDomain)
        }
        repeated => repeated == asked,
    };
    is_answer && answer.get(..2) == question.get(..2) && asked.is_some() && repeats
}

/// The one question of a message; names are equal in any case.
fn query(message: &[u8]) -> Option<Query> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).ok()?;
    let queries = Message::read_queries(&mut decoder, usize::from(header.counts.queries)).ok()?;
    <[Query; 1]>::try_from(queries).ok().map(|[query]| query)
}

fn code(message: &[u8]) -> Option<ResponseCode> {
    Some(Header::read(&mut BinDecoder::new(message)).ok()?.metadata.response_code)
}
