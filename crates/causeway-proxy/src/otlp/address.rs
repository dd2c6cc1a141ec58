//! Where a collector is and how it is spoken to, as people write it.

use std::fmt;

use http::{HeaderName, HeaderValue, Uri};

/// Where gRPC puts spans.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Where HTTP does, below the endpoint.
const HTTP_PATH: &str = "/v1/traces";
/// Ports by which the protocol is known when nothing else says it.
const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;

/// A collector of OpenTelemetry data.
#[derive(Clone)]
pub struct Otlp {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) is_grpc: bool,
    /// PEM of the roots to trust; none speaks plaintext.
    pub(super) roots: Option<String>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why an address of a collector is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadOtlp(String);

impl Otlp {
    /// The collector at `endpoint`, `http://host:4317` (gRPC), `http://host:4318` (HTTP), or any other with `is_grpc` said.
    ///
    /// # Errors
    /// When the endpoint is no such address, or nothing says what is spoken there.
    pub fn new(endpoint: &str, is_grpc: Option<bool>) -> Result<Self, BadOtlp> {
        let bad = |why: &str| BadOtlp(format!("{endpoint:?} is not the address of an OTLP collector: {why}"));
        let uri: Uri = endpoint.parse().map_err(|_| bad("write http://HOST:PORT"))?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(bad("write http://HOST:PORT"));
        };
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(bad("it begins with http:// or https://")),
        };
        let path = uri.path().trim_end_matches('/');
        let is_grpc = match (is_grpc, uri.port_u16(), path) {
            (Some(is_grpc), ..) => is_grpc,
            (None, Some(GRPC_PORT), "") => true,
            (None, Some(HTTP_PORT), _) => false,
            // gRPC's path is its own.
            (None, _, path) if !path.is_empty() => false,
            _ => return Err(bad("port 4317 means gRPC and 4318 HTTP; say the protocol of another one")),
        };
        let default_port = if is_grpc { GRPC_PORT } else { HTTP_PORT };
        let path = match (is_grpc, path) {
            (true, _) => GRPC_PATH.to_owned(),
            (false, "") => HTTP_PATH.to_owned(),
            (false, path) => path.to_owned(),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { default_port });
        let roots = is_tls.then(String::new);
        Ok(Otlp { host, port, path, is_grpc, roots, headers: Vec::new() })
    }

    /// Whether TLS is spoken, and roots are needed.
    pub fn is_tls(&self) -> bool {
        self.roots.is_some()
    }

    /// The roots to trust, PEM; without TLS they are not used.
    #[must_use]
    pub fn with_roots(mut self, pem: String) -> Self {
        self.roots = self.roots.map(|_| pem);
        self
    }

    /// A field of each request, such as a key.
    ///
    /// # Errors
    /// When it is no field.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, BadOtlp> {
        let bad = || BadOtlp(format!("{name:?} is not a header that a collector could be sent"));
        let name = HeaderName::try_from(name).map_err(|_| bad())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        self.headers.push((name, value));
        Ok(self)
    }
}

impl fmt::Display for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let protocol = if self.is_grpc { "gRPC" } else { "HTTP" };
        write!(f, "{scheme}://{}:{} ({protocol})", self.host, self.port)
    }
}

/// Without the headers: they hold keys.
impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(endpoint: &str, is_grpc: Option<bool>) -> String {
        match Otlp::new(endpoint, is_grpc) {
            Ok(otlp) => format!("{otlp} {}", otlp.path),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_port_says_the_protocol_unless_it_is_said() {
        assert_eq!(read("http://c:4317", None), format!("http://c:4317 (gRPC) {GRPC_PATH}"));
        assert_eq!(read("http://c:4318/", None), "http://c:4318 (HTTP) /v1/traces");
        assert_eq!(read("https://c/otlp/v1/traces", None), "https://c:443 (HTTP) /otlp/v1/traces");
        assert_eq!(read("http://[::1]:9", Some(true)), format!("http://::1:9 (gRPC) {GRPC_PATH}"));
        assert_eq!(read("http://c", Some(false)), "http://c:4318 (HTTP) /v1/traces");
        for wrong in ["c:4317", "ftp://c:4317", "http://c:9", "", "http://"] {
            assert!(read(wrong, None).contains("is not the address"), "{wrong}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let otlp = Otlp::new("http://c:4317", None).unwrap().with_header("x-key", "secret").unwrap();
        assert!(!format!("{otlp:?} {:?}", otlp.headers).contains("secret"));
        assert!(otlp.with_header("no header", "x").is_err());
    }
}
