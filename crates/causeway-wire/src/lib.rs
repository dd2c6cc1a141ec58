//! Bytes and messages without IO: what a request is about, said once and in one form, and how we say why we failed.
//!
//! In:    heads that a parser took apart.      Out: their canonical form, or why they are refused.
//! Owner: nobody; every function is pure.
//! Invariant: what is routed, authorised, logged and forwarded is the same bytes; what could be read in two ways is refused.
//! Not here: sockets (`causeway-base::net`), what is done with a request (`causeway-filters`, `causeway-proxy`).

pub mod authority;
pub mod deadline;
pub mod h1;
pub mod hop;
pub mod path;
pub mod priority;
pub mod proxy_status;
pub mod sniff;
pub mod trace;
pub mod via;

pub use authority::Authority;
pub use proxy_status::{ProxyError, ProxyStatus};
pub use via::Pseudonym;

/// Why a request's head is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// RFC 9112 section 3.2: exactly one.
    #[error("the request names no host")]
    NoHost,
    /// RFC 9112 section 3.2.
    #[error("the request names its host more than once")]
    TwoHosts,
    /// Target and Host field differ: a cache or a guard before us may have read the other.
    #[error("the request's target and its Host field name different hosts")]
    HostsDiffer,
    /// Not `host[:port]`, or with user information.
    #[error("the host is not a host name or an address")]
    BadHost,
    /// Neither origin form nor absolute form, or with characters that a path cannot hold.
    #[error("the request target is not a path")]
    BadTarget,
    /// `%zz`, or an escape cut short.
    #[error("the path holds a percent sign that begins no escape")]
    BadEscape,
    /// `%2F`, `%5C`, `\` or `%00`: servers disagree whether these separate elements.
    #[error("the path holds an escaped slash, a backslash or an escaped NUL, which servers read differently")]
    HiddenSeparator,
    /// More `..` than elements.
    #[error("the path leads above the root")]
    AboveRoot,
    /// `..;x`: servers that take parameters off an element see `..`, others see a name.
    #[error("the path holds . or .. with a parameter, which servers read differently")]
    DotParameter,
    /// Two ways of saying where the body ends, or one that differs from itself.
    #[error("the request says in two ways how long its body is")]
    Framing,
}
