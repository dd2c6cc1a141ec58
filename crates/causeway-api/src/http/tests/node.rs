//! The node's own paths, and what every path has in common.

use causeway_model::{Edge, ServiceKey, TrafficReport};
use serde_json::json;

use super::{House, router};
use crate::http::{Rooms, openapi, table};

#[tokio::test(start_paused = true)]
async fn the_node_says_how_it_is() {
    let house = House::open().await;
    assert_eq!(house.get("/livez").await.status, 200);
    assert_eq!(house.get("/readyz").await.status, 200);
    house.is_ready.send(false).unwrap();
    house.get("/readyz").await.refuses(503, "CW-1919");
    assert_eq!(house.get("/livez").await.status, 200, "alive all the same");
    let version = house.get("/v1/version").await.is(200);
    assert!(version["version"].is_string() && version["revision"].is_u64());
    house.problems.send(vec!["a.yaml:1:1: wrong [CW-1001]".into()]).unwrap();
    let status = house.get("/v1/status").await.is(200);
    assert_eq!(status["problems"], json!(["a.yaml:1:1: wrong [CW-1001]"]));
    assert_eq!(status["roles"], json!(["registry", "control", "events", "sagas"]));
    assert_eq!(house.get("/v1/proxies").await.is(200), json!({"proxies": []}));
    let metrics = house.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = "causeway_api_answers_total{method=\"GET\",path=\"/readyz\",status=\"503\"} 1";
    assert!(
        metrics.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text")
            && text.contains(line),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_revision_is_waited_for() {
    let house = House::open().await;
    house.put("/v1/topics/t", "").await.is(200);
    let revision = house.get("/v1/version").await.revision();
    assert_eq!(house.get(&format!("/v1/revisions/{revision}/wait")).await.is(200)["revision"], revision);
    let next = revision + 1;
    let before = house.rooms.clock.instant();
    let problem = house.get(&format!("/v1/revisions/{next}/wait?timeout=3s")).await.refuses(408, "CW-1918");
    assert_eq!(
        (problem["lagging"].as_array().unwrap().len(), (house.rooms.clock.instant() - before).as_secs()),
        (0, 3)
    );
    let path = format!("/v1/revisions/{next}/wait");
    let (answer, _) = tokio::join!(house.get(&path), house.put("/v1/topics/u", ""));
    answer.is(200);
    house.get("/v1/revisions/x/wait").await.refuses(400, "CW-1913");
    house.get("/v1/revisions/1/wait?timeout=1h").await.refuses(400, "CW-1913");
}

#[tokio::test(start_paused = true)]
async fn calls_between_services_make_the_graph() {
    let house = House::open().await;
    let key = |name| ServiceKey::parse("default", name).unwrap();
    let edge = Edge {
        requests: 20,
        failures: 10,
        micros: 40_000,
        micros_max: 5_000,
        ..Edge::new(key("a"), key("b"))
    };
    house.rooms.observed.traffic(TrafficReport { edges: vec![edge] });
    let graph = house.get("/v1/graph").await.is(200);
    let edge = json!({"source": "default/a", "target": "default/b", "rate": 2.0, "failureRate": 1.0, "latencyMs": 2.0, "latencyMsMax": 5.0});
    assert_eq!(graph, json!({"windowSeconds": 10, "edges": [edge]}));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_made_and_not_for_the_house_itself() {
    let house = House::open().await;
    let answer = house.post("/v1/tokens", r#"{"name": "orders", "namespace": "shop", "ttl": "1h"}"#).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let token = answer.is(200)["token"].as_str().unwrap().to_owned();
    let token = causeway_identity::JoinToken::parse(&token).unwrap();
    let id = causeway_registry::TokenId::new(&token.id()).unwrap();
    let digest = causeway_registry::Digest::new(token.secret_sha256());
    let record = house.rooms.registry.verify(&id, &digest).unwrap();
    assert_eq!((record.namespace.as_ref().unwrap().as_str(), record.issued_by.as_str()), ("shop", "local"));
    house.post("/v1/tokens", r#"{"name": "events", "namespace": "causeway"}"#).await.refuses(403, "CW-1901");
    house.post("/v1/tokens", "{}").await.refuses(422, "CW-1006");
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_off_is_named() {
    let house = House::open().await;
    let rooms = Rooms { events: None, sagas: None, hub: None, desk: None, ..house.rooms.clone() };
    let house = House { router: router(rooms), ..house };
    for (path, role) in [
        ("/v1/topics", "events"),
        ("/v1/sagas", "sagas"),
        ("/v1/proxies", "control"),
        ("/v1/topics/t/events", "events"),
    ] {
        assert_eq!(house.get(path).await.refuses(503, "CW-1911")["role"], role, "{path}");
    }
    house.post("/v1/tokens", r#"{"name": "a"}"#).await.refuses(503, "CW-1911");
    assert_eq!(house.get("/v1/status").await.is(200)["roles"], json!(["registry"]));
    house.get("/v1/services").await.is(200);
}

#[tokio::test(start_paused = true)]
async fn the_description_is_the_router() {
    let house = House::open().await;
    let served = house.get("/openapi.json").await.is(200);
    assert_eq!(served, openapi());
    assert_eq!(served["openapi"], "3.1.0");
    let mut described = 0;
    for (path, item) in served["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described += 1;
            assert!(
                operation["summary"].is_string() && operation["responses"]["default"].is_object(),
                "{path}"
            );
            // An unknown query parameter is refused by the path itself, before anything is done: so it is there.
            let parts: Vec<&str> =
                path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
            let asked = format!("{}?no-such-parameter", parts.join("/"));
            house.ask_with(&method.to_ascii_uppercase(), &asked, &[], "").await.refuses(400, "CW-1913");
        }
    }
    assert_eq!(described, table::routes().iter().map(|route| route.paths().len()).sum::<usize>());
}

#[tokio::test(start_paused = true)]
async fn every_answer_bears_the_revision_and_unknown_paths_say_so() {
    let house = House::open().await;
    house.put("/v1/topics/t", "").await.is(200);
    let revision = house.get("/v1/version").await.revision();
    assert_eq!(house.get("/v1/topics/nothing").await.revision(), revision, "on refusals too");
    assert_eq!(house.get("/v1/services?x").await.revision(), revision);
    house.get("/v1/service").await.refuses(404, "CW-1912");
    house.delete("/v1/services").await.refuses(405, "CW-1912");
    house.post("/index.html", "").await.refuses(404, "CW-1912");
}

#[tokio::test(start_paused = true)]
async fn the_console_is_served_strictly() {
    let house = House::open().await;
    for (path, media) in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/vendor/htm-preact.js", "text/javascript"),
    ] {
        let answer = house.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.headers["content-type"].to_str().unwrap().starts_with(media),
            "{path}: {:?}",
            answer.headers
        );
        assert_eq!(
            (&answer.headers["x-content-type-options"], &answer.headers["cache-control"]),
            (&"nosniff".parse().unwrap(), &"no-cache".parse().unwrap())
        );
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("script-src 'self';") && policy.contains("default-src 'none'"), "{policy}");
        let tag = answer.headers["etag"].to_str().unwrap().to_owned();
        let again = house.ask_with("GET", path, &[("if-none-match", &tag)], "").await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    }
    for outside in ["/../Cargo.toml", "/%2e%2e/Cargo.toml", "/vendor", "/nothing.js"] {
        house.get(outside).await.refuses(404, "CW-1912");
    }
}
