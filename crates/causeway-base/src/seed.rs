//! Randomness with a name: every random choice of the house comes from a [`Seed`] that a test can print and replay.

use std::cell::Cell;

/// A source of pseudo-random numbers (not for secrets: those come from the TLS provider's generator).
///
/// Each task forks its own, so that the order in which tasks run does not change what another one draws.
#[derive(Debug)]
pub struct Seed {
    state: Cell<u64>,
}

impl Seed {
    /// A seed that replays: the same number gives the same choices for ever.
    pub fn from_number(number: u64) -> Self {
        Seed { state: Cell::new(number) }
    }

    /// A seed from the operating system's randomness.
    pub fn from_entropy() -> Self {
        Seed::from_number(fastrand::u64(..))
    }

    /// An independent seed, derived from this one's next number.
    pub fn fork(&self) -> Self {
        Seed::from_number(self.u64())
    }

    /// The next number (splitmix64: passes BigCrush, one multiply-xor chain, no state beyond a word).
    pub fn u64(&self) -> u64 {
        let next = self.state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.state.set(next);
        let mut z = next;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        ((u128::from(self.u64()) * bound as u128) >> 64) as usize
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with probability `p` (clamped to 0..=1).
    pub fn chance(&self, p: f64) -> bool {
        self.unit() < p
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_forks_are_independent() {
        let (a, b) = (Seed::from_number(7), Seed::from_number(7));
        let drawn: Vec<u64> = (0..8).map(|_| a.u64()).collect();
        assert_eq!(drawn, (0..8).map(|_| b.u64()).collect::<Vec<_>>());
        assert_ne!(a.fork().u64(), a.u64());
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let seed = Seed::from_number(1);
        let mut seen = [false; 5];
        (0..200).for_each(|_| seen[seed.below(5)] = true);
        assert_eq!(seen, [true; 5]);
        assert_eq!(seed.below(0), 0);
    }
}
