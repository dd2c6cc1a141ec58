//! Services: registered, queried, watched.

use std::time::Duration;

use super::House;

const A: &str = "/v1/services/orders/instances/a";

#[tokio::test(start_paused = true)]
async fn an_instance_lives_and_is_shown() {
    let house = House::open().await;
    let body = r#"{"address": "10.0.0.5", "port": 8080, "version": "1.2", "tags": ["blue"], "metadata": {"k": "v"},
                   "locality": {"region": "r", "zone": "z"}, "ttl": "15s"}"#;
    let answer = house.put(A, body).await;
    let revision = answer.revision();
    let answer = answer.is(200);
    assert_eq!((answer["revision"].as_u64(), &answer["lease"]["kind"]), (Some(revision), &"ttl".into()));
    assert_eq!(answer["lease"]["ttl"], "15s");
    assert!(answer["lease"]["expiresAt"].as_str().unwrap().starts_with("2026-01-01T00:00:1"), "{answer}");

    let shown = house.get("/v1/services/orders").await;
    assert!(shown.revision() >= revision);
    let shown = shown.is(200);
    let instance = &shown["instances"][0];
    assert_eq!((&shown["service"], &shown["namespace"]), (&"orders".into(), &"default".into()));
    assert_eq!(
        (
            &instance["id"],
            &instance["protocol"],
            &instance["health"],
            &instance["lifecycle"],
            &instance["origin"]
        ),
        (&"a".into(), &"http".into(), &"passing".into(), &"up".into(), &"api (local)".into())
    );
    assert!(
        instance["mesh"].is_null()
            && instance["epoch"].is_u64()
            && instance["revision"].as_u64() == Some(revision)
    );
    assert_eq!(house.get(A).await.is(200)["metadata"]["k"], "v");

    for (query, found) in [
        ("?passing", 1),
        ("?passing=true&version=1.2&tag=blue&zone=z", 1),
        ("?version=2", 0),
        ("?tag=red", 0),
        ("?zone=y", 0),
        ("?passing=false", 1),
    ] {
        let shown = house.get(&format!("/v1/services/orders{query}")).await.is(200);
        assert_eq!(shown["instances"].as_array().unwrap().len(), found, "{query}");
    }
    house.post(&format!("{A}/heartbeat"), r#"{"status": "critical"}"#).await.is(200);
    assert_eq!(house.get("/v1/services/orders?passing").await.is(200)["instances"], serde_json::json!([]));
    house.post(&format!("{A}/heartbeat"), "").await.is(200);
    house.post(&format!("{A}/drain"), "").await.is(200);
    assert_eq!(house.get(A).await.is(200)["lifecycle"], "draining");
    house.delete(A).await.is(200);
    house.get(A).await.refuses(404, "CW-1915");
    house.post(&format!("{A}/heartbeat"), "").await.refuses(404, "CW-1915");
    house.delete(A).await.refuses(404, "CW-1915");
    assert_eq!(house.get("/v1/services/orders").await.is(200)["instances"], serde_json::json!([]));
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_apart_and_default_is_meant() {
    let house = House::open().await;
    house
        .put("/v1/namespaces/default/services/a/instances/1", r#"{"address": "10.0.0.1", "port": 1}"#)
        .await
        .is(200);
    let body = r#"{"address": "10.0.0.1", "port": 2, "version": "v1"}"#;
    house.put("/v1/namespaces/shop/services/b/instances/10.0.0.1%3A2", body).await.is(200);
    house.put("/v1/services/b/instances/with%2Fslash", body).await.refuses(400, "CW-1913");
    let names = |value: serde_json::Value| {
        let services = value["services"].as_array().unwrap().clone();
        services
            .iter()
            .map(|s| format!("{}/{}", s["namespace"], s["name"]).replace('"', ""))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(house.get("/v1/services").await.is(200)), ["default/a"]);
    assert_eq!(names(house.get("/v1/namespaces/shop/services").await.is(200)), ["shop/b"]);
    let all = house.get("/v1/services?allNamespaces").await.is(200);
    assert_eq!(
        (&all["services"][1]["passing"], &all["services"][1]["versions"][0]),
        (&1.into(), &"v1".into())
    );
    assert_eq!(names(all), ["default/a", "shop/b"]);
    assert_eq!(house.get("/v1/namespaces/shop/services/b").await.is(200)["instances"][0]["id"], "10.0.0.1:2");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_said_in_full() {
    let house = House::open().await;
    let problem = house.put(A, r#"{"adress": "10.0.0.5", "port": 0}"#).await.refuses(422, "CW-1006");
    assert!(problem["problems"].as_array().unwrap().len() >= 3, "{problem}");
    assert!(problem["problems"][1].as_str().unwrap().starts_with("body:1:2:"), "{problem}");
    house.put(A, "{").await.refuses(400, "CW-1001");
    house.put("/v1/services/Not%20a%20name/instances/a", "{}").await.refuses(400, "CW-1913");
    house.get("/v1/services/orders?pasing").await.refuses(400, "CW-1913");
    house.get("/v1/services/orders?index=x").await.refuses(400, "CW-1913");
    house.get("/v1/services/orders?index=1&wait=1h30m").await.refuses(400, "CW-1913");
    house.get("/v1/services/orders?tag=a&tag=b").await.refuses(400, "CW-1913");
    let long = format!(r#"{{"address": "{}", "port": 1}}"#, "a".repeat(2 << 20));
    house.ask_with("PUT", A, &[], long).await.refuses(413, "CW-1914");
    house.put(A, r#"{"address": "10.0.0.5", "port": 1, "ttl": "25h"}"#).await.refuses(422, "CW-1204");
}

#[tokio::test(start_paused = true)]
async fn a_blocking_query_waits_for_its_service_alone() {
    let house = House::open().await;
    let one = r#"{"address": "10.0.0.1", "port": 1}"#;
    let index = {
        house.put(A, one).await.is(200);
        house.get("/v1/services/orders").await.revision()
    };
    let path = format!("/v1/services/orders?index={index}&wait=30s");
    let before = house.rooms.clock.instant();
    let (answer, ()) = tokio::join!(house.get(&path), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        house.put("/v1/services/other/instances/a", one).await.is(200);
        tokio::time::sleep(Duration::from_secs(4)).await;
        house.put("/v1/services/orders/instances/b", one).await.is(200);
    });
    assert_eq!(
        (house.rooms.clock.instant() - before).as_secs(),
        7,
        "another service's change does not end it"
    );
    assert!(answer.revision() > index);
    assert_eq!(answer.is(200)["instances"].as_array().unwrap().len(), 2);

    let index = house.get("/v1/services/orders").await.revision();
    let before = house.rooms.clock.instant();
    let same = house.get(&format!("/v1/services/orders?index={index}&wait=10s")).await;
    assert_eq!((house.rooms.clock.instant() - before).as_secs(), 10);
    assert_eq!((same.revision(), same.status.as_u16()), (index, 200));
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_everything_and_goes_on_where_it_was() {
    let house = House::open().await;
    let one = r#"{"address": "10.0.0.1", "port": 1}"#;
    house.put(A, one).await.is(200);
    let from = house.get("/v1/services").await.revision();
    let mut watch = house.stream(&format!("/v1/watch?from={from}"), &[]).await;
    let body = "kind: Topic\napiVersion: causeway.dev/v1\nmetadata: {name: t1}\n---\nkind: Topic\napiVersion: causeway.dev/v1\nmetadata: {name: t2}\n";
    house.post("/v1/apply", body).await.is(200);
    house.delete(A).await.is(200);
    let (t1, t2, gone) =
        (watch.next().await.unwrap(), watch.next().await.unwrap(), watch.next().await.unwrap());
    assert_eq!(
        (&t1.data["kind"], &t1.data["type"], &t1.data["name"]),
        (&"Topic".into(), &"put".into(), &"t1".into())
    );
    assert_eq!(t1.data["object"]["metadata"]["name"], "t1");
    assert_eq!(
        (t1.id, t2.id),
        (None, t2.data["revision"].as_u64()),
        "only a revision's last event bears its id"
    );
    assert_eq!(
        (&gone.data["type"], &gone.data["id"], gone.name.as_str()),
        (&"removed".into(), &"a".into(), "change")
    );
    assert!(gone.id > t2.id && gone.data["instance"].is_null());

    // A reader that broke off within a revision gets all of it again; one that had its last event does not.
    let again = from.to_string();
    let mut resumed = house.stream("/v1/watch", &[("last-event-id", &again)]).await;
    assert_eq!(resumed.next().await.unwrap(), t1);
    let again = t2.id.unwrap().to_string();
    let mut resumed = house.stream(&format!("/v1/watch?from={from}"), &[("last-event-id", &again)]).await;
    assert_eq!(resumed.next().await.unwrap(), gone, "Last-Event-ID goes before the address");
    let mut of_one = house.stream(&format!("/v1/watch?from={from}&service=orders"), &[]).await;
    assert_eq!(of_one.next().await.unwrap(), gone);
    let mut elsewhere = house.stream(&format!("/v1/namespaces/shop/watch?from={from}"), &[]).await;
    house.put("/v1/namespaces/shop/services/b/instances/1", one).await.is(200);
    assert_eq!(elsewhere.next().await.unwrap().data["service"], "b");

    // Many changes of one command are never parted, and none is skipped.
    let many: String = (0..700)
        .map(|n| format!("---\nkind: Topic\napiVersion: causeway.dev/v1\nmetadata: {{name: m{n}}}\n"))
        .collect();
    let from = house.get("/v1/services").await.revision();
    house.ask_with("POST", "/v1/apply", &[], many).await.is(200);
    house.put(A, one).await.is(200);
    let mut watch = house.stream(&format!("/v1/watch?from={from}"), &[]).await;
    for n in 0..700 {
        let event = watch.next().await.unwrap();
        assert_eq!((event.data["kind"].as_str(), event.id.is_some()), (Some("Topic"), n == 699), "{n}");
    }
    assert_eq!(watch.next().await.unwrap().data["id"], "a");
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_what_is_forgotten_is_gone() {
    let house = House::open().await;
    let newest = house.get("/v1/version").await.is(200)["revision"].as_u64().unwrap();
    let problem = house.get(&format!("/v1/watch?from={}", newest + 5)).await.refuses(410, "CW-1917");
    assert_eq!(problem["revision"], newest);
    house.get("/v1/watch?from=x").await.refuses(400, "CW-1913");
    house.ask_with("GET", "/v1/watch", &[("last-event-id", "x")], "").await.refuses(400, "CW-1913");
    // More changes than are remembered.
    let one = |n: usize| format!(r#"{{"address": "10.0.0.1", "port": {}}}"#, n % 60_000 + 1);
    house.ask_with("PUT", A, &[], one(0)).await.is(200);
    let early = house.get("/v1/services").await.revision();
    let registrations = (0..5_000).map(|n| {
        let key = causeway_model::InstanceKey {
            service: causeway_model::ServiceKey::parse("default", "many").unwrap(),
            id: causeway_model::InstanceId::new(&format!("i{n}")).unwrap(),
        };
        causeway_registry::Registration::new(key, "10.0.0.1", 1, super::super::views::origin())
    });
    let mut registrations: Vec<_> = registrations.collect();
    for round in 2..16 {
        registrations.iter_mut().for_each(|registration| registration.port = round);
        let many = causeway_registry::Command::RegisterMany(registrations.clone());
        house.rooms.registry.submit(many).await.unwrap();
    }
    house.get(&format!("/v1/watch?from={early}")).await.refuses(410, "CW-1917");
    house
        .ask_with("GET", "/v1/watch", &[("last-event-id", &early.to_string())], "")
        .await
        .refuses(410, "CW-1917");
}
