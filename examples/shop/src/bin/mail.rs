//! The mailer: gets `order.placed` events by HTTP push and writes one mail for each, however often it is told.
//!
//! ```text
//! POST /events   a CloudEvent (binary mode: headers ce-id, ce-type; the order as JSON body) -> 204
//! GET  /mails    {"count":2,"latest":[{"event":…,"order":…}, …]}
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use causeway_shop::{Journal, Refusal, data_dir, serve};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Mails that `GET /mails` shows.
const LATEST_MAX: usize = 20;

#[derive(Clone, Serialize, Deserialize)]
struct Mail {
    event: String,
    order: Value,
}

#[derive(Default)]
struct Outbox {
    by_event: BTreeMap<String, usize>,
    mails: Vec<Mail>,
}

fn apply(outbox: &mut Outbox, mail: Mail) {
    outbox.by_event.insert(mail.event.clone(), outbox.mails.len());
    outbox.mails.push(mail);
}

type Books = State<Arc<Journal<Outbox, Mail>>>;

async fn event(
    State(books): Books,
    headers: HeaderMap,
    Json(order): Json<Value>,
) -> Result<StatusCode, Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(id), Some("order.placed")) = (header("ce-id"), header("ce-type")) else {
        return Err(Refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "expected an event of type order.placed".into(),
        ));
    };
    books.change(|outbox| {
        let is_new = !outbox.by_event.contains_key(id);
        (is_new.then(|| Mail { event: id.to_owned(), order }), ())
    })?;
    Ok(StatusCode::NO_CONTENT)
}

async fn mails(State(books): Books) -> Result<Json<Value>, Refusal> {
    let (count, latest) = books.look(|outbox| {
        let latest: Vec<Mail> = outbox.mails.iter().rev().take(LATEST_MAX).cloned().collect();
        (outbox.mails.len(), latest)
    })?;
    Ok(Json(json!({ "count": count, "latest": latest })))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let books = Journal::open(&data_dir(), "mail", apply).map_err(|error| error.to_string())?;
    let app =
        Router::new().route("/events", post(event)).route("/mails", get(mails)).with_state(Arc::new(books));
    serve("mail", app).await
}
