//! The wire of the control port: Envoy's delta discovery messages and ours, as prost structs written by hand (no protoc).
//!
//! In:    protobuf bytes.      Out: these structs, and back.
//! Owner: nobody; `server.rs` and `client.rs` speak in them.
//! Invariant: Envoy's messages bear Envoy's field numbers (`envoy/service/discovery/v3/discovery.proto`); our additions to
//! them start at 1601, where a reader that does not know them skips them. A number is never given to another field.
//! Not here: what resources mean (`resource.rs`), when messages are sent (`stream.rs`).

use bytes::Bytes;

/// Path of the delta stream, Envoy's.
pub const DELTA_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Path of `Identity/Sign`.
pub const SIGN_PATH: &str = "/causeway.v1.Identity/Sign";
/// Path of `Presence/Hold`.
pub const HOLD_PATH: &str = "/causeway.v1.Presence/Hold";

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// Who asks; only in the first request of a stream.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// Type of the resources asked for.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Parents to be sent the children of, from now on.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Parents that are no longer of interest.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What the client has already: name to version.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: std::collections::BTreeMap<String, String>,
    /// The response that this acknowledges or rejects.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Why it is rejected.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<RpcStatus>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// Revision of the picture that this was cut from.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New and changed resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// Type of all of them.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Name of this response, unique in its stream.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names of resources to forget.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Who answers; its identifier is the lineage of the revisions.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
    /// Ours: parents all of whose children the client has with this response.
    #[prost(string, repeated, tag = "1601")]
    pub answered: Vec<String>,
    /// Ours: more responses belong to the same push; the picture is whole when one comes without this.
    #[prost(bool, tag = "1602")]
    pub has_more: bool,
}

/// `envoy.service.discovery.v3.Resource`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Its version: `<lineage>-<revision>`.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its content.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// Type of the content.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The content: CBOR of a noun of the model.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `envoy.config.core.v3.Node`, the part that is read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its cluster.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// Name of its program.
    #[prost(string, tag = "6")]
    pub user_agent_name: String,
    /// Version of its program.
    #[prost(string, tag = "7")]
    pub user_agent_version: String,
}

/// `envoy.config.core.v3.ControlPlane`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlPlane {
    /// Its identifier.
    #[prost(string, tag = "1")]
    pub identifier: String,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, prost::Message)]
pub struct RpcStatus {
    /// A `google.rpc.Code`.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Ours: one [`RejectedResource`] for each resource that was rejected.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// Type of a [`RejectedResource`] in a status.
pub const REJECTED_URL: &str = "type.causeway.dev/causeway.v1.RejectedResource";

/// `causeway.v1.RejectedResource`
#[derive(Clone, PartialEq, prost::Message)]
pub struct RejectedResource {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Why.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// `causeway.v1.SignRequest`; a join token travels in the `authorization` metadata.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignRequest {
    /// PKCS#10, DER.
    #[prost(bytes = "bytes", tag = "1")]
    pub csr_der: Bytes,
}

/// `causeway.v1.SignResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignResponse {
    /// The certificate and what it hangs on, PEM.
    #[prost(string, tag = "1")]
    pub chain_pem: String,
    /// Roots to trust, PEM.
    #[prost(string, tag = "2")]
    pub bundle_pem: String,
    /// When the certificate ends, milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub not_after_ms: u64,
}

/// `causeway.v1.HoldRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub struct HoldRequest {
    /// Number of this message in its stream; its answer bears it.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// What is said.
    #[prost(oneof = "hold_request::Say", tags = "2, 3, 4, 5, 6, 7")]
    pub say: Option<hold_request::Say>,
}

/// What a client of `Presence/Hold` says.
pub mod hold_request {
    use bytes::Bytes;

    /// One of these.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Say {
        /// Be there: CBOR of an `Instance`.
        #[prost(bytes = "bytes", tag = "2")]
        Register(Bytes),
        /// Health of what this stream registered: number of a `Health`.
        #[prost(uint32, tag = "3")]
        Health(u32),
        /// No new calls, please.
        #[prost(message, tag = "4")]
        Drain(super::Which),
        /// Gone.
        #[prost(message, tag = "5")]
        Withdraw(super::Which),
        /// Calls seen: CBOR of a `TrafficReport`. Has no answer.
        #[prost(bytes = "bytes", tag = "6")]
        Traffic(Bytes),
        /// Single requests seen: CBOR of `Observations`. Has no answer.
        #[prost(bytes = "bytes", tag = "7")]
        Seen(Bytes),
    }
}

/// `causeway.v1.Which`: a registration, perhaps made over an earlier stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Which {
    /// CBOR of an `InstanceKey`.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The epoch that its registration was answered with.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// `causeway.v1.HoldResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct HoldResponse {
    /// The message that is answered.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// How.
    #[prost(oneof = "hold_response::Answer", tags = "2, 3, 4")]
    pub answer: Option<hold_response::Answer>,
}

/// How the server of `Presence/Hold` answers.
pub mod hold_response {
    use bytes::Bytes;

    /// One of these.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Answer {
        /// It is so.
        #[prost(message, tag = "2")]
        Done(super::Done),
        /// It is not.
        #[prost(message, tag = "3")]
        Refused(super::RefusedSay),
        /// Which live requests are wanted from now on: CBOR of `Taps`. Answers nothing; its number is 0.
        #[prost(bytes = "bytes", tag = "4")]
        Taps(Bytes),
    }
}

/// `causeway.v1.Done`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {
    /// Revision at which it is so.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Epoch of the registration.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Drain and withdraw: proxies that had not acknowledged the revision within the server's limit.
    #[prost(uint32, tag = "3")]
    pub lagging: u32,
}

/// `causeway.v1.Refused`
#[derive(Clone, PartialEq, prost::Message)]
pub struct RefusedSay {
    /// A `CW-NNNN`.
    #[prost(string, tag = "1")]
    pub code: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the same may succeed later.
    #[prost(bool, tag = "3")]
    pub is_temporary: bool,
}
