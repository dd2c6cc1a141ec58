//! The log's bytes: how a commit, a stream's name and a record look. Pure: no file, no lock.
//!
//! ```text
//! item   = crc32c u32 | length of body u32 | kind and stream u32 | position u64 | body
//! commit = item Commit (position: its own place in the log = everything before it is durable;
//!          body: bytes of its items u32, their number u32, the log's key u64), then its items
//! items  = Name (a stream's first appearance in a segment; position: its length; body: its name) | Record
//! ```
//! In:    ids, positions, bytes.     Out: framed bytes, or an [`Item`] whose checksum held.
//! Owner: `disk/writer.rs` writes them, `disk/scan.rs` and `disk/read.rs` read them.
//! Invariant: every byte of a commit is under a checksum; checksums are salted with the log's random key, so that bytes
//!            of a message that imitate a commit are not one. All integers are little-endian.
//! Not here: the segment's header (`disk/segment.rs`).

/// Bytes before an item's body.
pub(crate) const ITEM_HEADER_BYTES: usize = 20;
/// Bytes of the item that opens a commit.
pub(crate) const COMMIT_BYTES: usize = ITEM_HEADER_BYTES + COMMIT_BODY_BYTES;
const COMMIT_BODY_BYTES: usize = 16;

const KIND_SHIFT: u32 = 30;
const STREAM_MASK: u32 = (1 << KIND_SHIFT) - 1;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Record = 0,
    Name = 1,
    Commit = 2,
}

/// An item's header, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) kind: ItemKind,
    pub(crate) stream: u32,
    pub(crate) position: u64,
    pub(crate) body: usize,
}

/// What a commit's own item says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitItem {
    pub(crate) lsn: u64,
    pub(crate) bytes: usize,
    pub(crate) items: u32,
}

/// Frames and checks the items of one log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framing {
    key: u64,
    salt: u32,
}

// === impl Item ===

impl Item {
    /// Takes a header apart; `None` for a kind that does not exist. Nothing is checked yet.
    pub(crate) fn parse(header: &[u8]) -> Option<Item> {
        let tag = u32_at(header, 8)?;
        let kind = match tag >> KIND_SHIFT {
            0 => ItemKind::Record,
            1 => ItemKind::Name,
            2 => ItemKind::Commit,
            _ => return None,
        };
        Some(Item {
            kind,
            stream: tag & STREAM_MASK,
            position: u64_at(header, 12)?,
            body: u32_at(header, 4)? as usize,
        })
    }

    /// Bytes of the whole item.
    pub(crate) fn bytes(&self) -> usize {
        ITEM_HEADER_BYTES + self.body
    }
}

// === impl Framing ===

impl Framing {
    pub(crate) fn new(key: u64) -> Self {
        Framing { key, salt: crc32c::crc32c(&key.to_le_bytes()) }
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Empties `out` and leaves room for the commit's own item.
    pub(crate) fn begin(&self, out: &mut Vec<u8>) {
        out.clear();
        out.resize(COMMIT_BYTES, 0);
    }

    /// Completes the commit that [`Framing::begin`] began at `lsn`.
    pub(crate) fn finish(&self, out: &mut [u8], lsn: u64, items: u32) {
        let bytes = (out.len() - COMMIT_BYTES) as u32;
        out[4..8].copy_from_slice(&(COMMIT_BODY_BYTES as u32).to_le_bytes());
        out[8..12].copy_from_slice(&tag(ItemKind::Commit, 0).to_le_bytes());
        out[12..20].copy_from_slice(&lsn.to_le_bytes());
        out[20..24].copy_from_slice(&bytes.to_le_bytes());
        out[24..28].copy_from_slice(&items.to_le_bytes());
        out[28..36].copy_from_slice(&self.key.to_le_bytes());
        let crc = self.checksum(&out[4..COMMIT_BYTES]);
        out[0..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Appends an item to a commit.
    pub(crate) fn push(&self, out: &mut Vec<u8>, kind: ItemKind, stream: u32, position: u64, body: &[u8]) {
        let mut header = [0; ITEM_HEADER_BYTES];
        header[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[8..12].copy_from_slice(&tag(kind, stream).to_le_bytes());
        header[12..20].copy_from_slice(&position.to_le_bytes());
        let crc = crc32c::crc32c_append(self.checksum(&header[4..]), body);
        header[0..4].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(body);
    }

    /// Whether the checksum of a whole item holds.
    pub(crate) fn holds(&self, item: &[u8]) -> bool {
        item.len() >= ITEM_HEADER_BYTES && u32_at(item, 0) == Some(self.checksum(&item[4..]))
    }

    /// The commit that begins with `bytes`, if they are one of this log.
    pub(crate) fn commit(&self, bytes: &[u8]) -> Option<CommitItem> {
        let bytes = bytes.get(..COMMIT_BYTES)?;
        let item = Item::parse(bytes)?;
        let is_ours = item.kind == ItemKind::Commit
            && item.body == COMMIT_BODY_BYTES
            && u64_at(bytes, 28) == Some(self.key)
            && self.holds(bytes);
        let (payload, items) = (u32_at(bytes, 20)?, u32_at(bytes, 24)?);
        is_ours.then_some(CommitItem { lsn: item.position, bytes: payload as usize, items })
    }

    fn checksum(&self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.salt, bytes)
    }
}

fn tag(kind: ItemKind, stream: u32) -> u32 {
    (kind as u32) << KIND_SHIFT | stream
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let framing = Framing::new(7);
        let mut out = Vec::new();
        framing.begin(&mut out);
        framing.push(&mut out, ItemKind::Name, 3, 0, b"topic/a");
        framing.push(&mut out, ItemKind::Record, 3, 0, b"hello");
        framing.finish(&mut out, 4096, 2);
        out
    }

    #[test]
    fn a_commit_reads_back() {
        let (framing, out) = (Framing::new(7), written());
        let commit = framing.commit(&out).unwrap();
        assert_eq!(commit, CommitItem { lsn: 4096, bytes: out.len() - COMMIT_BYTES, items: 2 });
        let name = Item::parse(&out[COMMIT_BYTES..]).unwrap();
        assert_eq!(name, Item { kind: ItemKind::Name, stream: 3, position: 0, body: 7 });
        let record = &out[COMMIT_BYTES + name.bytes()..];
        assert!(framing.holds(record));
        assert_eq!(&record[ITEM_HEADER_BYTES..], b"hello");
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_another_key_does_not_fit() {
        let (framing, out) = (Framing::new(7), written());
        assert!(Framing::new(8).commit(&out).is_none());
        for bit in 0..COMMIT_BYTES * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(framing.commit(&bad).is_none(), "bit {bit}");
        }
        for bit in 0..(ITEM_HEADER_BYTES + 7) * 8 {
            let mut bad = out[COMMIT_BYTES..COMMIT_BYTES + ITEM_HEADER_BYTES + 7].to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!framing.holds(&bad), "bit {bit}");
        }
    }
}
