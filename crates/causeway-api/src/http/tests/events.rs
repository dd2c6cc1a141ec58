//! Topics: declared, published to, read, followed; and what consumers do.

use super::House;

const EVENT: [(&str, &str); 5] = [
    ("ce-specversion", "1.0"),
    ("ce-type", "order.placed"),
    ("ce-source", "/shop"),
    ("ce-id", "1"),
    ("content-type", "application/json"),
];

async fn house() -> House {
    let house = House::open().await;
    assert_eq!(
        house.put("/v1/topics/orders", r#"{"retention": {"age": "7d"}}"#).await.is(200)["outcome"],
        "created"
    );
    house
}

#[tokio::test(start_paused = true)]
async fn events_are_published_in_every_mode_and_read() {
    let house = house().await;
    let path = "/v1/topics/orders/events";
    let answer = house.ask_with("POST", path, &EVENT, r#"{"n": 1}"#).await.is(200);
    assert_eq!(answer, serde_json::json!({"offsets": [0], "duplicates": []}));
    let answer = house.ask_with("POST", path, &EVENT, r#"{"n": 1}"#).await.is(200);
    assert_eq!(answer, serde_json::json!({"offsets": [0], "duplicates": [0]}), "the same event again");
    let structured = r#"{"specversion": "1.0", "type": "t", "source": "/s", "id": "2", "data": {"n": 2}}"#;
    let headers = [("content-type", "application/cloudevents+json")];
    assert_eq!(house.ask_with("POST", path, &headers, structured).await.is(200)["offsets"][0], 1);
    let batch = r#"[{"specversion": "1.0", "type": "t", "source": "/s", "id": "3"}, {"specversion": "1.0", "type": "t", "source": "/s", "id": "4"}]"#;
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let scoped = "/v1/namespaces/default/topics/orders/events";
    assert_eq!(
        house.ask_with("POST", scoped, &headers, batch).await.is(200)["offsets"],
        serde_json::json!([2, 3])
    );

    let page = house.get(&format!("{path}?from=1&limit=2")).await;
    assert_eq!(page.headers["content-type"], "application/cloudevents-batch+json; charset=utf-8");
    assert_eq!(
        (&page.headers["x-causeway-first-offset"], &page.headers["x-causeway-next-offset"]),
        (&"1".parse().unwrap(), &"3".parse().unwrap())
    );
    let page = page.is(200);
    assert_eq!(
        (&page[0]["id"], &page[0]["data"]["n"], &page[1]["id"]),
        (&"2".into(), &2.into(), &"3".into())
    );
    assert_eq!(house.get(path).await.is(200).as_array().unwrap().len(), 4, "from the earliest");
    assert_eq!(
        house
            .get(&format!("{path}?from=2026-01-01T00:00:00%2B00:00"))
            .await
            .is(200)
            .as_array()
            .unwrap()
            .len(),
        4
    );

    house.post(path, "{}").await.refuses(400, "CW-1702");
    house.ask_with("POST", "/v1/topics/nothing/events", &EVENT, "{}").await.refuses(404, "CW-1700");
    house.ask_with("POST", path, &EVENT, vec![b' '; 5 << 20]).await.refuses(413, "CW-1914");
    house.get(&format!("{path}?from=yesterday")).await.refuses(400, "CW-1913");
    house.get(&format!("{path}?from=99")).await.refuses(422, "CW-1707");
    house.get(&format!("{path}?limit=0")).await.refuses(400, "CW-1913");
}

#[tokio::test(start_paused = true)]
async fn a_tail_goes_on_where_it_was() {
    let house = house().await;
    let path = "/v1/topics/orders/events";
    let mut latest = house.stream(path, &[]).await;
    house.ask_with("POST", path, &EVENT, r#"{"n": 1}"#).await.is(200);
    let first = latest.next().await.unwrap();
    assert_eq!((first.id, &first.data["data"]["n"]), (Some(0), &1.into()));
    let second: Vec<(&str, &str)> =
        EVENT.iter().map(|(n, v)| if *n == "ce-id" { (*n, "2") } else { (*n, *v) }).collect();
    house.ask_with("POST", path, &second, r#"{"n": 2}"#).await.is(200);
    assert_eq!(latest.next().await.unwrap().id, Some(1));
    let mut resumed = house.stream(&format!("{path}?from=earliest"), &[("last-event-id", "0")]).await;
    assert_eq!(resumed.next().await.unwrap().data["id"], "2");
    house
        .ask_with("GET", path, &[("accept", "text/event-stream"), ("last-event-id", "x")], "")
        .await
        .refuses(400, "CW-1913");
    // The topic goes, and its tails with it.
    house.delete("/v1/topics/orders").await.is(200);
    assert_eq!(latest.next().await, None);
    house.get(path).await.refuses(404, "CW-1700");
}

#[tokio::test(start_paused = true)]
async fn a_group_pulls_and_settles() {
    let house = house().await;
    let group = "/v1/topics/orders/subscriptions/mail";
    assert_eq!(
        house.put(group, r#"{"pull": {}, "retry": {"attempts": 1}}"#).await.is(200)["outcome"],
        "created"
    );
    for id in ["1", "2", "3"] {
        let headers: Vec<(&str, &str)> =
            EVENT.iter().map(|(n, v)| if *n == "ce-id" { (*n, id) } else { (*n, *v) }).collect();
        house.ask_with("POST", "/v1/topics/orders/events", &headers, "{}").await.is(200);
    }
    let pulled = house.post(&format!("{group}/pull"), r#"{"max": 3, "wait": "5s"}"#).await.is(200);
    let events = pulled["events"].as_array().unwrap();
    assert_eq!((events.len(), &events[0]["event"]["id"], &events[0]["attempt"]), (3, &"1".into(), &1.into()));
    let token = |n: usize| events[n]["token"].as_str().unwrap().to_owned();
    let body = format!(r#"{{"tokens": ["{}", "nonsense"]}}"#, token(0));
    let acked = house.ask_with("POST", &format!("{group}/ack"), &[], body.clone()).await.is(200);
    assert_eq!(acked, serde_json::json!({"settled": 1, "stale": ["nonsense"]}));
    let problem = house.ask_with("POST", &format!("{group}/ack"), &[], body).await.refuses(409, "CW-1704");
    assert_eq!(problem["stale"].as_array().unwrap().len(), 2);
    let body = format!(r#"{{"tokens": ["{}"], "delay": "1m"}}"#, token(1));
    assert_eq!(house.ask_with("POST", &format!("{group}/extend"), &[], body).await.is(200)["settled"], 1);
    let body = format!(r#"{{"tokens": ["{}"]}}"#, token(2));
    assert_eq!(house.ask_with("POST", &format!("{group}/nack"), &[], body).await.is(200)["settled"], 1);

    let letters = house.get(&format!("{group}/deadletters")).await.is(200);
    let letter = &letters["deadLetters"][0];
    assert_eq!(
        (&letter["event"]["id"], &letter["reason"], &letter["isRedriven"]),
        (&"3".into(), &"attempts".into(), &false.into())
    );
    let path = format!("{group}/deadletters/redrive");
    let dry = house.post(&path, r#"{"dryRun": true, "filter": "event.id == '3'"}"#).await.is(200);
    assert_eq!(dry, serde_json::json!({"count": 1, "offsets": [2], "dryRun": true}));
    assert_eq!(house.post(&path, r#"{"filter": "event.id == '9'"}"#).await.is(200)["count"], 0);
    assert_eq!(house.post(&path, "").await.is(200)["count"], 1);
    let again = house.post(&format!("{group}/pull"), r#"{"wait": "5s"}"#).await.is(200);
    assert_eq!(again["events"][0]["event"]["id"], "3");
    assert_eq!(house.post(&format!("{group}/seek"), r#"{"to": "earliest"}"#).await.is(200)["cursor"], 0);
    assert_eq!(house.post(&format!("{group}/seek"), r#"{"to": 3}"#).await.is(200)["lag"], 0);

    house.post(&format!("{group}/seek"), r#"{"to": "yesterday"}"#).await.refuses(422, "CW-1008");
    house.post("/v1/topics/orders/subscriptions/nobody/pull", "").await.refuses(404, "CW-1701");
    house
        .put("/v1/topics/orders/subscriptions/x", r#"{"pull": {}, "push": {"service": "mail"}}"#)
        .await
        .refuses(422, "CW-1016");
    house.put(group, r#"{"pull": {}, "filter": "event.id =="}"#).await.refuses(422, "CW-1706");
    assert!(house.get(group).await.is(200)["filter"].is_null(), "the earlier form is in force");
}

#[tokio::test(start_paused = true)]
async fn topics_are_shown_with_their_groups() {
    let house = house().await;
    house
        .put("/v1/topics/orders/subscriptions/mail", r#"{"push": {"service": "mail", "path": "/events"}}"#)
        .await
        .is(200);
    house.put("/v1/namespaces/shop/topics/other", "").await.is(200);
    house.ask_with("POST", "/v1/topics/orders/events", &EVENT, "{}").await.is(200);
    let topic = house.get("/v1/topics/orders").await.is(200);
    assert_eq!(
        (&topic["namespace"], &topic["topic"], &topic["next"], &topic["earliest"]),
        (&"default".into(), &"orders".into(), &1.into(), &0.into())
    );
    assert!(topic["bytes"].as_u64().unwrap() > 0);
    let group = &topic["subscriptions"][0];
    assert_eq!(
        (&group["group"], &group["delivery"], &group["state"]),
        (&"mail".into(), &"push mail /events".into(), &"active".into())
    );
    for field in ["lag", "inFlight", "deadLetters"] {
        assert!(group[field].is_u64(), "{field}");
    }
    assert_eq!(house.get("/v1/topics/orders/subscriptions/mail").await.is(200)["group"], "mail");
    assert_eq!(house.get("/v1/topics").await.is(200)["topics"].as_array().unwrap().len(), 1);
    assert_eq!(house.get("/v1/topics?allNamespaces").await.is(200)["topics"].as_array().unwrap().len(), 2);
    house.post("/v1/topics/orders/subscriptions/mail/pull", "").await.refuses(409, "CW-1708");
    house.get("/v1/topics/nothing").await.refuses(404, "CW-1700");
    house.delete("/v1/topics/orders/subscriptions/mail").await.is(200);
    assert_eq!(house.get("/v1/topics/orders").await.is(200)["subscriptions"], serde_json::json!([]));
}
