//! kill -9 of the node in the middle of sagas: every one ends done or undone, and the effects add up.

use causeway_tests::{Mesh, free_port, until};
use futures_util::future::join_all;

use crate::shop::{Back, ask, documents, order};

const ROUNDS: usize = 20;
const SAGAS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_sagas_survive_twenty_kills_of_the_node() {
    let _alone = causeway_tests::alone().await;
    let mut mesh = Mesh::up(&documents(free_port()), &[]).await;
    let back = Back::start(&mesh).await;
    let mut done = 0u64;
    for round in 0..ROUNDS {
        // Every fourth card is declined, so that some sagas are on their way back when the node dies.
        let id = |n: usize| format!("crash-{round}-{n}");
        let starts =
            join_all(
                (0..SAGAS).map(|n| {
                    let (mesh, body) = (&mesh, order(&id(n), if n % 4 == 3 { "4000" } else { "4242" }));
                    async move {
                        mesh.post("/v1/sagas", &body).await.is_ok_and(|answer| answer.status().is_success())
                    }
                }),
            );
        // Another moment each round: from before the first step to after most of them.
        let moment = std::time::Duration::from_millis(7 * round as u64);
        let kill = async {
            tokio::time::sleep(moment).await;
            rustix::process::kill_process(mesh.node.as_ref().unwrap().pid(), rustix::process::Signal::KILL)
                .unwrap();
        };
        let (started, ()) = tokio::join!(starts, kill);
        mesh.kill_node();
        mesh.start_node().await;
        mesh.until_registered("inventory", 2).await;

        for (n, acknowledged) in started.into_iter().enumerate() {
            let path = format!("/v1/sagas/{}", id(n));
            let end = until(&format!("saga {} ends", id(n)), || async {
                match mesh.get(&path).await {
                    // Never acknowledged, never begun.
                    None if !acknowledged => Some("none".to_owned()),
                    saga => saga?["status"]
                        .as_str()
                        .filter(|s| ["done", "undone", "failed"].contains(s))
                        .map(str::to_owned),
                }
            })
            .await;
            let wanted: &[&str] = if n % 4 == 3 { &["undone", "failed", "none"] } else { &["done", "none"] };
            assert!(wanted.contains(&end.as_str()), "round {round}, saga {n}: {end}");
            assert!(!(acknowledged && end == "none"), "round {round}: an acknowledged saga is lost");
            done += u64::from(end == "done");
        }
        let stock = ask(&mesh, back.inventory[0].1, "/stock").await;
        let ledger = ask(&mesh, back.payments.1, "/ledger").await;
        assert_eq!(stock["tea"]["reserved"], done, "round {round}");
        assert_eq!(ledger["balance"], done * 5, "round {round}");
    }
    assert!(
        done > (ROUNDS * SAGAS / 10) as u64,
        "only {done} sagas were done: the kills came too early to test anything"
    );
    until("every placed order has its mail", || async {
        (ask(&mesh, back.mail.1, "/mails").await["count"] == done).then_some(())
    })
    .await;
}
