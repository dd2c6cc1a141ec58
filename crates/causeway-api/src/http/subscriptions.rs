//! What a consumer group does: pull and settle events, seek, look at dead letters and send them again.
//!
//! In:    tokens, positions, filters.      Out: leased events, what took effect.
//! Owner: the router.
//! Not here: declaring a subscription (`topics.rs`), leases and retries (`causeway-events`).

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use causeway_events::{
    DEAD_LETTERS_PAGE_MAX, DeadLetter, Events, From, Leased, Pull, Redrive, Settled, Stored, Token,
    structured,
};
use causeway_model::{Name, Offset};
use causeway_spec::body::Seek;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::body::{self, COMMAND_BYTES_MAX};
use super::params::Params;
use super::problem::Problem;
use super::query::Query;
use super::route::Route;
use super::state::Door;

/// Dead letters of one list that does not say how many.
const LETTERS: usize = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/topics/{topic}/subscriptions/{group}/pull", "Leases events", pull)
            .scoped()
            .json("{\"max\": 100, \"wait\": \"5s\"}"),
        Route::post("/v1/topics/{topic}/subscriptions/{group}/ack", "Settles events", ack)
            .scoped()
            .json("{\"tokens\": […]}")
            .answers(&[(200, "{\"settled\": 1, \"stale\": […]}"), (409, "every token is stale")]),
        Route::post("/v1/topics/{topic}/subscriptions/{group}/nack", "Gives events back as failed", nack)
            .scoped()
            .json("{\"tokens\": […], \"delay\": \"10s\"}"),
        Route::post("/v1/topics/{topic}/subscriptions/{group}/extend", "Lengthens leases", extend)
            .scoped()
            .json("{\"tokens\": […], \"delay\": \"10s\"}"),
        Route::post("/v1/topics/{topic}/subscriptions/{group}/seek", "Sets the cursor", seek)
            .scoped()
            .json("{\"to\": offset | RFC 3339 | \"earliest\" | \"latest\"}"),
        Route::get(
            "/v1/topics/{topic}/subscriptions/{group}/deadletters",
            "Events that were put aside",
            dead_letters,
        )
        .scoped()
        .query(&[("after", "those after this offset"), ("limit", "most of them, 100 unless said")]),
        Route::post(
            "/v1/topics/{topic}/subscriptions/{group}/deadletters/redrive",
            "Delivers dead letters again",
            redrive,
        )
        .scoped()
        .json("{\"filter\": \"cel\", \"rate\": 100, \"dryRun\": true}"),
    ]
}

/// Whose subscription it is.
struct Group<'a> {
    events: &'a Events,
    namespace: Name,
    topic: Name,
    group: Name,
}

impl<'a> Group<'a> {
    fn of(door: &'a Door, params: &Params) -> Result<Self, Problem> {
        let (namespace, topic, group) = (params.namespace()?, params.name("topic")?, params.name("group")?);
        Ok(Group { events: door.events()?, namespace, topic, group })
    }
}

/// An event as JSON, its bytes as they are.
fn event(stored: &Stored) -> Box<RawValue> {
    let text = String::from_utf8_lossy(&structured::encode(&stored.event)).into_owned();
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[derive(Serialize)]
struct LeasedView {
    event: Box<RawValue>,
    token: String,
    attempt: u32,
    offset: u64,
    deadline: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
    events: Vec<LeasedView>,
}

async fn pull(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Batch>, Problem> {
    let group = Group::of(&door, &params)?;
    let wanted = causeway_spec::body::pull(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    let wanted = Pull { max: wanted.max as usize, wait: wanted.wait };
    let leased = group.events.pull(&group.namespace, &group.topic, &group.group, wanted).await?;
    let view = |leased: &Leased| LeasedView {
        event: event(&leased.event),
        token: leased.token.to_string(),
        attempt: leased.attempt,
        offset: leased.event.offset.get(),
        deadline: leased.deadline.to_rfc3339(),
    };
    Ok(Json(Batch { events: leased.iter().map(view).collect() }))
}

/// A text that is no token is as stale as one that was: it is told apart, and the others take effect.
fn tokens(texts: Vec<String>) -> (Vec<Token>, Vec<String>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for text in texts {
        match text.parse() {
            Ok(token) => good.push(token),
            Err(_) => bad.push(text),
        }
    }
    (good, bad)
}

fn settled(settled: &Settled, mut stale: Vec<String>) -> Result<Json<Value>, Problem> {
    stale.extend(settled.stale.iter().map(ToString::to_string));
    if settled.done == 0 && !stale.is_empty() {
        let text = "no token took effect: their leases ended, or the events were settled or sought away";
        return Err(Problem::new(StatusCode::CONFLICT, "CW-1704", text).member("stale", stale.into()));
    }
    Ok(Json(json!({ "settled": settled.done, "stale": stale })))
}

async fn ack(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let g = Group::of(&door, &params)?;
    let (tokens, bad) = tokens(causeway_spec::body::ack(&body::read(body, COMMAND_BYTES_MAX).await?)?);
    settled(&g.events.ack(&g.namespace, &g.topic, &g.group, tokens).await?, bad)
}

async fn nack(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let g = Group::of(&door, &params)?;
    let said = causeway_spec::body::nack(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    let (tokens, bad) = tokens(said.tokens);
    settled(&g.events.nack(&g.namespace, &g.topic, &g.group, tokens, said.delay).await?, bad)
}

async fn extend(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let g = Group::of(&door, &params)?;
    let said = causeway_spec::body::extend(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    let (tokens, bad) = tokens(said.tokens);
    settled(&g.events.extend(&g.namespace, &g.topic, &g.group, tokens, said.delay).await?, bad)
}

async fn seek(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let g = Group::of(&door, &params)?;
    let to = match causeway_spec::body::seek(&body::read(body, COMMAND_BYTES_MAX).await?)? {
        Seek::Offset(offset) => From::Offset(offset),
        Seek::Time(time) => From::Time(time),
        Seek::Earliest => From::Earliest,
        Seek::Latest => From::Latest,
    };
    g.events.seek(&g.namespace, &g.topic, &g.group, to).await?;
    let view = g.events.lag(&g.namespace, &g.topic, &g.group).await?;
    Ok(Json(json!({ "cursor": view.status.cursor.get(), "lag": view.status.lag })))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LetterView<'a> {
    offset: u64,
    reason: &'static str,
    error: &'a str,
    attempts: u32,
    at: String,
    key: Option<&'a str>,
    is_redriven: bool,
    event: Option<Box<RawValue>>,
}

async fn dead_letters(
    State(door): State<Door>,
    params: Params,
    query: Query,
) -> Result<Json<Value>, Problem> {
    let g = Group::of(&door, &params)?;
    let after = query.get("after", "an offset such as 41", |text| text.parse().ok().map(Offset::new))?;
    let limit = query.count("limit", DEAD_LETTERS_PAGE_MAX)?.unwrap_or(LETTERS);
    let letters = g.events.dead_letters(&g.namespace, &g.topic, &g.group, after, limit).await?;
    let view = |letter: &DeadLetter| {
        let view = LetterView {
            offset: letter.offset.get(),
            reason: letter.reason.as_str(),
            error: &letter.error,
            attempts: letter.attempts,
            at: letter.at.to_rfc3339(),
            key: letter.key.as_deref(),
            is_redriven: letter.is_redriven,
            event: letter.event.as_ref().map(event),
        };
        json!(view)
    };
    Ok(Json(json!({ "deadLetters": letters.iter().map(view).collect::<Vec<_>>() })))
}

async fn redrive(State(door): State<Door>, params: Params, body: Body) -> Result<Json<Value>, Problem> {
    let g = Group::of(&door, &params)?;
    let said = causeway_spec::body::redrive(&body::read(body, COMMAND_BYTES_MAX).await?)?;
    let redrive = Redrive { filter: said.filter, rate: said.rate, is_dry_run: said.is_dry_run };
    let taken = g.events.redrive(&g.namespace, &g.topic, &g.group, redrive).await?;
    let offsets: Vec<u64> = taken.offsets.iter().map(|offset| offset.get()).collect();
    Ok(Json(json!({ "count": offsets.len(), "offsets": offsets, "dryRun": said.is_dry_run })))
}
