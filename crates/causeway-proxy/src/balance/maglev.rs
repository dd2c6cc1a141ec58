//! Consistent hashing by Maglev's table (Eisenbud et al., 2016): each endpoint takes places of a table in an order of its own.
//!
//! In:    hashes of endpoints' names, weights.      Out: for a key, an endpoint.
//! Owner: a tier of a group; made with the plan, kept while its endpoints stay the same.
//! Invariant: the table depends on names and weights alone, not on the order in which endpoints are listed.
//! Not here: passing over those that are not fit (`tier`).

use crate::hash;

/// Places: a prime far above the number of endpoints, so that shares differ by less than a percent. 128 KiB.
const PLACES: u64 = 65_537;
/// More endpoints than this do not fit into a place's number; the rest gets no keys.
const ENDPOINTS_MAX: usize = u16::MAX as usize;

/// A table.
#[derive(Debug)]
pub(crate) struct Maglev {
    places: Box<[u16]>,
}

/// Whose turn it is to take a place, and which one it wants.
struct Taker {
    index: u16,
    weight: f64,
    due: f64,
    place: u64,
    skip: u64,
}

impl Maglev {
    /// Of endpoints as hash and weight; at least one.
    pub(crate) fn new(endpoints: &[(u64, u32)]) -> Self {
        let weight_max = endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
        let mut order: Vec<usize> = (0..endpoints.len().min(ENDPOINTS_MAX)).collect();
        order.sort_by_key(|index| endpoints[*index]);
        let mut takers: Vec<Taker> = order
            .into_iter()
            .map(|index| Taker {
                index: index as u16,
                weight: f64::from(endpoints[index].1) / f64::from(weight_max),
                due: 0.0,
                place: hash::both(endpoints[index].0, 1) % PLACES,
                skip: hash::both(endpoints[index].0, 2) % (PLACES - 1) + 1,
            })
            .collect();
        const FREE: u16 = u16::MAX;
        let mut places = vec![FREE; PLACES as usize];
        let mut taken = 0;
        'rounds: for round in 1.. {
            for taker in &mut takers {
                // The heaviest takes a place in every round, the others in as many as their weight says.
                taker.due += taker.weight;
                if taker.due < 1.0 && round > 1 {
                    continue;
                }
                taker.due -= 1.0;
                while places[taker.place as usize] != FREE {
                    taker.place = (taker.place + taker.skip) % PLACES;
                }
                places[taker.place as usize] = taker.index;
                taken += 1;
                if taken == PLACES {
                    break 'rounds;
                }
            }
        }
        Maglev { places: places.into() }
    }

    /// The endpoint for a key, then others for it: each ejected endpoint's keys are spread over all that are left.
    pub(crate) fn after(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        (0..).map(move |again| {
            let key = if again == 0 { key } else { hash::both(key, again) };
            self.places[(key % PLACES) as usize] as usize
        })
    }
}
