//! Tokens and certificates: issued, found, forgotten when their time is over, and revoked before it.
//!
//! In:    what was issued, what is to be worthless.      Out: decrees; the list of what is revoked, in the picture.
//! Owner: `machine.rs`, of which this is a part.
//! Invariant: what is revoked is in the picture until it has expired, and a revoked certificate brings no other.
//! Not here: signing and hashing (`causeway-identity`), who may ask (`causeway-api`).

use std::sync::Arc;

use causeway_model::{Revision, Revocations, ServiceKey, Timestamp, codec};

use crate::command::{Answer, Revoked};
use crate::error::Error;
use crate::journal::Decree;
use crate::limits::{ISSUED_MAX, REVOCATIONS_BYTES_MAX, TOKEN_TEXT_BYTES_MAX, TOKENS_MAX};
use crate::machine::{Decided, Machine};
use crate::token::{Issued, Serial, Token, TokenId, TokenUse};

// === tokens ===

impl Machine {
    pub(crate) fn issue_token(&self, now: Timestamp, token: &Token) -> Decided {
        let doing = || format!("cannot issue token {}", token.id);
        let rules = match &token.use_for {
            TokenUse::Join => 0,
            TokenUse::Api(rules) => rules.iter().map(String::len).sum(),
        };
        if self.tokens.contains_key(&token.id) {
            return Err(Error::invalid(doing(), "there is one of this id"));
        }
        if token.is_expired(now) {
            return Err(Error::invalid(doing(), "it would have expired already"));
        }
        if rules + token.issued_by.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(Error::full(doing(), "bytes of text in a token", TOKEN_TEXT_BYTES_MAX));
        }
        // One that has expired makes room: applying this record forgets it.
        let has_room = self.token_ends.get_min().is_some_and(|(end, _)| *end <= now);
        if self.tokens.len() >= TOKENS_MAX && !has_room {
            return Err(Error::full(doing(), "tokens", TOKENS_MAX));
        }
        Ok((vec![Decree::TokenIssued { token: Box::new(token.clone()) }], Answer::default()))
    }

    pub(crate) fn revoke_token(&self, id: &TokenId) -> Decided {
        let revoked = Revoked { tokens: 1, ..Revoked::default() };
        match self.tokens.contains_key(id) {
            true => {
                Ok((vec![Decree::TokenRevoked { id: id.clone() }], Answer { revoked, ..Answer::default() }))
            }
            false => Err(Error::not_found(format_args!("token {id}"))),
        }
    }

    pub(crate) fn apply_token(&mut self, token: &Token, at: Timestamp) {
        while let Some((_, id)) = self.token_ends.get_min().filter(|(end, _)| *end <= at) {
            let id = id.clone();
            self.forget_token(&id);
        }
        self.forget_token(&token.id);
        if let Some(end) = token.expires_at {
            self.token_ends.insert((end, token.id.clone()));
        }
        self.tokens.insert(token.id.clone(), Arc::new(token.clone()));
    }

    pub(crate) fn forget_token(&mut self, id: &TokenId) {
        if let Some(end) = self.tokens.remove(id).and_then(|token| token.expires_at) {
            self.token_ends.remove(&(end, id.clone()));
        }
    }

    /// The join tokens of one service. Those of several (a namespace's, everybody's) are not one service's.
    fn join_tokens<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a TokenId> {
        let is_its = |token: &Token| {
            matches!(token.use_for, TokenUse::Join)
                && token.namespace.as_ref() == Some(&service.namespace)
                && token.service.as_ref() == Some(&service.name)
        };
        self.tokens.values().filter(move |token| is_its(token)).map(|token| &token.id)
    }
}

// === certificates ===

impl Machine {
    pub(crate) fn record_issued(&self, now: Timestamp, issued: &Issued, by: Option<&Serial>) -> Decided {
        let doing = || format!("cannot record certificate {}", issued.serial);
        if self.issued.contains_key(&issued.serial) {
            return Err(Error::invalid(doing(), "one of this serial number was issued before"));
        }
        if issued.not_after <= now {
            return Err(Error::invalid(doing(), "it would have expired already"));
        }
        if by.and_then(|by| self.issued.get(by)).is_some_and(|by| by.revoked_at.is_some()) {
            return Err(Error::invalid(doing(), "it was asked for with a certificate that is revoked"));
        }
        let Issued { serial, identity, not_before, .. } = issued;
        if self.snapshot.revocations().revokes(serial.as_str(), &identity.service, *not_before) {
            return Err(Error::unavailable(doing(), "its service was revoked while it was signed"));
        }
        let has_room = self.issued_ends.get_min().is_some_and(|(end, _)| *end <= now);
        if self.issued.len() >= ISSUED_MAX && !has_room {
            return Err(Error::full(doing(), "certificates in force", ISSUED_MAX));
        }
        Ok((vec![Decree::CertificateIssued { issued: Box::new(issued.clone()) }], Answer::default()))
    }

    pub(crate) fn revoke_issued(&self, serial: &Serial) -> Decided {
        let issued = self.issued.get(serial);
        let issued = issued.ok_or_else(|| Error::not_found(format_args!("certificate {serial}")))?;
        if issued.revoked_at.is_some() {
            return Ok((vec![], Answer::default()));
        }
        let mut list = Revocations::clone(self.snapshot.revocations());
        list.revoke_serial(serial.as_str().to_owned(), issued.identity.service.clone(), issued.not_after);
        fits(&list, || format!("cannot revoke certificate {serial} (revoke its service instead)"))?;
        let revoked = Revoked { certificates: 1, tokens: 0 };
        let decree = Decree::CertificateRevoked { serial: serial.clone() };
        Ok((vec![decree], Answer { revoked, ..Answer::default() }))
    }

    pub(crate) fn revoke_service(&self, now: Timestamp, service: &ServiceKey) -> Decided {
        let in_force =
            self.issued.values().filter(|one| one.identity.service == *service && one.not_after > now);
        let (mut certificates, mut until) = (0, None::<Timestamp>);
        for one in in_force {
            certificates += usize::from(one.revoked_at.is_none());
            until = until.max(Some(one.not_after));
        }
        let revoked = Revoked { certificates, tokens: self.join_tokens(service).count() };
        if revoked == Revoked::default() {
            return Err(Error::not_found(format_args!("a certificate or join token of {service} to revoke")));
        }
        // With tokens alone there is nothing to tell the proxies, and the entry is gone at once.
        let until = until.unwrap_or(now);
        let mut list = Revocations::clone(self.snapshot.revocations());
        list.revoke_service(service.clone(), now, until);
        fits(&list, || format!("cannot revoke {service}"))?;
        let decree = Decree::ServiceRevoked { service: service.clone(), until };
        Ok((vec![decree], Answer { revoked, ..Answer::default() }))
    }

    pub(crate) fn apply_issued(&mut self, issued: &Issued, revision: Revision, at: Timestamp) {
        while let Some((end, serial)) = self.issued_ends.get_min().filter(|(end, _)| *end <= at).cloned() {
            self.issued.remove(&serial);
            self.issued_ends.remove(&(end, serial));
        }
        self.issued_ends.insert((issued.not_after, issued.serial.clone()));
        self.issued.insert(issued.serial.clone(), Arc::new(issued.clone()));
        if self.snapshot.revocations().has_expired(at) {
            self.change_revocations(revision, at, |_| {});
        }
    }

    pub(crate) fn apply_revoked(&mut self, serial: &Serial, revision: Revision, at: Timestamp) {
        let Some(issued) = self.issued.get_mut(serial) else { return };
        let issued = Arc::make_mut(issued);
        issued.revoked_at = Some(at);
        let (service, until) = (issued.identity.service.clone(), issued.not_after);
        self.change_revocations(revision, at, |list| {
            list.revoke_serial(serial.as_str().to_owned(), service, until);
        });
    }

    pub(crate) fn apply_service_revoked(
        &mut self,
        service: &ServiceKey,
        until: Timestamp,
        revision: Revision,
        at: Timestamp,
    ) {
        let its =
            self.issued.values().filter(|one| one.identity.service == *service && one.revoked_at.is_none());
        let serials: Vec<Serial> = its.map(|one| one.serial.clone()).collect();
        for serial in serials {
            if let Some(one) = self.issued.get_mut(&serial) {
                Arc::make_mut(one).revoked_at = Some(at);
            }
        }
        let tokens: Vec<TokenId> = self.join_tokens(service).cloned().collect();
        tokens.iter().for_each(|token| self.forget_token(token));
        self.change_revocations(revision, at, |list| list.revoke_service(service.clone(), at, until));
    }

    /// Changes the list in the picture; what has expired leaves it on the way.
    fn change_revocations(
        &mut self,
        revision: Revision,
        at: Timestamp,
        change: impl FnOnce(&mut Revocations),
    ) {
        let mut list = Revocations::clone(self.snapshot.revocations());
        change(&mut list);
        list.forget_expired(at);
        self.snapshot.put_revocations(Arc::new(list), revision);
    }
}

fn fits(list: &Revocations, doing: impl Fn() -> String) -> Result<(), Error> {
    match codec::encode(list).len() > REVOCATIONS_BYTES_MAX {
        true => Err(Error::full(doing(), "bytes of revocations", REVOCATIONS_BYTES_MAX)),
        false => Ok(()),
    }
}
