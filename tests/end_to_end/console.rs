//! The console in a real browser: each page shows what the node knows.

use std::process::{Command, Stdio};

use causeway_tests::{Mesh, free_port, has_peer, until};

use crate::shop::{Back, documents, order};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_shows_what_the_node_knows() {
    let _alone = causeway_tests::alone().await;
    if !has_peer("chromium", "apt-get install chromium") {
        return;
    }
    let mesh = Mesh::up(&documents(free_port()), &[]).await;
    let _back = Back::start(&mesh).await;
    mesh.post("/v1/sagas", &order("seen-1", "4242")).await.unwrap();
    until("the saga is done", || async {
        (mesh.get("/v1/sagas/seen-1").await?["status"] == "done").then_some(())
    })
    .await;

    for (page, wanted) in [
        ("services/default/inventory", &["inventory", "payments", "passing", "mTLS"][..]),
        ("graph", &["causeway/sagas", "inventory", "Requests/s"]),
        ("topics", &["orders", "mail", "active"]),
        ("sagas/seen-1", &["seen-1", "place-order", "reserve", "charge", "tell"]),
    ] {
        let url = format!("http://127.0.0.1:{}/#/{page}", mesh.api);
        let shown = until(&format!("{page} is drawn"), || async {
            let dom = dump_dom(mesh.dir.path(), &url);
            wanted.iter().all(|text| dom.contains(text)).then_some(dom)
        })
        .await;
        assert!(!shown.contains("class=\"bad\">Error"), "{page} shows an error");
    }
}

/// The page after its scripts have run for a while of the browser's own time.
fn dump_dom(dir: &std::path::Path, url: &str) -> String {
    let profile = format!("--user-data-dir={}", dir.join("chromium").display());
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", &profile])
        .args(["--virtual-time-budget=3000", "--dump-dom", url])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
