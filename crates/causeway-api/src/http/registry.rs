//! Services and their instances.
//!
//! In:    registrations, heartbeats, questions.      Out: what the registry answered, durable; its picture.
//! Owner: the router.
//! Invariant: `X-Causeway-Revision` of a list is the revision of the picture that it was taken from, so that a blocking query or
//! a watch that goes on from it misses nothing.
//! Not here: leases and who wins (`causeway-registry`), the stream of changes (`watch.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use causeway_model::{Health, Instance, Lifecycle, Revision, ServiceKey, Snapshot};
use causeway_registry::{Command, Registration};
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{self, COMMAND_BYTES_MAX};
use super::params::Params;
use super::problem::Problem;
use super::query::Query;
use super::route::{REVISION, Route, revision_value};
use super::state::Door;
use super::views::{self, InstanceView};

/// How long a blocking query waits when it does not say.
const WAIT: Duration = Duration::from_secs(30);
/// How long it waits at most.
const WAIT_MAX: Duration = causeway_registry::limits::WAIT_MAX;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/services", "Services, with counts of their instances", list)
            .scoped()
            .query(&[("allNamespaces", "those of every namespace")]),
        Route::get(
            "/v1/services/{name}",
            "Instances of a service; with `index`, once it is newer than that",
            show,
        )
        .scoped()
        .query(&[
            ("passing", "only those that are healthy and in service"),
            ("version", "only those of this version"),
            ("tag", "only those with this tag"),
            ("zone", "only those in this zone"),
            ("index", "wait until the service has changed after this revision"),
            ("wait", "how long to wait, 30s unless said"),
        ]),
        Route::get("/v1/services/{name}/instances/{id}", "One instance", show_instance).scoped(),
        Route::put(
            "/v1/services/{name}/instances/{id}",
            "Registers an instance, or says again that it is there",
            register,
        )
        .scoped()
        .json("address, port and whatever else describes the instance"),
        Route::delete("/v1/services/{name}/instances/{id}", "Removes an instance", deregister).scoped(),
        Route::post(
            "/v1/services/{name}/instances/{id}/heartbeat",
            "Renews a lease; 404 means: register again",
            heartbeat,
        )
        .scoped()
        .json("{\"status\": \"passing|warning|critical\"}, or nothing"),
        Route::post("/v1/services/{name}/instances/{id}/drain", "No new calls to the instance", drain)
            .scoped(),
    ]
}

/// JSON with the revision that it shows.
pub(super) fn at(revision: Revision, value: impl Serialize) -> Response {
    ([(REVISION, revision_value(revision))], Json(value)).into_response()
}

async fn list(State(door): State<Door>, params: Params, query: Query) -> Result<Response, Problem> {
    let namespace = params.namespace()?;
    let is_all = query.flag("allNamespaces")?;
    let snapshot = door.registry.snapshot();
    let keys = snapshot.service_keys();
    let wanted = keys.iter().filter(|key| is_all || key.namespace == namespace);
    let services: Vec<Value> = wanted.map(|key| summary(&snapshot, key)).collect();
    Ok(at(snapshot.revision(), json!({ "services": services })))
}

fn summary(snapshot: &Snapshot, key: &ServiceKey) -> Value {
    let (mut instances, mut passing) = (0, 0);
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in snapshot.instances_of(key) {
        instances += 1;
        passing += usize::from(is_passing(instance));
        if !instance.version.is_empty() {
            *versions.entry(&instance.version).or_default() += 1;
        }
    }
    let endpoints = snapshot.service(key).map_or(0, |service| service.endpoints.len());
    json!({
        "namespace": key.namespace.as_str(), "name": key.name.as_str(), "instances": instances, "passing": passing,
        "versions": versions.keys().collect::<BTreeSet<_>>(), "endpoints": endpoints,
    })
}

/// Healthy and in service. A weight of 0 is the operator's wish, not ill health.
fn is_passing(instance: &Instance) -> bool {
    instance.health == Health::Passing && matches!(instance.lifecycle, Lifecycle::Up | Lifecycle::Suspect)
}

async fn show(State(door): State<Door>, params: Params, query: Query) -> Result<Response, Problem> {
    let key = params.service()?;
    let is_passing_only = query.flag("passing")?;
    let (version, tag, zone) = (query.text("version"), query.text("tag"), query.text("zone"));
    let wait = query.duration("wait", WAIT_MAX)?;
    let snapshot = match query.revision("index")? {
        Some(index) => door.registry.wait_service(&key, index, wait.unwrap_or(WAIT)).await.1,
        None => door.registry.snapshot(),
    };
    let wanted = |instance: &&std::sync::Arc<Instance>| {
        (!is_passing_only || is_passing(instance))
            && version.is_none_or(|version| instance.version == version)
            && tag.is_none_or(|tag| instance.tags.contains(tag))
            && zone.is_none_or(|zone| instance.locality.zone == zone)
    };
    let instances: Vec<InstanceView<'_>> =
        snapshot.instances_of(&key).filter(wanted).map(|instance| InstanceView::new(instance)).collect();
    let view = json!({
        "service": key.name.as_str(), "namespace": key.namespace.as_str(), "instances": instances,
        "declared": snapshot.service(&key).map(views::declared),
    });
    Ok(at(snapshot.revision(), view))
}

async fn show_instance(State(door): State<Door>, params: Params) -> Result<Response, Problem> {
    let key = params.instance()?;
    let snapshot = door.registry.snapshot();
    let instance = snapshot.instance(&key);
    let instance = instance.ok_or_else(|| Problem::not_there(format!("there is no instance {key}")))?;
    Ok(at(snapshot.revision(), InstanceView::new(instance)))
}

async fn register(State(door): State<Door>, params: Params, body: Body) -> Result<Response, Problem> {
    let key = params.instance()?;
    let said = causeway_spec::body::registration(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    let registration = Registration {
        ports: said.ports,
        protocol: said.protocol,
        version: said.version,
        tags: said.tags,
        metadata: said.metadata,
        weight: said.weight,
        locality: said.locality,
        lease: said.lease,
        checks: said.checks,
        ..Registration::new(key, &said.address, said.port, views::origin())
    };
    let answer = door.registry.submit(Command::Register(registration)).await?;
    let granted = answer.registered.into_iter().next().transpose()?;
    let (epoch, lease) = match granted {
        Some(granted) => (granted.epoch.get(), views::lease(granted.lease, granted.expires_at)),
        None => (0, Value::Null),
    };
    Ok(at(answer.revision, json!({ "revision": answer.revision.get(), "epoch": epoch, "lease": lease })))
}

async fn heartbeat(State(door): State<Door>, params: Params, body: Body) -> Result<Response, Problem> {
    let key = params.instance()?;
    let health = causeway_spec::body::heartbeat(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    told(&door, Command::Heartbeat { key, epoch: None, health }).await
}

async fn drain(State(door): State<Door>, params: Params, body: Body) -> Result<Response, Problem> {
    let key = params.instance()?;
    causeway_spec::body::nothing(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    told(&door, Command::Drain { key, epoch: None }).await
}

async fn deregister(State(door): State<Door>, params: Params) -> Result<Response, Problem> {
    told(&door, Command::Deregister { key: params.instance()?, epoch: None }).await
}

async fn told(door: &Door, command: Command) -> Result<Response, Problem> {
    let revision = door.registry.submit(command).await?.revision;
    Ok(at(revision, json!({ "revision": revision.get() })))
}
