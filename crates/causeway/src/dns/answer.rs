//! Reads a question and makes our own answers to it. Pure.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// For how long an address may be kept: it stands for its service as long as the sidecar lives, but the next one may differ.
const TTL_SECS: u32 = 30;
/// For how long it may be kept that there is none: the service may start any moment.
const NEGATIVE_TTL_SECS: u32 = 2;
/// What we read by UDP (the size that passes everywhere without fragments; DNS flag day 2020).
const PAYLOAD_BYTES: u16 = 1232;
const HEAD_BYTES: usize = 12;

/// A question that makes sense.
pub(super) struct Asked {
    message: Message,
    query: Query,
}

/// What was read.
pub(super) enum Read {
    Question(Box<Asked>),
    /// No question that is looked at; perhaps that is to be said.
    Refused(Option<Vec<u8>>),
}

pub(super) fn read(bytes: &[u8]) -> Read {
    let Ok(message) = Message::from_vec(bytes) else {
        return Read::Refused(head_only(bytes, ResponseCode::FormErr));
    };
    // An answer is never answered: two servers would talk for ever.
    if message.metadata.message_type != MessageType::Query {
        return Read::Refused(None);
    }
    if message.metadata.op_code != OpCode::Query {
        return Read::Refused(head_only(bytes, ResponseCode::NotImp));
    }
    match message.queries.as_slice() {
        [query] => Read::Question(Box::new(Asked { query: query.clone(), message })),
        _ => Read::Refused(head_only(bytes, ResponseCode::FormErr)),
    }
}

/// The answer to a question for which there is no room.
pub(super) fn too_many(bytes: &[u8]) -> Option<Vec<u8>> {
    head_only(bytes, ResponseCode::ServFail)
}

/// An answer to something that may be a question, without repeating it.
fn head_only(bytes: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let is_question = bytes.len() >= HEAD_BYTES && bytes[2] & 0x80 == 0;
    let id = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    is_question.then(|| Message::error_msg(id, OpCode::Query, code).to_vec().ok())?
}

impl Asked {
    /// The host that is asked for; none when it is not of the internet or no host name.
    pub(super) fn host(&self) -> Option<String> {
        let is_internet = self.query.query_class == DNSClass::IN;
        let name = self.query.name.to_ascii();
        (is_internet && name != ".").then(|| name.trim_end_matches('.').to_ascii_lowercase())
    }

    /// A service of the mesh: it has an address, and nothing of any other type.
    pub(super) fn found(&self, address: Ipv4Addr, suffix: &str) -> Option<Vec<u8>> {
        let mut answer = self.reply(ResponseCode::NoError);
        match self.query.query_type {
            RecordType::A | RecordType::ANY => {
                let record = Record::from_rdata(self.query.name.clone(), TTL_SECS, RData::A(address.into()));
                answer.add_answer(record);
            }
            _ => drop(answer.add_authority(self.authority(suffix))),
        }
        answer.to_vec().ok()
    }

    /// A name of the mesh that no service has.
    pub(super) fn nobody(&self, suffix: &str) -> Option<Vec<u8>> {
        let mut answer = self.reply(ResponseCode::NXDomain);
        answer.add_authority(self.authority(suffix));
        answer.to_vec().ok()
    }

    /// Nobody could be asked.
    pub(super) fn failed(&self) -> Option<Vec<u8>> {
        let mut answer = self.reply(ResponseCode::ServFail);
        answer.metadata.authoritative = false;
        answer.to_vec().ok()
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let mut answer = Message::response(self.message.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = self.message.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.authoritative = true;
        answer.metadata.response_code = code;
        answer.add_query(self.query.clone());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD_BYTES);
            answer.set_edns(edns);
        }
        answer
    }

    /// Says for how long it may be kept that there is nothing (RFC 2308 section 3).
    fn authority(&self, suffix: &str) -> Record {
        let mesh = Name::from_ascii(format!("{suffix}.")).unwrap_or_default();
        // A name without a dot is in no zone of ours but its own.
        let zone = if mesh.zone_of(&self.query.name) { mesh } else { self.query.name.clone() };
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, NEGATIVE_TTL_SECS);
        Record::from_rdata(zone, NEGATIVE_TTL_SECS, RData::SOA(soa))
    }
}
