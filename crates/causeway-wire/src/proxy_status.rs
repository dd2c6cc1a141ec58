//! `Proxy-Status` (RFC 9209): what went wrong between a client and a service, said by us.

use std::fmt::Write;

use http::HeaderValue;
use http::header::HeaderName;

/// The field's name.
pub static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Who speaks in the field.
const SELF: &str = "causeway";

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, sent: $sent:literal;)*) => {
        /// Error types of RFC 9209 section 2.3 that we use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProxyError { $($(#[$doc])* $name,)* }

        impl ProxyError {
            /// All of them.
            pub const ALL: &[ProxyError] = &[$(ProxyError::$name,)*];

            /// As registered.
            pub const fn as_str(self) -> &'static str {
                match self { $(ProxyError::$name => $text,)* }
            }

            /// The status that we answer with.
            pub const fn status(self) -> u16 {
                match self { $(ProxyError::$name => $status,)* }
            }

            /// Whether bytes of the request may have reached the service; if not, it may be sent again whatever it does.
            pub const fn may_be_processed(self) -> bool {
                match self { $(ProxyError::$name => $sent,)* }
            }

            fn find(text: &str) -> Option<Self> {
                match text { $($text => Some(ProxyError::$name),)* _ => None }
            }
        }
    };
}
errors! {
    /// The request cannot be read in one way only.
    HttpRequestError = "http_request_error", 400, sent: false;
    /// A policy refuses it.
    HttpRequestDenied = "http_request_denied", 403, sent: false;
    /// No route or no such service.
    DestinationNotFound = "destination_not_found", 404, sent: false;
    /// No endpoint that can be called.
    DestinationUnavailable = "destination_unavailable", 503, sent: false;
    /// The endpoint's name has no address.
    DnsError = "dns_error", 502, sent: false;
    /// Nobody listens there.
    ConnectionRefused = "connection_refused", 503, sent: false;
    /// The connection could not be made in time.
    ConnectionTimeout = "connection_timeout", 503, sent: false;
    /// So many requests are under way that no further is sent.
    ConnectionLimitReached = "connection_limit_reached", 503, sent: false;
    /// Mutual TLS failed.
    TlsProtocolError = "tls_protocol_error", 502, sent: false;
    /// The connection broke before the answer was whole.
    ConnectionTerminated = "connection_terminated", 502, sent: true;
    /// No answer in time.
    HttpResponseTimeout = "http_response_timeout", 504, sent: true;
    /// The answer could not be understood.
    HttpProtocolError = "http_protocol_error", 502, sent: true;
    /// It came back to a proxy that it had passed. It was not sent on, but sending it again would only go round again.
    ProxyLoopDetected = "proxy_loop_detected", 502, sent: true;
    /// The configuration is at fault.
    ProxyConfigurationError = "proxy_configuration_error", 500, sent: false;
    /// We are.
    ProxyInternalError = "proxy_internal_error", 500, sent: true;
}

/// One entry of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyStatus {
    /// What went wrong.
    pub error: ProxyError,
    /// For the reader; safe to show to a client.
    pub details: String,
}

impl ProxyStatus {
    /// The entry as a field value: `causeway; error=connection_refused; details="…"`.
    pub fn to_value(&self) -> HeaderValue {
        let mut text = String::with_capacity(64 + self.details.len());
        // Writing into a String cannot fail.
        let _ = write!(text, "{SELF}; error={}; details=\"", self.error.as_str());
        for c in self.details.chars().take(300) {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                ' '..='~' => text.push(c),
                _ => text.push('?'),
            }
        }
        text.push('"');
        HeaderValue::from_str(&text).expect("only visible ASCII and blanks were written")
    }

    /// The error that another of our proxies says it met (the last entry of the field, RFC 9209 section 2: nearest to us).
    pub fn error_in(value: &HeaderValue) -> Option<ProxyError> {
        let text = value.to_str().ok()?;
        let entry = text.strip_prefix(SELF)?.strip_prefix("; error=")?;
        let end = entry.find([';', ',', ' ']).unwrap_or(entry.len());
        ProxyError::find(&entry[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_structured_fields_and_are_read_back() {
        let status =
            ProxyStatus { error: ProxyError::ConnectionRefused, details: "say \"no\"\r\nX: é".into() };
        let value = status.to_value();
        assert_eq!(value, "causeway; error=connection_refused; details=\"say \\\"no\\\"??X: ?\"");
        assert_eq!(ProxyStatus::error_in(&value), Some(ProxyError::ConnectionRefused));
        assert_eq!(ProxyStatus::error_in(&HeaderValue::from_static("other; error=dns_error")), None);
    }
}
