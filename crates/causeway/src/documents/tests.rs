//! Files as people and tools save them, over a real registry. Time is paused: `SETTLE` passes when a test says so.

use std::sync::Arc;

use causeway_base::Clock;
use causeway_model::{Kind, Snapshot};
use causeway_registry::Options;
use causeway_store::{Faults, Store};

use super::*;

struct House {
    dir: tempfile::TempDir,
    registry: Registry,
    reader: Reader,
    _scope: Scope,
}

fn topic(name: &str, dedupe: &str) -> String {
    format!(
        "---\napiVersion: causeway.dev/v1\nkind: Topic\nmetadata: {{name: {name}}}\nspec: {{dedupe: {dedupe}}}\n"
    )
}

impl House {
    async fn new(files: &[(&str, &str)]) -> House {
        let scope = Scope::root("test");
        let store = Store::memory(Faults::none());
        let registry =
            Registry::open(store, Clock::simulated(), Options::default(), &Default::default(), &scope)
                .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let reader = Reader::new(vec![dir.path().to_path_buf()], registry.clone(), Clock::simulated());
        let mut house = House { dir, registry, reader, _scope: scope };
        files.iter().for_each(|(name, text)| house.save(name, text));
        house.look().await;
        house
    }

    fn save(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    /// A notice comes.
    async fn look(&mut self) {
        self.reader.look().await;
    }

    /// Nothing comes for a while.
    async fn settle(&mut self) {
        for _ in 0..3 {
            tokio::time::advance(SETTLE).await;
            self.reader.look().await;
        }
    }

    /// A process that starts anew over the same registry and files.
    async fn restart(&mut self) {
        self.reader = Reader::new(self.reader.paths.clone(), self.registry.clone(), Clock::simulated());
        self.look().await;
    }

    /// `name@file`, sorted.
    fn topics(&self) -> Vec<String> {
        let picture: Arc<Snapshot> = self.registry.snapshot();
        let shown = picture.objects_of(Kind::Topic).map(|object| match &object.origin {
            Origin::File { path, .. } => {
                format!("{}@{}", object.key.name, Path::new(path).file_name().unwrap().display())
            }
            _ => format!("{}@elsewhere", object.key.name),
        });
        let mut shown: Vec<String> = shown.collect();
        shown.sort();
        shown
    }

    fn has(&self, name: &str) -> bool {
        self.topics().iter().any(|shown| shown.starts_with(&format!("{name}@")))
    }

    fn revision(&self) -> u64 {
        self.registry.snapshot().revision().get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_being_saved_loses_nothing() {
    let mut house = House::new(&[("a.yaml", &topic("one", "1h"))]).await;
    // Truncated, and looked at before it is written; moved away by an editor; half written.
    for torn in ["", "---\napiVersion: causeway.dev/v1\nkind: To"] {
        house.save("a.yaml", torn);
        house.look().await;
        assert_eq!(house.topics(), ["one@a.yaml"]);
        house.remove("a.yaml");
        house.look().await;
        assert_eq!(house.topics(), ["one@a.yaml"]);
        house.save("a.yaml", &topic("one", "2h"));
        house.look().await;
        house.settle().await;
        assert_eq!(house.topics(), ["one@a.yaml"]);
    }
    assert!(house.reader.said().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_file_no_longer_says_goes_when_it_has_settled() {
    let mut house = House::new(&[
        ("a.yaml", &[topic("one", "1h"), topic("two", "1h")].concat()),
        ("b.yaml", &topic("three", "1h")),
    ])
    .await;
    house.save("a.yaml", &topic("one", "1h"));
    house.remove("b.yaml");
    house.look().await;
    house.settle().await;
    assert_eq!(house.topics(), ["one@a.yaml"]);
    let before = house.revision();
    house.settle().await;
    assert_eq!(house.revision(), before, "looking alone changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_document_moves_between_files_without_a_gap() {
    for (from, to) in [("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")] {
        let mut house = House::new(&[
            (from, &[topic("one", "1h"), topic("two", "1h")].concat()),
            (to, &topic("three", "1h")),
        ])
        .await;
        house.save(from, &topic("one", "1h"));
        house.look().await;
        assert!(house.has("two"), "from {from} to {to}");
        house.save(to, &[topic("three", "1h"), topic("two", "1h")].concat());
        house.look().await;
        assert!(house.has("two"), "from {from} to {to}");
        house.settle().await;
        assert_eq!(house.topics(), [format!("one@{from}"), format!("three@{to}"), format!("two@{to}")]);
        assert!(house.reader.said().is_empty(), "{:?}", house.reader.said());
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_places_the_second_takes_over_when_the_first_lets_go() {
    let mut house = House::new(&[("a.yaml", &topic("one", "1h")), ("b.yaml", &topic("one", "2h"))]).await;
    house.settle().await;
    assert_eq!((house.topics(), house.reader.said().len()), (vec!["one@a.yaml".to_owned()], 1));
    house.remove("a.yaml");
    house.look().await;
    house.settle().await;
    assert_eq!((house.topics(), house.reader.said().len()), (vec!["one@b.yaml".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn files_that_went_or_were_renamed_between_two_runs_are_no_ghosts() {
    let mut house = House::new(&[("a.yaml", &topic("one", "1h")), ("b.yaml", &topic("two", "1h"))]).await;
    house.remove("a.yaml");
    house.remove("b.yaml");
    house.save("c.yaml", &topic("two", "1h"));
    house.restart().await;
    house.settle().await;
    assert_eq!((house.topics(), house.reader.said().len()), (vec!["two@c.yaml".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_read_takes_no_other_down() {
    let mut house = House::new(&[("a.yaml", &topic("one", "1h")), ("b.yaml", &topic("two", "1h"))]).await;
    std::fs::write(house.dir.path().join("a.yaml"), b"\xff\xfe\x00").unwrap();
    house.save("b.yaml", &[topic("two", "2h"), topic("three", "1h")].concat());
    house.look().await;
    house.settle().await;
    assert_eq!(house.topics(), ["one@a.yaml", "three@b.yaml", "two@b.yaml"]);
    assert_eq!(house.reader.said().len(), 1);
    house.restart().await;
    house.settle().await;
    assert_eq!(house.topics(), ["one@a.yaml", "three@b.yaml", "two@b.yaml"], "not after a restart either");
    house.save("a.yaml", &topic("one", "1h"));
    house.look().await;
    assert!(house.reader.said().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_file_with_an_error_removes_nothing_until_it_is_mended() {
    let mut house = House::new(&[("a.yaml", &[topic("one", "1h"), topic("two", "1h")].concat())]).await;
    house.save("a.yaml", &[topic("one", "1h"), "---\nkind: Nonsense\n".to_owned()].concat());
    house.look().await;
    house.settle().await;
    assert_eq!(house.topics(), ["one@a.yaml", "two@a.yaml"]);
    assert!(!house.reader.said().is_empty());
    house.save("a.yaml", &topic("one", "1h"));
    house.look().await;
    house.settle().await;
    assert_eq!((house.topics(), house.reader.said().len()), (vec!["one@a.yaml".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_down_is_tried_again() {
    let scope = Scope::root("test");
    let faults = Faults::none();
    let store = Store::memory(faults.clone());
    let registry =
        Registry::open(store, Clock::simulated(), Options::default(), &Default::default(), &scope).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Reader::new(vec![dir.path().to_path_buf()], registry.clone(), Clock::simulated());
    std::fs::write(dir.path().join("a.yaml"), topic("one", "1h")).unwrap();
    faults.full(true);
    assert_eq!(reader.look().await, TRY_AGAIN);
    assert_eq!(reader.said().len(), 1);
    faults.full(false);
    tokio::time::advance(TRY_AGAIN).await;
    reader.look().await;
    assert!(reader.said().is_empty());
    assert_eq!(registry.snapshot().objects_of(Kind::Topic).count(), 1);
}
