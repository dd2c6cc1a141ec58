//! The shop's documents and programs under a node that the test owns.

use causeway_tests::{Mesh, Process};
use serde_json::{Value, json};

/// The demo's documents with the gateway on another port.
pub fn documents(gateway_port: u16) -> String {
    let shop = include_str!("../../examples/shop/config/shop.yaml");
    let orders = include_str!("../../examples/shop/config/orders.yaml");
    format!("{}\n---\n{orders}", shop.replace("port: 8080", &format!("port: {gateway_port}")))
}

/// What a payments, inventory or mail app says of itself, asked at its own port.
pub async fn ask(mesh: &Mesh, port: u16, path: &str) -> Value {
    let url = format!("http://127.0.0.1:{port}{path}");
    mesh.http.get(url).send().await.unwrap().json().await.unwrap()
}

/// The programs behind the till: two inventories, payments, mail.
pub struct Back {
    pub inventory: [(Process, u16); 2],
    pub payments: (Process, u16),
    pub mail: (Process, u16),
}

impl Back {
    pub async fn start(mesh: &Mesh) -> Back {
        let back = Back {
            inventory: [
                mesh.run_shop("inventory", "v1", "inventory-0"),
                mesh.run_shop("inventory", "v1", "inventory-1"),
            ],
            payments: mesh.run_shop("payments", "v1", "payments"),
            mail: mesh.run_shop("mail", "v1", "mail"),
        };
        mesh.until_registered("inventory", 2).await;
        mesh.until_registered("payments", 1).await;
        mesh.until_registered("mail", 1).await;
        back
    }
}

/// Body that starts an order's saga.
pub fn order(id: &str, card: &str) -> Value {
    let input = json!({ "id": id, "sku": "tea", "quantity": 1, "card": card, "amount": 5 });
    json!({ "id": id, "definition": "place-order", "input": input })
}
