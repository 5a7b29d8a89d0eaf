//! Every limit of the protocol, in one place. Error texts and documents quote these constants.

/// The longest key, in bytes.
pub const KEY_BYTES: usize = 64 * 1024;

/// The longest value, in bytes.
pub const VALUE_BYTES: usize = 64 * 1024 * 1024;

/// The longest line, its newline not counted: the longest value, the longest key, and room for a verb and blanks.
pub const LINE_BYTES: usize = VALUE_BYTES + KEY_BYTES + 64;

/// The most words of one array request.
pub const ARRAY_WORDS: usize = 1_048_576;

/// The longest array request with its framing, in bytes. A request with several values shares it among them.
pub const ARRAY_BYTES: usize = 2 * LINE_BYTES;

/// The longest header line of an array or of a word in one (`*3`, `$12`), in bytes, line end included.
pub const ARRAY_HEADER_BYTES: usize = 32;

/// The longest request of a client that has not authenticated, with its framing, in bytes.
pub const STRANGER_BYTES: usize = 64 * 1024;

/// The most words of an array of a client that has not authenticated.
pub const STRANGER_WORDS: usize = 16;

/// The most keys of one page of a walk (`PREFIX`, `RANGE`), and of one `MGET` or `MPUT`.
pub const PAGE_KEYS: usize = 10_000;

/// How many keys a page has at most where the request names no limit.
pub const USUAL_PAGE_KEYS: usize = 1_000;

/// The longest pattern of `KEYS` and `SCAN`, in bytes: to match one takes as many steps for each byte of a key, at worst.
pub const PATTERN_BYTES: usize = 1_024;

/// The most bytes of keys on one page, unless its first key alone has more.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// The longest host name or address literal, in bytes (a DNS name has at most 253).
pub const HOST_BYTES: usize = 255;

/// The highest epoch, sequence number, incarnation or map version. A million changes a second would take 146,000 years to
/// come there, so a higher one is a mistake or an attack, and refusing it keeps all arithmetic on counters from overflow.
pub const COUNTER: u64 = 1 << 62;

/// The longest name that a client gives itself for safe retries, in bytes.
pub const CLIENT_BYTES: usize = 64;

/// The longest name of a connection and of its library (`CLIENT SETNAME`, `CLIENT SETINFO`), in bytes.
pub const CONNECTION_NAME_BYTES: usize = 256;

/// The longest answer that is remembered with a write that has an identity, in bytes.
pub const ANSWER_BYTES: usize = 1_024;

/// The longest record of such an answer, in bytes: it has one byte more, or is the text of an error.
pub const TOLD_BYTES: usize = ANSWER_BYTES + 1;

/// The longest time that a key can be given to live, in seconds: some 317 years.
pub const LIFE_SECONDS: u64 = 10_000_000_000;

/// The same in milliseconds.
pub const LIFE_MILLIS: u64 = LIFE_SECONDS * 1_000;

/// How many clients one process serves at once, unless told otherwise.
pub const CLIENTS: usize = 10_000;

/// The most virtual nodes for each node on the ring.
pub const VIRTUAL_NODES: u32 = 1_024;

/// The greatest weight of a node: how many times the positions of others it has on the ring.
pub const WEIGHT: u32 = 100;

/// The most replicas of a key beside its primary.
pub const REPLICAS: usize = 15;

/// The most nodes that one coordinator registers.
pub const NODES: usize = 1_024;
