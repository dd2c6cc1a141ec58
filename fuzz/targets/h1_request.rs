//! Any bytes as a request's head in HTTP/1.1: the properties of the codec's own tests, from coverage instead of chance.

#![no_main]

#[allow(dead_code)]
#[path = "../../crates/causeway-wire/tests/h1/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::request(bytes));
