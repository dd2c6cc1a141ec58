//! Flags of a bench: `--name value` pairs, each taken once by who knows it.
//!
//! In:    words.      Out: values; what nobody took is an error.
//! Owner: each bench's `run`.
//! Not here: what the flags mean.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};

/// What was given and not yet taken.
pub struct Flags(BTreeMap<String, String>);

impl Flags {
    /// Reads pairs.
    pub fn parse(words: &[String]) -> Result<Flags> {
        let mut given = BTreeMap::new();
        for pair in words.chunks(2) {
            let [name, value] = pair else { bail!("{} wants a value", pair[0]) };
            let Some(name) = name.strip_prefix("--") else { bail!("{name:?} is not a flag") };
            given.insert(name.to_owned(), value.clone());
        }
        Ok(Flags(given))
    }

    /// The value of `--name`, if it was given.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The number after `--name`, or `default`.
    pub fn number<T: FromStr>(&mut self, name: &str, default: T) -> Result<T> {
        let Some(text) = self.take(name) else { return Ok(default) };
        text.parse().map_err(|_| anyhow!("--{name} wants a number, not {text:?}"))
    }

    /// The comma-separated words after `--name`, each one of `known`; all of them when it was not given.
    pub fn among<'a>(&mut self, name: &str, known: &[&'a str]) -> Result<Vec<&'a str>> {
        let Some(text) = self.take(name) else { return Ok(known.to_vec()) };
        let find = |word: &str| {
            let found = known.iter().copied().find(|known| *known == word);
            found.ok_or_else(|| anyhow!("--{name} knows {}, not {word:?}", known.join(", ")))
        };
        text.split(',').map(find).collect()
    }

    /// Fails when something is left that nobody knows.
    pub fn finish(&self) -> Result<()> {
        match self.0.keys().next() {
            Some(name) => bail!("this bench has no flag --{name}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Result<Flags> {
        Flags::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_nobody_takes_is_an_error() {
        let mut given = flags("--rounds 3 --only h2,h1").unwrap();
        assert_eq!(given.number("rounds", 5u32).unwrap(), 3);
        assert_eq!(given.number("seconds", 5u32).unwrap(), 5);
        assert_eq!(given.finish().unwrap_err().to_string(), "this bench has no flag --only");
        assert_eq!(given.among("only", &["h1", "h2", "tcp"]).unwrap(), ["h2", "h1"]);
        given.finish().unwrap();
        assert!(flags("--rounds").is_err());
        assert!(flags("--only h3").unwrap().among("only", &["h1"]).is_err());
    }
}
