//! The data path: sidecars, gateways and the node's own calls are one proxy in three roles.
//!
//! In:    a Snapshot, an identity, connections.      Out: requests routed, guarded, balanced, retried, encrypted, written down.
//! Owner: the roof starts one [`Proxy`] per role and holds its handle.
//! Invariant: no lock that another worker waits for is taken on the request path; the proxy serves on with its last plan.
//! Not here: rules on one request (`causeway-filters`), certificates (`causeway-identity`), where pictures come from (`causeway-xds`).
//!
//! ```text
//! [Snapshot] -> planner -> [Plan] <- pipeline: accept -> parse -> route -> request filters
//!                                      -> pick -> checkout -> send -> response filters -> record
//! listen -> pipeline -> attempt -> balance, pool, outlier, budget        settle -> ledger -> records, metrics, traffic
//! ```

mod account;
mod admin;
mod admission;
mod affinity;
mod allowance;
mod answer;
mod attempt;
mod balance;
mod bell;
mod body;
mod budget;
mod circle;
mod circuit;
mod config;
mod counts;
mod date;
mod decisions;
mod detect;
mod doors;
mod endpoint;
mod entry;
mod error;
mod facts;
mod gate;
mod grpc;
mod h1;
mod hash;
mod http2;
mod inlet;
mod kept;
mod lease;
mod leash;
mod ledger;
mod leg;
mod limits;
mod listen;
mod mesh_name;
mod mesh_stream;
mod mesh_tcp;
mod metrics;
mod mirror;
mod naming;
mod otlp;
mod outbound;
mod outgoing;
mod outlier;
mod own;
mod pass;
mod patience;
#[cfg(target_os = "linux")]
mod pipe;
mod pipeline;
mod plan;
mod planner;
mod pool;
mod progress;
mod proxy;
mod pump;
mod rate;
mod reason;
mod records;
mod reply;
mod review;
mod routes;
mod scrape;
mod series;
mod settle;
mod sniff;
mod socket;
#[cfg(target_os = "linux")]
mod spans;
mod spare;
mod splice;
mod story;
mod summary;
mod tally;
mod taps;
mod tcp;
mod tls;
mod token;
mod trace;
mod transparent;
mod trouble;
mod tunnel;
mod upload;
mod virtuals;
mod vitals;
mod worker;

pub use config::{Options, Role, Sidecar, Tracing};
pub use error::Error;
pub use naming::Named;
pub use otlp::{BadOtlp, Otlp};
pub use proxy::Proxy;
pub use virtuals::VIRTUAL_NET;
