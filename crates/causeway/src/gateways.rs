//! The role `gateway` of a node: one proxy for each Gateway document, started and stopped with it.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_api::Observed;
use causeway_base::scope::Failure;
use causeway_base::{OnFailure, Scope, Seed};
use causeway_model::{Kind, ServiceKey, Snapshot, Spec};
use causeway_proxy::{Proxy, Role};

use crate::cli::Up;
use crate::house::{self, DataPath, House};
use crate::records;

/// `gatewayClassName` of gateways that are ours to run.
const CLASS: &str = "causeway";
/// Wait before a gateway that could not be started (a port that is taken, mostly) is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Follows the picture until `scope` ends, then drains every gateway.
pub(crate) fn follow(house: &House, up: &Up, observed: &Observed, seed: &Seed, scope: &Scope) {
    let (house, observed, seed) = (house.clone(), observed.clone(), seed.fork());
    let (wanted_workers, access_log, drain) =
        (up.data_path.workers, up.data_path.access_log.clone(), up.drain.drain);
    let (stop, all) = (scope.cancelled(), scope.clone());
    scope.spawn("follow", OnFailure::StopNode, async move {
        let mut pictures = house.registry.watch();
        let mut running: BTreeMap<ServiceKey, (Proxy, Scope)> = BTreeMap::new();
        tokio::pin!(stop);
        loop {
            let wanted = wanted(&pictures.borrow_and_update());
            let gone: Vec<ServiceKey> = running.keys().filter(|key| !wanted.contains(key)).cloned().collect();
            for (proxy, own) in gone.iter().filter_map(|key| running.remove(key)) {
                proxy.drain(drain).await;
                own.cancel();
            }
            let mut is_complete = true;
            for key in wanted {
                if running.contains_key(&key) {
                    continue;
                }
                let own = all.child(key.name.as_str());
                let role = Role::Gateway { key: (key.namespace.clone(), key.name.clone()), bind: None };
                let sink = records::sink(&access_log).map_err(|error| Failure(format!("{error:#}")))?;
                let path = DataPath { workers: records::workers(wanted_workers), records: sink };
                match house.proxy(role, key.clone(), path, seed.fork(), &own).await {
                    Ok(proxy) => {
                        tracing::info!(gateway = %key, listeners = ?proxy.addresses(), "the gateway serves");
                        house::report(&proxy, &key, &observed, &own);
                        running.insert(key, (proxy, own));
                    }
                    Err(error) => {
                        tracing::error!(gateway = %key, error = format!("{error:#}"), "the gateway cannot be started; it is tried again");
                        own.cancel();
                        is_complete = false;
                    }
                }
            }
            tokio::select! {
                () = &mut stop => break,
                changed = pictures.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(TRY_AGAIN), if !is_complete => {}
            }
        }
        for (proxy, own) in running.into_values() {
            proxy.drain(drain).await;
            own.cancel();
        }
        Ok(())
    });
}

fn wanted(picture: &Snapshot) -> Vec<ServiceKey> {
    let ours = picture
        .objects_of(Kind::Gateway)
        .filter(|object| matches!(&object.spec, Spec::Gateway(g) if g.class == CLASS));
    ours.map(|object| ServiceKey::new(object.key.namespace.clone(), object.key.name.clone())).collect()
}
