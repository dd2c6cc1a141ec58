//! Why a proxy does not start.

use std::io;
use std::net::SocketAddr;

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {what} traffic: {source} [CW-1504]")]
    Bind {
        /// Which of the proxy's ports.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A port that acts for the app, or tells about it, may be reached from this machine only.
    #[error(
        "cannot listen on {address} for {what} traffic: whoever reaches it acts as the app, so it must be a loopback address [CW-1505]"
    )]
    NotLoopback {
        /// Which of the proxy's ports.
        what: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread of the data path: {0}")]
    Thread(#[source] io::Error),
}
