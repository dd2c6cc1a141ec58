//! A small steady load: shoppers who look at the catalog, and now and then buy; every fifth card is declined.

use std::time::Duration;

use bytes::Bytes;
use causeway_base::scope::Failure;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;

use crate::client::Client;

/// Time between two looks at the catalog.
const PACE: Duration = Duration::from_millis(100);
/// Looks for each order.
const LOOKS_PER_ORDER: u64 = 10;
/// Orders for each one with a declined card.
const ORDERS_PER_DECLINED: u64 = 5;

/// Sends requests to the gateway until `stop`.
pub(super) async fn run(gateway: Client, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    tokio::pin!(stop);
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    for turn in 0u64.. {
        tokio::select! {
            _ = pace.tick() => {}
            () = &mut stop => break,
        }
        let order = turn / LOOKS_PER_ORDER;
        let card = if order % ORDERS_PER_DECLINED == ORDERS_PER_DECLINED - 1 { "4000" } else { "4242" };
        // Failures are what the console shows; the load goes on.
        let _ = if turn % LOOKS_PER_ORDER == 0 {
            let body = Bytes::from(json!({ "sku": "tea", "card": card }).to_string());
            gateway.send(Method::POST, "/orders", headers.clone(), body, Duration::ZERO).await
        } else {
            gateway.send(Method::GET, "/catalog", HeaderMap::new(), Bytes::new(), Duration::ZERO).await
        };
    }
    Ok(())
}
