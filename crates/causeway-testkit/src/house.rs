//! The house: a picture with one revision a change, and the things that stand in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::Clock;
use causeway_base::net::{MemoryNet, Net};
use causeway_identity::{CertAuthority, Credentials, KeyPair, Svid, TrustBundle};
use causeway_model::{
    Epoch, Health, Instance, InstanceId, InstanceKey, Kind, Lease, Lifecycle, Locality, MeshAddress, Object,
    ObjectKey, Origin, Protocol, Revision, Revocations, ServiceKey, Snapshot, Spec, SpiffeId, Timestamp,
    TrustDomain,
};
use http::Request;
use tokio::sync::watch;

use crate::app::App;
use crate::client::{Answer, Client, request};

/// See the [module](self). Everything is in namespace `default` unless a name says `namespace/name`.
pub struct House {
    net: Net,
    faults: MemoryNet,
    clock: Clock,
    authority: CertAuthority,
    snapshots: watch::Sender<Arc<Snapshot>>,
    next_host: AtomicU8,
}

/// An instance about to be placed.
pub struct Placing<'a> {
    house: &'a House,
    instance: Instance,
}

impl Default for House {
    fn default() -> Self {
        House::new()
    }
}

impl House {
    /// An empty house. Must be made inside a runtime (its clock follows tokio's).
    pub fn new() -> Self {
        let faults = MemoryNet::default();
        let clock = Clock::simulated();
        let trust_domain = TrustDomain::new("house.test").expect("a name");
        let authority = CertAuthority::generate(&trust_domain, Timestamp::from(clock.now()));
        let (snapshots, _) = watch::channel(Arc::new(Snapshot::default()));
        let net = Net::Memory(faults.clone());
        House { net, faults, clock, authority, snapshots, next_host: AtomicU8::new(0) }
    }

    /// Its network.
    pub fn net(&self) -> Net {
        self.net.clone()
    }

    /// Faults of its network.
    pub fn faults(&self) -> &MemoryNet {
        &self.faults
    }

    /// Its time.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Its picture.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// The newest revision of its picture.
    pub fn revision(&self) -> Revision {
        self.snapshots.borrow().revision()
    }

    /// An address of a host of its own.
    pub fn address(&self, port: u16) -> SocketAddr {
        let host = self.next_host.fetch_add(1, Ordering::Relaxed) + 1;
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), port)
    }

    /// A service's key, from `name` or `namespace/name`.
    pub fn key(name: &str) -> ServiceKey {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        ServiceKey::parse(namespace, name).expect("the test's names are names")
    }

    /// Puts an object; its name as in [`House::key`].
    pub fn put(&self, name: &str, spec: Spec) -> Revision {
        self.put_from(Origin::Builtin, name, spec)
    }

    /// The same, as somebody wrote it.
    pub fn put_from(&self, origin: Origin, name: &str, spec: Spec) -> Revision {
        let ServiceKey { namespace, name } = House::key(name);
        self.change(|snapshot, revision| {
            let object = Object {
                key: ObjectKey { kind: spec.kind(), namespace, name },
                origin,
                revision,
                spec,
                conditions: vec![],
                written: String::new(),
            };
            snapshot.put_object(Arc::new(object));
        })
    }

    /// Changes what is revoked.
    pub fn revoke(&self, change: impl FnOnce(&mut Revocations)) -> Revision {
        self.change(|snapshot, revision| {
            let mut list = Revocations::clone(snapshot.revocations());
            change(&mut list);
            snapshot.put_revocations(Arc::new(list), revision);
        })
    }

    /// Removes an object.
    pub fn remove(&self, kind: Kind, name: &str) -> Revision {
        let ServiceKey { namespace, name } = House::key(name);
        self.change(|snapshot, revision| {
            snapshot.remove_object(&ObjectKey { kind, namespace, name }, revision);
        })
    }

    /// Removes an instance.
    pub fn withdraw(&self, service: &str, id: &str) -> Revision {
        let key = instance_key(service, id);
        self.change(|snapshot, revision| snapshot.remove_instance(&key, revision))
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot, Revision)) -> Revision {
        let mut snapshot = Snapshot::clone(&self.snapshots.borrow());
        let revision = snapshot.revision().next();
        change(&mut snapshot, revision);
        self.snapshots.send_replace(Arc::new(snapshot));
        revision
    }

    /// Starts an app on a host of its own. It is in nobody's picture yet.
    pub fn app(&self, name: &str) -> App {
        App::start(name, self.address(8080), &self.net)
    }

    /// Starts an app that is registered as the instance `name-1`, `name-2`, … of a service, without a sidecar.
    pub fn service(&self, service: &str, instances: usize) -> Vec<App> {
        let start = |at: usize| {
            let id = format!("{}-{}", House::key(service).name, at + 1);
            let app = self.app(&id);
            self.place(service, &id, app.address()).put();
            app
        };
        (0..instances).map(start).collect()
    }

    /// An instance of a service at an address; [`Placing::put`] puts it into the picture.
    pub fn place(&self, service: &str, id: &str, address: SocketAddr) -> Placing<'_> {
        let instance = Instance {
            key: instance_key(service, id),
            address: address.ip().to_string(),
            port: address.port(),
            ports: BTreeMap::new(),
            protocol: Protocol::Http,
            version: String::new(),
            tags: BTreeSet::new(),
            metadata: BTreeMap::new(),
            weight: 100,
            locality: Locality::default(),
            mesh: None,
            health: Health::Passing,
            lifecycle: Lifecycle::Up,
            lease: Lease::Permanent,
            epoch: Epoch::new(1),
            origin: Origin::Builtin,
            registered_at: Timestamp::from(self.clock.now()),
            revision: Revision::new(0),
            checks: vec![],
        };
        Placing { house: self, instance }
    }

    /// Credentials of a service, signed by the house's own authority.
    pub fn credentials(&self, service: &str) -> Credentials {
        self.credentials_of(&self.authority, service)
    }

    /// Credentials of another trust domain, which this house does not believe.
    pub fn foreign_credentials(&self, service: &str) -> Credentials {
        let trust_domain = TrustDomain::new("elsewhere.test").expect("a name");
        let authority = CertAuthority::generate(&trust_domain, Timestamp::from(self.clock.now()));
        self.credentials_of(&authority, service)
    }

    fn credentials_of(&self, authority: &CertAuthority, service: &str) -> Credentials {
        let now = Timestamp::from(self.clock.now());
        let key = KeyPair::generate();
        let id = SpiffeId::new(authority.trust_domain().clone(), House::key(service));
        let issued = authority
            .sign(&key.csr(), &id, Duration::from_secs(86_400), now)
            .expect("the house signs its own");
        let svid = Svid::new(&issued.chain_pem, key).expect("what was signed just now");
        let bundle = TrustBundle::from_pem(authority.trust_domain().clone(), &authority.root_pem())
            .expect("the authority's own root");
        Credentials::new(svid, bundle, self.clock.clone()).expect("the root vouches for what it signed")
    }

    /// One request on a connection of its own: `GET http://host/path`, as a proxy's client sends it when `is_absolute`.
    ///
    /// # Panics
    /// When nobody listens or no answer comes.
    pub async fn ask(&self, at: SocketAddr, line: &str) -> Answer {
        let mut client = Client::connect(&self.net, at).await;
        client.send(House::request(line)).await.expect("an answer")
    }

    /// A request from `METHOD host/path` (origin form with `Host`) or `METHOD http://host/path` (absolute form).
    ///
    /// # Panics
    /// When the line is not one.
    pub fn request(line: &str) -> Request<Bytes> {
        request(line)
    }
}

impl Placing<'_> {
    /// Its version.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.instance.version = version.to_owned();
        self
    }

    /// The sidecar in front of it.
    #[must_use]
    pub fn mesh(mut self, address: SocketAddr) -> Self {
        self.instance.mesh = Some(MeshAddress { address: address.ip().to_string(), port: address.port() });
        self
    }

    /// Anything else.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Instance)) -> Self {
        change(&mut self.instance);
        self
    }

    /// Puts it into the picture.
    pub fn put(mut self) -> Revision {
        self.house.change(|snapshot, revision| {
            self.instance.revision = revision;
            snapshot.put_instance(Arc::new(self.instance));
        })
    }
}

fn instance_key(service: &str, id: &str) -> InstanceKey {
    InstanceKey { service: House::key(service), id: InstanceId::new(id).expect("the test's ids are ids") }
}
