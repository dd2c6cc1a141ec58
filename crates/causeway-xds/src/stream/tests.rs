use std::collections::BTreeSet;

use causeway_model::{Kind, ParentKind, Spec};
use proptest::prelude::*;

use super::*;
use crate::project::wanted;
use crate::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::testing::*;

const NOW: Duration = Duration::from_secs(1);

/// The other end: applies what it is told, and knows what it asked for.
#[derive(Default)]
struct Client {
    has: BTreeMap<ResourceKey, Revision>,
    asked: BTreeSet<Subscription>,
    unanswered: BTreeSet<Subscription>,
    unacknowledged: VecDeque<(String, String)>,
}

impl Client {
    fn apply(&mut self, message: DeltaDiscoveryResponse) {
        assert!(message.encoded_len() <= MESSAGE_BYTES_MAX);
        let kind = ResourceType::find(&message.type_url).unwrap();
        for told in message.resources {
            let key = resource::parse_name(kind, &told.name).unwrap();
            resource::decode(&key, &told.resource.unwrap().value).unwrap();
            let revision = resource::parse_version("l", &told.version).unwrap();
            assert_ne!(self.has.insert(key, revision), Some(revision), "{} was resent unchanged", told.name);
        }
        for name in message.removed_resources {
            let key = resource::parse_name(kind, &name).unwrap();
            assert!(self.has.remove(&key).is_some(), "{name} was removed and not there");
        }
        for name in message.answered {
            self.unanswered.remove(&Subscription::parse(kind, &name).unwrap());
        }
        self.unacknowledged.push_back((message.type_url, message.nonce));
    }

    fn subscribe(&mut self, subscription: &Subscription) -> DeltaDiscoveryRequest {
        self.asked.insert(subscription.clone());
        self.unanswered.insert(subscription.clone());
        subscribe(subscription)
    }

    fn unsubscribe(&mut self, subscription: &Subscription) -> DeltaDiscoveryRequest {
        self.asked.remove(subscription);
        self.unanswered.remove(subscription);
        DeltaDiscoveryRequest {
            type_url: subscription.resource_type().url().into(),
            resource_names_unsubscribe: vec![subscription.to_string()],
            ..Default::default()
        }
    }

    /// The first requests of a new stream.
    fn resume(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.unacknowledged.clear();
        self.unanswered = self.asked.clone();
        let of = |kind| {
            let names: Vec<String> =
                self.asked.iter().filter(|s| s.resource_type() == kind).map(ToString::to_string).collect();
            let has = self.has.iter().filter(|(key, _)| ResourceType::of(key) == Some(kind));
            DeltaDiscoveryRequest {
                type_url: kind.url().into(),
                resource_names_subscribe: names,
                initial_resource_versions: has
                    .map(|(key, revision)| (resource::name(key), resource::version("l", *revision)))
                    .collect(),
                ..Default::default()
            }
        };
        ResourceType::ALL.into_iter().map(of).collect()
    }
}

fn subscribe(subscription: &Subscription) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: subscription.resource_type().url().into(),
        resource_names_subscribe: vec![subscription.to_string()],
        ..Default::default()
    }
}

fn acknowledge((type_url, response_nonce): (String, String)) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }
}

fn machine() -> Machine {
    Machine::new(service("a"), "l".into())
}

/// Lets both talk until there is nothing more to say; gives how many messages that took.
fn quiet(machine: &mut Machine, client: &mut Client, snapshot: &Arc<Snapshot>) -> usize {
    let mut count = 0;
    loop {
        for message in machine.speak(NOW, snapshot) {
            count += 1;
            client.apply(message);
        }
        let Some(ack) = client.unacknowledged.pop_front() else { return count };
        machine.hear(NOW, acknowledge(ack)).unwrap();
    }
}

/// What the client should have: of secrets only those of the gateway it is (`a`).
fn should_have(snapshot: &Snapshot, asked: &BTreeSet<Subscription>) -> BTreeMap<ResourceKey, Revision> {
    let is_allowed =
        |s: &&Subscription| !matches!(s, Subscription::SecretsOf(gateway) if *gateway != service("a"));
    wanted(snapshot, &asked.iter().filter(is_allowed).cloned().collect())
}

#[derive(Clone, Debug)]
enum Step {
    Edit(Edit),
    Subscribe(Subscription),
    Unsubscribe(Subscription),
    Speak,
    Acknowledge,
    StaleNonce,
    Reconnect,
    Quiet,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Edit::any().prop_map(Step::Edit),
        5 => any_subscription().prop_map(Step::Subscribe),
        2 => any_subscription().prop_map(Step::Unsubscribe),
        4 => Just(Step::Speak),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::StaleNonce),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Quiet),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever changes, is subscribed to, merged, lost and resumed: what the client ends up with is what its subscriptions
    /// bring, nothing that it had is sent again, and nothing is removed that it did not have.
    #[test]
    fn deltas_lead_to_the_full_state(steps in proptest::collection::vec(any_step(), 1..60)) {
        let (mut machine, mut client) = (machine(), Client::default());
        let mut snapshot = Arc::new(Snapshot::default());
        for step in steps {
            let before = machine.acknowledged();
            match step {
                Step::Edit(edit) => edit.apply(Arc::make_mut(&mut snapshot)),
                Step::Subscribe(s) => _ = machine.hear(NOW, client.subscribe(&s)).unwrap(),
                Step::Unsubscribe(s) => _ = machine.hear(NOW, client.unsubscribe(&s)).unwrap(),
                Step::Speak => machine.speak(NOW, &snapshot).into_iter().for_each(|m| client.apply(m)),
                Step::Acknowledge => if let Some(ack) = client.unacknowledged.pop_front() {
                    machine.hear(NOW, acknowledge(ack)).unwrap();
                },
                Step::StaleNonce => {
                    let url = ResourceType::Service.url().to_owned();
                    machine.hear(NOW, acknowledge((url, "999999".into()))).unwrap();
                }
                Step::Reconnect => {
                    machine = self::machine();
                    for request in client.resume() {
                        machine.hear(NOW, request).unwrap();
                    }
                    continue;
                }
                Step::Quiet => {
                    quiet(&mut machine, &mut client, &snapshot);
                    prop_assert_eq!(&client.has, &should_have(&snapshot, &client.asked));
                }
            }
            prop_assert!(machine.acknowledged() >= before, "acknowledgement never goes back");
            prop_assert!(machine.check_invariants());
        }
        machine.hear(NOW, client.subscribe(&Subscription::Service(service("a")))).unwrap();
        quiet(&mut machine, &mut client, &snapshot);
        prop_assert_eq!(&client.has, &should_have(&snapshot, &client.asked));
        prop_assert!(client.unanswered.is_empty());
        prop_assert_eq!(machine.acknowledged(), snapshot.revision());

        // A reconnect of a client that has everything resends nothing: `Client::apply` would say so.
        let mut again = self::machine();
        for request in client.resume() {
            again.hear(NOW, request).unwrap();
        }
        quiet(&mut again, &mut client, &snapshot);
        prop_assert_eq!(again.counts().1, 0);
        prop_assert_eq!(again.acknowledged(), snapshot.revision());
    }
}

fn world(instances: u64) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    for n in 1..=instances {
        snapshot.put_instance(instance("a", &format!("i{n}"), n));
    }
    Arc::new(snapshot)
}

#[test]
fn a_burst_becomes_two_pushes() {
    let (mut machine, mut client, mut snapshot) = (machine(), Client::default(), world(1));
    machine.hear(NOW, client.subscribe(&Subscription::InstancesOf(service("a")))).unwrap();
    quiet(&mut machine, &mut client, &snapshot);
    let pushes = machine.counts().0;
    let mut first = Vec::new();
    for n in 0..1000 {
        Arc::make_mut(&mut snapshot).put_instance(instance("a", "i1", n + 2));
        first.extend(machine.speak(NOW, &snapshot));
    }
    assert_eq!(first.len(), 1, "the first change went out at once, the others wait");
    assert_eq!(first[0].system_version_info, "2");
    first.into_iter().for_each(|message| client.apply(message));
    assert_eq!(machine.acknowledged(), Revision::new(1));
    assert_eq!(quiet(&mut machine, &mut client, &snapshot), 1, "999 changes are one message");
    assert_eq!(machine.counts().0 - pushes, 2);
    assert_eq!(machine.acknowledged(), Revision::new(1001));
}

#[test]
fn a_large_push_is_cut_and_paced_by_acknowledgements() {
    let (mut machine, mut client, snapshot) = (machine(), Client::default(), world(60_000));
    machine.hear(NOW, client.subscribe(&Subscription::InstancesOf(service("a")))).unwrap();
    let first = machine.speak(NOW, &snapshot);
    assert_eq!(first.len(), WINDOW);
    assert!(first.iter().all(|message| message.has_more && message.answered.is_empty()));
    assert!(machine.speak(NOW, &snapshot).is_empty(), "the window is full");
    assert_eq!(machine.overdue_at(), Some(NOW + ACK_TIME_MAX));
    first.into_iter().for_each(|message| client.apply(message));
    quiet(&mut machine, &mut client, &snapshot);
    assert_eq!(client.has.len(), 60_000);
    assert!(client.unanswered.is_empty());
    assert_eq!(machine.overdue_at(), None);
}

#[test]
fn a_client_that_does_not_use_the_change_has_acknowledged_it_at_once() {
    let (mut machine, mut client, mut snapshot) = (machine(), Client::default(), world(1));
    machine.hear(NOW, client.subscribe(&Subscription::InstancesOf(service("b")))).unwrap();
    quiet(&mut machine, &mut client, &snapshot);
    Arc::make_mut(&mut snapshot).put_instance(instance("a", "i1", 9));
    assert!(machine.speak(NOW, &snapshot).is_empty());
    assert_eq!(machine.acknowledged(), Revision::new(9));
}

#[test]
fn nothing_is_acknowledged_while_what_it_led_to_is_owed() {
    let (mut machine, mut client) = (machine(), Client::default());
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::HttpRoute, "r", route(&[(ParentKind::Gateway, "a")], &["b"]), 1));
    let snapshot = Arc::new(snapshot);
    machine.hear(NOW, client.subscribe(&Subscription::RoutesOf(ParentKind::Gateway, service("a")))).unwrap();
    machine.speak(NOW, &snapshot).into_iter().for_each(|message| client.apply(message));
    machine.hear(NOW, client.subscribe(&Subscription::InstancesOf(service("b")))).unwrap();
    machine.hear(NOW, acknowledge(client.unacknowledged.pop_front().unwrap())).unwrap();
    assert_eq!(machine.acknowledged(), Revision::default());
    quiet(&mut machine, &mut client, &snapshot);
    assert_eq!(machine.acknowledged(), Revision::new(1));
}

#[test]
fn a_rejection_is_kept_until_a_better_one_is_taken() {
    let (mut machine, mut client, mut snapshot) = (machine(), Client::default(), world(2));
    machine.hear(NOW, client.subscribe(&Subscription::InstancesOf(service("a")))).unwrap();
    machine.speak(NOW, &snapshot).into_iter().for_each(|message| client.apply(message));
    let rejected = proto::RejectedResource { name: "default/a/i2".into(), reason: "odd".into() };
    let detail = proto::Any { type_url: proto::REJECTED_URL.into(), value: rejected.encode_to_vec().into() };
    let status = proto::RpcStatus { code: 3, message: "1 rejected".into(), details: vec![detail] };
    let mut nack = acknowledge(client.unacknowledged.pop_front().unwrap());
    nack.error_detail = Some(status);
    let heard = machine.hear(NOW, nack).unwrap();
    assert_eq!(heard.rejected, 1);
    let seen: Vec<_> = machine.rejected().map(|r| (resource::name(&r.resource), r.reason.clone())).collect();
    assert_eq!(seen, [("default/a/i2".to_owned(), "odd".to_owned())]);
    assert!(machine.speak(NOW, &snapshot).is_empty(), "a rejected resource is not sent again as it is");
    Arc::make_mut(&mut snapshot).put_instance(instance("a", "i2", 3));
    quiet(&mut machine, &mut client, &snapshot);
    assert_eq!(machine.rejected().count(), 0);
}

#[test]
fn secrets_go_only_to_the_gateway_that_names_them() {
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::Gateway, "a", gateway(&[("default", "cert"), ("other", "cert")]), 1));
    snapshot.put_object(object(Kind::Gateway, "b", gateway(&[("default", "more")]), 2));
    for (n, name) in ["cert", "more", "none"].into_iter().enumerate() {
        snapshot.put_object(object(Kind::Secret, name, secret(), n as u64 + 3));
    }
    let snapshot = Arc::new(snapshot);
    let (mut machine, mut client) = (machine(), Client::default());
    let heard = machine.hear(NOW, client.subscribe(&Subscription::SecretsOf(service("b")))).unwrap();
    assert_eq!(heard.denied, [Subscription::SecretsOf(service("b"))]);
    machine.hear(NOW, client.subscribe(&Subscription::SecretsOf(service("a")))).unwrap();
    quiet(&mut machine, &mut client, &snapshot);
    assert_eq!(client.has.keys().map(resource::name).collect::<Vec<_>>(), ["default/cert"]);
    assert!(client.unanswered.is_empty(), "the other is answered, with nothing");
}

#[test]
fn a_gateway_that_names_another_secret_gets_it() {
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::Secret, "old", secret(), 1));
    snapshot.put_object(object(Kind::Secret, "new", secret(), 2));
    snapshot.put_object(object(Kind::Gateway, "a", gateway(&[("default", "old")]), 3));
    let (mut machine, mut client, mut snapshot) = (machine(), Client::default(), Arc::new(snapshot));
    machine.hear(NOW, client.subscribe(&Subscription::SecretsOf(service("a")))).unwrap();
    quiet(&mut machine, &mut client, &snapshot);
    assert_eq!(client.has.keys().map(resource::name).collect::<Vec<_>>(), ["default/old"]);
    let change = object(Kind::Gateway, "a", gateway(&[("default", "new")]), 4);
    Arc::make_mut(&mut snapshot).put_object(change);
    quiet(&mut machine, &mut client, &snapshot);
    assert_eq!(client.has.keys().map(resource::name).collect::<Vec<_>>(), ["default/new"]);
}

#[test]
fn a_secret_of_another_namespace_is_not_a_gateways_to_have() {
    let mut snapshot = Snapshot::default();
    let mut foreign = (*object(Kind::Secret, "cert", secret(), 1)).clone();
    foreign.key.namespace = causeway_model::Name::new("other").unwrap();
    snapshot.put_object(Arc::new(foreign));
    snapshot.put_object(object(Kind::Gateway, "a", gateway(&[("other", "cert")]), 2));
    let (mut machine, mut client) = (machine(), Client::default());
    machine.hear(NOW, client.subscribe(&Subscription::SecretsOf(service("a")))).unwrap();
    quiet(&mut machine, &mut client, &Arc::new(snapshot));
    assert!(client.has.is_empty());
}

#[test]
fn what_is_too_large_is_left_out_and_said() {
    let mut snapshot = Snapshot::default();
    let mut big = (*instance("a", "big", 1)).clone();
    big.metadata.insert("x".into(), "y".repeat(RESOURCE_BYTES_MAX));
    snapshot.put_instance(Arc::new(big));
    snapshot.put_instance(instance("a", "small", 2));
    let (mut machine, mut client, snapshot) = (machine(), Client::default(), Arc::new(snapshot));
    machine.hear(NOW, client.subscribe(&Subscription::InstancesOf(service("a")))).unwrap();
    quiet(&mut machine, &mut client, &snapshot);
    assert_eq!(client.has.keys().map(resource::name).collect::<Vec<_>>(), ["default/a/small"]);
    let reason = machine.rejected().next().unwrap().reason.clone();
    assert!(reason.contains(code::TOO_LARGE), "{reason}");
}

#[test]
fn what_makes_no_sense_ends_the_stream() {
    let ask = |url: &str, name: &str| DeltaDiscoveryRequest {
        type_url: url.into(),
        resource_names_subscribe: vec![name.into()],
        ..Default::default()
    };
    let envoy = ask("type.googleapis.com/envoy.config.cluster.v3.Cluster", "*");
    assert!(matches!(machine().hear(NOW, envoy), Err(Refusal::UnknownType(_))));
    let wildcard = ask(ResourceType::Service.url(), "*");
    assert!(matches!(machine().hear(NOW, wildcard), Err(Refusal::NotUnderstood(_))));
    let many = DeltaDiscoveryRequest {
        type_url: ResourceType::Service.url().into(),
        resource_names_subscribe: (0..=SUBSCRIPTIONS_MAX).map(|n| format!("default/s{n}")).collect(),
        ..Default::default()
    };
    assert!(matches!(machine().hear(NOW, many), Err(Refusal::TooMany { .. })));
}

#[test]
fn another_lineage_is_sent_again_in_full() {
    let (mut first, mut client, snapshot) = (machine(), Client::default(), world(3));
    first.hear(NOW, client.subscribe(&Subscription::InstancesOf(service("a")))).unwrap();
    quiet(&mut first, &mut client, &snapshot);
    let mut other = Machine::new(service("a"), "m".into());
    for request in client.resume() {
        other.hear(NOW, request).unwrap();
    }
    let resent: usize = other.speak(NOW, &snapshot).iter().map(|message| message.resources.len()).sum();
    assert_eq!(resent, 3);
}

#[test]
fn policies_reach_whoever_they_guard_by_name_by_namespace_or_as_a_whole() {
    let mut snapshot = Snapshot::default();
    snapshot.put_object(object(Kind::AccessPolicy, "own", policy(&["a"]), 1));
    snapshot.put_object(object(Kind::AccessPolicy, "other", policy(&["b"]), 2));
    snapshot.put_object(object(Kind::Service, "a-v2", subset(Some("a")), 3));
    snapshot.put_object(object(Kind::AccessPolicy, "part", policy(&["a-v2"]), 4));
    for (n, namespace) in ["default", "elsewhere"].into_iter().enumerate() {
        let namespaces = vec![causeway_model::Name::new(namespace).unwrap()];
        let whole = causeway_model::AccessPolicy { namespaces, ..Default::default() };
        snapshot.put_object(object(Kind::AccessPolicy, namespace, Spec::AccessPolicy(whole), n as u64 + 5));
    }
    let snapshot = Arc::new(snapshot);
    let (mut machine, mut client) = (machine(), Client::default());
    machine.hear(NOW, client.subscribe(&Subscription::PoliciesOf(service("a")))).unwrap();
    let mut guarded = Vec::new();
    for message in machine.speak(NOW, &snapshot) {
        for told in &message.resources {
            let key = resource::parse_name(ResourceType::AccessPolicy, &told.name).unwrap();
            let decoded = resource::decode(&key, &told.resource.as_ref().unwrap().value).unwrap();
            let resource::Decoded::Object(object) = decoded else { panic!("not an object") };
            let Spec::AccessPolicy(policy) = &object.spec else { panic!("not a policy") };
            let is_by_name = policy.targets.contains(&service("a"));
            guarded.push((object.key.name.to_string(), is_by_name));
        }
        client.apply(message);
    }
    guarded.sort();
    let expected = [("default", false), ("own", true), ("part", true)];
    assert_eq!(guarded, expected.map(|(name, is_by_name)| (name.to_owned(), is_by_name)));
}
