//! The path of a request in its one form (RFC 3986 section 6.2.2, and slashes merged).
//!
//! Escapes of unreserved characters are undone, other escapes get upper-case digits, `.` and `..` are resolved, `//` is `/`.
//! What servers read differently (`%2F`, `\`, `%00`, `..;x`, more `..` than elements) is refused: see [`Ambiguous`].
//!
//! A `#` is refused too, and before us by the codecs.

use std::borrow::Cow;

use crate::Ambiguous;

/// The one form of `path`, which begins with a slash; borrowed when it has it already.
///
/// # Errors
/// [`Ambiguous`] says what could be read in two ways.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(Ambiguous::BadTarget);
    }
    match is_plain(path.as_bytes())? {
        true => Ok(Cow::Borrowed(path)),
        false => resolve(&unescape(path)?).map(Cow::Owned),
    }
}

/// Whether nothing is to be done: one pass without a copy, the way of nearly every request.
fn is_plain(path: &[u8]) -> Result<bool, Ambiguous> {
    let mut previous = 0;
    let mut is_plain = true;
    for &byte in path {
        match byte {
            b'%' => is_plain = false,
            b'/' | b'.' if previous == b'/' => is_plain = false,
            b'\\' => return Err(Ambiguous::HiddenSeparator),
            0..=b' ' | 0x7f.. | b'#' | b'?' => return Err(Ambiguous::BadTarget),
            _ => {}
        }
        previous = byte;
    }
    Ok(is_plain)
}

fn unescape(path: &str) -> Result<String, Ambiguous> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.as_bytes().get(at + 1..at + 3).ok_or(Ambiguous::BadEscape)?;
        let hex = |digit: u8| char::from(digit).to_digit(16).ok_or(Ambiguous::BadEscape);
        let byte = (hex(digits[0])? * 16 + hex(digits[1])?) as u8;
        match byte {
            b'/' | b'\\' | 0 => return Err(Ambiguous::HiddenSeparator),
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => {
                out.push('%');
                [byte >> 4, byte & 15].into_iter().for_each(|n| {
                    out.push(char::from(b"0123456789ABCDEF"[usize::from(n)]));
                });
            }
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(path: &str) -> Result<String, Ambiguous> {
    let mut elements: Vec<&str> = Vec::new();
    let mut is_directory = false;
    for element in path.split('/').skip(1) {
        is_directory = matches!(element, "" | "." | "..");
        match element {
            "" | "." => {}
            ".." => drop(elements.pop().ok_or(Ambiguous::AboveRoot)?),
            element if is_dot_with_parameter(element) => return Err(Ambiguous::DotParameter),
            element => elements.push(element),
        }
    }
    let mut out = String::with_capacity(path.len());
    for element in &elements {
        out.push('/');
        out.push_str(element);
    }
    if is_directory || out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

/// `.;x`, `..;x`: Tomcat and its kin take the parameter off and then climb; an escaped semicolon may be undone first.
fn is_dot_with_parameter(element: &str) -> bool {
    let rest = element.strip_prefix("..").or_else(|| element.strip_prefix('.'));
    rest.is_some_and(|rest| rest.starts_with(';') || rest.starts_with("%3B"))
}

/// Whether `path` is `prefix` or lies below it, by whole elements (`/foo` holds `/foo/bar`, not `/foobar`).
pub fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b.c/~d", "/a/b.c/~d"),
            ("/%61%2Db", "/a-b"),
            ("/a%2fb", "!HiddenSeparator"),
            ("/a%5Cb", "!HiddenSeparator"),
            ("/a\\b", "!HiddenSeparator"),
            ("/a%00", "!HiddenSeparator"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/c", "/c"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("//a///b/", "/a/b/"),
            ("/..", "!AboveRoot"),
            ("/a/../../b", "!AboveRoot"),
            ("/a%", "!BadEscape"),
            ("/a%4", "!BadEscape"),
            ("/a%zz", "!BadEscape"),
            ("/a%é", "!BadTarget"),
            ("a", "!BadTarget"),
            ("/a b", "!BadTarget"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a%20b", "/a%20b"),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("*", "*"),
            ("/pub/..;/admin", "!DotParameter"),
            ("/pub/..;a=b", "!DotParameter"),
            ("/pub/.;/admin", "!DotParameter"),
            ("/pub/%2e%2E%3b/admin", "!DotParameter"),
            ("/a;v=1/b..;c/...;d", "/a;v=1/b..;c/...;d"),
            ("/a#b", "!BadTarget"),
        ] {
            let read = match canonical(path) {
                Ok(path) => path.into_owned(),
                Err(why) => format!("!{why:?}"),
            };
            assert_eq!(read, expected, "{path}");
            if !read.starts_with('!') {
                assert_eq!(canonical(&read).unwrap(), read, "the one form is its own form");
            }
        }
    }

    #[test]
    fn prefixes_hold_whole_elements() {
        for (path, prefix, expected) in [
            ("/foo", "/foo", true),
            ("/foo/", "/foo", true),
            ("/foo/bar", "/foo/", true),
            ("/foobar", "/foo", false),
            ("/x", "/", true),
            ("/fo", "/foo", false),
        ] {
            assert_eq!(is_below(path, prefix), expected, "{path} below {prefix}");
        }
    }
}
