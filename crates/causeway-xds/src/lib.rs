//! The control port: pictures cut and sent, certificates asked for, instances held; the server's and the client's side.
//!
//! In:    the registry's [`Snapshot`](causeway_model::Snapshot) (server), the control plane's streams (client).
//! Out:   what each proxy uses, and no more; whether all of them have it.
//! Owner: the api room serves [`Signals`]; the roof runs a [`Client`] and a [`Hold`] for each sidecar and gateway.
//! Invariant: what a client has, once it has acknowledged a revision, is what its subscriptions bring at that revision.
//! Not here: the registry, TLS, the Envoy-shaped view of the picture (LDS, RDS, CDS, EDS, SDS): `StreamAggregatedResources` and
//! Envoy's types are answered with UNIMPLEMENTED.
//!
//! ```text
//! [Snapshot] -> project -> [stream::Machine] -> server ~~~ HTTP/2, mTLS ~~~ link -> client -> [Snapshot] (a part of it)
//!                                  hub <- acknowledgements                       hold -> [Presence]
//! ```

mod client;
mod hold;
mod hub;
mod keep_alive;
mod link;
mod metrics;
mod outbox;
mod peer;
mod picture;
mod presence;
pub mod project;
pub mod proto;
mod reader;
pub mod resource;
mod server;
mod signing;
pub mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientConfig, ClientHandle, HOLD_BACK_MAX};
pub use hold::{Hold, Known, REPORT_INTERVAL};
pub use hub::{Hub, Lagging, Proxy};
pub use keep_alive::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
pub use link::{BACKOFF_MAX, BACKOFF_MIN, Conduit, DIAL_TIME_MAX, Dial, Io, Link};
pub use peer::{Peer, PeerIdentity, Proven, Reason, Refused};
pub use picture::{NotAPicture, Picture};
pub use presence::{ACKNOWLEDGE_WAIT_MAX, Held, Presence};
pub use reader::{Role, WANTS_MAX};
pub use server::{Options, STREAMS_MAX, Signals};
pub use signing::{SIGN_TIME_MAX, Signed, Signer, sign};
pub use stream::{Rejection, code};
