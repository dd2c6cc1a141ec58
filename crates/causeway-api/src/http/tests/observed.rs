//! What proxies saw, as the API shows it.

use causeway_model::{
    Edge, LATENCY_BUCKETS, Latencies, Observations, ServiceKey, Side, TrafficReport, latency_bucket,
};
use serde_json::json;

use super::House;
use crate::observed::failures::tests::failure;
use crate::observed::taps::tests::tapped;
use crate::observed::traces::tests::span;

#[tokio::test(start_paused = true)]
async fn a_failure_is_found_by_its_request_and_an_unknown_one_says_what_to_do() {
    let house = House::open().await;
    let seen = Observations {
        failures: vec![
            failure("r1", 5, Side::Callee),
            failure("r1", 4, Side::Caller),
            failure("r2", 9, Side::Caller),
        ],
        ..Observations::default()
    };
    house.rooms.observed.seen("default/shop", seen);
    let told = house.get("/v1/failures/r1").await.is(200);
    assert_eq!(told["requestId"], "r1");
    let sides: Vec<_> =
        told["accounts"].as_array().unwrap().iter().map(|a| a["side"].as_str().unwrap()).collect();
    assert_eq!(sides, ["caller", "callee"]);
    assert_eq!(told["accounts"][0]["reason"], "connection_refused");
    house.get("/v1/failures/r3").await.refuses(404, "CW-1921");
    let list = house.get("/v1/failures?service=cart&limit=1").await.is(200);
    assert_eq!(
        (list["failures"].as_array().unwrap().len(), &list["failures"][0]["requestId"]),
        (1, &json!("r2"))
    );
    assert_eq!(house.get("/v1/failures?namespace=other").await.is(200)["failures"], json!([]));
    house.get("/v1/failures?limit=0").await.refuses(400, "CW-1913");
}

#[tokio::test(start_paused = true)]
async fn a_trace_is_its_spans_in_order() {
    let house = House::open().await;
    let id = "0af7651916cd43dd8448eb211c80319c";
    let spans = vec![span(id, 2, 1, "cart"), span(id, 1, 0, "shop")];
    house.rooms.observed.seen("x", Observations { spans, ..Observations::default() });
    let trace = house.get(&format!("/v1/traces/{id}")).await.is(200);
    assert_eq!(trace["spans"][0]["parentId"], json!(null));
    assert_eq!(trace["spans"][1]["parentId"], "0000000000000001");
    assert_eq!(trace["spans"][1]["attributes"], json!({"http.request.method": "GET"}));
    let list = house.get("/v1/traces?service=cart").await.is(200);
    assert_eq!((&list["traces"][0]["traceId"], &list["traces"][0]["spans"]), (&json!(id), &json!(2)));
    house.get(&format!("/v1/traces/{id:0>33}")).await.refuses(400, "CW-1913");
    house.get("/v1/traces/0af7651916cd43dd8448eb211c80319d").await.refuses(404, "CW-1921");
}

#[tokio::test(start_paused = true)]
async fn a_tap_shows_live_requests_and_ends_with_its_reader() {
    let house = House::open().await;
    let wanted = house.rooms.observed.live.wanted();
    let mut stream = house.stream("/v1/tap?service=cart&status=5xx&path=/a&from=shop&rate=7", &[]).await;
    let tap = wanted.borrow().taps[0].clone();
    assert_eq!((tap.status, tap.per_second, tap.path.as_deref()), (Some((500, 599)), 7, Some("/a")));
    let seen = Observations { tapped: vec![tapped(&[tap.id], "r1")], lost: 3, ..Observations::default() };
    house.rooms.observed.seen("x", seen);
    let lost = stream.next().await.unwrap();
    assert_eq!((lost.name.as_str(), &lost.data), ("lost", &json!({"count": 3})));
    let shown = stream.next().await.unwrap();
    assert_eq!((shown.name.as_str(), &shown.data["requestId"]), ("request", &json!("r1")));
    drop(stream);
    assert!(wanted.borrow().taps.is_empty());
    house.get("/v1/tap?rate=100000").await.refuses(400, "CW-1913");
    house.get("/v1/tap?side=moon").await.refuses(400, "CW-1913");
    let mut open = Vec::new();
    for _ in 0..causeway_model::tap::TAPS_MAX {
        open.push(house.stream("/v1/tap", &[]).await);
    }
    house.get("/v1/tap").await.refuses(503, "CW-1920");
}

#[tokio::test(start_paused = true)]
async fn golden_signals_have_quantiles_by_edge_and_by_service() {
    let house = House::open().await;
    let key = |name| ServiceKey::parse("default", name).unwrap();
    for (source, micros) in [("a", 1_000), ("b", 100_000)] {
        let mut counts = [0; LATENCY_BUCKETS];
        counts[latency_bucket(micros)] = 50;
        let edge = Edge {
            requests: 50,
            failures: 5,
            micros: 50 * micros,
            micros_max: micros,
            latencies: Latencies::of(&counts),
            retries: 10,
            ..Edge::new(key(source), key("c"))
        };
        house.rooms.observed.traffic(TrafficReport { edges: vec![edge] });
    }
    let rows = house.get("/v1/traffic?by=edge&window=5s").await.is(200);
    assert_eq!((rows["rows"].as_array().unwrap().len(), &rows["windowSeconds"]), (2, &json!(5.0)));
    assert_eq!((&rows["rows"][0]["source"], &rows["rows"][0]["rate"]), (&json!("default/a"), &json!(10.0)));
    let rows = house.get("/v1/traffic?by=service&window=10s").await.is(200);
    let row = &rows["rows"][0];
    assert_eq!((rows["rows"].as_array().unwrap().len(), &row["source"]), (1, &json!(null)));
    assert_eq!((&row["rate"], &row["success"], &row["retryRate"]), (&json!(10.0), &json!(0.9), &json!(2.0)));
    let ms = |name: &str| row[name].as_f64().unwrap();
    assert!(ms("p50Ms") < 1.3 && (75.0..=100.0).contains(&ms("p99Ms")), "{row}");
    assert_eq!(house.get("/v1/traffic?service=d").await.is(200)["rows"], json!([]));
    assert_eq!(house.get("/v1/traffic?service=a").await.is(200)["rows"].as_array().unwrap().len(), 1);
}
