//! The shop's face: shows what there is and takes orders.
//!
//! ```text
//! GET  /            a page
//! GET  /catalog     {"version":"v1","stock":{…}}      asks the inventory by name
//! POST /orders      {"sku":"tea","quantity":1,"card":"4242"[,"id":"order-7"]}
//!                   -> 201 {"order":…} | 402 card declined | 409 out of stock | 202 not finished yet
//! GET  /orders/{id} -> what became of it
//! ```
//! An order is a workflow over inventory, payments and mail; `WORKFLOW_URL` says where workflows are started.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use causeway_shop::{Refusal, serve, version};
use serde::Deserialize;
use serde_json::{Value, json};

/// Price of everything in this shop.
const PRICE: u64 = 5;
/// For how long an order's outcome is waited for before the shopper is told to look again.
const ORDER_WAIT: Duration = Duration::from_secs(20);

struct Shop {
    http: reqwest::Client,
    inventory_url: String,
    workflow_url: String,
}

#[derive(Deserialize)]
struct Order {
    sku: String,
    #[serde(default = "one")]
    quantity: u32,
    card: String,
    id: Option<String>,
}

fn one() -> u32 {
    1
}

fn bad_gateway(error: reqwest::Error) -> Refusal {
    Refusal(StatusCode::BAD_GATEWAY, error.to_string())
}

async fn catalog(State(shop): State<Arc<Shop>>) -> Result<Response, Refusal> {
    let answer = shop.http.get(format!("{}/stock", shop.inventory_url)).send().await.map_err(bad_gateway)?;
    if !answer.status().is_success() {
        let text = format!("the inventory answered {}", answer.status());
        return Err(Refusal(StatusCode::BAD_GATEWAY, text));
    }
    let stock: Value = answer.json().await.map_err(bad_gateway)?;
    let body = Json(json!({ "version": version(), "stock": stock }));
    Ok(([("x-shop-version", version())], body).into_response())
}

async fn order(State(shop): State<Arc<Shop>>, Json(order): Json<Order>) -> Result<Response, Refusal> {
    let id = order.id.unwrap_or_else(new_order_id);
    let input = json!({
        "id": id, "sku": order.sku, "quantity": order.quantity, "card": order.card,
        "amount": u64::from(order.quantity) * PRICE,
    });
    let start = json!({ "id": id, "definition": "place-order", "input": input, "wait": format!("{}s", ORDER_WAIT.as_secs()) });
    let answer = shop.http.post(&shop.workflow_url).json(&start).send().await.map_err(bad_gateway)?;
    let status = answer.status();
    let workflow: Value = answer.json().await.map_err(bad_gateway)?;
    if !status.is_success() {
        return Err(Refusal(StatusCode::BAD_GATEWAY, format!("workflow answered {status}: {workflow}")));
    }
    Ok(outcome(&id, &workflow).into_response())
}

async fn look(State(shop): State<Arc<Shop>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let answer = shop.http.get(format!("{}/{id}", shop.workflow_url)).send().await.map_err(bad_gateway)?;
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("no order {id}")));
    }
    let workflow: Value = answer.json().await.map_err(bad_gateway)?;
    Ok(outcome(&id, &workflow).into_response())
}

/// What the shopper is told: the workflow's end, and the status with which a step refused.
fn outcome(id: &str, workflow: &Value) -> (StatusCode, Json<Value>) {
    let (status, says) = match workflow["status"].as_str() {
        Some("done") => (StatusCode::CREATED, "placed"),
        Some("undone" | "failed") if refused_with(workflow) == Some(409) => {
            (StatusCode::CONFLICT, "out of stock")
        }
        Some("undone" | "failed") if refused_with(workflow) == Some(402) => {
            (StatusCode::PAYMENT_REQUIRED, "card declined")
        }
        Some("undone" | "failed") => (StatusCode::BAD_GATEWAY, "not placed"),
        _ => (StatusCode::ACCEPTED, "still being placed"),
    };
    (status, Json(json!({ "order": id, "outcome": says, "version": version() })))
}

fn refused_with(workflow: &Value) -> Option<u64> {
    workflow["refusal"]["status"].as_u64()
}

fn new_order_id() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    #[allow(
        clippy::disallowed_methods,
        reason = "a sample program outside the house, with the machine's own clock"
    )]
    let now = std::time::SystemTime::now();
    let nanos = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("order-{nanos:x}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn page() -> Html<&'static str> {
    Html(include_str!("../storefront.html"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let variable = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let http =
        reqwest::Client::builder().timeout(ORDER_WAIT * 2).build().map_err(|error| error.to_string())?;
    let shop = Shop {
        http,
        inventory_url: variable("INVENTORY_URL", "http://inventory.mesh"),
        workflow_url: variable("WORKFLOW_URL", "http://127.0.0.1:7070/v1/sagas"),
    };
    let app = Router::new()
        .route("/", get(page))
        .route("/catalog", get(catalog))
        .route("/orders", post(order))
        .route("/orders/{id}", get(look))
        .with_state(Arc::new(shop));
    serve("storefront", app).await
}
