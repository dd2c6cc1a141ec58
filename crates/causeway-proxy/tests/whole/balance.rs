//! Who gets the next call: algorithms, places, sessions, parts of a service, and endpoints that fail, hang or are slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::net::BindOptions;
use causeway_base::{OnFailure, Scope, Seed};
use causeway_model::{
    Affinity, Algorithm, Balancer, HashOn, Health, Locality, LocalityMode, Outlier, PolicyTarget, Service,
    ServiceKey, Spec, Subset, TargetKind, TrafficPolicy, TrafficTimeouts,
};
use causeway_proxy::{Proxy, Role};
use causeway_testkit::{Answer, App, Client, House};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::common::*;

/// A policy for the service `app`.
fn for_app() -> TrafficPolicy {
    let ServiceKey { namespace, name } = House::key("app");
    let target = PolicyTarget { kind: TargetKind::Service, namespace, name, section: None };
    TrafficPolicy { targets: vec![target], ..TrafficPolicy::default() }
}

fn balanced(balancer: Balancer) -> Spec {
    Spec::TrafficPolicy(TrafficPolicy { balancer: Some(balancer), ..for_app() })
}

/// A gateway in front of so many instances of `app`.
async fn front(house: &House, instances: usize) -> (Vec<App>, Proxy) {
    let apps = house.service("app", instances);
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    let proxy = start_gateway(house).await;
    (apps, proxy)
}

fn get(fields: &[(&str, &str)]) -> Request<Bytes> {
    let request = Request::get("/").header("host", "h");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Bytes::new()).unwrap()
}

async fn ask(house: &House, fields: &[(&str, &str)]) -> Answer {
    Client::connect(&house.net(), gateway_address()).await.send(get(fields)).await.unwrap()
}

/// Sends so many requests a second for so long, whatever becomes of them; says which instance answered how often, and how many
/// requests had no good answer.
async fn open_loop(house: &House, per_second: u32, seconds: u32) -> (Vec<String>, usize) {
    let answers = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (failed, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let scope = Scope::root("load");
    let count = (per_second * seconds) as usize;
    for _ in 0..count {
        let (net, answers, failed, ended) = (house.net(), answers.clone(), failed.clone(), ended.clone());
        scope.spawn("client", OnFailure::StopNode, async move {
            let mut client = Client::connect(&net, gateway_address()).await;
            match client.send(get(&[])).await {
                Ok(answer) if answer.status == 200 => answers.lock().push(answer.body),
                _ => drop(failed.fetch_add(1, Relaxed)),
            }
            ended.fetch_add(1, Relaxed);
            Ok(())
        });
        tokio::time::sleep(Duration::from_secs(1) / per_second).await;
    }
    until(|| ended.load(Relaxed) == count).await;
    let answers = std::mem::take(&mut *answers.lock());
    (answers, failed.load(Relaxed))
}

#[tokio::test(start_paused = true)]
async fn an_instance_a_hundred_times_slower_gets_less_than_two_percent_of_a_minute() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 3).await;
    apps.iter().for_each(|app| app.delay(Duration::from_millis(5)));
    apps[0].delay(Duration::from_millis(500));
    for _ in 0..2 {
        let before = apps[0].count();
        let (answers, failed) = open_loop(&house, 50, 60).await;
        let slow = apps[0].count() - before;
        assert_eq!((answers.len(), failed), (3_000, 0));
        assert!(slow < 60, "{slow} of 3000");
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_fast_is_out_within_a_second_and_comes_back_within_its_backoff() {
    let house = House::new();
    let (apps, proxy) = front(&house, 3).await;
    apps[0].answer(503);
    let begun = Instant::now();
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    let summary = || proxy.summary().to_string();
    until_async(async || {
        client.send(get(&[])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        summary().contains("\"ejected\":true")
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(summary().contains("5 failures in a row"), "{}", summary());
    let (out, ejected_at) = (apps[0].count(), Instant::now());
    for _ in 0..100 {
        assert_eq!(client.send(get(&[])).await.unwrap().status, 200);
    }
    assert_eq!(apps[0].count(), out, "it is left alone");
    // It is not well yet when it comes back: one request finds out, and it is out again, for longer.
    tokio::time::sleep_until(ejected_at + Duration::from_secs(5)).await;
    for _ in 0..100 {
        client.send(get(&[])).await.unwrap();
    }
    assert_eq!(apps[0].count(), out + 1);
    apps[0].answer(200);
    tokio::time::sleep(Duration::from_secs(10)).await;
    for _ in 0..300 {
        assert_eq!(client.send(get(&[])).await.unwrap().status, 200);
    }
    assert!(apps[0].count() > out + 50, "back within its backoff: {}", apps[0].count() - out);
}

#[tokio::test(start_paused = true)]
async fn failures_count_for_the_service_whichever_route_or_part_of_it_was_called() {
    let house = House::new();
    let apps = house.service("app", 4);
    let part = Subset { of: name("app"), version: Some("2".into()), tags: vec![] };
    house.put("part", Spec::Service(Service { subset: Some(part), ..Service::default() }));
    house.place("app", "app-1", apps[0].address()).version("2").put();
    let rules = ["/a", "/b", "/c", "/d"].map(|path| rule(path, vec![backend("app", 1)]));
    let mut rules = rules.to_vec();
    rules.push(rule("/part", vec![backend("part", 1)]));
    house.put("r", gateway_route(rules));
    let proxy = start_gateway(&house).await;
    apps[0].answer(500);
    // One failure by each route: none of them alone would be enough.
    let mut bad = 0;
    for turn in 0.. {
        let path = ["/a", "/b", "/c", "/d", "/part"][turn % 5];
        let answer = house.ask(gateway_address(), &format!("GET h{path}")).await;
        bad += usize::from(answer.status == 500);
        tokio::time::sleep(Duration::from_millis(1)).await;
        if proxy.summary().to_string().contains("\"ejected\":true") {
            break;
        }
        assert!(turn < 200, "{bad} failures and nobody is ejected");
    }
    assert_eq!(bad, 5);
    let before = apps[0].count();
    for turn in 0..100 {
        let path = ["/a", "/b", "/c", "/d"][turn % 4];
        assert_eq!(house.ask(gateway_address(), &format!("GET h{path}")).await.status, 200);
    }
    assert_eq!(apps[0].count(), before, "out for every route");
    assert_eq!(house.ask(gateway_address(), "GET h/part").await.status, 500, "the part has no other");
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_takes_few_calls_and_none_that_another_could_have_answered() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 3).await;
    apps.iter().for_each(|app| app.delay(Duration::from_millis(5)));
    apps[0].delay(Duration::from_secs(3600));
    let scope = Scope::root("load");
    for _ in 0..3_000 {
        let net = house.net();
        scope.spawn("client", OnFailure::StopNode, async move {
            let _ = Client::connect(&net, gateway_address()).await.send(get(&[])).await;
            Ok(())
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(apps[0].count() < 30, "{} of 3000", apps[0].count());
}

/// An instance `app-9` that begins every answer well, and then breaks it off or stands still.
fn start_unfinished(house: &House, hangs: bool) -> Arc<AtomicUsize> {
    let (address, asked) = (house.address(8080), Arc::new(AtomicUsize::new(0)));
    let mut listener = house.net().bind(address, BindOptions::default()).unwrap();
    house.place("app", "app-9", address).put();
    let (scope, count) = (Scope::root("unfinished"), asked.clone());
    let child = scope.clone();
    scope.spawn("accept", OnFailure::Log, async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            count.fetch_add(1, Relaxed);
            child.spawn("serve", OnFailure::Log, async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await?;
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok(())
            });
        }
    });
    asked
}

#[tokio::test(start_paused = true)]
async fn answers_that_begin_well_and_break_or_hang_eject_too() {
    for hangs in [false, true] {
        let house = House::new();
        let (_apps, proxy) = front(&house, 2).await;
        let asked = start_unfinished(&house, hangs);
        let idle = TrafficTimeouts { idle: Some(Duration::from_millis(100)), ..TrafficTimeouts::default() };
        house.put("p", Spec::TrafficPolicy(TrafficPolicy { timeouts: Some(idle), ..for_app() }));
        caught_up(&house, &proxy).await;
        let mut broken = 0;
        for _ in 0..400 {
            let mut client = Client::connect(&house.net(), gateway_address()).await;
            broken += usize::from(client.send(get(&[])).await.is_err());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!((broken, asked.load(Relaxed)), (5, 5), "hangs: {hangs}");
        let summary = proxy.summary().to_string();
        assert!(summary.contains("\"ejected_for\":\"5 failures in a row\""), "{summary}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_few_are_left_are_not_overrun_below_the_panic_threshold() {
    let house = House::new();
    let (apps, proxy) = front(&house, 4).await;
    let outlier = Outlier { failures: Some(1), max_percent: Some(100), ..Outlier::default() };
    house.put("p", Spec::TrafficPolicy(TrafficPolicy { outlier: Some(outlier), ..for_app() }));
    caught_up(&house, &proxy).await;
    apps[..3].iter().for_each(|app| app.answer(500));
    let ejected = || proxy.summary().to_string().matches("\"ejected\":true").count();
    until_async(async || {
        ask(&house, &[]).await;
        ejected() == 3
    })
    .await;
    apps[..3].iter().for_each(|app| app.answer(200));
    let before: Vec<_> = apps.iter().map(App::count).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..400 {
        assert_eq!(ask(&house, &[]).await.status, 200);
    }
    let took: Vec<_> = apps.iter().zip(before).map(|(app, before)| app.count() - before).collect();
    assert!(took.iter().all(|count| *count > 50), "one of four is below half: all are used, {took:?}");
    assert!(proxy.summary().to_string().contains("\"panic\":true"));
}

// === algorithms ===

#[tokio::test(start_paused = true)]
async fn a_change_of_policy_changes_who_is_chosen_and_weights_hold_with_every_algorithm() {
    let house = House::new();
    let (apps, proxy) = front(&house, 2).await;
    house.place("app", "app-1", apps[0].address()).with(|instance| instance.weight = 300).put();
    for algorithm in [
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::RingHash,
        Algorithm::Maglev,
    ] {
        let hash = Some(HashOn::Header("x-user".into()));
        house.put("p", balanced(Balancer { algorithm, hash, ..Balancer::default() }));
        caught_up(&house, &proxy).await;
        let before = apps[0].count();
        for user in 0..400 {
            ask(&house, &[("x-user", &user.to_string())]).await;
        }
        let first = apps[0].count() - before;
        assert!((255..345).contains(&first), "{algorithm:?}: {first} of 400");
        if algorithm == Algorithm::RoundRobin {
            assert_eq!(first, 300);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_canary_by_version_gets_its_share_with_every_algorithm_and_shares_its_vitals_with_the_whole() {
    let house = House::new();
    let apps = house.service("app", 4);
    house.place("app", "app-4", apps[3].address()).version("2").put();
    for (part, version) in [("stable", ""), ("canary", "2")] {
        let subset = Subset { of: name("app"), version: Some(version.into()), tags: vec![] };
        house.put(part, Spec::Service(Service { subset: Some(subset), ..Service::default() }));
    }
    house.put("r", gateway_route(vec![rule("/", vec![backend("stable", 90), backend("canary", 10)])]));
    let proxy = start_gateway(&house).await;
    for algorithm in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::Maglev] {
        house.put("p", balanced(Balancer { algorithm, ..Balancer::default() }));
        caught_up(&house, &proxy).await;
        let before = apps[3].count();
        for _ in 0..500 {
            assert_eq!(ask(&house, &[]).await.status, 200);
        }
        let canary = apps[3].count() - before;
        assert!((25..80).contains(&canary), "{algorithm:?}: {canary} of 500");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_key_goes_to_the_same_instance_by_every_proxy_and_through_changes_of_the_plan() {
    let house = House::new();
    let (apps, first) = front(&house, 5).await;
    let hash = Some(HashOn::Header("x-user".into()));
    house.put("p", balanced(Balancer { algorithm: Algorithm::Maglev, hash, ..Balancer::default() }));
    house.put("other", gateway(vec![listener("http", 8081, None)]));
    let role = Role::Gateway { key: (name("default"), name("other")), bind: None };
    let mut options = options(&house, role, house.snapshots());
    options.seed = Seed::from_number(7);
    let parents = vec![
        parent(causeway_model::ParentKind::Gateway, "public"),
        parent(causeway_model::ParentKind::Gateway, "other"),
    ];
    house.put("r", route(parents, &[], vec![rule("/", vec![backend("app", 1)])]));
    let second = Proxy::start(options, &Scope::root("other")).await.unwrap();
    let homes = async |port: u16| {
        caught_up(&house, &first).await;
        caught_up(&house, &second).await;
        let mut homes = BTreeMap::new();
        for user in 0..200 {
            let user = user.to_string();
            let at = std::net::SocketAddr::new(gateway_address().ip(), port);
            let mut client = Client::connect(&house.net(), at).await;
            let home = client.send(get(&[("x-user", &user)])).await.unwrap().body;
            homes.insert(user, home);
        }
        homes
    };
    let before = homes(8080).await;
    assert_eq!(before, homes(8081).await, "another proxy, another seed");
    house.withdraw("app", "app-2");
    let after = homes(8080).await;
    let moved = before.iter().filter(|(user, home)| after[*user] != **home).count();
    let lost = before.values().filter(|home| *home == "app-2").count();
    assert!(lost > 20 && moved <= lost + 15, "{moved} moved, {lost} had to");
    house.place("app", "app-2", apps[1].address()).put();
    assert_eq!(before, homes(8081).await, "back as it was");
}

// === places ===

#[tokio::test(start_paused = true)]
async fn calls_stay_in_the_zone_while_it_can_take_them() {
    let house = House::new();
    let apps = house.service("app", 6);
    let places = ["eu/a", "eu/a", "eu/b", "eu/b", "us/a", "us/a"];
    let place = |at: usize, health: Health| {
        let (region, zone) = places[at].split_once('/').unwrap();
        let locality = Locality { region: region.into(), zone: zone.into() };
        house
            .place("app", &format!("app-{}", at + 1), apps[at].address())
            .with(|instance| (instance.locality, instance.health) = (locality, health))
            .put();
    };
    (0..6).for_each(|at| place(at, Health::Passing));
    house.put("r", gateway_route(vec![rule("/", vec![backend("app", 1)])]));
    house.put("p", balanced(Balancer { locality: LocalityMode::Prefer, ..Balancer::default() }));
    house.put("public", gateway(vec![listener("http", 8080, None)]));
    let role = Role::Gateway { key: (name("default"), name("public")), bind: None };
    let mut options = options(&house, role, house.snapshots());
    options.locality = Locality { region: "eu".into(), zone: "a".into() };
    let proxy = Proxy::start(options, &Scope::root("gateway")).await.unwrap();
    let shares = async || {
        caught_up(&house, &proxy).await;
        let before: Vec<_> = apps.iter().map(App::count).collect();
        for _ in 0..400 {
            assert_eq!(ask(&house, &[]).await.status, 200);
        }
        let took: Vec<_> = apps.iter().zip(before).map(|(app, before)| app.count() - before).collect();
        [took[0] + took[1], took[2] + took[3], took[4] + took[5]]
    };
    assert_eq!(shares().await, [400, 0, 0]);
    // Half of the zone is left: it takes 70 percent (1.4 times its part), the region the rest.
    place(0, Health::Critical);
    let spread = shares().await;
    assert!(spread[0].abs_diff(280) < 40 && spread[2] == 0, "{spread:?}");
    place(1, Health::Critical);
    assert_eq!(shares().await, [0, 400, 0]);
    (2..4).for_each(|at| place(at, Health::Critical));
    assert_eq!(shares().await, [0, 0, 400]);
    (0..4).for_each(|at| place(at, Health::Passing));
    assert_eq!(shares().await, [400, 0, 0]);
    let summary = proxy.summary().to_string();
    assert!(
        summary.contains("\"nearness\":\"zone\"") && summary.contains("\"share_percent\":100"),
        "{summary}"
    );
    // One that dies is left at once; its neighbour in the zone takes its calls first.
    apps[0].kill().await;
    let before = apps[1].count();
    for _ in 0..50 {
        assert_eq!(ask(&house, &[]).await.status, 200);
    }
    assert!(apps[1].count() - before > 30);
}

// === sessions ===

fn cookie(max_age: Option<Duration>) -> Affinity {
    Affinity::Cookie { name: "s".into(), max_age, path: None }
}

fn with_sessions(affinity: Affinity) -> Spec {
    Spec::TrafficPolicy(TrafficPolicy { affinity: Some(affinity), ..for_app() })
}

/// `s=TOKEN` of the cookie that an answer sets.
fn pair(answer: &Answer) -> Option<String> {
    answer.header("set-cookie").split(';').next().filter(|pair| !pair.is_empty()).map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn a_client_stays_by_cookie_while_its_instance_takes_calls() {
    let house = House::new();
    let (apps, proxy) = front(&house, 4).await;
    house.put("p", with_sessions(cookie(Some(Duration::from_secs(60)))));
    caught_up(&house, &proxy).await;
    let first = ask(&house, &[]).await;
    let (mine, home) = (pair(&first).unwrap(), first.body.clone());
    let set = first.header("set-cookie");
    assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"), "{set}");
    assert!(!set.contains("app") && !set.contains("10.0"), "says nothing to others: {set}");
    for _ in 0..50 {
        let answer = ask(&house, &[("cookie", &format!("a=1; {mine}"))]).await;
        assert_eq!((answer.body.as_str(), pair(&answer)), (home.as_str(), None));
    }
    // A plan that changes something else, and a proxy that starts anew, change nothing.
    house.put("q", gateway_route(vec![rule("/other", vec![backend("app", 1)])]));
    caught_up(&house, &proxy).await;
    assert_eq!(ask(&house, &[("cookie", &mine)]).await.body, home);
    // It drains: a new one is chosen, and the client stays there from then on.
    let at = apps.iter().position(|app| app.count() > 40).unwrap();
    house
        .place("app", &home, apps[at].address())
        .with(|instance| instance.lifecycle = causeway_model::Lifecycle::Draining)
        .put();
    caught_up(&house, &proxy).await;
    let moved = ask(&house, &[("cookie", &mine)]).await;
    let theirs = pair(&moved).unwrap();
    assert_ne!((&theirs, &moved.body), (&mine, &home));
    for _ in 0..20 {
        assert_eq!(ask(&house, &[("cookie", &theirs)]).await.body, moved.body);
    }
    assert_ne!(ask(&house, &[("cookie", "s=AAAAAAAAAAAAAAAA")]).await.header("set-cookie"), "");
}

#[tokio::test(start_paused = true)]
async fn a_session_outlives_a_failing_instance_and_is_kept_by_two_gateways_alike() {
    let house = House::new();
    let (apps, _proxy) = front(&house, 3).await;
    house.put("p", with_sessions(cookie(None)));
    let again = Proxy::start(
        {
            house.put("other", gateway(vec![listener("http", 8081, None)]));
            let role = Role::Gateway { key: (name("default"), name("other")), bind: None };
            let mut options = options(&house, role, house.snapshots());
            options.credentials = Some(house.credentials("other"));
            options
        },
        &Scope::root("other"),
    )
    .await
    .unwrap();
    let parents = vec![
        parent(causeway_model::ParentKind::Gateway, "public"),
        parent(causeway_model::ParentKind::Gateway, "other"),
    ];
    house.put("r", route(parents, &[], vec![rule("/", vec![backend("app", 1)])]));
    caught_up(&house, &_proxy).await;
    caught_up(&house, &again).await;
    let first = ask(&house, &[]).await;
    let mine = pair(&first).unwrap();
    let other = std::net::SocketAddr::new(gateway_address().ip(), 8081);
    for _ in 0..20 {
        let mut client = Client::connect(&house.net(), other).await;
        let answer = client.send(get(&[("cookie", &mine)])).await.unwrap();
        assert_eq!((answer.body.as_str(), pair(&answer)), (first.body.as_str(), None));
    }
    let at = apps.iter().position(|app| first.body == app_name(app, &apps)).unwrap();
    apps[at].kill().await;
    let moved = ask(&house, &[("cookie", &mine)]).await;
    assert_eq!(moved.status, 200);
    assert_ne!(moved.body, first.body);
    assert!(pair(&moved).is_some_and(|pair| pair != mine));
}

fn app_name(app: &App, all: &[App]) -> String {
    let at = all.iter().position(|other| other.address() == app.address()).unwrap();
    format!("app-{}", at + 1)
}

#[tokio::test(start_paused = true)]
async fn a_session_of_a_rule_keeps_its_backend_whatever_the_weights_become() {
    let house = House::new();
    house.service("one", 2);
    house.service("two", 2);
    let rules = |one, two| {
        let mut rule = rule("/", vec![backend("one", one), backend("two", two)]);
        rule.affinity = Some(cookie(None));
        gateway_route(vec![rule])
    };
    house.put("r", rules(1, 0));
    let proxy = start_gateway(&house).await;
    let first = ask(&house, &[]).await;
    assert!(first.body.starts_with("one-"));
    let mine = pair(&first).unwrap();
    house.put("r", rules(0, 1));
    caught_up(&house, &proxy).await;
    for _ in 0..20 {
        assert_eq!(ask(&house, &[("cookie", &mine)]).await.body, first.body, "nobody is thrown out");
        assert!(ask(&house, &[]).await.body.starts_with("two-"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_behind_its_sidecar_stays_by_header() {
    let house = House::new();
    let (one, two) = (house.app("one"), house.app("two"));
    let _first = start_sidecar(&house, "pay", 1, Some(&one)).await;
    let _second = start_sidecar(&house, "pay", 2, Some(&two)).await;
    let mut policy = TrafficPolicy { affinity: Some(Affinity::Header { name: "x-s".into() }), ..for_app() };
    policy.targets[0].name = name("pay");
    house.put("p", Spec::TrafficPolicy(policy));
    let shop = start_sidecar(&house, "shop", 1, None).await;
    caught_up(&house, &shop).await;
    let mut client = Client::connect(&house.net(), shop.outbound_address().unwrap()).await;
    let request = |token: Option<&str>| {
        let mut request = get(&token.map(|token| vec![("x-s", token)]).unwrap_or_default());
        request.headers_mut().insert("host", "pay.mesh".parse().unwrap());
        request
    };
    let first = client.send(request(None)).await.unwrap();
    let token = first.header("x-s").to_owned();
    assert_eq!(token.len(), 16);
    for _ in 0..30 {
        let answer = client.send(request(Some(&token))).await.unwrap();
        assert_eq!((answer.body.as_str(), answer.header("x-s")), (first.body.as_str(), token.as_str()));
    }
}

// === plans ===

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_gone_is_not_tried_again_from_an_old_plan() {
    let house = House::new();
    let (apps, proxy) = front(&house, 2).await;
    // Both hang for a while and then break; meanwhile both are replaced.
    apps.iter().for_each(|app| app.delay(Duration::from_secs(5)));
    let mut client = Client::connect(&house.net(), gateway_address()).await;
    let request = async { client.send(get(&[])).await.unwrap() };
    let replace = async {
        until(|| apps.iter().any(|app| app.count() > 0)).await;
        let fresh = house.app("fresh");
        house.place("app", "app-9", fresh.address()).put();
        house.withdraw("app", "app-1");
        house.withdraw("app", "app-2");
        caught_up(&house, &proxy).await;
        let (first, second) = (apps[0].count(), apps[1].count());
        for app in &apps {
            app.kill().await;
            app.revive();
        }
        (first + second, fresh)
    };
    let (answer, (before, fresh)) = tokio::join!(request, replace);
    assert_eq!(answer.line(), "200 fresh");
    assert_eq!((apps[0].count() + apps[1].count(), fresh.count()), (before, 1));
}
