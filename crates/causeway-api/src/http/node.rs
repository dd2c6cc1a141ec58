//! Paths about the node itself: is it well, who is connected, who calls whom.
//!
//! In:    questions.      Out: what the rooms say of themselves; join tokens.
//! Owner: the router.
//! Not here: services and documents (`registry.rs`, `config.rs`).

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use causeway_model::{Revision, ServiceKey};
use causeway_xds::Lagging;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Value, json};

use super::body::{self, COMMAND_BYTES_MAX};
use super::params::Params;
use super::problem::{Problem, code};
use super::query::Query;
use super::route::Route;
use super::state::Door;
use super::views;
use crate::signer::TOKEN_TTL;
use crate::traffic::WINDOW;

/// How long `/v1/revisions/{rev}/wait` waits when nothing is said.
const ACKNOWLEDGE_WAIT: Duration = Duration::from_secs(5);
/// How long it waits at most: a proxy that takes longer is not coming.
const ACKNOWLEDGE_WAIT_MAX: Duration = Duration::from_secs(300);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/livez", "Whether the process answers", async || "ok\n"),
        Route::get("/readyz", "Whether the configuration is applied and every listener bound", ready)
            .answers(&[(200, "ready"), (503, "not yet")]),
        Route::get("/metrics", "Metrics for Prometheus", metrics),
        Route::get("/openapi.json", "This description", async |State(door): State<Door>| {
            Json(door.description.clone())
        }),
        Route::get("/v1/version", "The program's version and the newest revision", version),
        Route::get("/v1/status", "Roles, counts, and documents that are not used as written", status),
        Route::get("/v1/proxies", "Connected proxies, and how far each has come", proxies),
        Route::get(
            "/v1/revisions/{rev}/wait",
            "Waits until every connected proxy has acknowledged a revision",
            wait,
        )
        .query(&[("timeout", "how long to wait, 5s unless said")])
        .answers(&[(200, "every connected proxy has it"), (408, "those in `lagging` have not")]),
        Route::get("/v1/graph", "Calls between services over the last seconds", graph),
        Route::post("/v1/tokens", "Makes a join token for a service or gateway", token)
            .json("{\"name\": …, \"namespace\": …, \"ttl\": \"1h\"}"),
    ]
}

async fn ready(State(door): State<Door>) -> Response {
    if *door.is_ready.borrow() {
        return "ready\n".into_response();
    }
    let text = "the node is not ready: its configuration is not applied yet, or a listener is not bound, or it is stopping";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code::NOT_READY, text).after(1).into_response()
}

async fn metrics(State(door): State<Door>) -> impl IntoResponse {
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, media)], door.metrics.exposition())
}

async fn version(State(door): State<Door>) -> Json<Value> {
    Json(
        json!({ "version": env!("CARGO_PKG_VERSION"), "revision": door.registry.snapshot().revision().get() }),
    )
}

async fn status(State(door): State<Door>) -> Json<Value> {
    let snapshot = door.registry.snapshot();
    let roles = [
        ("registry", true),
        ("control", door.hub.is_some()),
        ("events", door.events.is_some()),
        ("sagas", door.sagas.is_some()),
    ];
    let roles: Vec<&str> = roles.into_iter().filter(|(_, is_here)| *is_here).map(|(role, _)| role).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "revision": snapshot.revision().get(),
        "isReady": *door.is_ready.borrow(),
        "roles": roles,
        "services": snapshot.service_keys().len(),
        "instances": snapshot.instance_count(),
        "objects": snapshot.object_count(),
        "proxies": door.hub.as_ref().map_or(0, |hub| hub.count()),
        "problems": *door.problems.borrow(),
    }))
}

async fn proxies(State(door): State<Door>) -> Result<Json<Value>, Problem> {
    let proxies: Vec<Value> = door.hub()?.proxies().iter().map(views::proxy).collect();
    Ok(Json(json!({ "proxies": proxies })))
}

async fn wait(State(door): State<Door>, params: Params, query: Query) -> Result<Json<Value>, Problem> {
    let text = params.text("rev");
    let rev: u64 =
        text.parse().map_err(|_| Problem::parameter(format!("{text:?} in the path is not a revision")))?;
    let revision = Revision::new(rev);
    let within = query.duration("timeout", ACKNOWLEDGE_WAIT_MAX)?.unwrap_or(ACKNOWLEDGE_WAIT);
    let hub = door.hub()?;
    let until = door.clock.instant() + within;
    // A revision that is not there yet is acknowledged by nobody, proxies or not.
    if door.registry.snapshot().revision() < revision {
        let before = Revision::new(rev.saturating_sub(1));
        let snapshot = door.registry.wait_newer(before, within).await;
        if snapshot.revision() < revision {
            let text = format!("there is no revision {rev} yet; the newest is {}", snapshot.revision());
            return Err(
                Problem::new(StatusCode::REQUEST_TIMEOUT, code::LAGGING, text).member("lagging", json!([]))
            );
        }
    }
    let left = until.saturating_duration_since(door.clock.instant());
    match hub.wait_acknowledged(revision, left).await {
        Ok(()) => Ok(Json(json!({ "revision": rev, "proxies": hub.count() }))),
        Err(lagging) => Err(lag(rev, &lagging)),
    }
}

fn lag(rev: u64, lagging: &[Lagging]) -> Problem {
    let line = |one: &Lagging| match &one.rejected {
        None => format!(
            "{} ({}) is at revision {}",
            one.proxy.node_id, one.proxy.identity, one.proxy.acknowledged
        ),
        Some(no) => format!(
            "{} ({}) rejected {}: {}",
            one.proxy.node_id,
            one.proxy.identity,
            views::resource(&no.resource),
            no.reason
        ),
    };
    let text = format!("{} connected proxies have not acknowledged revision {rev}", lagging.len());
    let list: Vec<Value> = lagging.iter().map(|one| views::proxy(&one.proxy)).collect();
    Problem::new(StatusCode::REQUEST_TIMEOUT, code::LAGGING, text)
        .with(lagging.iter().map(line).collect())
        .member("lagging", list.into())
}

async fn graph(State(door): State<Door>) -> Json<Value> {
    let edges: Vec<Value> = door.observed.traffic.flows().iter().map(views::flow).collect();
    Json(json!({ "windowSeconds": WINDOW.as_secs(), "edges": edges }))
}

async fn token(State(door): State<Door>, body: Body) -> Result<impl IntoResponse, Problem> {
    let wanted = causeway_spec::body::token(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    let service = ServiceKey::new(wanted.namespace, wanted.name);
    let token = door.desk()?.join_token(service, wanted.ttl.unwrap_or(TOKEN_TTL), views::CALLER).await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(json!({ "token": token }))))
}
