//! Which tier of endpoints takes how much: near ones first, further ones as far as the near cannot take the load.
//!
//! In:    for each tier what is there, what is healthy of it and what should be there, by weight.      Out: shares, and who panics.
//! Owner: the group, which looks again when a moment has passed.
//! Invariant: shares add up to all; a tier that is healthy enough takes everything before the next one is asked.
//! Not here: which tier an endpoint belongs to (`balance`).

/// A tier may lose this much (a factor of 1.4: 29 %) before a further one is asked: those that are left take more, as in Envoy.
const OVERPROVISIONING_PERCENT: u64 = 140;
/// Own zone, own region, everything else.
pub(crate) const TIERS_MAX: usize = 3;

/// A tier as it stands, by weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Endpoints of the plan.
    pub there: u64,
    /// Those of them that are not ejected.
    pub healthy: u64,
    /// With those that the registry knows and that take no calls because something is wrong with them.
    pub expected: u64,
}

/// Who takes how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Percent that go to this tier or one before it.
    pub up_to: [u8; TIERS_MAX],
    /// Too few are healthy: the ejected are used too.
    pub is_panic: [bool; TIERS_MAX],
}

impl Outlook {
    /// Of one to three tiers, the nearest first.
    pub(crate) fn new(tiers: &[Standing], panic_percent: u8) -> Self {
        let able =
            |tier: &Standing| (tier.healthy * OVERPROVISIONING_PERCENT / tier.expected.max(1)).min(100);
        let sum: u64 = tiers.iter().map(able).sum();
        let there: u64 = tiers.iter().map(|tier| tier.there).sum();
        let mut outlook = Outlook::default();
        let mut before = 0;
        for (at, tier) in tiers.iter().enumerate().take(TIERS_MAX) {
            let share = match sum {
                // Nobody is healthy anywhere: all are used alike.
                0 => tier.there * 100 / there.max(1),
                1..100 => able(tier) * 100 / sum,
                _ => able(tier),
            };
            before = (before + share).min(100);
            outlook.up_to[at] = before as u8;
            let is_low = tier.healthy * 100 < tier.there * u64::from(panic_percent);
            // While together they can take everything, a tier of which little is left simply gets little.
            outlook.is_panic[at] = is_low && (tiers.len() == 1 || sum < 100);
        }
        // What rounding left over.
        let last = tiers.iter().rposition(|tier| tier.there > 0).unwrap_or(0).min(TIERS_MAX - 1);
        outlook.up_to[last..].fill(100);
        outlook
    }

    /// The tier for a number drawn from 0 to 99, and whether it panics.
    pub(crate) fn tier(&self, drawn: u8) -> (usize, bool) {
        let at = self.up_to.iter().position(|up_to| drawn < *up_to).unwrap_or(0);
        (at, self.is_panic[at])
    }

    /// In 27 bits.
    pub(crate) fn pack(self) -> u64 {
        let bits = self.is_panic.iter().rev().fold(0, |bits, panics| bits << 1 | u64::from(*panics));
        self.up_to.iter().rev().fold(bits, |bits, up_to| bits << 8 | u64::from(*up_to))
    }

    pub(crate) fn unpack(bits: u64) -> Self {
        let up_to = [0, 8, 16].map(|shift| (bits >> shift) as u8);
        Outlook { up_to, is_panic: [24, 25, 26].map(|shift| bits >> shift & 1 == 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tiers: &[(u64, u64, u64)], panic: u8, expected: &str) {
        let tiers: Vec<_> = tiers
            .iter()
            .map(|(healthy, there, expected)| Standing {
                there: *there,
                healthy: *healthy,
                expected: *expected,
            })
            .collect();
        let outlook = Outlook::new(&tiers, panic);
        assert_eq!(Outlook::unpack(outlook.pack()), outlook);
        let mut before = 0;
        let shares = tiers.iter().enumerate().map(|(at, _)| {
            let share = outlook.up_to[at] - before;
            before = outlook.up_to[at];
            format!("{share}{}", if outlook.is_panic[at] { "!" } else { "" })
        });
        assert_eq!(shares.collect::<Vec<_>>().join(" "), expected, "{tiers:?}");
        assert_eq!(outlook.tier(99).0, outlook.up_to.iter().position(|up_to| *up_to == 100).unwrap());
    }

    #[test]
    fn the_near_take_all_until_they_cannot() {
        // As the table in Envoy's manual, "priority levels".
        check(&[(100, 100, 100), (100, 100, 100)], 50, "100 0");
        check(&[(72, 100, 100), (100, 100, 100)], 50, "100 0");
        check(&[(71, 100, 100), (100, 100, 100)], 50, "99 1");
        check(&[(50, 100, 100), (100, 100, 100)], 50, "70 30");
        check(&[(25, 100, 100), (100, 100, 100)], 50, "35 65");
        check(&[(0, 100, 100), (100, 100, 100)], 50, "0 100");
        check(&[(25, 100, 100), (25, 100, 100)], 50, "50! 50!");
        check(&[(10, 100, 100), (25, 100, 100), (100, 100, 100)], 50, "14 35 51");
        check(&[(0, 100, 100), (0, 50, 100), (0, 50, 100)], 50, "50! 25! 25!");
        // What the registry has taken out counts as missing.
        check(&[(2, 2, 10), (10, 10, 10)], 50, "28 72");
    }

    #[test]
    fn one_tier_panics_below_its_threshold() {
        check(&[(5, 10, 10)], 50, "100");
        check(&[(4, 10, 10)], 50, "100!");
        check(&[(4, 10, 10)], 40, "100");
        check(&[(0, 10, 10)], 0, "100");
    }
}
