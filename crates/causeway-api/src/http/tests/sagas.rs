//! Sagas: started, refused, mended.

use serde_json::Value;

use super::House;

const SHOP: &str = r#"{"steps": [
    {"name": "reserve", "call": {"service": "inventory", "path": "/reservations"},
     "compensate": {"service": "inventory", "method": "DELETE", "path": "/reservations/${steps.reserve.body.id}"}},
    {"name": "charge", "call": {"service": "payments", "path": "/charges/${input.card}"},
     "retry": {"attempts": 1, "backoff": "10ms", "maxBackoff": "10ms"}, "pivot": true}]}"#;

async fn house() -> House {
    let house = House::open().await;
    assert_eq!(house.put("/v1/sagas/definitions/place-order", SHOP).await.is(200)["outcome"], "created");
    house
}

#[tokio::test(start_paused = true)]
async fn a_saga_is_started_once() {
    let house = house().await;
    let start = r#"{"id": "order-7", "definition": "place-order", "input": {"card": "4242"}, "wait": "10s"}"#;
    let done = house.post("/v1/sagas", start).await.is(201);
    assert_eq!(
        (&done["id"], &done["status"], &done["definition"], &done["namespace"]),
        (&"order-7".into(), &"done".into(), &"place-order".into(), &"default".into())
    );
    assert_eq!(
        (&done["input"]["card"], &done["refusal"], &done["error"]),
        (&"4242".into(), &Value::Null, &Value::Null)
    );
    assert_eq!(
        (&done["steps"][0]["name"], &done["steps"][0]["state"], &done["steps"][0]["body"]["id"]),
        (&"reserve".into(), &"done".into(), &"x".into())
    );
    assert_eq!(
        (&done["timeline"][0]["what"], &done["timeline"][1]["step"]),
        (&"started".into(), &"reserve".into())
    );
    assert!(done["startedAt"].is_string() && done["endedAt"].is_string());
    assert_eq!(*house.mesh.calls.lock(), ["POST /reservations", "POST /charges/4242"]);

    house.post("/v1/sagas", start).await.is(200);
    assert_eq!(house.mesh.calls.lock().len(), 2, "the same start again calls nobody");
    house
        .post("/v1/sagas", r#"{"id": "order-7", "definition": "place-order", "input": {"card": "1"}}"#)
        .await
        .refuses(409, "CW-1803");
    assert_eq!(house.get("/v1/sagas/order-7").await.is(200)["status"], "done");
    house.get("/v1/sagas/order-8").await.refuses(404, "CW-1804");
    house.get("/v1/namespaces/shop/sagas/order-7").await.refuses(404, "CW-1804");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_shown_with_its_step_and_status() {
    let house = house().await;
    let start = r#"{"id": "o", "definition": "place-order", "input": {"card": "declined"}, "wait": "10s", "namespace": "default"}"#;
    let undone = house.post("/v1/sagas", start).await.is(201);
    assert_eq!(
        (&undone["status"], &undone["refusal"]),
        (&"undone".into(), &serde_json::json!({"step": "charge", "status": 402}))
    );
    assert_eq!(house.mesh.calls.lock().last().unwrap(), "DELETE /reservations/x");
    let refused =
        undone["timeline"].as_array().unwrap().iter().find(|m| m["what"] == "refused").unwrap().clone();
    assert!(refused["detail"].as_str().unwrap().starts_with("status 402"), "{refused}");

    let listed = house
        .get("/v1/sagas?status=undone&definition=place-order&since=2026-01-01T00:00:00Z&limit=5")
        .await
        .is(200);
    assert_eq!(
        (&listed["counts"]["undone"], &listed["counts"]["done"], &listed["sagas"][0]["id"]),
        (&1.into(), &0.into(), &"o".into())
    );
    assert_eq!(house.get("/v1/sagas?status=done").await.is(200)["sagas"], serde_json::json!([]));
    assert_eq!(house.get("/v1/namespaces/default/sagas").await.is(200)["sagas"].as_array().unwrap().len(), 1);
    assert_eq!(house.get("/v1/namespaces/shop/sagas").await.is(200)["sagas"], serde_json::json!([]));
    house.get("/v1/sagas?status=sleeping").await.refuses(400, "CW-1913");
}

#[tokio::test(start_paused = true)]
async fn people_mend_what_is_stuck() {
    let house = House::open().await;
    let stuck = r#"{"id": "s", "wait": "30s", "definition": {"steps": [
        {"name": "first", "call": {"service": "a", "path": "/ok"}, "pivot": true},
        {"name": "second", "call": {"service": "b", "path": "/down"}, "retry": {"attempts": 1}}]}}"#;
    assert_eq!(house.post("/v1/sagas", stuck).await.is(201)["status"], "stuck");
    house.post("/v1/sagas/s/cancel", r#"{"reason": "x"}"#).await.refuses(409, "CW-1805");
    house.post("/v1/sagas/s/edit", "{}").await.refuses(422, "CW-1006");
    house.post("/v1/sagas/s/edit", r#"{"step": "second", "path": "/up"}"#).await.is(200);
    house.post("/v1/sagas/s/retry", r#"{"force": true}"#).await.refuses(422, "CW-1003");
    house.post("/v1/sagas/s/retry", "{}").await.is(200);
    let id = "s".parse().unwrap();
    house.rooms.sagas.as_ref().unwrap().wait(&id, std::time::Duration::from_secs(30)).await.unwrap();
    let done = house.get("/v1/sagas/s").await.is(200);
    assert_eq!(done["status"], "done");
    assert!(
        done["timeline"].as_array().unwrap().iter().any(|m| m["what"] == "edit" && m["detail"] == "by local"),
        "{done}"
    );

    let stuck = stuck.replace(r#""id": "s""#, r#""id": "r""#);
    assert_eq!(house.ask_with("POST", "/v1/sagas", &[], stuck).await.is(201)["status"], "stuck");
    house.post("/v1/sagas/r/resolve", r#"{"status": "running"}"#).await.refuses(422, "CW-1008");
    let resolved = house.post("/v1/sagas/r/resolve", r#"{"note": "called them"}"#).await.is(200);
    assert_eq!(resolved["status"], "done", "it was past its pivot, on its way forward");
    house.post("/v1/sagas/nobody/skip", "").await.refuses(404, "CW-1804");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_run_is_refused_with_every_reason() {
    let house = house().await;
    house.post("/v1/sagas", r#"{"definition": "nothing"}"#).await.refuses(404, "CW-1915");
    house
        .post("/v1/sagas", r#"{"definition": "place-order", "namespace": "shop"}"#)
        .await
        .refuses(404, "CW-1915");
    house.post("/v1/sagas", r#"{"definiton": "place-order"}"#).await.refuses(422, "CW-1006");
    house.post("/v1/sagas", r#"{"id": "a/b", "definition": "place-order"}"#).await.refuses(422, "CW-1012");
    let forward = r#"{"steps": [{"name": "a", "call": {"service": "s", "path": "/${steps.b.body.id}"}}, {"name": "b", "call": {"service": "s", "path": "/"}}]}"#;
    let problem = house.put("/v1/sagas/definitions/bad", forward).await;
    assert_eq!(problem.status, 422);
    assert!(!problem.json()["problems"].as_array().unwrap().is_empty());
    house.get("/v1/config/Saga/bad").await.refuses(404, "CW-1915");
    let document = format!(
        "{{\"apiVersion\": \"causeway.dev/v1\", \"kind\": \"Saga\", \"metadata\": {{\"name\": \"bad\"}}, \"spec\": {forward}}}"
    );
    house.ask_with("POST", "/v1/apply", &[], document).await.refuses(422, "CW-1916");
    house.get("/v1/config/Saga/bad").await.refuses(404, "CW-1915");
}
