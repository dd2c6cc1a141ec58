//! The README's first command: the demo comes up, and a shopper is served while an inventory is killed every 5 seconds.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_tests::{Process, binary, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const ORDERS: usize = 200;
const KILL_EVERY: Duration = Duration::from_secs(5);
/// Pace of the shopper: slow enough that several kills fall among the orders.
const PACE: Duration = Duration::from_millis(130);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_orders_while_an_inventory_is_killed_again_and_again() {
    let _alone = causeway_tests::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let offset = free_offset();
    let mut command = Command::new(binary("causeway"));
    command
        .args(["demo", "--no-load", "--port-offset", &offset.to_string(), "--data-dir"])
        .arg(dir.path().join("demo"));
    let mut demo = Process::start(dir.path(), "demo", command);
    let log_path = dir.path().join("demo.log");
    until("the demo says that the shop is open", || async {
        let log = std::fs::read_to_string(&log_path).unwrap_or_default();
        log.contains("The shop is open").then_some(())
    })
    .await;

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let gateway = format!("http://127.0.0.1:{}", 8080 + offset);
    let is_over = Arc::new(AtomicBool::new(false));
    let killer = {
        let (is_over, demo) = (is_over.clone(), demo.pid());
        tokio::spawn(async move { kill_inventories(demo, &is_over).await })
    };

    let mut orders = Vec::new();
    for number in 0..ORDERS {
        let (http, gateway) = (http.clone(), gateway.clone());
        orders.push(tokio::spawn(async move {
            let card = if number % 5 == 4 { "4000" } else { "4242" };
            let body = json!({ "id": format!("e2e-{number}"), "sku": "tea", "card": card });
            let answer = http.post(format!("{gateway}/orders")).json(&body).send().await;
            let answer = answer.map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap_or_default();
            let catalog =
                http.get(format!("{gateway}/catalog")).send().await.map_err(|error| error.to_string())?;
            let wanted = if card == "4000" { 402 } else { 201 };
            match (status, catalog.status().as_u16()) {
                (status, 200) if status == wanted => Ok(()),
                (status, catalog) => Err(format!("order {number}: {status} {text}; catalog {catalog}")),
            }
        }));
        tokio::time::sleep(PACE).await;
    }
    let mut failed: Vec<String> = Vec::new();
    for order in orders {
        failed.extend(order.await.unwrap().err());
    }
    is_over.store(true, Ordering::Relaxed);
    let kills = killer.await.unwrap();
    assert!(
        failed.is_empty(),
        "{} of {ORDERS} failed during {kills} kills:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(kills >= 3, "only {kills} kills fell among the orders");

    // The books: every order that was placed holds one tea and five coins and has one mail; every declined one nothing.
    let placed = (ORDERS - ORDERS / 5) as u64;
    let look = |port: u16, path: &'static str| {
        let (http, url) = (http.clone(), format!("http://127.0.0.1:{}{path}", port + offset));
        async move { http.get(url).send().await.ok()?.json::<Value>().await.ok() }
    };
    let catalog: Value = http.get(format!("{gateway}/catalog")).send().await.unwrap().json().await.unwrap();
    assert_eq!(catalog["stock"]["tea"]["reserved"], placed, "{catalog}");
    let ledger = look(9021, "/ledger").await.unwrap();
    assert_eq!((&ledger["charges"], &ledger["balance"]), (&json!(placed), &json!(placed * 5)), "{ledger}");
    until("every placed order has its mail", || async {
        let mails = look(9031, "/mails").await?;
        (mails["count"] == placed).then_some(())
    })
    .await;

    let status = demo.stop();
    assert!(status.success(), "the demo ends with {status}");
}

/// Kills one inventory every [`KILL_EVERY`]: in turn the app, and the sidecar with its app.
async fn kill_inventories(demo: Pid, is_over: &AtomicBool) -> usize {
    let mut kills = 0;
    let mut next = Instant::now() + KILL_EVERY / 2;
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if Instant::now() < next {
            continue;
        }
        next += KILL_EVERY;
        let wanted = |args: &str| match kills % 2 {
            0 => args.contains("shop-inventory") && !args.contains("--name"),
            _ => args.contains("shop-inventory") && args.contains("causeway\0run"),
        };
        let victims: Vec<Pid> =
            descendants(demo).into_iter().filter(|(_, args)| wanted(args)).map(|(pid, _)| pid).collect();
        if let Some(victim) = victims.get(kills / 2 % victims.len().max(1)) {
            let _ = kill_process(*victim, Signal::KILL);
            kills += 1;
        }
    }
    kills
}

/// Processes below `root`, with their command lines (arguments separated by NUL).
fn descendants(root: Pid) -> Vec<(Pid, String)> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(parent) =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<i32>().ok())
        else {
            continue;
        };
        parents.push((
            pid,
            parent,
            std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default(),
        ));
    }
    let (mut open, mut found) = (vec![root.as_raw_nonzero().get()], Vec::new());
    while let Some(parent) = open.pop() {
        for (pid, _, args) in parents.iter().filter(|(_, of, _)| *of == parent) {
            open.push(*pid);
            found.extend(Pid::from_raw(*pid).map(|pid| (pid, args.clone())));
        }
    }
    found
}

/// An offset at which all of the demo's ports are free.
fn free_offset() -> u16 {
    let ports = [7070u16, 7071, 8080, 9001, 9002, 9011, 9012, 9021, 9031];
    let first = 10_000 + (std::process::id() % 2_000) as u16 * 7;
    (first..45_000)
        .step_by(101)
        .find(|offset| ports.iter().all(|port| TcpListener::bind(("127.0.0.1", port + offset)).is_ok()))
        .unwrap()
}
