//! Kind TrafficPolicy: how calls are balanced, tried again, limited and disturbed.
//!
//! In:    a spec's node.     Out: [`TrafficPolicy`].
//! Owner: the reader of one text.
//! Invariant: a policy that says nothing, or is for nothing, is an error; parts that only a service has are refused for a route.
//! Not here: what each part does (`causeway-proxy`), who may call (`access.rs`).

use causeway_model::{
    Affinity, Algorithm, Balancer, Circuit, Concurrency, Fault, FaultAbort, FaultDelay, HashOn, Hedge,
    LocalityMode, Name, Outlier, PolicyTarget, RateKey, RateLimit, Retry, Share, TargetKind, TrafficPolicy,
    TrafficTimeouts,
};

use super::refs;
use crate::problem::Code;
use crate::reader::{At, Fields, Reader};
use crate::text;
use crate::tree::Value;

const TARGETS_MAX: usize = 64;
const CODES_MAX: usize = 64;
/// Most retries: more is a storm.
const RETRIES_MAX: u32 = 10;
/// Most that a count of requests or connections may be.
const COUNT_MAX: u32 = 1_000_000;

/// The parts that are about a service as a whole, so that a route cannot have them.
const OF_SERVICES: [&str; 3] = ["loadBalancer", "outlier", "circuitBreaker"];

pub(crate) fn read(r: &mut Reader<'_>, namespace: &Name, spec: &At<'_>) -> Option<TrafficPolicy> {
    let mut f = spec.fields(r)?;
    let targets_at = f.need(r, "targetRefs", "[{kind: Service, name: payments}]");
    let targets = targets_at
        .as_ref()
        .and_then(|at| at.each(r, TARGETS_MAX, |r, at| target(r, namespace, at)))
        .unwrap_or_default();
    if let Some(at) = targets_at.filter(|at| matches!(&at.node.value, Value::List(items) if items.is_empty()))
    {
        let hint = "write `targetRefs: [{kind: Service, name: payments}]`, or remove the policy";
        at.report(r, Code::EmptyPolicy, "is empty, so the policy would be for nothing", hint);
    }
    let is_route =
        |target: &PolicyTarget| matches!(target.kind, TargetKind::HttpRoute | TargetKind::GrpcRoute);
    if targets.iter().any(is_route) {
        for name in OF_SERVICES {
            if let Some(at) = f.take(name) {
                let hint = "put it into a TrafficPolicy for the Service";
                at.report(
                    r,
                    Code::Contradiction,
                    "is about a service as a whole, and the policy is for a route",
                    hint,
                );
            }
        }
    }
    f.refuse(r, "mtls", "leave it out: a sidecar takes mutual TLS alone");
    f.refuse(r, "egress", "leave it out, and bound where apps may call in the network");
    let policy = TrafficPolicy {
        targets,
        balancer: part(r, &mut f, "loadBalancer", balancer),
        affinity: part(r, &mut f, "sessionAffinity", affinity),
        outlier: part(r, &mut f, "outlier", outlier),
        circuit: part(r, &mut f, "circuitBreaker", circuit),
        retry: part(r, &mut f, "retry", retry),
        timeouts: part(r, &mut f, "timeouts", timeouts),
        hedge: part(r, &mut f, "hedging", hedge),
        rate_limit: part(r, &mut f, "rateLimit", rate_limit),
        concurrency: part(r, &mut f, "concurrency", concurrency),
        priority: part(r, &mut f, "priority", |r, at| {
            at.u32(r, 0..=7).and_then(|urgency| u8::try_from(urgency).ok())
        }),
        fault: part(r, &mut f, "fault", fault),
        mtls: None,
        egress: None,
    };
    let is_empty = TrafficPolicy { targets: policy.targets.clone(), ..TrafficPolicy::default() } == policy;
    if is_empty && r.errors() == 0 {
        let hint = "write what it is to change, such as `retry: {attempts: 1}`, or remove it";
        spec.report(r, Code::EmptyPolicy, "says nothing beside its targets", hint);
    }
    f.done(r);
    Some(policy)
}

fn part<'n, T>(
    r: &mut Reader<'_>,
    f: &mut Fields<'n>,
    name: &'static str,
    read: impl FnOnce(&mut Reader<'_>, &At<'n>) -> Option<T>,
) -> Option<T> {
    f.take(name).and_then(|at| read(r, &at))
}

fn target(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<PolicyTarget> {
    const KINDS: [(&str, TargetKind); 4] = [
        ("Service", TargetKind::Service),
        ("Namespace", TargetKind::Namespace),
        ("HTTPRoute", TargetKind::HttpRoute),
        ("GRPCRoute", TargetKind::GrpcRoute),
    ];
    let mut f = at.fields(r)?;
    let kind = f.need(r, "kind", "Service").and_then(|at| at.choice(r, &KINDS));
    if let (Some(at), Some(kind)) = (f.take("group"), kind) {
        match kind {
            TargetKind::Service => at.choice(r, &refs::SERVICE_GROUPS),
            TargetKind::Namespace => at.choice(r, &[("", ())]),
            TargetKind::HttpRoute | TargetKind::GrpcRoute => at.choice(r, &[(refs::GATEWAY_GROUP, ())]),
        };
    }
    let name_at = f.need(r, "name", "payments");
    let name = name_at.as_ref().and_then(|at| at.name(r));
    if kind == Some(TargetKind::Namespace)
        && let (Some(at), Some(name)) = (&name_at, &name)
        && name != namespace
    {
        refs::only_own_namespace(r, at, name, namespace);
    }
    let hint = "a policy is for objects of its own namespace: move it there";
    refs::own_namespace(r, &mut f, namespace, hint);
    let section_at = f.take("sectionName");
    let section = section_at.as_ref().and_then(|at| text::label(r, at));
    if let (Some(at), Some(TargetKind::Service | TargetKind::Namespace)) = (section_at, kind) {
        let hint = "only a rule of a route has a name: leave it out";
        at.report(r, Code::Contradiction, "does not belong to this kind of target", hint);
    }
    f.done(r);
    Some(PolicyTarget { kind: kind?, namespace: namespace.clone(), name: name?, section })
}

fn balancer(r: &mut Reader<'_>, at: &At<'_>) -> Option<Balancer> {
    const ALGORITHMS: [(&str, Algorithm); 6] = [
        ("peakEwma", Algorithm::PeakEwma),
        ("leastRequest", Algorithm::LeastRequest),
        ("roundRobin", Algorithm::RoundRobin),
        ("random", Algorithm::Random),
        ("ringHash", Algorithm::RingHash),
        ("maglev", Algorithm::Maglev),
    ];
    let mut f = at.fields(r)?;
    let algorithm = f.take("algorithm").map_or(Some(Algorithm::PeakEwma), |at| at.choice(r, &ALGORITHMS));
    let hash_at = f.take("hashOn");
    let hash = hash_at.as_ref().and_then(|at| hash_on(r, at));
    if let (Some(at), Some(algorithm)) = (hash_at, algorithm)
        && !matches!(algorithm, Algorithm::RingHash | Algorithm::Maglev)
    {
        let hint = "write `algorithm: maglev` (or ringHash), or leave `hashOn` out";
        at.report(r, Code::Contradiction, "is used only by ringHash and maglev", hint);
    }
    let locality = f.take("locality").map_or(Some(LocalityMode::Off), |at| {
        at.choice(r, &[("off", LocalityMode::Off), ("prefer", LocalityMode::Prefer)])
    });
    let panic_percent = f.take("panicThreshold").and_then(|at| percent(r, &at));
    let slow_start = f.take("slowStart").and_then(|at| at.duration(r));
    f.done(r);
    Some(Balancer { algorithm: algorithm?, hash, locality: locality?, panic_percent, slow_start })
}

/// Exactly one of the fields `header`, `cookie`, `query` and `source`.
fn hash_on(r: &mut Reader<'_>, at: &At<'_>) -> Option<HashOn> {
    let mut f = at.fields(r)?;
    let found = [
        part(r, &mut f, "header", text::header_name).map(HashOn::Header),
        part(r, &mut f, "cookie", cookie_name).map(HashOn::Cookie),
        part(r, &mut f, "query", text::label).map(HashOn::Query),
        part(r, &mut f, "source", |r, at| at.boolean(r)).filter(|is| *is).map(|_| HashOn::Source),
    ];
    f.done(r);
    one_of(
        r,
        at,
        found.into_iter().flatten().collect(),
        "`header: x-user`, `cookie: NAME`, `query: NAME` or `source: true`",
    )
}

fn one_of<T>(r: &mut Reader<'_>, at: &At<'_>, mut found: Vec<T>, choices: &str) -> Option<T> {
    match found.len() {
        1 => found.pop(),
        0 => {
            at.report(r, Code::Missing, "says nothing", format!("write one of {choices}"));
            None
        }
        _ => {
            at.report(r, Code::Contradiction, "says more than one thing", format!("keep one of {choices}"));
            None
        }
    }
}

fn cookie_name(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    text::header_name(r, at)?;
    // A cookie's name has the same letters as a field's, but its case counts (RFC 6265 section 4.1.1).
    at.text(r).map(str::to_owned)
}

fn affinity(r: &mut Reader<'_>, at: &At<'_>) -> Option<Affinity> {
    let mut f = at.fields(r)?;
    let cookie = part(r, &mut f, "cookie", |r, at| {
        let mut f = at.fields(r)?;
        let name = f.need(r, "name", "causeway-session").and_then(|at| cookie_name(r, &at));
        let max_age = f.take("maxAge").and_then(|at| at.long_duration(r));
        let path = f.take("path").and_then(|at| text::match_path(r, &at));
        f.done(r);
        Some(Affinity::Cookie { name: name?, max_age, path })
    });
    let header = part(r, &mut f, "header", |r, at| {
        let mut f = at.fields(r)?;
        let name = f.need(r, "name", "x-session").and_then(|at| text::header_name(r, &at));
        f.done(r);
        Some(Affinity::Header { name: name? })
    });
    f.done(r);
    one_of(
        r,
        at,
        [cookie, header].into_iter().flatten().collect(),
        "`cookie: {name: …}` or `header: {name: …}`",
    )
}

/// `sessionPersistence` of a route's rule (Gateway API GEP-1619).
pub(crate) fn session_persistence(r: &mut Reader<'_>, at: &At<'_>) -> Option<Affinity> {
    let mut f = at.fields(r)?;
    let is_header =
        f.take("type").map_or(Some(false), |at| at.choice(r, &[("Cookie", false), ("Header", true)]));
    let name = match f.take("sessionName") {
        Some(at) => cookie_name(r, &at),
        None => Some("causeway-session".to_owned()),
    };
    let absolute = f.take("absoluteTimeout").and_then(|at| at.duration(r));
    f.refuse(r, "idleTimeout", "write `absoluteTimeout`: the proxy keeps no session that could be idle");
    let is_permanent = part(r, &mut f, "cookieConfig", |r, at| {
        let mut f = at.fields(r)?;
        let kinds = [("Session", false), ("Permanent", true)];
        let is_permanent = f.take("lifetimeType").map_or(Some(false), |at| at.choice(r, &kinds));
        f.done(r);
        is_permanent
    });
    f.done(r);
    if is_permanent == Some(true) && absolute.is_none() {
        let hint = "write `absoluteTimeout: 1h` beside it";
        at.report(r, Code::Contradiction, "has a permanent cookie, which needs an end", hint);
    }
    let name = name?;
    Some(match is_header? {
        true => Affinity::Header { name: name.to_ascii_lowercase() },
        false => {
            let max_age = absolute.filter(|_| is_permanent == Some(true));
            Affinity::Cookie { name, max_age, path: None }
        }
    })
}

fn percent(r: &mut Reader<'_>, at: &At<'_>) -> Option<u8> {
    at.u32(r, 0..=100).and_then(|percent| u8::try_from(percent).ok())
}

fn count(r: &mut Reader<'_>, at: &At<'_>) -> Option<u32> {
    at.u32(r, 0..=COUNT_MAX)
}

fn some(r: &mut Reader<'_>, at: &At<'_>) -> Option<u32> {
    at.u32(r, 1..=COUNT_MAX)
}

fn outlier(r: &mut Reader<'_>, at: &At<'_>) -> Option<Outlier> {
    let mut f = at.fields(r)?;
    let outlier = Outlier {
        failures: part(r, &mut f, "consecutiveFailures", count),
        base: part(r, &mut f, "baseEjection", |r, at| at.duration(r)),
        max: part(r, &mut f, "maxEjection", |r, at| at.duration(r)),
        max_percent: part(r, &mut f, "maxEjectedPercent", percent),
    };
    f.done(r);
    Some(outlier)
}

fn circuit(r: &mut Reader<'_>, at: &At<'_>) -> Option<Circuit> {
    let mut f = at.fields(r)?;
    let circuit = Circuit {
        connections: part(r, &mut f, "maxConnections", some),
        requests: part(r, &mut f, "maxRequests", some),
        pending: part(r, &mut f, "maxPending", count),
        wait: part(r, &mut f, "maxWait", |r, at| at.duration(r)),
    };
    f.done(r);
    Some(circuit)
}

fn retry(r: &mut Reader<'_>, at: &At<'_>) -> Option<Retry> {
    let status =
        |r: &mut Reader<'_>, at: &At<'_>| at.number(r, 400..=599).and_then(|code| u16::try_from(code).ok());
    let mut f = at.fields(r)?;
    let retry = Retry {
        attempts: part(r, &mut f, "attempts", |r, at| at.u32(r, 0..=RETRIES_MAX)),
        codes: part(r, &mut f, "codes", |r, at| at.each(r, CODES_MAX, status)).unwrap_or_default(),
        grpc_codes: part(r, &mut f, "grpcCodes", |r, at| at.each(r, CODES_MAX, grpc_code))
            .unwrap_or_default(),
        backoff: part(r, &mut f, "backoff", |r, at| at.duration(r)),
        budget_percent: part(r, &mut f, "budgetPercent", percent),
        budget_per_second: part(r, &mut f, "budgetPerSecond", count),
    };
    f.done(r);
    Some(retry)
}

/// The statuses of gRPC (its `statuscodes.md`), by number as they go on the wire.
const GRPC_CODES: [(&str, u16); 16] = [
    ("CANCELLED", 1),
    ("UNKNOWN", 2),
    ("INVALID_ARGUMENT", 3),
    ("DEADLINE_EXCEEDED", 4),
    ("NOT_FOUND", 5),
    ("ALREADY_EXISTS", 6),
    ("PERMISSION_DENIED", 7),
    ("RESOURCE_EXHAUSTED", 8),
    ("FAILED_PRECONDITION", 9),
    ("ABORTED", 10),
    ("OUT_OF_RANGE", 11),
    ("UNIMPLEMENTED", 12),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
    ("DATA_LOSS", 15),
    ("UNAUTHENTICATED", 16),
];

fn grpc_code(r: &mut Reader<'_>, at: &At<'_>) -> Option<u16> {
    at.choice(r, &GRPC_CODES)
}

fn timeouts(r: &mut Reader<'_>, at: &At<'_>) -> Option<TrafficTimeouts> {
    let mut f = at.fields(r)?;
    let mut limit = |r: &mut Reader<'_>, name| part(r, &mut f, name, |r, at| at.duration(r));
    let timeouts = TrafficTimeouts {
        request: limit(r, "request"),
        per_try: limit(r, "perTry"),
        idle: limit(r, "idle"),
        stream: limit(r, "stream"),
        connect: limit(r, "connect"),
    };
    f.done(r);
    if let (Some(whole), Some(each)) = (timeouts.request, timeouts.per_try)
        && !whole.is_zero()
        && each > whole
    {
        let message = format!("must not be longer than `request`, {}", crate::duration::format(whole));
        at.report_as("perTry", r, Code::Contradiction, message, "the whole request holds all of its tries");
    }
    Some(timeouts)
}

fn hedge(r: &mut Reader<'_>, at: &At<'_>) -> Option<Hedge> {
    let mut f = at.fields(r)?;
    let after = f.need(r, "after", "100ms").and_then(|at| at.duration(r));
    let max = f.take("max").map_or(Some(1), |at| at.u32(r, 1..=4));
    f.done(r);
    Some(Hedge { after: after?, max: max? })
}

fn rate_limit(r: &mut Reader<'_>, at: &At<'_>) -> Option<RateLimit> {
    let mut f = at.fields(r)?;
    let requests = f.need(r, "requests", "100").and_then(|at| some(r, &at));
    let per_at = f.need(r, "per", "1s");
    let per = per_at.as_ref().and_then(|at| at.duration(r));
    if let (Some(at), Some(per)) = (&per_at, per)
        && per.is_zero()
    {
        at.report(r, Code::OutOfRange, "must be longer than nothing", "write `per: 1s`");
    }
    let burst = part(r, &mut f, "burst", some);
    let by = part(r, &mut f, "by", |r, at| {
        let mut f = at.fields(r)?;
        let found = [
            part(r, &mut f, "identity", |r, at| at.boolean(r)).filter(|is| *is).map(|_| RateKey::Identity),
            part(r, &mut f, "address", |r, at| at.boolean(r)).filter(|is| *is).map(|_| RateKey::Address),
            part(r, &mut f, "header", text::header_name).map(RateKey::Header),
        ];
        f.done(r);
        let choices = "`identity: true`, `address: true` or `header: x-tenant`";
        one_of(r, at, found.into_iter().flatten().collect(), choices)
    });
    f.done(r);
    Some(RateLimit { requests: requests?, per: per?, burst, by })
}

fn concurrency(r: &mut Reader<'_>, at: &At<'_>) -> Option<Concurrency> {
    let mut f = at.fields(r)?;
    let concurrency = Concurrency {
        max: part(r, &mut f, "max", count),
        queue: part(r, &mut f, "queue", count),
        wait: part(r, &mut f, "maxWait", |r, at| at.duration(r)),
    };
    f.done(r);
    Some(concurrency)
}

fn fault(r: &mut Reader<'_>, at: &At<'_>) -> Option<Fault> {
    let mut f = at.fields(r)?;
    let delay = part(r, &mut f, "delay", |r, at| {
        let mut f = at.fields(r)?;
        let fixed = f.need(r, "fixed", "2s").and_then(|at| at.duration(r));
        let share = f.take("percent").map_or(Some(Share::WHOLE), |at| share(r, &at));
        f.done(r);
        Some(FaultDelay { fixed: fixed?, share: share? })
    });
    let abort = part(r, &mut f, "abort", |r, at| {
        let mut f = at.fields(r)?;
        let status = f
            .need(r, "status", "503")
            .and_then(|at| at.number(r, 400..=599))
            .and_then(|s| u16::try_from(s).ok());
        let grpc_status = part(r, &mut f, "grpcStatus", grpc_code);
        let share = f.take("percent").map_or(Some(Share::WHOLE), |at| share(r, &at));
        f.done(r);
        Some(FaultAbort { status: status?, grpc_status, share: share? })
    });
    let is_empty = f.take("delay").is_none() && f.take("abort").is_none();
    f.done(r);
    if is_empty {
        at.report(
            r,
            Code::Missing,
            "disturbs nothing",
            "write `delay: {fixed: 2s}` or `abort: {status: 503}`",
        );
    }
    Some(Fault { delay, abort })
}

/// A percentage, with up to four digits after the point.
pub(crate) fn share(r: &mut Reader<'_>, at: &At<'_>) -> Option<Share> {
    let written = match &at.node.value {
        Value::Number(number) => Some(number),
        _ => None,
    };
    let percent = written.and_then(|text| text.parse::<f64>().ok());
    match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
        Some(percent) => Some(Share::new((percent * 10_000.0).round() as u32)),
        None => {
            at.report(
                r,
                Code::OutOfRange,
                "must be a percentage, 0 to 100",
                "write `percent: 5` or `percent: 0.5`",
            );
            None
        }
    }
}
