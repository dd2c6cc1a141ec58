//! The command line: every verb and flag, each flag with its environment variable and its key in `causeway.toml`.
//!
//! In:    arguments, environment, `causeway.toml`.     Out: one [`Cli`], checked.
//! Owner: `main`.
//! Invariant: precedence is flag, environment, file, default; a key of the file that no flag has is an error.
//! Not here: what the verbs do (`commands`, `node`, `sidecar`, `demo`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_model::Locality;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

/// The backbone of a microservice system: registry, mesh, gateway, events and sagas in one binary.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// Where the node's API is, for the verbs that talk to one
    #[arg(
        long,
        global = true,
        env = "CAUSEWAY_API",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL"
    )]
    pub(crate) api: String,
    /// What to log, in tracing's directive syntax
    #[arg(long, global = true, env = "CAUSEWAY_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// How log lines look
    #[arg(long, global = true, env = "CAUSEWAY_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a node: registry, control plane, gateway, events, sagas, API and console
    Up(Up),
    /// Run an app inside the mesh: identity, sidecar, registration, drain
    Run(Run),
    /// Run a data plane alone: a gateway, or a sidecar for something already running
    Proxy(Proxy),
    /// Show the whole thing with a sample shop, load and a console
    Demo(Demo),
    /// Apply documents from files, directories or standard input (`-`)
    Apply(Apply),
    /// Say what is wrong with documents, without a node; exit code 1 when something is
    Check {
        /// Files or directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Show objects, services, instances, topics or proxies
    Get(Get),
    /// Delete an object: `causeway delete HTTPRoute shop`
    Delete {
        /// Kind
        kind: String,
        /// Name
        name: String,
        #[command(flatten)]
        namespace: Namespace,
    },
    /// Wait until every connected proxy has acknowledged a revision
    Wait {
        /// The revision; the newest when not given
        #[arg(long)]
        rev: Option<u64>,
        /// How long to wait
        #[arg(long, default_value = "10s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Say why a request failed, or which failed lately
    Why(Why),
    /// Show live requests as they end
    Tap(Tap),
    /// Show rate, success, latency and retries of the last seconds
    Top(Top),
    /// Show a trace, or the newest
    Trace(Trace),
    /// Say what an error code or a failed request's reason means and what to do
    Explain {
        /// The code, such as CW-1003, or the reason, such as connection_refused
        code: String,
    },
    /// Make join tokens
    #[command(subcommand)]
    Token(TokenVerb),
    /// Publish and read events
    #[command(subcommand)]
    Event(EventVerb),
    /// Start, look at and mend sagas
    #[command(subcommand)]
    Saga(SagaVerb),
    /// Print a shell completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Namespace {
    /// Namespace
    #[arg(long, short = 'n', env = "CAUSEWAY_NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How to print
    #[arg(long, short = 'o', default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

/// A part that a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Every role of this build
    All,
    /// Who runs where; configuration
    Registry,
    /// The configuration stream for proxies, and the CA
    Control,
    /// Every Gateway of the configuration, in this process
    Gateway,
    /// Topics and subscriptions
    Events,
    /// Sagas
    Sagas,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Documents: a file or a directory, watched; may be given several times
    #[arg(long, env = "CAUSEWAY_CONFIG", value_name = "PATH", value_delimiter = ',')]
    pub(crate) config: Vec<PathBuf>,
    /// Where the node keeps its state
    #[arg(long, env = "CAUSEWAY_DATA_DIR", default_value = "causeway-data", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// What this node does
    #[arg(long, env = "CAUSEWAY_ROLES", default_value = "all", value_delimiter = ',')]
    pub(crate) roles: Vec<Role>,
    /// API and console
    #[arg(long, env = "CAUSEWAY_LISTEN_API", default_value = "127.0.0.1:7070", value_name = "ADDR")]
    pub(crate) listen_api: SocketAddr,
    /// Configuration stream for proxies (mTLS)
    #[arg(long, env = "CAUSEWAY_LISTEN_CONFIG", default_value = "127.0.0.1:7071", value_name = "ADDR")]
    pub(crate) listen_config: SocketAddr,
    /// The trust domain of identities; fixed when the data directory is first used
    #[arg(long, env = "CAUSEWAY_TRUST_DOMAIN", default_value = "causeway.local", value_name = "NAME")]
    pub(crate) trust_domain: String,
    /// For how long a workload's certificate is valid; it is renewed at half of it
    #[arg(long, env = "CAUSEWAY_CERT_TTL", default_value = "1h", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) cert_ttl: Duration,
    #[command(flatten)]
    pub(crate) data_path: DataPath,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) drain: Drain,
}

/// Where the process runs.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Region in which this runs; policies with `locality: prefer` keep calls near
    #[arg(long, env = "CAUSEWAY_REGION", default_value = "", hide_default_value = true, value_parser = parse_label, value_name = "REGION")]
    pub(crate) region: String,
    /// Zone of the region
    #[arg(long, env = "CAUSEWAY_ZONE", default_value = "", hide_default_value = true, value_parser = parse_label, value_name = "ZONE")]
    pub(crate) zone: String,
}

impl Place {
    pub(crate) fn locality(&self) -> Locality {
        Locality { region: self.region.clone(), zone: self.zone.clone() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DataPath {
    /// Data-path threads; one for each core when not given
    #[arg(long, env = "CAUSEWAY_WORKERS", value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Where access records go: `stdout` (or `-`), `stderr`, `off` or a file
    #[arg(long, env = "CAUSEWAY_ACCESS_LOG", default_value = "off", value_name = "WHERE")]
    pub(crate) access_log: String,
    /// Share of requests that are traced, 0 to 1, besides a few a second in any case; at 0 none but those that come flagged
    #[arg(long, env = "CAUSEWAY_TRACE_RATIO", default_value = "0.01", value_parser = parse_ratio, value_name = "RATIO")]
    pub(crate) trace_ratio: f64,
    /// OpenTelemetry collector that is sent spans: `http://HOST:4317` (gRPC) or `http://HOST:4318` (HTTP); the standard
    /// OTEL_EXPORTER_OTLP_… variables say the same when this does not
    #[arg(long, env = "CAUSEWAY_OTLP", value_name = "URL")]
    pub(crate) otlp: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// How long requests that are under way may take at a stop
    #[arg(long, env = "CAUSEWAY_DRAIN", default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) drain: Duration,
}

/// What `run` and `proxy` need to join the mesh.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Namespace of the service or gateway
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// The node's configuration stream; may be given several times
    #[arg(
        long,
        env = "CAUSEWAY_CONTROL",
        default_value = "127.0.0.1:7071",
        value_delimiter = ',',
        value_name = "ADDR"
    )]
    pub(crate) control: Vec<String>,
    /// Join token; asked for at the node's API when it is on this machine
    #[arg(long, env = "CAUSEWAY_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Where the proxy keeps its certificate and last plan (0600), so that it can restart while the node is away
    #[arg(long, env = "CAUSEWAY_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Admin door; a free port when the default one is taken
    #[arg(long, env = "CAUSEWAY_LISTEN_ADMIN", value_name = "ADDR")]
    pub(crate) listen_admin: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) data_path: DataPath,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) drain: Drain,
}

/// The app that a sidecar stands in front of.
#[derive(Debug, Args)]
pub(crate) struct App {
    /// Name of the service
    #[arg(long, env = "CAUSEWAY_NAME")]
    pub(crate) name: Option<String>,
    /// Port of the app; without one it only calls others
    #[arg(long, env = "CAUSEWAY_PORT", value_name = "APP_PORT")]
    pub(crate) port: Option<u16>,
    /// What the app speaks on its port
    #[arg(long, env = "CAUSEWAY_PROTOCOL", default_value = "http")]
    pub(crate) protocol: Protocol,
    /// A further port of the app that takes TCP; the Service document names it with protocol TCP. May be given several times
    #[arg(long, env = "CAUSEWAY_TCP_PORT", value_delimiter = ',', value_name = "NAME:APP_PORT")]
    pub(crate) tcp_port: Vec<String>,
    /// Version of the app, for routing by version
    #[arg(long = "version", env = "CAUSEWAY_VERSION", default_value = "", value_name = "V")]
    pub(crate) version: String,
    /// Tag of the instance; may be given several times
    #[arg(long, env = "CAUSEWAY_TAG", value_delimiter = ',', value_name = "T")]
    pub(crate) tag: Vec<String>,
    /// Path of the app that answers 2xx when it is healthy
    #[arg(long, env = "CAUSEWAY_HEALTH", value_name = "PATH")]
    pub(crate) health: Option<String>,
    /// A local port that leads to a service; may be given several times
    #[arg(long, value_name = "NAME:LOCAL_PORT")]
    pub(crate) upstream: Vec<String>,
    /// Redirect every connection that leaves this network namespace through the sidecar, and answer its DNS, so that the app
    /// needs no settings (Linux; wants nftables and CAP_NET_ADMIN)
    #[arg(long, env = "CAUSEWAY_TRANSPARENT")]
    pub(crate) transparent: bool,
    /// The address at which other machines reach this sidecar
    #[arg(long, env = "CAUSEWAY_ADVERTISE", value_name = "ADDR")]
    pub(crate) advertise: Option<std::net::IpAddr>,
    /// HTTP proxy for the app's own calls; a free port when the default one is taken
    #[arg(long, env = "CAUSEWAY_LISTEN_OUTBOUND", value_name = "ADDR")]
    pub(crate) listen_outbound: Option<SocketAddr>,
    /// mTLS port in front of the app; a free port when the default one is taken
    #[arg(long, env = "CAUSEWAY_LISTEN_INBOUND", value_name = "ADDR")]
    pub(crate) listen_inbound: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Http,
    H2c,
    Grpc,
    /// Bytes: nothing of HTTP is looked for
    Tcp,
    /// TLS of the app's own, which is not opened
    Tls,
}

#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) app: App,
    #[command(flatten)]
    pub(crate) join: Join,
    /// The app and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct Proxy {
    /// Be the gateway of this name, instead of a sidecar
    #[arg(long, env = "CAUSEWAY_GATEWAY", value_name = "NAME", conflicts_with = "name")]
    pub(crate) gateway: Option<String>,
    #[command(flatten)]
    pub(crate) app: App,
    #[command(flatten)]
    pub(crate) join: Join,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// No steady load
    #[arg(long)]
    pub(crate) no_load: bool,
    /// Where the demo keeps its state; made anew at each start unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Add this to every default port (7070, 7071, 8080), to run beside another node
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) port_offset: u16,
    /// Stop by itself after this time
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) stop_after: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Files, directories, or `-`
    #[arg(long, short = 'f', required = true, value_name = "PATH")]
    pub(crate) file: Vec<PathBuf>,
    /// Only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// `services`, `instances SERVICE`, `topics`, `proxies`, or a kind such as `httproutes`
    pub(crate) what: String,
    /// One object by name, or the service whose instances are wanted
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// `x-request-id` of its answer, or the id of its trace; the newest failures when not given
    pub(crate) request_id: Option<String>,
    /// Without an id: only failures of this service
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// Without an id: only failures of this namespace
    #[arg(long, short = 'n')]
    pub(crate) namespace: Option<String>,
    /// Without an id: how many
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: u16,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Tap {
    /// Only calls of this service
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Only calls of services of this namespace
    #[arg(long, short = 'n')]
    pub(crate) namespace: Option<String>,
    /// Only calls by this service
    #[arg(long, value_name = "CALLER")]
    pub(crate) from: Option<String>,
    /// Only answers of this status: 503, 5xx, 400-499, or 0 for none
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only paths that begin so
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Only this method
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// As seen by a gateway, beside the caller, beside the callee, or in the house; everywhere but beside the callee when not given
    #[arg(long)]
    pub(crate) side: Option<String>,
    /// Requests a second, at most
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_rate: u32,
    /// Stop after this many
    #[arg(long)]
    pub(crate) limit: Option<u64>,
    /// Stop after this time
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) stop_after: Option<Duration>,
    /// How to print; JSON is one line each
    #[arg(long, short = 'o', default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// By callee (service), or by caller and callee (edge)
    #[arg(long, default_value = "edge")]
    pub(crate) by: TopBy,
    /// Only calls to or from this service
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Only calls to or from this namespace
    #[arg(long, short = 'n')]
    pub(crate) namespace: Option<String>,
    /// How often it is shown anew
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) interval: Duration,
    /// The last so many seconds are added up (at most 10)
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) window: Duration,
    /// Show it once and end
    #[arg(long)]
    pub(crate) once: bool,
    /// How to print
    #[arg(long, short = 'o', default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopBy {
    Edge,
    Service,
}

impl TopBy {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            TopBy::Edge => "edge",
            TopBy::Service => "service",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Its id, 32 hexadecimal digits; the newest traces when not given
    pub(crate) trace_id: Option<String>,
    /// Without an id: only traces that this service had a part in
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Without an id: how many
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: u16,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a join token for a service or gateway; prints the token alone
    Create {
        /// Name of the service or gateway
        #[arg(long)]
        name: String,
        #[command(flatten)]
        namespace: Namespace,
        /// For how long it can be used
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventVerb {
    /// Publish one event
    Publish {
        /// Topic
        topic: String,
        /// CloudEvents `type`
        #[arg(long = "type", default_value = "causeway.cli")]
        kind: String,
        /// CloudEvents `source`
        #[arg(long, default_value = "/causeway/cli")]
        source: String,
        /// CloudEvents `id`; made up when not given
        #[arg(long)]
        id: Option<String>,
        /// Ordering key
        #[arg(long)]
        key: Option<String>,
        /// JSON data
        data: Option<String>,
        #[command(flatten)]
        namespace: Namespace,
    },
    /// Print events as they come
    Tail {
        /// Topic
        topic: String,
        /// Offset or time to begin at; what comes from now on when not given
        #[arg(long)]
        from: Option<String>,
        /// Stop after this many
        #[arg(long)]
        limit: Option<u64>,
        #[command(flatten)]
        namespace: Namespace,
    },
    /// Show how far each subscription is behind
    Lag {
        /// Topic
        topic: String,
        #[command(flatten)]
        namespace: Namespace,
        #[command(flatten)]
        output: Output,
    },
    /// Send dead letters again
    Redrive {
        /// Topic
        topic: String,
        /// Group
        group: String,
        /// CEL: which ones
        #[arg(long)]
        filter: Option<String>,
        /// Only count them
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        namespace: Namespace,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SagaVerb {
    /// Start a saga
    Start {
        /// Definition by name
        definition: String,
        /// Its id; made up when not given
        #[arg(long)]
        id: Option<String>,
        /// JSON input
        #[arg(long, default_value = "{}")]
        input: String,
        /// Wait for its end
        #[arg(long, value_parser = parse_duration)]
        wait: Option<Duration>,
        #[command(flatten)]
        namespace: Namespace,
        #[command(flatten)]
        output: Output,
    },
    /// List sagas
    List {
        /// running, compensating, stuck, done, undone or failed
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show one saga with its timeline
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Try the step on which it is stuck again
    Retry {
        /// Its id
        id: String,
    },
    /// Undo what was done
    Compensate {
        /// Its id
        id: String,
    },
    /// Undo what was done and count it as cancelled
    Cancel {
        /// Its id
        id: String,
    },
    /// Go on as if the step had been done
    Skip {
        /// Its id
        id: String,
    },
    /// End it as it is: a person has set things right by hand
    Resolve {
        /// Its id
        id: String,
        /// What was done, for the timeline
        #[arg(long)]
        note: String,
    },
}

/// Prints a completion script for `shell`.
pub(crate) fn complete(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "causeway", &mut std::io::stdout());
}

/// A share, 0 to 1.
fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1.0).contains(&ratio).then_some(ratio).ok_or_else(|| "not from 0 to 1".to_owned())
}

/// A time as people write it: `10s`, `1m30s`, `200ms`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// A word for people to read, as in documents: visible, not too long.
fn parse_label(text: &str) -> Result<String, String> {
    const BYTES_MAX: usize = 512;
    match () {
        () if text.len() > BYTES_MAX => Err(format!("must have at most {BYTES_MAX} bytes")),
        () if text.chars().any(char::is_control) => Err("must hold no control character".into()),
        () => Ok(text.to_owned()),
    }
}

/// Reads arguments, environment and `causeway.toml` (`CAUSEWAY_SETTINGS`, or the one in the working directory if there is one).
///
/// # Errors
/// Of the file; wrong arguments end the process with code 2, as clap does.
pub(crate) fn parse() -> Result<Cli> {
    let mut command = Cli::command();
    let given = std::env::var_os("CAUSEWAY_SETTINGS").map(PathBuf::from);
    let path = given.clone().unwrap_or_else(|| PathBuf::from("causeway.toml"));
    if given.is_some() || path.exists() {
        command = with_settings(command, &path)?;
    }
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).map_err(|error| error.exit())
}

/// Makes each key of the file the default of the flag of that name, in every verb that has it.
fn with_settings(mut command: Command, path: &Path) -> Result<Command> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read settings {}", path.display()))?;
    let table: toml::Table =
        text.parse().with_context(|| format!("settings {} are not TOML", path.display()))?;
    for (key, value) in table {
        let value = match value {
            toml::Value::String(text) => vec![text],
            toml::Value::Array(values) => values.iter().map(plain).collect(),
            other => vec![plain(&other)],
        };
        let mut is_known = false;
        command = set_default(command, &key.replace('-', "_"), &value, &mut is_known);
        if !is_known {
            bail!(
                "settings {}: no flag is called {key:?} (keys are the flags' names, such as data-dir)",
                path.display()
            );
        }
    }
    Ok(command)
}

fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn set_default(command: Command, id: &str, value: &[String], is_known: &mut bool) -> Command {
    let has = command.get_arguments().any(|arg| arg.get_id() == id && arg.get_long().is_some());
    let command = if has {
        *is_known = true;
        let value = value.to_vec();
        command.mut_arg(id, |arg| arg.default_values(value))
    } else {
        command
    };
    command.mut_subcommands(|sub| set_default(sub, id, value, is_known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    fn check(settings: &str, args: &[&str]) -> Result<Cli> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), settings).unwrap();
        let matches = with_settings(Cli::command(), file.path())?.try_get_matches_from(args)?;
        Ok(Cli::from_arg_matches(&matches)?)
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let settings = "data-dir = \"/srv/causeway\"\nlisten-api = \"127.0.0.1:9999\"\nworkers = 3\n";
        let cli = check(settings, &["causeway", "up", "--listen-api", "127.0.0.1:1"]).unwrap();
        let Verb::Up(up) = cli.verb else { panic!("not up") };
        assert_eq!(up.data_dir, Path::new("/srv/causeway"));
        assert_eq!(up.listen_api.port(), 1);
        assert_eq!(up.data_path.workers, Some(3));
        let error = check("data-dri = 1\n", &["causeway", "up"]).unwrap_err().to_string();
        assert!(error.contains("no flag is called \"data-dri\""), "{error}");
    }
}
