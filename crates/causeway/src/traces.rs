//! Which requests are traced and where spans go: flags first, then OpenTelemetry's own environment variables.
//!
//! In:    `--trace-ratio`, `--otlp`, `OTEL_EXPORTER_OTLP_…`.      Out: [`Tracing`] for a proxy.
//! Owner: `up`, `run` and `proxy` share it.
//! Invariant: what is given and cannot be used is an error at the start, never a silence later.
//! Not here: sending (`causeway-proxy`).

use std::ffi::OsString;

use anyhow::{Context, Result, bail};
use causeway_proxy::{Otlp, Tracing};

use crate::cli::DataPath;

/// Requests a second of each worker whose flag is followed when a collector takes the spans.
const FOLLOW_WITH_COLLECTOR: u32 = 2_000;
/// Where distributions keep the roots that they trust.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What the flags and the environment say.
pub(crate) fn wanted(path: &DataPath) -> Result<Tracing> {
    let otlp = collector(path.otlp.as_deref(), |name| std::env::var_os(name))?;
    let default = Tracing::default();
    let follow_per_second = if otlp.is_some() { FOLLOW_WITH_COLLECTOR } else { default.follow_per_second };
    Ok(Tracing { ratio: path.trace_ratio, follow_per_second, otlp, ..default })
}

fn collector(flag: Option<&str>, environment: impl Fn(&str) -> Option<OsString>) -> Result<Option<Otlp>> {
    let read = |name: &str| {
        let value = environment(name)?.into_string().ok()?;
        (!value.trim().is_empty()).then(|| value.trim().to_owned())
    };
    // What is said of traces alone goes before what is said of everything.
    let either = |end: &str| {
        read(&format!("OTEL_EXPORTER_OTLP_TRACES_{end}"))
            .or_else(|| read(&format!("OTEL_EXPORTER_OTLP_{end}")))
    };
    let is_grpc = match either("PROTOCOL").as_deref() {
        None => None,
        Some("grpc") => Some(true),
        Some("http/protobuf") => Some(false),
        Some(other) => {
            bail!("OTEL_EXPORTER_OTLP_PROTOCOL {other:?} is not spoken here: grpc or http/protobuf [CW-2015]")
        }
    };
    let endpoint =
        match (flag, read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), read("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(flag), ..) => flag.to_owned(),
            (None, Some(of_traces), _) => of_traces,
            // The standard puts the signal's path below the common endpoint's, and means HTTP when no protocol is said.
            (None, None, Some(common)) => {
                let is_http = is_grpc == Some(false)
                    || is_grpc.is_none() && !common.trim_end_matches('/').ends_with(":4317");
                if is_http { format!("{}/v1/traces", common.trim_end_matches('/')) } else { common }
            }
            (None, None, None) => return Ok(None),
        };
    let mut otlp = Otlp::new(&endpoint, is_grpc).map_err(|error| anyhow::anyhow!("{error} [CW-2015]"))?;
    for pair in either("HEADERS").unwrap_or_default().split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) =
            pair.split_once('=').context("OTEL_EXPORTER_OTLP_HEADERS is a list of NAME=VALUE [CW-2015]")?;
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
        otlp = otlp.with_header(name.trim(), &value).map_err(|error| anyhow::anyhow!("{error} [CW-2015]"))?;
    }
    if otlp.is_tls() {
        otlp = otlp.with_roots(roots(either("CERTIFICATE"))?);
    }
    Ok(Some(otlp))
}

/// The roots that are named, or the machine's own.
fn roots(named: Option<String>) -> Result<String> {
    if let Some(path) = named {
        return std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the collector's roots from {path} [CW-2015]"));
    }
    SYSTEM_ROOTS.iter().find_map(|path| std::fs::read_to_string(path).ok()).with_context(|| {
        format!("no roots to trust the collector by in {}: name some with OTEL_EXPORTER_OTLP_CERTIFICATE [CW-2015]", SYSTEM_ROOTS.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flag: Option<&str>, environment: &[(&str, &str)]) -> String {
        let read = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        };
        match collector(flag, read) {
            Ok(None) => "none".into(),
            Ok(Some(otlp)) => otlp.to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn flags_go_before_the_environment_and_traces_before_everything() {
        let (common, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        assert_eq!(check(None, &[]), "none");
        assert_eq!(check(Some("http://f:4317"), &[(common, "http://c:4318")]), "http://f:4317 (gRPC)");
        assert_eq!(check(None, &[(common, "http://c:4318")]), "http://c:4318 (HTTP)");
        assert_eq!(check(None, &[(common, "http://c:4317")]), "http://c:4317 (gRPC)");
        assert_eq!(check(None, &[(common, "http://c:9"), (traces, "http://t:9/x")]), "http://t:9 (HTTP)");
        let protocol = |said| ("OTEL_EXPORTER_OTLP_PROTOCOL", said);
        assert_eq!(check(None, &[(common, "http://c:9"), protocol("grpc")]), "http://c:9 (gRPC)");
        assert_eq!(
            check(None, &[(common, "http://c:4317"), protocol("http/protobuf")]),
            "http://c:4317 (HTTP)"
        );
        assert!(check(None, &[(common, "http://c:9"), protocol("http/json")]).contains("CW-2015"));
        assert!(check(Some("nonsense"), &[]).contains("CW-2015"));
        let headers = |said| ("OTEL_EXPORTER_OTLP_HEADERS", said);
        assert_eq!(check(Some("http://f:4317"), &[headers("a=b, c=d%20e")]), "http://f:4317 (gRPC)");
        assert!(check(Some("http://f:4317"), &[headers("a")]).contains("NAME=VALUE"));
        let certificate = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem");
        assert!(check(Some("https://f:4318"), &[certificate]).contains("/nowhere.pem"));
    }
}
