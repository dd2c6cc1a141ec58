//! Turns: each endpoint as often as its weight says, spread as evenly as can be.
//!
//! In:    weights.      Out: the order of turns.
//! Owner: a tier of a group; made with the plan.
//! Invariant: in one whole round each endpoint has exactly its turns.
//! Not here: passing over those that are not fit (`tier`).

/// Most turns of a round: weights are rounded to fit.
const TURNS_MAX: u64 = 16_384;

/// The order of turns, as indices of `weights`; empty when all weights are equal, so that the order is that of the endpoints.
pub(crate) fn turns(weights: &[u32]) -> Vec<u32> {
    if weights.windows(2).all(|pair| pair[0] == pair[1]) {
        return Vec::new();
    }
    let divisor = weights.iter().fold(0, |divisor, weight| greatest_divisor(divisor, u64::from(*weight)));
    let total: u64 = weights.iter().map(|weight| u64::from(*weight) / divisor.max(1)).sum();
    let shrunk = |weight: u32| match total <= TURNS_MAX {
        true => u64::from(weight) / divisor.max(1),
        false => (u64::from(weight) / divisor.max(1) * TURNS_MAX / total).max(1),
    };
    let mut turns = Vec::new();
    for (index, weight) in weights.iter().enumerate() {
        let count = shrunk(*weight);
        // The k-th of n turns is due in the middle of the k-th of n equal parts of the round.
        turns.extend((0..count).map(|k| ((2 * k + 1) as f64 / (2 * count) as f64, index as u32)));
    }
    turns.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    turns.into_iter().map(|(_, index)| index).collect()
}

fn greatest_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_weights_and_are_spread() {
        assert!(turns(&[7, 7, 7]).is_empty());
        assert_eq!(turns(&[300, 100]), [0, 0, 1, 0]);
        assert_eq!(turns(&[2, 1, 1]).len(), 4);
        let wide = turns(&[1, 1_000_000]);
        assert_eq!(wide.iter().filter(|index| **index == 0).count(), 1, "the least gets a turn too");
        assert!(wide.len() as u64 <= TURNS_MAX + 1);
    }
}
