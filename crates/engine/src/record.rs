//! One write.

use proto::id::Version;
use proto::peer::Effect;

/// A write as its primary ordered it. The same record is the entry of its key in the table, what replicas are sent, and
/// what a reader gets its value from: it is shared, never copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in its slot's order, and so the version of its key.
    pub version: Version,
    key_len: u32,
    is_delete: bool,
    /// The key, then the value.
    bytes: Box<[u8]>,
}

impl Record {
    /// A record with this effect on a key. Key and value are copied here, and nowhere else.
    #[must_use]
    pub fn new(version: Version, key: &[u8], effect: Effect<'_>) -> Self {
        let (value, is_delete) = match effect {
            Effect::Put(value) => (value, false),
            Effect::Delete => (&b""[..], true),
        };
        let key_len = u32::try_from(key.len()).expect("a key is within its limit, far below 4 GiB");
        Self { version, key_len, is_delete, bytes: [key, value].concat().into_boxed_slice() }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.bytes.get(..self.key_len as usize).unwrap_or_default()
    }

    /// The value; `None` where the record is a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        if self.is_delete { None } else { self.bytes.get(self.key_len as usize..) }
    }

    /// What the record does to its key.
    #[must_use]
    pub fn effect(&self) -> Effect<'_> {
        self.value().map_or(Effect::Delete, Effect::Put)
    }

    /// Whether the record is a tombstone.
    #[must_use]
    pub fn is_delete(&self) -> bool {
        self.is_delete
    }

    /// The memory that the record takes, in bytes, its allocations' own overhead left out.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}
