//! Decides which addresses are open: a sidecar's once and for all, a gateway's as its document says.
//!
//! In:    the role, each new plan.      Out: the wanted openings, to every worker; what cannot be opened, to the status.
//! Owner: one task of the proxy.
//! Invariant: an address that another process holds is not shared with it: it is tried alone before workers share it.
//! Not here: listening (`listen`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::net::{BindOptions, Net};
use causeway_model::Revision;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::config::Sidecar;
use crate::error::Error;
use crate::inlet::Way;
use crate::listen::{Opened, Opening};
use crate::worker::Shared;

/// An address that could not be opened is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// What is open, for the handle and the admin door.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many workers listen.
    open: BTreeMap<SocketAddr, usize>,
    wanted: Vec<SocketAddr>,
    /// Given to the workers: ours, so they need not be tried alone again.
    offered: BTreeSet<SocketAddr>,
    failed: BTreeMap<SocketAddr, String>,
}

impl Doors {
    /// Addresses at which every worker listens.
    pub(crate) fn open(&self, workers: usize) -> Vec<SocketAddr> {
        let state = self.state.lock();
        state.open.iter().filter(|(_, n)| **n >= workers).map(|(address, _)| *address).collect()
    }

    /// What cannot be opened, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let state = self.state.lock();
        state.failed.iter().map(|(at, why)| format!("cannot listen on {at}: {why} [CW-1504]")).collect()
    }

    /// Whether everything that is wanted is open.
    pub(crate) fn is_ready(&self, workers: usize) -> bool {
        let state = self.state.lock();
        state.failed.is_empty()
            && state.wanted.iter().all(|address| state.open.get(address).is_some_and(|n| *n >= workers))
    }

    pub(crate) fn note(&self, (address, result): Opened) {
        let mut state = self.state.lock();
        match result {
            Ok(()) => *state.open.entry(address).or_default() += 1,
            Err(why) => {
                state.offered.remove(&address);
                state.failed.insert(address, why);
            }
        }
    }

    fn want(&self, wanted: Vec<SocketAddr>) {
        let mut state = self.state.lock();
        state.open.retain(|address, _| wanted.contains(address));
        state.failed.retain(|address, _| wanted.contains(address));
        state.offered.retain(|address| wanted.contains(address));
        state.wanted = wanted;
    }

    fn is_offered(&self, address: SocketAddr) -> bool {
        self.state.lock().offered.contains(&address)
    }

    fn fail(&self, address: SocketAddr, why: &io::Error) {
        let failed = self.state.lock().failed.insert(address, why.to_string());
        if failed.is_none() {
            tracing::error!(%address, %why, code = "CW-1504", "cannot listen");
        }
    }

    fn offer(&self, address: SocketAddr) {
        let mut state = self.state.lock();
        state.failed.remove(&address);
        state.offered.insert(address);
    }
}

/// A sidecar's addresses, their ports found.
///
/// # Errors
/// Which address cannot be used and why.
pub(crate) fn of_sidecar(net: &Net, sidecar: &Sidecar) -> Result<Vec<Opening>, Error> {
    let mut openings = Vec::new();
    let wanted = sidecar.outbound.map(|address| (address, Way::Outbound, "outbound"));
    let upstreams = sidecar
        .upstreams
        .iter()
        .map(|(key, address)| (*address, Way::Upstream(key.clone(), None), "upstream"));
    let transparent = sidecar.transparent.iter().map(|address| (*address, Way::Transparent, "transparent"));
    for (address, way, what) in wanted.into_iter().chain(upstreams).chain(transparent) {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { what, address });
        }
        openings.push(Opening { address: claim(net, address, sidecar.may_move, what)?, way });
    }
    if let Some(address) = sidecar.inbound {
        let address = claim(net, address, sidecar.may_move, "inbound")?;
        openings.push(Opening { address, way: Way::Inbound });
    }
    Ok(openings)
}

fn claim(net: &Net, address: SocketAddr, may_move: bool, what: &'static str) -> Result<SocketAddr, Error> {
    match try_alone(net, address) {
        Err(error) if may_move && error.kind() == io::ErrorKind::AddrInUse => {
            let moved = try_alone(net, SocketAddr::new(address.ip(), 0));
            let moved = moved.map_err(|source| Error::Bind { what, address, source })?;
            tracing::warn!(%address, %moved, what, "address is taken, using another");
            Ok(moved)
        }
        other => other.map_err(|source| Error::Bind { what, address, source }),
    }
}

/// Binds without sharing and lets go again: fails when anybody else holds the address.
fn try_alone(net: &Net, address: SocketAddr) -> io::Result<SocketAddr> {
    net.bind(address, BindOptions::default())?.local_addr()
}

/// Opens and closes a gateway's doors as plans come.
pub(crate) async fn keep_gateway(
    shared: Arc<Shared>,
    doors: Arc<Doors>,
    wanted: watch::Sender<Arc<Vec<Opening>>>,
    mut planned: watch::Receiver<Revision>,
) {
    loop {
        planned.borrow_and_update();
        let is_whole = offer_gateway(&shared, &doors, &wanted);
        let changed = match is_whole {
            true => planned.changed().await,
            false => tokio::time::timeout(TRY_AGAIN, planned.changed()).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Publishes the doors of the current plan. False when some cannot be opened now.
pub(crate) fn offer_gateway(
    shared: &Shared,
    doors: &Doors,
    wanted: &watch::Sender<Arc<Vec<Opening>>>,
) -> bool {
    let plan = shared.plan.load_full();
    let addresses: Vec<SocketAddr> = plan.rules.doors.iter().map(|door| door.address).collect();
    doors.want(addresses.clone());
    let is_usable = |address: &SocketAddr| {
        if doors.is_offered(*address) {
            return true;
        }
        match try_alone(&shared.net, *address) {
            Ok(_) => {
                doors.offer(*address);
                true
            }
            Err(why) => {
                doors.fail(*address, &why);
                false
            }
        }
    };
    let (usable, rest): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_usable);
    let openings: Vec<Opening> =
        usable.into_iter().map(|address| Opening { address, way: Way::Gateway(address) }).collect();
    wanted.send_replace(Arc::new(openings));
    rest.is_empty()
}

/// Wants a fixed set.
pub(crate) fn offer(doors: &Doors, wanted: &watch::Sender<Arc<Vec<Opening>>>, openings: Vec<Opening>) {
    doors.want(openings.iter().map(|opening| opening.address).collect());
    wanted.send_replace(Arc::new(openings));
}

/// Takes in what workers say.
pub(crate) async fn listen(doors: Arc<Doors>, mut opened: mpsc::UnboundedReceiver<Opened>) {
    while let Some(said) = opened.recv().await {
        doors.note(said);
    }
}
