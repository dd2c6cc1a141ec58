//! The console: a page in the program, which reads the API as everybody does.
//!
//! In:    requests for `/` and the page's files.      Out: the files of `ui/`, as they were when this was built.
//! Owner: nobody.
//! Invariant: the page may run its own scripts and talk to its own origin, and nothing else; a browser asks each time whether
//! a file is still the same.
//! Not here: what the page shows (`ui/app.js`).

use std::fmt::Write;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use rust_embed::RustEmbed;

use super::route::no_path;

/// Scripts only from here; styles also in attributes, which the page's templates use; no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "../../ui"]
struct Files;

/// A file of the console, or the answer that there is no such path.
pub(super) async fn asset(request: Request) -> Response {
    let path = request.uri().path();
    let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
    let Some(file) = Files::get(name) else { return no_path(path).into_response() };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return no_path(path).into_response();
    }
    let tag = tag(&file.metadata.sha256_hash());
    let is_known = request.headers().get(IF_NONE_MATCH).is_some_and(|known| is_among(known, &tag));
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => file.data.into_owned().into_response(),
    };
    let headers = response.headers_mut();
    let set: [(HeaderName, &str); 6] = [
        (CONTENT_TYPE, file.metadata.mimetype()),
        (ETAG, &tag),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in set {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// A strong tag of the file's content.
fn tag(sha256: &[u8; 32]) -> String {
    let mut text = String::from("\"");
    for byte in &sha256[..16] {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('"');
    text
}

fn is_among(known: &HeaderValue, tag: &str) -> bool {
    let known = known.to_str().unwrap_or_default();
    known.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*")
}
