//! The room at its handles: what is signed, who is let in, how certificates are renewed.

#![allow(clippy::unwrap_used, missing_docs)]

mod authority;
mod handshake;
mod revocation;
mod rotation;
mod wire;
mod world;
