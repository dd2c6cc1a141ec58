use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use causeway_model::{Algorithm, Balancer, HashOn, LocalityMode};
use proptest::prelude::*;

use super::*;
use crate::circle::{Circle, Ejection};
use crate::endpoint::InFlight;
use crate::limits::IN_FLIGHT_PER_ENDPOINT_MAX;

const SECOND: Micros = 1_000_000;
const NOW: Micros = 100 * SECOND;
const ALL: [Algorithm; 6] = [
    Algorithm::PeakEwma,
    Algorithm::LeastRequest,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::RingHash,
    Algorithm::Maglev,
];

fn how(algorithm: Algorithm) -> How {
    let said = Balancer { algorithm, hash: None, ..Balancer::default() };
    How::new(Some(&said), &Locality::default())
}

fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    let mut endpoints: Vec<_> =
        weights.iter().enumerate().map(|(id, weight)| Endpoint::alone_for_test(id as u64, *weight)).collect();
    let members = endpoints.iter().map(|endpoint| endpoint.vitals.clone()).collect();
    let circle = Arc::new(Circle::new(Ejection::default(), members));
    endpoints.iter_mut().for_each(|endpoint| endpoint.circle = circle.clone());
    endpoints.into_iter().map(Arc::new).collect()
}

fn group(algorithm: Algorithm, weights: &[u32]) -> Group {
    Group::build(endpoints(weights), &[], how(algorithm), None)
}

/// How often each of the endpoints is chosen of 10,000 times; keys are all different.
fn shares_at(group: &Group, tried: &[u64], now: Micros) -> Vec<usize> {
    let seed = Seed::from_number(1);
    let mut counts = vec![0; group.endpoints.len()];
    for n in 0..10_000_u64 {
        let pull = Pull { key: Some(hash::mix(n)), stay: None };
        let picked = group.pick(&Ask { tried, pull, now }, &seed).unwrap();
        counts[picked.id as usize] += 1;
    }
    counts
}

fn shares(group: &Group, tried: &[u64]) -> Vec<usize> {
    shares_at(group, tried, NOW)
}

fn eject(group: &Group, which: &[usize]) {
    which.iter().for_each(|at| group.endpoints[*at].vitals.eject(NOW + 1));
}

#[test]
fn equals_share_equally_and_weights_are_kept() {
    for algorithm in ALL {
        let counts = shares(&group(algorithm, &[1, 1, 1, 1]), &[]);
        let tolerance = if algorithm == Algorithm::RingHash { 600 } else { 300 };
        assert!(counts.iter().all(|n| n.abs_diff(2_500) < tolerance), "{algorithm:?} {counts:?}");
        let counts = shares(&group(algorithm, &[300, 100]), &[]);
        assert!(counts[0].abs_diff(7_500) < tolerance, "{algorithm:?} {counts:?}");
    }
    assert_eq!(shares(&group(Algorithm::RoundRobin, &[300, 100]), &[]), [7_500, 2_500]);
}

#[test]
fn the_same_seed_chooses_the_same() {
    for algorithm in ALL {
        let picks = || {
            let (group, seed) = (group(algorithm, &[1, 2, 3]), Seed::from_number(7));
            (0..50).map(|_| group.pick(&Ask::anywhere(NOW), &seed).unwrap().id).collect::<Vec<_>>()
        };
        assert_eq!(picks(), picks(), "{algorithm:?}");
    }
}

#[test]
fn the_loaded_and_the_slow_get_less() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest] {
        let loaded = group(algorithm, &[1, 1]);
        loaded.endpoints[0].vitals.set_load(5);
        assert_eq!(shares(&loaded, &[])[0], 0);
    }
    let slow = group(Algorithm::PeakEwma, &[1, 1, 1]);
    slow.endpoints[2].vitals.answered(NOW, 50_000);
    assert_eq!(shares(&slow, &[])[2], 0, "two of three are always cheaper");
}

#[test]
fn the_ejected_and_the_tried_are_left_out_until_nobody_else_is_there() {
    for algorithm in ALL {
        let of = || group(algorithm, &[1, 1, 1]);
        let three = of();
        eject(&three, &[0]);
        assert_eq!(shares(&three, &[])[0], 0, "{algorithm:?}");
        assert_eq!(shares(&three, &[1])[..2], [0, 0], "{algorithm:?}");
        assert_eq!(shares(&three, &[1, 2])[0], 10_000, "{algorithm:?} panic: the ejected one is used");
        let all = of();
        eject(&all, &[0, 1, 2]);
        assert!(shares(&all, &[]).iter().all(|n| *n > 2_000), "{algorithm:?} panic: all are used");
        assert!(
            Group::build(vec![], &[], how(algorithm), None)
                .pick(&Ask::anywhere(NOW), &Seed::from_number(1))
                .is_none()
        );
    }
}

#[test]
fn below_the_panic_threshold_the_ejected_are_used_too_and_without_one_never() {
    let with = |percent| {
        let said = Balancer { panic_percent: Some(percent), ..Balancer::default() };
        let group = Group::build(endpoints(&[1; 10]), &[], How::new(Some(&said), &Locality::default()), None);
        eject(&group, &[0, 1, 2, 3]);
        group
    };
    assert_eq!(shares(&with(60), &[])[..4], [0; 4], "six of ten are sixty percent");
    assert!(shares(&with(61), &[]).iter().all(|n| *n > 700), "all are used alike");
    let never = with(0);
    eject(&never, &[4, 5, 6, 7, 8, 9]);
    assert!(never.pick(&Ask::anywhere(NOW), &Seed::from_number(1)).is_none());
    assert!(never.pick(&Ask::anywhere(NOW + 1), &Seed::from_number(1)).is_some());
}

#[test]
fn a_full_endpoint_takes_no_more() {
    let one = group(Algorithm::PeakEwma, &[1]);
    one.endpoints[0].vitals.set_load(IN_FLIGHT_PER_ENDPOINT_MAX);
    assert!(one.pick(&Ask::anywhere(NOW), &Seed::from_number(1)).is_none());
    for algorithm in ALL {
        let group = group(algorithm, &[1, 1]);
        group.endpoints[0].vitals.set_load(IN_FLIGHT_PER_ENDPOINT_MAX);
        assert_eq!(shares(&group, &[]), [0, 10_000]);
    }
}

#[test]
fn a_new_endpoint_takes_its_share_by_and_by_also_when_nothing_is_under_way() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random]
    {
        let mut endpoints = endpoints(&[1, 1]);
        let young = Arc::get_mut(&mut endpoints[1]).unwrap();
        young.vitals = Arc::new(crate::endpoint::Vitals::born_at(NOW, 0));
        let group = Group::build(endpoints, &[], how(algorithm), None);
        let at = |seconds| shares_at(&group, &[], NOW + seconds * SECOND)[1];
        let (begin, middle, end) = (at(0), at(5), at(10));
        assert!((300..1_600).contains(&begin), "{algorithm:?} {begin}");
        assert!((2_000..3_900).contains(&middle), "{algorithm:?} {middle}");
        assert!((4_600..5_400).contains(&end), "{algorithm:?} {end}");
    }
}

#[test]
fn a_policy_sets_the_time_of_a_slow_start() {
    let said = Balancer { slow_start: Some(Duration::ZERO), ..Balancer::default() };
    let mut endpoints = endpoints(&[1, 1]);
    Arc::get_mut(&mut endpoints[1]).unwrap().vitals = Arc::new(crate::endpoint::Vitals::born_at(NOW, 0));
    let group = Group::build(endpoints, &[], How::new(Some(&said), &Locality::default()), None);
    assert!((4_600..5_400).contains(&shares(&group, &[])[1]));
}

// === hashing ===

/// Where each of 10,000 keys goes, by the endpoint's name.
fn homes(group: &Group) -> Vec<String> {
    let pick = |n| {
        let pull = Pull { key: Some(hash::mix(n)), stay: None };
        group.pick(&Ask { tried: &[], pull, now: NOW }, &Seed::from_number(n)).unwrap().name.clone()
    };
    (0..10_000).map(pick).collect()
}

fn moved(before: &[String], after: &[String]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before != after).count()
}

#[test]
fn a_key_stays_when_another_endpoint_comes_goes_or_is_ejected() {
    for (algorithm, slack) in [(Algorithm::RingHash, 0), (Algorithm::Maglev, 600)] {
        for n in [3, 10] {
            let all = endpoints(&vec![100; n]);
            let whole = Group::build(all.clone(), &[], how(algorithm), None);
            let before = homes(&whole);
            let lost = before.iter().filter(|home| *home == "e1").count();
            assert!(lost.abs_diff(10_000 / n) < 10_000 / n / 3, "{algorithm:?} {lost}");
            // Listed in another order, by another proxy.
            let turned = Group::build(all.iter().rev().cloned().collect(), &[], how(algorithm), None);
            assert_eq!(homes(&turned), before);
            let fewer: Vec<_> = all.iter().filter(|endpoint| endpoint.name != "e1").cloned().collect();
            let after = homes(&Group::build(fewer, &[], how(algorithm), None));
            assert!(
                moved(&before, &after) <= lost + slack,
                "{algorithm:?} of {n}: {}",
                moved(&before, &after)
            );
            let more: Vec<_> = all.iter().cloned().chain([Endpoint::for_test(99, 100)]).collect();
            let after = homes(&Group::build(more, &[], how(algorithm), None));
            let gained = after.iter().filter(|home| *home == "e99").count();
            assert!(moved(&before, &after) <= gained + slack, "{algorithm:?} of {n}");
            eject(&whole, &[1]);
            let after = homes(&whole);
            assert_eq!(moved(&before, &after), lost, "{algorithm:?}: the others' keys do not move");
            let most = counted(&after).into_values().max().unwrap();
            assert!(most < 10_000 / (n - 1) * 3 / 2, "{algorithm:?}: its keys are spread, {most}");
        }
    }
}

fn counted(homes: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    homes.iter().for_each(|home| *counts.entry(home.as_str()).or_default() += 1);
    counts
}

#[test]
fn tables_are_made_once_while_endpoints_stay_the_same() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let all = endpoints(&[1, 2, 3]);
        let first = Group::build(all.clone(), &[], how(algorithm), None);
        let second = Group::build(all.clone(), &[], how(algorithm), Some(&first));
        assert!(first.tiers[0].has_table_of(&second.tiers[0]));
        let third = Group::build(all[..2].to_vec(), &[], how(algorithm), Some(&second));
        assert!(!second.tiers[0].has_table_of(&third.tiers[0]));
    }
}

#[test]
fn a_request_without_what_is_hashed_goes_anywhere() {
    let group = group(Algorithm::Maglev, &[1, 1]);
    assert_eq!(group.how.hash, Some(HashOn::Source));
    let seed = Seed::from_number(1);
    let first = (0..1_000).filter(|_| group.pick(&Ask::anywhere(NOW), &seed).unwrap().id == 0).count();
    assert!((400..600).contains(&first), "{first}");
}

// === places ===

fn place(text: &str) -> Locality {
    let (region, zone) = text.split_once('/').unwrap();
    Locality { region: region.into(), zone: zone.into() }
}

fn placed(here: &str, places: &[&str], absent: &[&str]) -> Group {
    let said = Balancer { locality: LocalityMode::Prefer, ..Balancer::default() };
    let mut all = endpoints(&vec![100; places.len()]);
    for (endpoint, at) in all.iter_mut().zip(places) {
        Arc::get_mut(endpoint).unwrap().locality = place(at);
    }
    let absent: Vec<_> = absent.iter().map(|at| (place(at), 100)).collect();
    Group::build(all, &absent, How::new(Some(&said), &place(here)), None)
}

#[test]
fn the_own_zone_goes_first_then_the_region_then_all_the_rest() {
    let places = ["eu/a", "eu/a", "eu/b", "eu/b", "us/a", "us/a"];
    let group = placed("eu/a", &places, &[]);
    let counts = shares(&group, &[]);
    assert_eq!(counts[2..], [0; 4]);
    eject(&group, &[0]);
    // Half of the zone can take 70 percent of the load (1.4 times its share).
    let counts = shares_at(&group, &[], NOW - SECOND);
    assert_eq!((counts[0], counts[4], counts[5]), (0, 0, 0));
    assert!(counts[1].abs_diff(7_000) < 300 && counts[2].abs_diff(1_500) < 300, "{counts:?}");
    eject(&group, &[1, 2, 3]);
    let counts = shares_at(&group, &[], NOW - 2 * SECOND);
    assert_eq!(counts[..4], [0; 4]);
    assert!(counts[4].abs_diff(5_000) < 300, "{counts:?}");
    // What the registry has taken out is missing as much as what we have.
    let counts = shares(&placed("eu/a", &places, &["eu/a", "eu/a"]), &[]);
    assert!((counts[0] + counts[1]).abs_diff(7_000) < 300, "{counts:?}");
    // A retry leaves the zone when nothing untried is left there.
    let counts = shares(&placed("eu/a", &places, &[]), &[0, 1]);
    assert_eq!((counts[2] + counts[3], counts[4] + counts[5]), (10_000, 0));
}

#[test]
fn without_a_place_or_a_wish_all_are_alike() {
    for group in [placed("/", &["eu/a", "us/b"], &[]), placed("eu/", &["eu/a", "eu/b"], &[])] {
        assert!(shares(&group, &[]).iter().all(|n| *n > 4_500));
    }
    // A static endpoint says its zone alone.
    assert_eq!(shares(&placed("eu/a", &["/a", "/b"], &[]), &[]), [10_000, 0]);
}

#[test]
fn a_key_goes_the_same_way_also_between_zones() {
    let said =
        Balancer { algorithm: Algorithm::Maglev, locality: LocalityMode::Prefer, ..Balancer::default() };
    let mut all = endpoints(&[100; 4]);
    for (endpoint, at) in all.iter_mut().zip(["eu/a", "eu/a", "eu/b", "eu/b"]) {
        Arc::get_mut(endpoint).unwrap().locality = place(at);
    }
    let group = Group::build(all, &[], How::new(Some(&said), &place("eu/a")), None);
    eject(&group, &[0]);
    let first = homes(&group);
    assert_eq!(first, homes(&group));
    assert!(counted(&first).len() == 3);
}

// === staying ===

#[test]
fn who_stays_is_kept_while_the_endpoint_is_fit() {
    let mint = crate::token::Mint::new(b"x");
    let service = causeway_model::ServiceKey::parse("default", "cart").unwrap();
    let mut all = endpoints(&[1, 1, 1]);
    for endpoint in &mut all {
        let endpoint = Arc::get_mut(endpoint).unwrap();
        endpoint.token = Some(mint.token(&service, &endpoint.name));
    }
    let group = Group::new(all);
    let ask = |tried| Ask { tried, pull: Pull { key: None, stay: group.endpoints[2].token }, now: NOW };
    let seed = Seed::from_number(1);
    assert!((0..100).all(|_| group.pick(&ask(&[]), &seed).unwrap().id == 2));
    assert!((0..100).all(|_| group.pick(&ask(&[2]), &seed).unwrap().id != 2));
    eject(&group, &[2]);
    assert!((0..100).all(|_| group.pick(&ask(&[]), &seed).unwrap().id != 2));
    assert!(group.find(mint.token(&service, "e7")).is_none());
}

// === what always holds ===

proptest! {
    #[test]
    fn nothing_unfit_is_chosen_while_something_is_fit(
        algorithm in 0..6_usize,
        weights in proptest::collection::vec(1..500_u32, 1..20),
        states in proptest::collection::vec(0..5_u8, 20),
        zones in proptest::collection::vec(0..3_u8, 20),
        seed: u64,
        key: Option<u64>,
    ) {
        let said = Balancer {
            algorithm: ALL[algorithm],
            locality: LocalityMode::Prefer,
            panic_percent: Some(0),
            ..Balancer::default()
        };
        let mut all = endpoints(&weights);
        let mut tried = Vec::new();
        for ((endpoint, state), zone) in all.iter_mut().zip(&states).zip(&zones) {
            let endpoint = Arc::get_mut(endpoint).unwrap();
            endpoint.locality = place(["eu/a", "eu/b", "us/a"][usize::from(*zone)]);
            match state {
                0 => endpoint.vitals.eject(NOW + 1),
                1 => tried.push(endpoint.id),
                2 => endpoint.vitals.set_load(IN_FLIGHT_PER_ENDPOINT_MAX),
                _ => {}
            }
        }
        let group = Group::build(all, &[], How::new(Some(&said), &place("eu/a")), None);
        let ask = Ask { tried: &tried, pull: Pull { key, stay: None }, now: NOW };
        let picked = group.pick(&ask, &Seed::from_number(seed));
        let is_fit = |endpoint: &Endpoint| states[endpoint.id as usize] > 2;
        if group.endpoints.len() > 1 && group.endpoints.iter().any(|endpoint| is_fit(endpoint)) {
            prop_assert!(picked.is_some_and(|endpoint| is_fit(endpoint)));
        }
        if let Some(picked) = picked {
            prop_assert!(states[picked.id as usize] != 2, "a full one is never chosen");
        }
    }
}

// === a minute of traffic ===

/// A group under a load that is made up, on a clock that is.
struct Street {
    group: Group,
    seed: Seed,
    now: Micros,
    latency: Vec<Micros>,
    /// When each ends, and which one it is: where, since when.
    under_way: BinaryHeap<Reverse<(Micros, u64)>>,
    calls: BTreeMap<u64, (usize, Micros, InFlight)>,
    counts: Vec<usize>,
}

impl Street {
    fn new(latency: &[Micros]) -> Self {
        let group = group(Algorithm::PeakEwma, &vec![100; latency.len()]);
        let counts = vec![0; latency.len()];
        let (seed, latency) = (Seed::from_number(3), latency.to_vec());
        let (under_way, calls) = Default::default();
        Street { group, seed, now: NOW, latency, under_way, calls, counts }
    }

    fn call(&mut self) {
        let picked = self.group.pick(&Ask::anywhere(self.now), &self.seed).unwrap();
        let at = picked.id as usize;
        self.counts[at] += 1;
        // A fifth more or less, as latencies are.
        let ends = self.now + (self.latency[at] as f64 * (0.8 + 0.4 * self.seed.unit())) as Micros;
        let number = self.calls.last_key_value().map_or(0, |(number, _)| number + 1);
        self.calls.insert(number, (at, self.now, InFlight::new(&picked.vitals, self.now)));
        self.under_way.push(Reverse((ends, number)));
    }

    /// Ends what is due until then; says how many ended.
    fn run_to(&mut self, to: Micros) -> usize {
        let mut ended = 0;
        while let Some(Reverse((ends, number))) = self.under_way.peek().copied()
            && ends <= to
        {
            self.under_way.pop();
            let (endpoint, began, in_flight) = self.calls.remove(&number).unwrap();
            self.now = ends;
            drop(in_flight);
            self.group.endpoints[endpoint].vitals.answered(ends, ends - began);
            ended += 1;
        }
        self.now = to;
        ended
    }

    /// So many calls a second, however long the answers take.
    fn open_loop(&mut self, per_second: u64, seconds: u64) {
        let gap = SECOND / per_second;
        for _ in 0..per_second * seconds {
            let next = self.now + (gap as f64 * (0.5 + self.seed.unit())) as Micros;
            self.run_to(next);
            self.call();
        }
    }

    /// So many callers, each of which calls again when it is answered.
    fn closed_loop(&mut self, callers: usize, calls: usize) {
        (0..callers).for_each(|_| self.call());
        while self.counts.iter().sum::<usize>() < calls {
            let Reverse((next, _)) = *self.under_way.peek().unwrap();
            let ended = self.run_to(next);
            (0..ended).for_each(|_| self.call());
        }
    }

    fn share_of_first(&mut self) -> f64 {
        let share = self.counts[0] as f64 / self.counts.iter().sum::<usize>() as f64;
        self.counts.fill(0);
        share
    }
}

#[test]
fn an_instance_a_hundred_times_slower_gets_less_than_two_percent() {
    for latency in [200, 10_000] {
        for n in [2, 3, 10] {
            let fresh = || {
                let mut latencies = vec![latency; n];
                latencies[0] *= 100;
                Street::new(&latencies)
            };
            for per_second in [5, 50, 300] {
                let mut street = fresh();
                street.open_loop(per_second, 60);
                let share = street.share_of_first();
                assert!(share < 0.02, "{per_second} a second, {latency} us, {n} instances: {share}");
                // After a quiet minute everything is forgotten, but it is soon known again.
                street.run_to(street.now + 60 * SECOND);
                street.open_loop(per_second, 60);
                let share = street.share_of_first();
                assert!(share < 0.02, "after a pause: {per_second} a second, {latency} us, {n}: {share}");
            }
            for callers in [1, 8, 64] {
                let mut street = fresh();
                street.closed_loop(callers, 10_000);
                let share = street.share_of_first();
                assert!(share < 0.02, "{callers} callers, {latency} us, {n} instances: {share}");
            }
        }
    }
}

#[test]
fn an_instance_that_hangs_is_fled_before_any_time_limit() {
    let mut street = Street::new(&[3_600 * SECOND, 5_000, 5_000]);
    street.open_loop(50, 60);
    assert!(street.counts[0] <= 20, "{:?}", street.counts);
}

#[test]
fn one_that_was_slow_gets_its_share_again_when_it_is_well() {
    let mut street = Street::new(&[500_000, 5_000, 5_000]);
    street.open_loop(200, 20);
    street.share_of_first();
    street.latency[0] = 5_000;
    street.open_loop(200, 60);
    street.share_of_first();
    street.open_loop(200, 10);
    let share = street.share_of_first();
    assert!((0.2..0.45).contains(&share), "{share}");
}
