//! Sizes as people write them: `10GiB`, `500MB`, `4096`.
//!
//! In:    text.     Out: bytes as a number, and text again.
//! Owner: nobody; pure functions, used by every door.
//! Invariant: `parse(&format(n))` is `n`.
//! Not here: reporting a bad one with its place (`reader.rs`).

/// What a size may look like, for messages.
pub const FORM: &str = "a whole number with B, kB, MB, GB, TB, KiB, MiB, GiB, TiB or nothing behind it, such as \"10GiB\" or 4096";

const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads a size; `None` when it is not one, or more than a u64 holds. Kubernetes' short units (`10Gi`) are read as well.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start_matches(' ');
    let factor = match unit {
        "" => 1,
        _ => {
            UNITS
                .iter()
                .find(|(name, _)| *name == unit || (unit.len() == 2 && *name == format!("{unit}B")))?
                .1
        }
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The size in the largest unit that divides it, `10GiB`; a plain number of bytes otherwise.
pub fn format(bytes: u64) -> String {
    let fits = UNITS.iter().find(|(_, factor)| *factor > 1 && bytes != 0 && bytes.is_multiple_of(*factor));
    match fits {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10GiB", 10 << 30),
            ("10Gi", 10 << 30),
            ("500MB", 500_000_000),
            ("1 kB", 1000),
            ("7B", 7),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
            assert_eq!(parse(&format(bytes)), Some(bytes), "{text}");
        }
        for wrong in ["", "GiB", "1.5GiB", "-1", "10XB", "20000000TiB", "1gib"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
