//! HTTP/1.1 connections, on both sides of the proxy.
//!
//! ```text
//! client <-> server: [head -> pipeline -> answer]* -> feed (the request's body, to whoever sends it on)
//! shelf -> call: [request -> answer's head] -> reply (the answer's body; it brings the connection back to the shelf)
//! ```
//! A connection is driven by the task that waits for it: a request's own, on both sides. No task, no channel, no buffer while nothing
//! moves: what comes in is read into the thread's scratch. The bytes themselves are `causeway_wire::h1`'s.

mod call;
mod client;
mod exchange;
mod feed;
mod frames;
mod outbox;
mod patience;
mod rest;
mod server;
mod shelf;

pub(crate) use call::{Line, Reply};
pub(crate) use feed::Intake;
pub(crate) use server::serve;
pub(crate) use shelf::Shelf;
