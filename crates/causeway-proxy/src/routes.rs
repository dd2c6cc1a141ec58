//! Finds the rule for a request, by Gateway API's precedence. Pure.
//!
//! In:    host, method, path, query and fields of a canonical request.      Out: a rule, and how much of the path it matched.
//! Owner: the plan.
//! Invariant: exact host before longest wildcard before any; exact path before longest prefix before regular expression;
//! then method, number of header matches, number of query matches, route's name, order within the route.
//! Not here: which routes hang on what (`plan`), what a rule does (`plan::Rule`).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use causeway_model::{PathMatch, RequestMatch, TextMatch};
use http::header::HeaderName;
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use regex::{Regex, RegexBuilder};

use crate::limits::REGEX_BYTES_MAX;

/// What is asked of a table.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub host: &'a str,
    pub method: &'a Method,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// A rule was found.
#[derive(Debug)]
pub(crate) struct Hit<'a, T> {
    pub rule: &'a Arc<T>,
    /// Bytes of the path that a prefix matched (all of it otherwise).
    pub matched: usize,
}

/// Rules by host, path and conditions.
#[derive(Debug)]
pub(crate) struct Routes<T> {
    exact: HashMap<String, Paths<T>>,
    /// By what follows the `*`: `.shop.example`.
    wildcard: HashMap<String, Paths<T>>,
    any: Paths<T>,
}

#[derive(Debug)]
struct Paths<T> {
    exact: HashMap<String, Vec<Entry<T>>>,
    /// Without a trailing slash; the root is empty.
    prefix: HashMap<String, Vec<Entry<T>>>,
    /// Most elements of a prefix: a deeper path need not be looked up whole.
    depth_max: usize,
    regex: Vec<(Regex, Entry<T>)>,
}

#[derive(Debug)]
struct Entry<T> {
    method: Option<Method>,
    headers: Vec<(HeaderName, Text)>,
    query: Vec<(String, Text)>,
    rank: Rank,
    rule: Arc<T>,
}

type Rank = (Reverse<bool>, Reverse<usize>, Reverse<usize>, Arc<str>, usize, usize);

#[derive(Debug)]
enum Text {
    Exact(String),
    Regex(Regex),
}

/// One match of one rule, to be entered.
pub(crate) struct Offer<'a, T> {
    /// Hosts; any when empty.
    pub hosts: &'a [String],
    pub matching: &'a RequestMatch,
    /// `namespace/name` of the route, rule's and match's place in it.
    pub place: (Arc<str>, usize, usize),
    pub rule: &'a Arc<T>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Routes { exact: HashMap::new(), wildcard: HashMap::new(), any: Paths::default() }
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Paths { exact: HashMap::new(), prefix: HashMap::new(), depth_max: 0, regex: Vec::new() }
    }
}

impl<T> Routes<T> {
    /// Enters a match. [`Routes::seal`] must follow the last.
    ///
    /// # Errors
    /// What cannot be compiled, in words.
    pub(crate) fn offer(&mut self, offer: &Offer<'_, T>) -> Result<(), String> {
        if offer.hosts.is_empty() {
            return self.any.offer(offer);
        }
        for host in offer.hosts {
            let host = host.to_ascii_lowercase();
            let paths = match host.strip_prefix('*') {
                Some(suffix) => self.wildcard.entry(suffix.to_owned()).or_default(),
                None => self.exact.entry(host).or_default(),
            };
            paths.offer(offer)?;
        }
        Ok(())
    }

    /// Brings everything into its order.
    pub(crate) fn seal(&mut self) {
        self.exact.values_mut().chain(self.wildcard.values_mut()).for_each(Paths::seal);
        self.any.seal();
    }

    /// The best rule for a request.
    pub(crate) fn find(&self, query: &Query<'_>) -> Option<Hit<'_, T>> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(query.host) };
        exact
            .and_then(|paths| paths.find(query))
            .or_else(|| self.find_wildcard(query))
            .or_else(|| self.any.find(query))
    }

    fn find_wildcard(&self, query: &Query<'_>) -> Option<Hit<'_, T>> {
        if self.wildcard.is_empty() {
            return None;
        }
        suffixes(query.host).find_map(|suffix| self.wildcard.get(suffix)?.find(query))
    }
}

/// What a wildcard may stand before, longest first: `.b.c` and `.c` of `a.b.c`.
pub(crate) fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &host[at..])
}

impl<T> Paths<T> {
    fn offer(&mut self, offer: &Offer<'_, T>) -> Result<(), String> {
        let entry = Entry::compile(offer)?;
        match &offer.matching.path {
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default().push(entry),
            PathMatch::Prefix(path) => {
                let path = path.trim_end_matches('/');
                self.depth_max = self.depth_max.max(path.matches('/').count());
                self.prefix.entry(path.to_owned()).or_default().push(entry);
            }
            PathMatch::Regex(pattern) => self.regex.push((compile_regex(pattern)?, entry)),
        }
        Ok(())
    }

    fn seal(&mut self) {
        for entries in self.exact.values_mut().chain(self.prefix.values_mut()) {
            entries.sort_by(|a, b| a.rank.cmp(&b.rank));
        }
        self.regex.sort_by(|(_, a), (_, b)| a.rank.cmp(&b.rank));
    }

    fn find(&self, query: &Query<'_>) -> Option<Hit<'_, T>> {
        let first = |entries: &'_ [Entry<T>]| entries.iter().position(|entry| entry.holds(query));
        if !self.exact.is_empty()
            && let Some(entries) = self.exact.get(query.path)
            && let Some(at) = first(entries)
        {
            return Some(Hit { rule: &entries[at].rule, matched: query.path.len() });
        }
        for prefix in prefixes(query.path, self.depth_max) {
            if let Some(entries) = self.prefix.get(prefix)
                && let Some(at) = first(entries)
            {
                return Some(Hit { rule: &entries[at].rule, matched: prefix.len().max(1) });
            }
        }
        let (_, entry) =
            self.regex.iter().find(|(regex, entry)| regex.is_match(query.path) && entry.holds(query))?;
        Some(Hit { rule: &entry.rule, matched: query.path.len() })
    }
}

/// The path's beginnings of whole elements, longest first, at most `depth` elements long; the last is empty (the root).
fn prefixes(path: &str, depth: usize) -> impl Iterator<Item = &str> {
    let end = path.match_indices('/').nth(depth).map_or(path.len(), |(at, _)| at);
    let mut rest = Some(path[..end].trim_end_matches('/'));
    std::iter::from_fn(move || {
        let now = rest?;
        rest = now.rfind('/').map(|at| &now[..at]);
        Some(now)
    })
}

impl<T> Entry<T> {
    fn compile(offer: &Offer<'_, T>) -> Result<Self, String> {
        let RequestMatch { method, headers, query, .. } = offer.matching;
        let method = match method {
            Some(text) => Some(text.parse().map_err(|_| format!("{text:?} is not a method"))?),
            None => None,
        };
        let headers = headers.iter().map(|header| {
            let name = header.name.parse().map_err(|_| format!("{:?} is not a header name", header.name))?;
            Ok((name, Text::compile(&header.value)?))
        });
        let query = query.iter().map(|query| Ok((query.name.clone(), Text::compile(&query.value)?)));
        let (headers, query) =
            (headers.collect::<Result<Vec<_>, String>>()?, query.collect::<Result<Vec<_>, String>>()?);
        let (route, rule, at) = offer.place.clone();
        let rank = (Reverse(method.is_some()), Reverse(headers.len()), Reverse(query.len()), route, rule, at);
        Ok(Entry { method, headers, query, rank, rule: offer.rule.clone() })
    }

    fn holds(&self, query: &Query<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == query.method)
            && self.headers.iter().all(|(name, text)| header_holds(query.headers, name, text))
            && self.query.iter().all(|(name, text)| query_holds(query.query, name, text))
    }
}

fn header_holds(headers: &HeaderMap, name: &HeaderName, text: &Text) -> bool {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    match (first, second) {
        (None, _) => false,
        (Some(value), None) => value.to_str().is_ok_and(|value| text.holds(value)),
        // Several fields of one name are one value (RFC 9110 section 5.3).
        (Some(_), Some(_)) => {
            let all: Vec<&str> =
                headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            text.holds(&all.join(", "))
        }
    }
}

fn query_holds(query: Option<&str>, name: &str, text: &Text) -> bool {
    let decoded = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let mut pairs = query.unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| decoded(key) == name).is_some_and(|(_, value)| text.holds(&decoded(value)))
}

impl Text {
    fn compile(text: &TextMatch) -> Result<Self, String> {
        Ok(match text {
            TextMatch::Exact(text) => Text::Exact(text.clone()),
            TextMatch::Regex(pattern) => Text::Regex(compile_regex(pattern)?),
        })
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Text::Exact(text) => text == value,
            Text::Regex(regex) => regex.is_match(value),
        }
    }
}

fn compile_regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|error| format!("{pattern:?} is not a regular expression: {error}"))
}

#[cfg(test)]
mod tests {
    use causeway_model::{HeaderMatch, QueryMatch};

    use super::*;

    /// `rules`: `name = [METHOD ][host]path[ header:value][ ?name=value]`; path `=/exact`, `~regex`, else a prefix.
    fn check(rules: &[&str], request: &str, expected: &str) {
        let mut routes = Routes::default();
        for (at, line) in rules.iter().enumerate() {
            let (name, rest) = line.split_once(" = ").unwrap();
            let mut matching = RequestMatch {
                path: PathMatch::Prefix("/".into()),
                headers: vec![],
                query: vec![],
                method: None,
            };
            let mut hosts = vec![];
            for word in rest.split(' ') {
                if word.chars().all(|c| c.is_ascii_uppercase()) {
                    matching.method = Some(word.into());
                } else if let Some((n, v)) = word.strip_prefix('?').and_then(|w| w.split_once('=')) {
                    matching.query.push(QueryMatch { name: n.into(), value: TextMatch::Exact(v.into()) });
                } else if let Some(path) = word.strip_prefix('=') {
                    matching.path = PathMatch::Exact(path.into());
                } else if let Some(pattern) = word.strip_prefix('~') {
                    matching.path = PathMatch::Regex(pattern.into());
                } else if let Some((n, v)) = word.split_once(':') {
                    matching.headers.push(HeaderMatch { name: n.into(), value: TextMatch::Exact(v.into()) });
                } else if word.starts_with('/') {
                    matching.path = PathMatch::Prefix(word.into());
                } else {
                    hosts.push(word.to_owned());
                }
            }
            let offer = Offer {
                hosts: &hosts,
                matching: &matching,
                place: ("r".into(), at, 0),
                rule: &Arc::new(name.to_owned()),
            };
            routes.offer(&offer).unwrap();
        }
        routes.seal();
        let mut words = request.split(' ');
        let method: Method = words.next().unwrap().parse().unwrap();
        let (host, target) = words.next().map(|url| url.split_at(url.find('/').unwrap())).unwrap();
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut headers = HeaderMap::new();
        for word in words {
            let (name, value) = word.split_once(':').unwrap();
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let query = Query { host, method: &method, path, query, headers: &headers };
        let found =
            routes.find(&query).map_or("404".to_owned(), |hit| format!("{} {}", hit.rule, hit.matched));
        assert_eq!(found, expected, "{request}");
    }

    #[test]
    fn paths() {
        let rules = ["root = /", "cart = /cart", "item = =/cart/7", "deep = /cart/x/", "odd = ~/[0-9]+"];
        check(&rules, "GET h/", "root 1");
        check(&rules, "GET h/cart", "cart 5");
        check(&rules, "GET h/cart/", "cart 5");
        check(&rules, "GET h/cart/7", "item 7");
        check(&rules, "GET h/cart/7/8", "cart 5");
        check(&rules, "GET h/cartoon", "root 1");
        check(&rules, "GET h/cart/x/y/z", "deep 7");
        check(&rules, "GET h/cart/x", "deep 7");
        check(&["odd = ~/[0-9]+", "cart = /cart"], "GET h/12", "odd 3");
        check(&["odd = ~/[0-9]+"], "GET h/12/x", "404");
        check(&["cart = /cart"], "GET h/", "404");
    }

    #[test]
    fn hosts() {
        let rules = ["any = /", "one = a.b.c /x", "star = *.b.c /", "wide = *.c /wide"];
        check(&rules, "GET a.b.c/x", "one 2");
        check(&rules, "GET a.b.c/y", "star 1");
        check(&rules, "GET q.c/wide", "wide 5");
        check(&rules, "GET z.y.b.c/", "star 1");
        check(&rules, "GET q.c/else", "any 1");
        check(&["star = *.b.c /"], "GET b.c/", "404");
    }

    #[test]
    fn conditions_break_ties() {
        let rules = [
            "plain = /a",
            "posts = POST /a",
            "one = /a x:1",
            "two = /a x:1 y:2",
            "asked = /a ?v=a b",
            "later = /a",
        ];
        check(&rules, "GET h/a", "plain 2");
        check(&rules, "POST h/a x:1", "posts 2");
        check(&rules, "GET h/a x:1", "one 2");
        check(&rules, "GET h/a x:1 y:2", "two 2");
        check(&["asked = /a ?v=1", "plain = /a"], "GET h/a?w=2&v=1", "asked 2");
        check(&["asked = /a ?v=1", "plain = /"], "GET h/a?v=2&v=1", "plain 1");
        check(&["asked = /a ?v%=é"], "GET h/a?v%25=%C3%A9", "asked 2");
        check(&["two = / x:a,"], "GET h/ x:a x:b", "404");
    }
}
