//! The node is gone for a minute: traffic goes on, also across the restart of a sidecar; the node comes back to little work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use causeway_tests::{Mesh, free_port, until};

use crate::shop::{Back, documents};

const OUTAGE: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_goes_on_for_a_minute_without_the_node() {
    let _alone = causeway_tests::alone().await;
    let gateway_port = free_port();
    let mut mesh = Mesh::up(&documents(gateway_port), &[]).await;
    let mut back = Back::start(&mesh).await;
    let _front = [
        mesh.run_shop("storefront", "v1", "storefront-1"),
        mesh.run_shop("storefront", "v2", "storefront-2"),
    ];
    let _gateway = mesh.run_gateway("public");
    mesh.until_registered("storefront", 2).await;
    mesh.until_ready(gateway_port, "/catalog").await;
    // Both inventories are known to both storefronts before the lights go out.
    let (revision, path) =
        (mesh.get("/v1/version").await.unwrap()["revision"].as_u64().unwrap(), "wait?timeout=10s");
    mesh.get(&format!("/v1/revisions/{revision}/{path}")).await.expect("every proxy acknowledges");

    let is_over = Arc::new(AtomicBool::new(false));
    let (good, bad) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (http, is_over, good, bad) = (mesh.http.clone(), is_over.clone(), good.clone(), bad.clone());
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let answer = http.get(format!("http://127.0.0.1:{gateway_port}/catalog")).send().await;
                    match answer {
                        Ok(answer) if answer.status().is_success() => good.fetch_add(1, Ordering::Relaxed),
                        other => {
                            eprintln!("failed: {other:?}");
                            bad.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                    tokio::time::sleep(PACE).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    mesh.kill_node();
    tokio::time::sleep(OUTAGE / 3).await;

    // One sidecar is killed with its app and started again on the same state, while nobody can tell it anything.
    let app = back.inventory[0].1;
    back.inventory[0].0.kill();
    let before = good.load(Ordering::Relaxed);
    back.inventory[0].0 = restart(&mesh, app);
    until("the restarted sidecar answers through its old address", || async {
        let stock = mesh.http.get(format!("http://127.0.0.1:{app}/stock")).send().await.ok()?;
        stock.status().is_success().then_some(())
    })
    .await;
    tokio::time::sleep(OUTAGE * 2 / 3).await;
    assert!(good.load(Ordering::Relaxed) > before + 100, "traffic went on after the restart");

    mesh.start_node().await;
    mesh.until_registered("inventory", 2).await;
    mesh.until_registered("storefront", 2).await;
    let connected = until("every proxy is back", || async {
        let proxies = mesh.get("/v1/proxies").await?["proxies"].as_array()?.len();
        (proxies >= 7).then_some(proxies)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    is_over.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    let (good, bad) = (good.load(Ordering::Relaxed), bad.load(Ordering::Relaxed));
    assert_eq!(bad, 0, "{bad} of {} requests failed while the node was away", good + bad);

    // Nothing unchanged was sent again to those that kept their picture.
    let metrics = mesh
        .http
        .get(format!("http://127.0.0.1:{}/metrics", mesh.api))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let sent = metrics.lines().find_map(|line| line.strip_prefix("causeway_xds_resources_sent_total "));
    let resent: f64 = sent.expect("the node counts what it sends").trim().parse().unwrap();
    assert!(resent <= 4.0, "{resent} resources were sent to {connected} proxies that had them already");
}

fn restart(mesh: &Mesh, port: u16) -> causeway_tests::Process {
    let mut command = mesh.causeway("run", "inventory-0");
    command
        .args(["--name", "inventory", "--version", "v1", "--port", &port.to_string(), "--health", "/healthz"])
        .env("SHOP_DATA", mesh.dir.path().join("shop"))
        .arg("--")
        .arg(causeway_tests::binary("shop-inventory"));
    causeway_tests::Process::start(mesh.dir.path(), "inventory-0-again", command)
}
