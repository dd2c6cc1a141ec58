//! The till: charges cards and refunds them.
//!
//! ```text
//! POST /charges               {"amount":5,"card":"4242"} + Idempotency-Key -> 201 {"id":…} | 402 declined (a card that begins with 4000)
//! POST /charges/{id}/refund   -> 200 (also the second time)
//! GET  /ledger                {"charges":3,"refunds":1,"balance":10}
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use causeway_shop::{Journal, Refusal, data_dir, idempotency_key, serve};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Serialize, Deserialize)]
enum Entry {
    Charged { id: String, amount: u64 },
    Refunded { id: String },
}

#[derive(Default)]
struct Ledger {
    /// By id: amount, and whether it was refunded.
    charges: BTreeMap<String, (u64, bool)>,
}

fn apply(ledger: &mut Ledger, entry: Entry) {
    match entry {
        Entry::Charged { id, amount } => {
            ledger.charges.insert(id, (amount, false));
        }
        Entry::Refunded { id } => {
            if let Some((_, is_refunded)) = ledger.charges.get_mut(&id) {
                *is_refunded = true;
            }
        }
    }
}

#[derive(Deserialize)]
struct Charge {
    amount: u64,
    card: String,
}

type Books = State<Arc<Journal<Ledger, Entry>>>;

async fn charge(
    State(books): Books,
    headers: HeaderMap,
    Json(charge): Json<Charge>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let Some(id) = idempotency_key(&headers) else {
        return Err(Refusal(StatusCode::BAD_REQUEST, "Idempotency-Key is missing".into()));
    };
    let id = id.replace('/', "-");
    if charge.card.starts_with("4000") {
        return Err(Refusal(StatusCode::PAYMENT_REQUIRED, "the card was declined".into()));
    }
    books.change(|ledger| {
        let is_new = !ledger.charges.contains_key(&id);
        (is_new.then(|| Entry::Charged { id: id.clone(), amount: charge.amount }), ())
    })?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

async fn refund(State(books): Books, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    books.change(|ledger| {
        let is_open = ledger.charges.get(&id).is_some_and(|(_, is_refunded)| !is_refunded);
        (is_open.then(|| Entry::Refunded { id: id.clone() }), ())
    })?;
    Ok(Json(json!({ "id": id, "refunded": true })))
}

async fn ledger(State(books): Books) -> Result<Json<Value>, Refusal> {
    let (charges, refunds, balance) = books.look(|ledger| {
        let refunds = ledger.charges.values().filter(|(_, is_refunded)| *is_refunded).count();
        let balance: u64 =
            ledger.charges.values().filter(|(_, is_refunded)| !is_refunded).map(|(amount, _)| amount).sum();
        (ledger.charges.len(), refunds, balance)
    })?;
    Ok(Json(json!({ "charges": charges, "refunds": refunds, "balance": balance })))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let books = Journal::open(&data_dir(), "payments", apply).map_err(|error| error.to_string())?;
    let app = Router::new()
        .route("/charges", post(charge))
        .route("/charges/{id}/refund", post(refund))
        .route("/ledger", get(ledger))
        .with_state(Arc::new(books));
    serve("payments", app).await
}
