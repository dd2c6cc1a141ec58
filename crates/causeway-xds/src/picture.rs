//! A client's picture as bytes, so that a proxy can start with what it last knew while the control plane is away.
//!
//! In:    what the client published last.      Out: bytes for a file, and the picture back from them.
//! Owner: the roof writes and reads the file. It holds private keys of gateways: mode 0600, and replaced by rename.
//! Invariant: bytes that were cut short or damaged are refused as a whole (CRC32C); a resource that this version cannot decode is
//! left out, and fetched again on connecting.
//! Not here: where the file lies (`causeway`).

use std::sync::Arc;

use bytes::Bytes;
use causeway_model::{Instance, Object, Revision, ServiceKey, Snapshot, codec};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::resource::Listed;

/// What the bytes begin with.
const MAGIC: &[u8; 7] = b"CWPICT\x01";

/// What a client knew at one moment.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Lineage of the revisions in it; `None` when it holds those of two, so that all must be fetched again.
    pub lineage: Option<String>,
    /// The resources.
    pub snapshot: Arc<Snapshot>,
    /// Services that were asked for on demand.
    pub wants: Vec<ServiceKey>,
}

/// Why bytes are no picture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes hold no picture that can be used: {0}")]
pub struct NotAPicture(String);

#[derive(Encode, Decode)]
struct Written {
    #[n(0)]
    lineage: Option<String>,
    #[n(1)]
    revision: Revision,
    #[n(2)]
    wants: Vec<ServiceKey>,
    #[n(3)]
    objects: Vec<ByteVec>,
    #[n(4)]
    instances: Vec<ByteVec>,
    #[n(5)]
    revocations: Option<Listed>,
}

impl Picture {
    /// The picture as bytes.
    pub fn to_bytes(&self) -> Bytes {
        let written = Written {
            lineage: self.lineage.clone(),
            revision: self.snapshot.revision(),
            wants: self.wants.clone(),
            objects: self.snapshot.objects().map(|object| codec::encode(&**object).into()).collect(),
            instances: self.snapshot.instances().map(|instance| codec::encode(&**instance).into()).collect(),
            revocations: Listed::of(&self.snapshot),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(codec::encode(&written));
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        bytes.into()
    }

    /// The picture that `bytes` hold.
    ///
    /// # Errors
    /// [`NotAPicture`]: they are of another format or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotAPicture> {
        let refuse = |why: &str| NotAPicture(why.to_owned());
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or_else(|| refuse("there are too few"))?;
        let content = body.strip_prefix(MAGIC).ok_or_else(|| refuse("they are of another format"))?;
        if crc32c::crc32c(body).to_be_bytes() != *checksum {
            return Err(refuse("their checksum is wrong"));
        }
        let written: Written = codec::decode(content).map_err(|error| NotAPicture(error.to_string()))?;
        let mut snapshot = Snapshot::default();
        for object in written.objects.iter().filter_map(|bytes| codec::decode::<Object>(bytes).ok()) {
            snapshot.learn_object(Arc::new(object), written.revision);
        }
        for instance in written.instances.iter().filter_map(|bytes| codec::decode::<Instance>(bytes).ok()) {
            snapshot.learn_instance(Arc::new(instance), written.revision);
        }
        if let Some(Listed { revision, list }) = written.revocations {
            snapshot.learn_revocations(Arc::new(list), revision, written.revision);
        }
        snapshot.advance(written.revision);
        snapshot.forget_history();
        Ok(Picture { lineage: written.lineage, snapshot: Arc::new(snapshot), wants: written.wants })
    }
}
