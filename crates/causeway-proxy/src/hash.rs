//! Hashes that are the same in every proxy, version and run. For choosing, not for secrets: whoever picks keys can pick their hash.

/// Of bytes: FNV-1a, then mixed so that every bit counts.
pub(crate) fn bytes(bytes: &[u8]) -> u64 {
    mix(bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)))
}

/// Of text.
pub(crate) fn text(text: &str) -> u64 {
    bytes(text.as_bytes())
}

/// Of two hashes, in this order.
pub(crate) fn both(first: u64, second: u64) -> u64 {
    mix(first.wrapping_add(second.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// Spreads the bits of a number (splitmix64's end).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_once_in_use_never_changes() {
        // Proxies of two versions stand beside each other during an upgrade: a client must not lose its endpoint by that.
        assert_eq!(text(""), 0xF52A_15E9_A9B5_E89B);
        assert_eq!(text("orders-1"), 0xBA7D_7492_C382_0BB2);
        assert_ne!(text("orders-1"), text("orders-2"));
        assert_ne!(both(1, 2), both(2, 1));
    }
}
