//! Topics and subscriptions as declared, with their figures.
//!
//! In:    specs of topics and subscriptions.      Out: objects written to the registry; figures of the events room.
//! Owner: the router.
//! Not here: events (`events.rs`), what a consumer does (`subscriptions.rs`).

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use causeway_events::{State as Condition, SubscriptionView, TopicView};
use causeway_model::{DeadLetterMode, Delivery, Kind, Name, ObjectKey, Ordering};
use causeway_spec::duration;
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{self, COMMAND_BYTES_MAX};
use super::config;
use super::params::Params;
use super::problem::Problem;
use super::query::Query;
use super::registry::at;
use super::route::Route;
use super::state::Door;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/topics", "Topics with their subscriptions", list)
            .scoped()
            .query(&[("allNamespaces", "those of every namespace")]),
        Route::get("/v1/topics/{topic}", "A topic with its subscriptions", show).scoped(),
        Route::put("/v1/topics/{topic}", "Declares a topic", put)
            .scoped()
            .json("{\"retention\": {\"age\": \"7d\", \"bytes\": …}, \"dedupe\": \"24h\"}"),
        Route::delete("/v1/topics/{topic}", "Removes a topic that the API declared", delete).scoped(),
        Route::get("/v1/topics/{topic}/subscriptions/{group}", "A subscription", show_subscription).scoped(),
        Route::put("/v1/topics/{topic}/subscriptions/{group}", "Declares a subscription", put_subscription)
            .scoped()
            .json("the `spec` of kind Subscription without `topic` and `group`"),
        Route::delete(
            "/v1/topics/{topic}/subscriptions/{group}",
            "Removes a subscription that the API declared",
            delete_subscription,
        )
        .scoped(),
    ]
}

/// A topic with its figures.
#[derive(Serialize)]
struct Topic<'a> {
    namespace: &'a str,
    topic: &'a str,
    next: u64,
    earliest: u64,
    bytes: u64,
    retention: Value,
    dedupe: Option<String>,
    subscriptions: Vec<Subscription<'a>>,
}

/// A subscription with its figures.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Subscription<'a> {
    group: &'a str,
    delivery: String,
    filter: Option<&'a str>,
    ordering: &'static str,
    dead_letter: &'static str,
    max_in_flight: u32,
    lease: String,
    cursor: u64,
    lag: u64,
    in_flight: usize,
    waiting: usize,
    dead_letters: usize,
    parked_keys: usize,
    filter_errors: u64,
    expired: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

impl<'a> Topic<'a> {
    fn new(view: &'a TopicView) -> Self {
        Topic {
            namespace: view.namespace.as_str(),
            topic: view.name.as_str(),
            next: view.next.get(),
            earliest: view.earliest.get(),
            bytes: view.bytes,
            retention: json!({
                "age": view.spec.retention_age.map(duration::format), "bytes": view.spec.retention_bytes,
            }),
            dedupe: view.spec.dedupe.map(duration::format),
            subscriptions: view
                .subscriptions
                .iter()
                .map(|one| Subscription::new(one, &view.namespace))
                .collect(),
        }
    }
}

impl<'a> Subscription<'a> {
    fn new(view: &'a SubscriptionView, namespace: &Name) -> Self {
        let (spec, status) = (&view.spec, &view.status);
        let (state, why) = match &status.state {
            Condition::Active => ("active", None),
            Condition::Stopped => ("stopped", None),
            Condition::Broken { why } => ("broken", Some(why.as_str())),
            Condition::Full => ("full", None),
        };
        Subscription {
            group: view.group.as_str(),
            delivery: delivery(&spec.delivery, namespace),
            filter: spec.filter.as_deref(),
            ordering: match spec.ordering {
                Ordering::Key => "key",
                Ordering::None => "none",
            },
            dead_letter: match spec.dead_letter {
                DeadLetterMode::Plain => "plain",
                DeadLetterMode::Sequenced => "sequenced",
            },
            max_in_flight: spec.max_in_flight,
            lease: duration::format(spec.lease),
            cursor: status.cursor.get(),
            lag: status.lag,
            in_flight: status.in_flight,
            waiting: status.waiting,
            dead_letters: status.dead_letters,
            parked_keys: status.parked_keys,
            filter_errors: status.filter_errors,
            expired: status.expired,
            state,
            why,
        }
    }
}

fn delivery(delivery: &Delivery, namespace: &Name) -> String {
    match delivery {
        Delivery::Pull => "pull".to_owned(),
        Delivery::Push { service, path } if service.namespace == *namespace => {
            format!("push {} {path}", service.name)
        }
        Delivery::Push { service, path } => format!("push {service} {path}"),
    }
}

async fn list(State(door): State<Door>, params: Params, query: Query) -> Result<Response, Problem> {
    let namespace = params.namespace()?;
    let is_all = query.flag("allNamespaces")?;
    let revision = door.registry.snapshot().revision();
    let topics = door.events()?.topics().await?;
    let wanted = topics.iter().filter(|topic| is_all || topic.namespace == namespace);
    Ok(at(revision, json!({ "topics": wanted.map(Topic::new).collect::<Vec<_>>() })))
}

async fn show(State(door): State<Door>, params: Params) -> Result<Response, Problem> {
    let revision = door.registry.snapshot().revision();
    let topic = door.events()?.topic(&params.namespace()?, &params.name("topic")?).await?;
    Ok(at(revision, Topic::new(&topic)))
}

async fn show_subscription(State(door): State<Door>, params: Params) -> Result<Response, Problem> {
    let namespace = params.namespace()?;
    let revision = door.registry.snapshot().revision();
    let view = door.events()?.lag(&namespace, &params.name("topic")?, &params.name("group")?).await?;
    Ok(at(revision, Subscription::new(&view, &namespace)))
}

async fn put(State(door): State<Door>, params: Params, body: Body) -> Result<Response, Problem> {
    let (namespace, topic) = (params.namespace()?, params.name("topic")?);
    let bytes = body::read(body, COMMAND_BYTES_MAX).await?;
    declare(&door, causeway_spec::body::topic(&namespace, &topic, &bytes)?).await
}

async fn put_subscription(State(door): State<Door>, params: Params, body: Body) -> Result<Response, Problem> {
    let (namespace, topic, group) = (params.namespace()?, params.name("topic")?, params.name("group")?);
    let bytes = body::read(body, COMMAND_BYTES_MAX).await?;
    declare(&door, causeway_spec::body::subscription(&namespace, &topic, &group, &bytes)?).await
}

/// Writes the document that a body stands for; durable when it answers.
pub(super) async fn declare(door: &Door, document: causeway_spec::Document) -> Result<Response, Problem> {
    let warnings: Vec<String> = document.warnings.iter().map(ToString::to_string).collect();
    let (revision, outcome) = config::write(door, document).await?;
    Ok(at(revision, json!({ "revision": revision.get(), "outcome": outcome, "warnings": warnings })))
}

async fn delete(State(door): State<Door>, params: Params) -> Result<Response, Problem> {
    let key = ObjectKey { kind: Kind::Topic, namespace: params.namespace()?, name: params.name("topic")? };
    config::remove(&door, key).await
}

async fn delete_subscription(State(door): State<Door>, params: Params) -> Result<Response, Problem> {
    let (topic, group) = (params.name("topic")?, params.name("group")?);
    let name = Name::new(&format!("{topic}.{group}"));
    let name = name.map_err(|error| Problem::parameter(format!("topic and group: {error}")))?;
    let key = ObjectKey { kind: Kind::Subscription, namespace: params.namespace()?, name };
    config::remove(&door, key).await
}
