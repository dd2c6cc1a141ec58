//! Documents: applied, shown, refused.

use super::House;

const GOOD: &str =
    "apiVersion: causeway.dev/v1\nkind: Topic\nmetadata: {name: orders}\nspec: {retention: {age: 7d}}\n";

#[tokio::test(start_paused = true)]
async fn documents_are_applied_and_shown() {
    let house = House::open().await;
    let dry = house.post("/v1/apply?dryRun", GOOD).await.is(200);
    assert_eq!((&dry["objects"][0]["outcome"], &dry["dryRun"]), (&"created".into(), &true.into()));
    house.get("/v1/config/Topic/orders").await.refuses(404, "CW-1915");
    let applied = house.post("/v1/apply", GOOD).await;
    assert_eq!(applied.revision(), applied.json()["revision"].as_u64().unwrap());
    let applied = applied.is(200);
    assert_eq!(
        applied["objects"],
        serde_json::json!([{"kind": "Topic", "namespace": "default", "name": "orders", "outcome": "created"}])
    );
    assert_eq!(house.post("/v1/apply", GOOD).await.is(200)["objects"][0]["outcome"], "unchanged");
    for path in ["/v1/config/Topic/orders", "/v1/config/topics/default/orders"] {
        let shown = house.get(path).await.is(200);
        assert_eq!(shown["spec"]["retention"]["age"], "7d");
        assert_eq!(shown["metadata"]["annotations"]["causeway.dev/origin"], "api (local)");
        assert_eq!(shown["status"]["conditions"][0]["type"], "Accepted");
    }
    assert_eq!(
        house.get("/v1/config?kind=topics&namespace=default").await.is(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(house.get("/v1/config?kind=Gateway").await.is(200)["items"], serde_json::json!([]));
    house.get("/v1/config?kind=Pod").await.refuses(400, "CW-1913");
    // What is shown can be written again.
    let shown = house.get("/v1/config/Topic/orders").await.body;
    house.ask_with("PUT", "/v1/config/Topic/orders", &[], shown).await.is(200);
    assert_eq!(house.delete("/v1/config/Topic/default/orders").await.is(200)["outcome"], "removed");
    house.delete("/v1/config/Topic/default/orders").await.refuses(404, "CW-1915");
}

#[tokio::test(start_paused = true)]
async fn a_bad_document_leaves_its_neighbours_alone() {
    let house = House::open().await;
    let both = "apiVersion: causeway.dev/v1\nkind: Topic\nmetadata: {name: bad}\nspec: {retension: {age: 7d}}\n---\n\
                apiVersion: causeway.dev/v1\nkind: Topic\nmetadata: {name: good}\n";
    let headers = [("causeway-source", "shop.yaml")];
    let problem = house.ask_with("POST", "/v1/apply", &headers, both).await.refuses(422, "CW-1916");
    assert_eq!(
        (&problem["objects"][0]["name"], &problem["objects"][0]["outcome"]),
        (&"good".into(), &"created".into())
    );
    let said = problem["problems"][0].as_str().unwrap();
    assert!(said.starts_with("shop.yaml:4:8: Topic default/bad: ") && said.contains("[CW-1003]"), "{said}");
    house.get("/v1/config/Topic/good").await.is(200);
    house.post("/v1/apply", "{").await.refuses(422, "CW-1916");
    house.ask_with("POST", "/v1/apply", &[], vec![0xff]).await.refuses(400, "CW-1914");
}

#[tokio::test(start_paused = true)]
async fn an_object_of_a_file_is_not_the_apis() {
    let house = House::open().await;
    let parsed = causeway_spec::parse("t.yaml", GOOD);
    let objects = parsed.documents.into_iter().map(|document| causeway_registry::Proposed {
        key: document.key,
        origin: causeway_model::Origin::File { path: "t.yaml".into(), line: 1 },
        spec: document.spec,
        written: document.written,
    });
    let command = causeway_registry::Command::Apply {
        objects: objects.collect(),
        is_dry_run: false,
        prune: Vec::new(),
    };
    house.rooms.registry.submit(command).await.unwrap();
    let problem = house.put("/v1/topics/orders", "{}").await.refuses(409, "CW-1201");
    assert_eq!(problem["owner"], "t.yaml:1");
    house.delete("/v1/config/Topic/orders").await.refuses(409, "CW-1201");
    let other = "apiVersion: causeway.dev/v1\nkind: Topic\nmetadata: {name: orders}\n";
    let problem = house.post("/v1/apply", other).await.refuses(422, "CW-1916");
    assert_eq!(problem["objects"][0]["outcome"], "refused");
    assert!(problem["objects"][0]["why"].as_str().unwrap().contains("t.yaml:1"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn path_and_document_must_be_of_one_object() {
    let house = House::open().await;
    house.put("/v1/config/Topic/other", GOOD).await.refuses(422, "CW-1916");
    house.put("/v1/config/Topic/orders", "").await.refuses(422, "CW-1916");
    house.put("/v1/config/Topic/shop/orders", GOOD).await.refuses(422, "CW-1916");
    assert_eq!(house.put("/v1/config/Topic/orders", GOOD).await.is(200)["kind"], "Topic");
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_does_not_hold_is_said_with_the_object() {
    let house = House::open().await;
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{name: public}]\n  \
                 rules: [{backendRefs: [{name: nobody, port: 80}]}]\n";
    let applied = house.post("/v1/apply", route).await.is(200);
    assert_eq!(applied["objects"][0]["outcome"], "created");
    assert!(applied["objects"][0]["why"].as_str().unwrap().contains("public"), "{applied}");
}
