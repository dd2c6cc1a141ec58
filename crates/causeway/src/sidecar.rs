//! `run` and `proxy`: one data plane beside an app, or at the edge.
//!
//! In:    flags, a join token, what the last run kept on disk.     Out: a proxy that serves, and (with an app) a registered instance.
//! Owner: `main`; one process, one proxy.
//! Invariant: identity -> configuration -> app -> ready -> registered; on exit withdrawn -> acknowledged -> drained -> stopped.
//! Not here: the data path (`causeway-proxy`), the streams (`causeway-xds`), starting the app (`app`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use causeway_base::net::{BindOptions, Net};
use causeway_base::scope::Failure;
use causeway_base::{Clock, OnFailure, Scope, Seed};
use causeway_identity::{Credentials, Issued, JoinToken, Renew, RenewError, Rotator, enroll};
use causeway_model::{
    Epoch, Health, Instance, InstanceId, InstanceKey, Lease, Lifecycle, Locality, MeshAddress, Name, Origin,
    Revision, ServiceKey, Timestamp,
};
use causeway_proxy::Proxy;
use causeway_xds::{Client as PictureClient, ClientConfig, Dial, Hold, Link, Picture, Signed};
use tokio::sync::{mpsc, watch};

use crate::app;
use crate::cli::{App, Join, Protocol};
use crate::client::Client;
use crate::commands::token;
use crate::dial::ControlDial;
use crate::dns::{self, Resolvers};
use crate::records;
use crate::redirect::{self, Redirect, Wanted};
use crate::report::{self, Reader};
use crate::state::{self, Self_, StateDir};
use crate::traces;

/// Last label of the mesh's host names.
const MESH_SUFFIX: &str = "mesh";
/// Names of kept files.
const IDENTITY: &str = "identity.pem";
const PICTURE: &str = "picture.bin";
/// How long a first certificate is tried for before the process gives up.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// Wait between two tries to join.
const JOIN_AGAIN: Duration = Duration::from_millis(500);
/// A picture is kept at most this often: it is for restarts, not for history.
const KEEP_PICTURE_EVERY: Duration = Duration::from_secs(1);
/// How long a withdrawal may take: the node waits five seconds for the other proxies, and it may be gone.
const WITHDRAW_MAX: Duration = Duration::from_secs(6);
/// How long a renewal waits for the control connection.
const RENEW_WAIT: Duration = Duration::from_secs(5);
/// For how long a token that we ask for ourselves is good: it is used at once.
const OWN_TOKEN_TTL: Duration = Duration::from_secs(60);
/// How long the proxy's tasks may take to end after the drain.
const END_MAX: Duration = Duration::from_secs(2);

/// What this process is.
enum Part {
    Sidecar(Box<App>),
    Gateway(Name),
}

/// `run`: a sidecar, and the app behind it. Ends with the app, with the app's exit code.
pub(crate) async fn run(api: &str, app: App, join: Join, command: Vec<String>) -> Result<ExitCode> {
    if app.name.is_none() {
        bail!("`run` wants --name: the service that the app is an instance of");
    }
    check(&app)?;
    Process::start(api, Part::Sidecar(Box::new(app)), join).await?.serve(Some(command)).await
}

/// `proxy`: a gateway, or a sidecar for an app that somebody else runs.
pub(crate) async fn proxy(api: &str, gateway: Option<String>, app: App, join: Join) -> Result<ExitCode> {
    let part = match (gateway, &app.name) {
        (Some(name), _) => Part::Gateway(Name::new(&name)?),
        (None, Some(_)) => {
            check(&app)?;
            Part::Sidecar(Box::new(app))
        }
        (None, None) => {
            bail!("`proxy` wants --gateway NAME, or --name SERVICE (with --port when the app takes calls)")
        }
    };
    Process::start(api, part, join).await?.serve(None).await
}

fn check(app: &App) -> Result<()> {
    if app.health.is_some() && protocol(app.protocol).is_raw() {
        bail!(
            "--health asks the app by HTTP, which it does not speak: leave it out, and it is ready when its port takes connections"
        );
    }
    Ok(())
}

struct Process {
    part: Part,
    service: ServiceKey,
    instance: InstanceId,
    /// Further ports of the app, by name.
    tcp_ports: BTreeMap<String, u16>,
    locality: Locality,
    net: Net,
    proxy: Proxy,
    hold: Hold,
    clock: Clock,
    scope: Scope,
    drain: Duration,
}

impl Process {
    async fn start(api: &str, part: Part, join: Join) -> Result<Process> {
        let (clock, seed, scope) = (Clock::system(), Seed::from_entropy(), Scope::root("proxy"));
        let service = match &part {
            Part::Sidecar(app) => {
                ServiceKey::parse(&join.namespace.namespace, app.name.as_deref().unwrap_or_default())?
            }
            Part::Gateway(name) => ServiceKey::new(Name::new(&join.namespace.namespace)?, name.clone()),
        };
        let is_transparent = matches!(&part, Part::Sidecar(app) if app.transparent);
        if is_transparent {
            redirect::check().await?;
        }
        // What bears the mark is not redirected back to us.
        let net = if is_transparent { Net::tcp_marked(redirect::MARK) } else { Net::tcp() };
        let kept = Arc::new(StateDir::open(&state_dir(&part, &join, &service))?);
        let me = kept
            .me()
            .filter(|me| InstanceId::new(&me.instance).is_ok())
            .unwrap_or_else(|| new_self(&part, &service, &seed));
        let instance = InstanceId::new(&me.instance)?;

        // Identity.
        let credentials = identity(api, &join, &service, &kept, &clock).await?;
        let link = Link::start(
            join.control.clone(),
            Arc::new(ControlDial::member(net.clone(), &credentials)),
            &clock,
            &seed,
            &scope,
        );
        let renew = OverLink { link: link.clone() };
        Rotator::start(credentials.clone(), renew, seed.fork(), &scope);
        keep_identity(&credentials, &kept, &link, &scope);

        // Configuration.
        let last = kept.read(PICTURE).and_then(|bytes| match Picture::from_bytes(&bytes) {
            Ok(picture) => Some(picture),
            Err(error) => {
                tracing::warn!(%error, "the kept picture is not used");
                None
            }
        });
        let role = match &part {
            Part::Sidecar(_) => causeway_xds::Role::Sidecar(service.clone()),
            Part::Gateway(_) => causeway_xds::Role::Gateway(service.clone()),
        };
        let upstreams = upstreams(&part, &service)?;
        let tcp_ports = tcp_ports(&part)?;
        let wants = upstreams.iter().map(|(key, _)| key.clone()).collect();
        let config = ClientConfig { node_id: instance.to_string(), role, wants, last };
        let pictures = PictureClient::start(config, link.clone(), &clock, &seed, &scope);
        tokio::select! {
            is_ready = pictures.ready() => if !is_ready { bail!("the configuration stream ended before the first picture") },
            cause = scope.failed() => bail!(cause),
        }
        keep_picture(&pictures, &kept, &scope);

        // The proxy.
        let hold = Hold::start(link, &clock, &seed, &scope);
        let (wants, mut wanted) = mpsc::unbounded_channel::<ServiceKey>();
        let asked = pictures.clone();
        let stop = scope.cancelled();
        scope.spawn("wants", OnFailure::StopNode, async move {
            tokio::pin!(stop);
            loop {
                tokio::select! {
                    () = &mut stop => return Ok::<(), Failure>(()),
                    service = wanted.recv() => match service {
                        Some(service) => asked.want(&service),
                        None => return Ok(()),
                    },
                }
            }
        });
        let options = causeway_proxy::Options {
            role: proxy_role(&part, &service, upstreams, &tcp_ports, &me)?,
            net: net.clone(),
            clock: clock.clone(),
            seed: seed.fork(),
            workers: records::workers(join.data_path.workers),
            credentials: Some(credentials),
            snapshots: pictures.snapshot(),
            wants: Some(wants),
            locality: join.place.locality(),
            instance: instance.to_string(),
            mesh_suffix: MESH_SUFFIX.into(),
            admin: Some(join.listen_admin.unwrap_or_else(|| free_admin(me.admin))),
            records: records::sink(&join.data_path.access_log)?,
            tracing: traces::wanted(&join.data_path)?,
        };
        let proxy = Proxy::start(options, &scope).await.map_err(|error| anyhow!("{error}"))?;
        let (inbound, outbound, admin) =
            (proxy.inbound_address(), proxy.outbound_address(), proxy.admin_address());
        kept.keep_me(&Self_ { instance: me.instance, inbound, outbound, admin });
        tracing::info!(%service, %instance, addresses = ?proxy.addresses(), ?inbound, ?outbound, ?admin, "the proxy serves");
        report::start(&proxy, Reader::Node(hold.clone()), &scope);
        let (locality, drain) = (join.place.locality(), join.drain.drain);
        Ok(Process { part, service, instance, tcp_ports, net, locality, proxy, hold, clock, scope, drain })
    }

    /// Serves until it is told to stop or the app ends.
    async fn serve(self, command: Option<Vec<String>>) -> Result<ExitCode> {
        let Part::Sidecar(app) = &self.part else {
            let outcome = tokio::select! {
                () = crate::signals::stop() => Ok(ExitCode::SUCCESS),
                cause = self.scope.failed() => Err(anyhow!(cause)),
            };
            self.end().await;
            return outcome;
        };
        let redirect = if app.transparent { Some(self.redirect().await?) } else { None };
        // An app whose connections come to us anyway needs no settings.
        let outbound = self.proxy.outbound_address().filter(|_| redirect.is_none());
        let mut child = match &command {
            Some(command) => Some(app::start(&app::Start { command, port: app.port, outbound })?),
            None => None,
        };
        let stop = crate::signals::stop();
        tokio::pin!(stop);
        let ended = tokio::select! {
            () = &mut stop => None,
            status = async { match &mut child { Some(child) => child.wait().await, None => std::future::pending().await } } => Some(status?),
            end = self.be_registered(app) => return Err(end),
            cause = self.scope.failed() => return Err(anyhow!(cause)),
        };
        if app.port.is_some() && ended.is_none() {
            match tokio::time::timeout(WITHDRAW_MAX, self.hold.withdraw()).await {
                Ok(Ok(known)) => {
                    tracing::info!(revision = %known.revision, lagging = known.lagging, "withdrawn")
                }
                Ok(Err(error)) => tracing::info!(%error, "not withdrawn"),
                Err(_) => {
                    tracing::warn!("the node did not acknowledge the withdrawal; draining all the same")
                }
            }
        }
        let code = match (ended, child) {
            (Some(status), _) => {
                tracing::info!(%status, "the app has ended");
                let _ = tokio::time::timeout(WITHDRAW_MAX, self.hold.withdraw()).await;
                ExitCode::from(exit_code(status))
            }
            (None, Some(mut child)) => {
                // Requests first. Conversations (WebSockets, TCP) are the app's to end, which it does when it is told to stop; its own calls
                // go on until it has.
                if !self.proxy.retire(self.drain).await {
                    tracing::warn!("requests are still under way; the app is stopped all the same");
                }
                app::stop(&mut child, self.drain).await;
                ExitCode::SUCCESS
            }
            (None, None) => ExitCode::SUCCESS,
        };
        drop(redirect);
        self.end().await;
        Ok(code)
    }

    /// Has what leaves this network namespace come to the proxy, and answers its DNS.
    async fn redirect(&self) -> Result<Redirect> {
        let tcp = self.proxy.transparent_addresses();
        let names = Arc::new(self.proxy.clone());
        let mut dns = Vec::new();
        for address in &tcp {
            let resolvers = Resolvers::of_machine();
            let opened =
                dns::start(names.clone(), &self.net, MESH_SUFFIX, address.ip(), resolvers, &self.scope);
            dns.push(
                opened.await.with_context(|| format!("cannot answer DNS on {} [CW-2013]", address.ip()))?,
            );
        }
        Redirect::install(&Wanted { tcp, dns })
    }

    /// Registers the app when it answers and tells its health from then on; returns only when that is refused for good.
    async fn be_registered(&self, app: &App) -> anyhow::Error {
        let Some(port) = app.port else { return std::future::pending().await };
        app::ready(port, app.health.as_deref()).await;
        app::warn_of_open_port(port);
        match self.hold.register(self.instance(app, port)).await {
            Ok(held) => tracing::info!(service = %self.service, revision = %held.revision, "registered"),
            Err(refused) => return anyhow!("the node refuses the registration: {refused}"),
        }
        let Some(path) = app.health.clone() else { return std::future::pending().await };
        let (say, mut heard) = watch::channel(Health::Passing);
        let watching = app::watch_health(port, path, say);
        tokio::pin!(watching);
        loop {
            tokio::select! {
                () = &mut watching => return anyhow!("the health watch has ended"),
                changed = heard.changed() => if changed.is_ok() {
                    let health = *heard.borrow_and_update();
                    tracing::info!(health = health.as_str(), "the app's health has changed");
                    self.hold.health(health).await;
                },
            }
        }
    }

    fn instance(&self, app: &App, port: u16) -> Instance {
        let address = app.advertise.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string();
        let inbound = self.proxy.inbound_address();
        Instance {
            key: InstanceKey { service: self.service.clone(), id: self.instance.clone() },
            address: address.clone(),
            port,
            ports: self.tcp_ports.clone(),
            protocol: protocol(app.protocol),
            version: app.version.clone(),
            tags: app.tag.iter().cloned().collect(),
            metadata: Default::default(),
            weight: 100,
            locality: self.locality.clone(),
            mesh: inbound.map(|inbound| MeshAddress { address, port: inbound.port() }),
            health: Health::Passing,
            lifecycle: Lifecycle::Up,
            lease: Lease::Connection,
            epoch: Epoch::default(),
            origin: Origin::Builtin,
            registered_at: Timestamp::from(self.clock.now()),
            revision: Revision::default(),
            checks: vec![],
        }
    }

    async fn end(&self) {
        self.proxy.drain(self.drain).await;
        self.scope.shutdown(END_MAX).await;
    }
}

fn exit_code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

fn protocol(protocol: Protocol) -> causeway_model::Protocol {
    match protocol {
        Protocol::Http => causeway_model::Protocol::Http,
        Protocol::H2c => causeway_model::Protocol::H2c,
        Protocol::Grpc => causeway_model::Protocol::Grpc,
        Protocol::Tcp => causeway_model::Protocol::Tcp,
        Protocol::Tls => causeway_model::Protocol::Tls,
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The admin door's last address or its default; a free port when that is taken. (One that was asked for is not replaced.)
fn free_admin(last: Option<SocketAddr>) -> SocketAddr {
    let wanted = last.unwrap_or_else(|| loopback(15000));
    match Net::tcp().bind(wanted, BindOptions::default()) {
        Ok(_) => wanted,
        Err(_) => loopback(0),
    }
}

fn state_dir(part: &Part, join: &Join, service: &ServiceKey) -> std::path::PathBuf {
    if let Some(dir) = &join.state_dir {
        return dir.clone();
    }
    let what = match part {
        Part::Gateway(name) => format!("gateway.{name}"),
        Part::Sidecar(app) => match app.port {
            Some(port) => format!("{}.{port}", service.name),
            None => format!("{}.{}", service.name, std::process::id()),
        },
    };
    state::default_dir(service.namespace.as_str(), &what)
}

fn new_self(part: &Part, service: &ServiceKey, seed: &Seed) -> Self_ {
    let port = match part {
        Part::Sidecar(app) => app.port.map(|port| format!("-{port}")).unwrap_or_default(),
        Part::Gateway(_) => String::new(),
    };
    let instance = format!("{}{port}-{:08x}", service.name, seed.u64() as u32);
    Self_ { instance, ..Self_::default() }
}

fn upstreams(part: &Part, service: &ServiceKey) -> Result<Vec<(ServiceKey, SocketAddr)>> {
    let Part::Sidecar(app) = part else { return Ok(vec![]) };
    let read = |text: &String| {
        let (name, port) =
            text.split_once(':').with_context(|| format!("--upstream {text:?} is not NAME:LOCAL_PORT"))?;
        let port = port.parse().with_context(|| format!("--upstream {text:?}: {port:?} is not a port"))?;
        Ok((ServiceKey::new(service.namespace.clone(), Name::new(name)?), loopback(port)))
    };
    app.upstream.iter().map(read).collect()
}

/// Loopback of each family that this machine has, on any port: only the kernel needs to know it.
fn transparent_addresses() -> Vec<SocketAddr> {
    let all: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    let any = all.into_iter().map(|address| SocketAddr::new(address, 0));
    any.filter(|any| Net::tcp().bind(*any, BindOptions::default()).is_ok()).collect()
}

/// Further ports of the app, by name.
fn tcp_ports(part: &Part) -> Result<BTreeMap<String, u16>> {
    let Part::Sidecar(app) = part else { return Ok(BTreeMap::new()) };
    if !app.tcp_port.is_empty() && app.port.is_none() {
        bail!("--tcp-port names further ports of the app: its first one is --port");
    }
    let mut ports = BTreeMap::new();
    for text in &app.tcp_port {
        let (name, port) =
            text.split_once(':').with_context(|| format!("--tcp-port {text:?} is not NAME:APP_PORT"))?;
        let port = port.parse().with_context(|| format!("--tcp-port {text:?}: {port:?} is not a port"))?;
        if Some(port) == app.port {
            bail!("--tcp-port {text:?} is the app's first port, which speaks as --protocol says");
        }
        if ports.insert(Name::new(name)?.to_string(), port).is_some() {
            bail!("--tcp-port names {name} twice");
        }
    }
    Ok(ports)
}

fn proxy_role(
    part: &Part,
    service: &ServiceKey,
    upstreams: Vec<(ServiceKey, SocketAddr)>,
    tcp_ports: &BTreeMap<String, u16>,
    me: &Self_,
) -> Result<causeway_proxy::Role> {
    let Part::Sidecar(app) = part else {
        let key = (service.namespace.clone(), service.name.clone());
        return Ok(causeway_proxy::Role::Gateway { key, bind: None });
    };
    let inbound_host = match app.advertise {
        Some(IpAddr::V6(_)) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        Some(IpAddr::V4(_)) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let inbound = app.listen_inbound.or(me.inbound).unwrap_or(SocketAddr::new(inbound_host, 15008));
    let outbound = app.listen_outbound.or(me.outbound).unwrap_or_else(|| loopback(15001));
    Ok(causeway_proxy::Role::Sidecar(causeway_proxy::Sidecar {
        service: service.clone(),
        app: app.port.map(loopback),
        protocol: protocol(app.protocol),
        inbound: app.port.map(|_| inbound),
        outbound: Some(outbound),
        tcp_ports: tcp_ports.values().copied().map(loopback).collect(),
        upstreams,
        transparent: if app.transparent { transparent_addresses() } else { vec![] },
        may_move: true,
    }))
}

/// The identity of the last run while it is good, or a new one by a join token.
async fn identity(
    api: &str,
    join: &Join,
    service: &ServiceKey,
    kept: &StateDir,
    clock: &Clock,
) -> Result<Credentials> {
    let last = kept
        .read(IDENTITY)
        .and_then(|bytes| Credentials::from_pem(&String::from_utf8_lossy(&bytes), clock.clone()).ok());
    if let Some(last) = last.filter(|last| last.id().service == *service && !last.is_expired()) {
        return Ok(last);
    }
    let until = clock.instant() + JOIN_MAX;
    loop {
        let error = match join_once(api, join, service, clock).await {
            Ok(credentials) => {
                kept.write(IDENTITY, credentials.to_pem().as_bytes());
                return Ok(credentials);
            }
            Err(error) => error,
        };
        if clock.instant() >= until || join.token.is_some() && is_final(&error) {
            return Err(error.context(format!("{service} cannot join the mesh [CW-2005]")));
        }
        tracing::info!(error = format!("{error:#}"), "not in the mesh yet; trying again");
        tokio::time::sleep(JOIN_AGAIN).await;
    }
}

/// A token that the node does not take will not be taken a moment later either.
fn is_final(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<causeway_identity::Error>()
            .is_some_and(|e| e.kind() == causeway_identity::ErrorKind::Token)
    })
}

async fn join_once(api: &str, join: &Join, service: &ServiceKey, clock: &Clock) -> Result<Credentials> {
    let text = match &join.token {
        Some(token) => token.clone(),
        // On the node's own machine: its API on loopback makes one.
        None => {
            token::create(
                &Client::new(api)?,
                service.namespace.as_str(),
                service.name.as_str(),
                OWN_TOKEN_TTL,
            )
            .await?
        }
    };
    let token = JoinToken::parse(&text)?;
    let dial = ControlDial::newcomer(Net::tcp(), token.root_sha256(), clock);
    let mut renew = ByToken { dial, control: join.control.clone(), token: token.reveal() };
    Ok(enroll(&mut renew, service, Some(token.root_sha256()), clock).await?)
}

/// The first certificate: by a join token.
struct ByToken {
    dial: ControlDial,
    control: Vec<String>,
    token: String,
}

impl Renew for ByToken {
    async fn renew(&mut self, csr: Vec<u8>) -> Result<Issued, RenewError> {
        let dial: &dyn Dial = &self.dial;
        let signed = causeway_xds::sign(dial, &self.control, Bytes::from(csr), &self.token).await?;
        Ok(issued(signed))
    }
}

/// Every later one: by the certificate that we have.
struct OverLink {
    link: Link,
}

impl Renew for OverLink {
    async fn renew(&mut self, csr: Vec<u8>) -> Result<Issued, RenewError> {
        Ok(issued(self.link.sign(Bytes::from(csr), RENEW_WAIT).await?))
    }
}

/// What was signed, as the identity room takes it: serial and times are read from the certificate itself.
fn issued(signed: Signed) -> Issued {
    Issued {
        chain_pem: signed.chain_pem,
        roots_pem: signed.bundle_pem,
        serial: String::new(),
        not_before: Timestamp::default(),
        not_after: signed.not_after,
    }
}

/// Keeps each new certificate on disk, and makes the control connection anew with it.
fn keep_identity(credentials: &Credentials, kept: &Arc<StateDir>, link: &Link, scope: &Scope) {
    let (credentials, kept, link, stop) =
        (credentials.clone(), kept.clone(), link.clone(), scope.cancelled());
    let mut changes = credentials.subscribe();
    scope.spawn("keep-identity", OnFailure::Log, async move {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok::<(), Failure>(()),
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
            }
            kept.write(IDENTITY, credentials.to_pem().as_bytes());
            link.redial();
        }
    });
}

/// Keeps the last picture on disk.
fn keep_picture(pictures: &causeway_xds::ClientHandle, kept: &Arc<StateDir>, scope: &Scope) {
    let (pictures, kept, stop) = (pictures.clone(), kept.clone(), scope.cancelled());
    let mut changes = pictures.snapshot();
    changes.mark_changed();
    scope.spawn("keep-picture", OnFailure::Log, async move {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok::<(), Failure>(()),
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
            }
            kept.write(PICTURE, &pictures.picture().to_bytes());
            tokio::time::sleep(KEEP_PICTURE_EVERY).await;
        }
    });
}
