use std::collections::BTreeSet;
use std::time::Duration;

use causeway_model::Kind;
use proptest::prelude::*;

use super::*;
use crate::project::wanted;
use crate::stream::Machine;
use crate::testing::*;

const NOW: Duration = Duration::from_secs(1);

fn reader(role: Role, last: Option<Picture>) -> Reader {
    Reader::new("test".into(), role, BTreeSet::new(), last)
}

fn machine(lineage: &str) -> Machine {
    Machine::new(service("a"), lineage.into())
}

/// Lets both talk until there is nothing more to say.
fn quiet(
    reader: &mut Reader,
    machine: &mut Machine,
    snapshot: &Arc<Snapshot>,
    first: Vec<DeltaDiscoveryRequest>,
) {
    let mut requests = first;
    loop {
        for request in std::mem::take(&mut requests) {
            machine.hear(NOW, request).unwrap();
        }
        for message in machine.speak(NOW, snapshot) {
            check_is_news(reader, &message);
            requests.extend(reader.hear(message));
        }
        if requests.is_empty() {
            return;
        }
    }
}

/// Nothing is sent that the reader has already.
fn check_is_news(reader: &Reader, message: &DeltaDiscoveryResponse) {
    let lineage = &message.control_plane.as_ref().unwrap().identifier;
    if reader.lineage.as_ref() != Some(lineage) {
        return;
    }
    for told in &message.resources {
        let key = resource::parse_name(ResourceType::find(&message.type_url).unwrap(), &told.name).unwrap();
        let revision = resource::parse_version(lineage, &told.version);
        assert_ne!(
            resource::revision(&reader.snapshot, &key),
            revision,
            "{} was resent unchanged",
            told.name
        );
    }
}

/// What should be asked for, found by going round until nothing is added.
fn reachable(role: &Role, wants: &BTreeSet<ServiceKey>, snapshot: &Snapshot) -> BTreeSet<Subscription> {
    let mut all: BTreeSet<Subscription> = role.subscriptions().into_iter().collect();
    all.extend(wants.iter().flat_map(upstream));
    loop {
        let before = all.len();
        for object in snapshot.objects() {
            if let Some(lead) = lead(object)
                && lead.by.iter().any(|by| all.contains(by))
                && (object.key.kind == Kind::HttpRoute || all.contains(&service_of(object)))
            {
                all.extend(lead.to);
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

fn service_of(object: &Object) -> Subscription {
    Subscription::Service(ServiceKey::new(object.key.namespace.clone(), object.key.name.clone()))
}

fn content(snapshot: &Snapshot) -> BTreeMap<ResourceKey, Revision> {
    let objects = snapshot.objects().map(|o| (ResourceKey::Object(o.key.clone()), o.revision));
    let instances = snapshot.instances().map(|i| (ResourceKey::Instance(i.key.clone()), i.revision));
    let list = resource::revision(snapshot, &ResourceKey::Revocations);
    objects.chain(instances).chain(list.map(|at| (ResourceKey::Revocations, at))).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Edit(Edit),
    Want(u8),
    Quiet,
    /// The stream breaks after so many messages and is opened again.
    Break(u8),
    Publish,
    /// The process ends and starts with its picture as it was written down.
    Restart,
    OtherLineage,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Edit::any().prop_map(Step::Edit),
        1 => any::<u8>().prop_map(Step::Want),
        3 => Just(Step::Quiet),
        2 => (0..6u8).prop_map(Step::Break),
        2 => Just(Step::Publish),
        1 => Just(Step::Restart),
        1 => Just(Step::OtherLineage),
    ]
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Sidecar(service("a"))), Just(Role::Gateway(service("a")))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever changes, breaks and starts again: a settled reader has exactly what can be reached from its role and wants,
    /// its published pictures' revisions only grow, and `changes_since` leads from each to the next.
    #[test]
    fn a_settled_reader_has_what_it_can_reach(
        role in any_role(),
        steps in proptest::collection::vec(any_step(), 1..40),
    ) {
        let mut lineage = 0;
        let mut reader = reader(role.clone(), None);
        let mut machine = machine("0");
        let mut snapshot = Arc::new(Snapshot::default());
        let mut last = reader.publish();
        let first = reader.connect();
        quiet(&mut reader, &mut machine, &snapshot, first);
        for step in steps.into_iter().chain([Step::Quiet, Step::Publish]) {
            match step {
                Step::Edit(edit) => edit.apply(Arc::make_mut(&mut snapshot)),
                Step::Want(n) => {
                    reader.want(service(some_name(n)));
                    let first = reader.ask();
                    quiet(&mut reader, &mut machine, &snapshot, first);
                }
                Step::Quiet => {
                    quiet(&mut reader, &mut machine, &snapshot, vec![]);
                    prop_assert!(reader.is_settled());
                    prop_assert_eq!(machine.rejected().count(), 0);
                    let desired = reachable(&role, &reader.wants, &snapshot);
                    prop_assert_eq!(&reader.desired, &desired);
                    prop_assert_eq!(content(&reader.snapshot), wanted(&snapshot, &desired));
                    prop_assert_eq!(reader.snapshot.revocations(), snapshot.revocations());
                    prop_assert_eq!(machine.acknowledged(), snapshot.revision());
                }
                Step::Break(after) => {
                    let messages = machine.speak(NOW, &snapshot);
                    for message in messages.into_iter().take(after.into()) {
                        reader.hear(message);
                    }
                    machine = self::machine(&lineage.to_string());
                    let first = reader.connect();
                    quiet(&mut reader, &mut machine, &snapshot, first);
                }
                Step::Publish => {
                    let next = reader.publish();
                    prop_assert!(next.snapshot.revision() >= last.snapshot.revision());
                    if let Some(changes) = next.snapshot.changes_since(last.snapshot.revision()) {
                        let mut patched = content(&last.snapshot);
                        for (_, key) in changes {
                            match resource::revision(&next.snapshot, key) {
                                Some(revision) => _ = patched.insert(key.clone(), revision),
                                None => _ = patched.remove(key),
                            }
                        }
                        prop_assert_eq!(patched, content(&next.snapshot));
                    }
                    last = next;
                }
                Step::Restart => {
                    let bytes = reader.publish().to_bytes();
                    let picture = Picture::from_bytes(&bytes).unwrap();
                    prop_assert_eq!(content(&picture.snapshot), content(&reader.snapshot));
                    prop_assert_eq!(picture.snapshot.revocations(), reader.snapshot.revocations());
                    let wants = reader.wants.clone();
                    reader = Reader::new("test".into(), role.clone(), wants, Some(picture));
                    machine = self::machine(&lineage.to_string());
                    let first = reader.connect();
                    quiet(&mut reader, &mut machine, &snapshot, first);
                    last = reader.publish();
                }
                Step::OtherLineage => {
                    // Another registry with the same content and other numbers, lower ones among them.
                    lineage += 1;
                    let mut other = Snapshot::default();
                    for object in snapshot.objects() {
                        let revision = other.revision().next();
                        other.put_object(Arc::new(Object { revision, ..(**object).clone() }));
                    }
                    for instance in snapshot.instances() {
                        let mut instance = (**instance).clone();
                        instance.revision = other.revision().next();
                        other.put_instance(Arc::new(instance));
                    }
                    snapshot = Arc::new(other);
                    machine = self::machine(&lineage.to_string());
                    let first = reader.connect();
                    quiet(&mut reader, &mut machine, &snapshot, first);
                }
            }
        }
    }
}

#[test]
fn what_does_not_decode_is_rejected_and_the_last_good_one_stays() {
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::Service, "a", subset(None), 1));
    snapshot.put_object(object(Kind::AccessPolicy, "p", policy(&["a"]), 2));
    let mut snapshot = Arc::new(snapshot);
    let (mut reader, mut machine) = (reader(Role::Sidecar(service("a")), None), machine("0"));
    let first = reader.connect();
    quiet(&mut reader, &mut machine, &snapshot, first);
    let now = Arc::make_mut(&mut snapshot);
    now.put_object(object(Kind::AccessPolicy, "p", policy(&["a", "b"]), 3));
    now.put_object(object(Kind::AccessPolicy, "q", policy(&["a"]), 4));
    let mut messages = machine.speak(NOW, &snapshot);
    assert_eq!(messages[0].resources[0].name, "default/p");
    messages[0].resources[0].resource.as_mut().unwrap().value = "nonsense".into();
    let answers = reader.hear(messages.remove(0));
    assert!(answers[0].error_detail.as_ref().unwrap().message.contains("default/p"));
    quiet(&mut reader, &mut machine, &snapshot, answers);
    let names: Vec<String> =
        content(&reader.snapshot).iter().map(|(k, r)| format!("{} {r}", resource::name(k))).collect();
    assert_eq!(names, ["default/a 1", "default/p 2", "default/q 4"]);
    let rejected: Vec<u64> = machine.rejected().map(|r| r.revision.get()).collect();
    assert_eq!(rejected, [3]);
}

/// What a policy says that cannot be read is not known, but that it guards us is.
#[test]
fn a_policy_that_does_not_decode_and_never_did_closes() {
    let (mut reader, mut machine) = (reader(Role::Sidecar(service("a")), None), machine("0"));
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::AccessPolicy, "p", policy(&["a", "b"]), 3));
    let snapshot = Arc::new(snapshot);
    for request in reader.connect() {
        machine.hear(NOW, request).unwrap();
    }
    let mut messages = machine.speak(NOW, &snapshot);
    let damaged = messages.iter_mut().find(|message| !message.resources.is_empty()).unwrap();
    damaged.resources[0].resource.as_mut().unwrap().value = "nonsense".into();
    let mut answers = Vec::new();
    messages.into_iter().for_each(|message| answers.extend(reader.hear(message)));
    quiet(&mut reader, &mut machine, &snapshot, answers);
    let held = reader.publish().snapshot;
    let Spec::AccessPolicy(guard) = &held.objects_of(Kind::AccessPolicy).next().unwrap().spec else {
        panic!("no policy")
    };
    assert_eq!((&guard.targets, guard.allow.len(), guard.is_dry_run), (&vec![service("a")], 0, false));
    assert!(guard.broken.as_ref().unwrap().contains("CW-1606"), "{guard:?}");
    // The next stream brings the real one.
    let mut machine = self::machine("0");
    let first = reader.connect();
    quiet(&mut reader, &mut machine, &snapshot, first);
    let held = reader.publish().snapshot;
    let Spec::AccessPolicy(guard) = &held.objects_of(Kind::AccessPolicy).next().unwrap().spec else {
        panic!("no policy")
    };
    assert_eq!((guard.targets.len(), &guard.broken), (2, &None));
}

#[test]
fn damaged_pictures_are_refused() {
    let mut reader = reader(Role::Sidecar(service("a")), None);
    let mut machine = machine("0");
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::Service, "a", subset(None), 7));
    let first = reader.connect();
    quiet(&mut reader, &mut machine, &Arc::new(snapshot), first);
    let bytes = reader.publish().to_bytes().to_vec();
    assert!(Picture::from_bytes(&bytes).is_ok());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(Picture::from_bytes(&damaged).is_err(), "byte {at}");
        assert!(Picture::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn what_a_push_leads_to_is_asked_for_before_it_is_acknowledged() {
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::HttpRoute, "r", route(&[(ParentKind::Gateway, "a")], &["b"]), 1));
    let snapshot = Arc::new(snapshot);
    let (mut reader, mut machine) = (reader(Role::Gateway(service("a")), None), machine("0"));
    for request in reader.connect() {
        machine.hear(NOW, request).unwrap();
    }
    // A push of several types takes several rounds: what is under way is bounded.
    let answers = loop {
        let messages = machine.speak(NOW, &snapshot);
        assert!(!messages.is_empty(), "the push ended and nothing was asked for");
        let answers: Vec<_> = messages.into_iter().flat_map(|message| reader.hear(message)).collect();
        if answers.iter().any(|answer| !answer.resource_names_subscribe.is_empty()) {
            break answers;
        }
        answers.into_iter().for_each(|answer| drop(machine.hear(NOW, answer).unwrap()));
    };
    assert!(!reader.is_settled(), "the backend is not known yet");
    let asks = answers.iter().rposition(|answer| !answer.resource_names_subscribe.is_empty()).unwrap();
    let last = answers.iter().rposition(|answer| !answer.response_nonce.is_empty()).unwrap();
    assert!(asks < last, "{answers:?}");
}

#[test]
fn a_picture_of_nothing_is_told_from_no_picture() {
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::Service, "elsewhere", subset(None), 7));
    let (mut reader, mut machine) = (reader(Role::Sidecar(service("a")), None), machine("0"));
    let first = reader.connect();
    quiet(&mut reader, &mut machine, &Arc::new(snapshot), first);
    assert!(content(&reader.snapshot).is_empty());
    assert_eq!(reader.publish().snapshot.revision(), Revision::new(7));
}
