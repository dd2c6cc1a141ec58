//! The stock: reserves items for orders and gives them back.
//!
//! ```text
//! GET    /stock                 {"tea":{"available":995,"reserved":5}, …}
//! POST   /reservations          {"sku":"tea","quantity":1}  + Idempotency-Key -> 201 {"id":…} | 409 out of stock
//! DELETE /reservations/{id}     -> 204 (also the second time)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use causeway_shop::{Journal, Refusal, data_dir, idempotency_key, serve};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What the shop sells, and how much of it there is at first.
const STOCK: [(&str, u32); 3] = [("tea", 100_000), ("coffee", 100_000), ("unobtainium", 0)];

#[derive(Clone, Serialize, Deserialize)]
enum Entry {
    Reserved { id: String, sku: String, quantity: u32 },
    Released { id: String },
}

#[derive(Default)]
struct Stock {
    /// By id; the flag says whether it is still held.
    reservations: BTreeMap<String, (String, u32, bool)>,
    reserved: BTreeMap<String, u32>,
}

fn apply(stock: &mut Stock, entry: Entry) {
    match entry {
        Entry::Reserved { id, sku, quantity } => {
            *stock.reserved.entry(sku.clone()).or_default() += quantity;
            stock.reservations.insert(id, (sku, quantity, true));
        }
        Entry::Released { id } => {
            if let Some((sku, quantity, held @ true)) = stock.reservations.get_mut(&id) {
                *held = false;
                *stock.reserved.entry(sku.clone()).or_default() -= *quantity;
            }
        }
    }
}

impl Stock {
    fn available(&self, sku: &str) -> Option<u32> {
        let (_, initial) = STOCK.iter().find(|(name, _)| *name == sku)?;
        Some(initial - self.reserved.get(sku).copied().unwrap_or(0))
    }
}

#[derive(Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
}

type Books = State<Arc<Journal<Stock, Entry>>>;

async fn stock(State(books): Books) -> Result<Json<Value>, Refusal> {
    let lines = books.look(|stock| {
        STOCK.map(|(sku, _)| {
            let reserved = stock.reserved.get(sku).copied().unwrap_or(0);
            (sku.to_owned(), json!({ "available": stock.available(sku), "reserved": reserved }))
        })
    })?;
    Ok(Json(Value::Object(lines.into_iter().collect())))
}

async fn reserve(
    State(books): Books,
    headers: HeaderMap,
    Json(order): Json<Order>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let Some(id) = idempotency_key(&headers) else {
        return Err(Refusal(StatusCode::BAD_REQUEST, "Idempotency-Key is missing".into()));
    };
    let id = id.replace('/', "-");
    books.change(|stock| {
        if stock.reservations.contains_key(&id) {
            return (None, Ok((StatusCode::CREATED, Json(json!({ "id": id })))));
        }
        match stock.available(&order.sku) {
            None => (None, Err(Refusal(StatusCode::CONFLICT, format!("no such thing as {}", order.sku)))),
            Some(available) if available < order.quantity => {
                (None, Err(Refusal(StatusCode::CONFLICT, format!("{} is out of stock", order.sku))))
            }
            Some(_) => {
                let entry = Entry::Reserved { id: id.clone(), sku: order.sku, quantity: order.quantity };
                (Some(entry), Ok((StatusCode::CREATED, Json(json!({ "id": id })))))
            }
        }
    })?
}

async fn release(State(books): Books, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    books.change(|stock| {
        let is_held = stock.reservations.get(&id).is_some_and(|(_, _, held)| *held);
        (is_held.then(|| Entry::Released { id: id.clone() }), ())
    })?;
    Ok(StatusCode::NO_CONTENT)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let books = Journal::open(&data_dir(), "inventory", apply).map_err(|error| error.to_string())?;
    let app = Router::new()
        .route("/stock", get(stock))
        .route("/reservations", post(reserve))
        .route("/reservations/{id}", delete(release))
        .with_state(Arc::new(books));
    serve("inventory", app).await
}
