//! End to end: the real binary, real sockets, kill -9. Each file is one promise of the README.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod checks;
mod console;
mod crash;
mod demo;
mod grpc;
mod outage;
mod security;
mod shop;
mod steady;
mod transparent;
