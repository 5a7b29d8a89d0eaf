//! Every limit of the protocol, in one place. Error texts and documents quote these constants.

use std::time::Duration;

/// The longest key, in bytes.
pub const KEY_BYTES: usize = 64 * 1024;

/// The longest value, in bytes.
pub const VALUE_BYTES: usize = 64 * 1024 * 1024;

/// The longest line, excluding its newline: the longest value, the longest key, and room for a verb and blanks.
pub const LINE_BYTES: usize = VALUE_BYTES + KEY_BYTES + 64;

/// The most words in one array request.
pub const ARRAY_WORDS: usize = 1_048_576;

/// The longest array request with its framing, in bytes. All values of a multi-value request share it.
pub const ARRAY_BYTES: usize = 2 * LINE_BYTES;

/// The longest header line of an array or of a word in it (`*3`, `$12`), in bytes, including the line end.
pub const ARRAY_HEADER_BYTES: usize = 32;

/// The longest request from an unauthenticated client, with its framing, in bytes.
pub const UNAUTHENTICATED_BYTES: usize = 64 * 1024;

/// The most words in an array from an unauthenticated client.
pub const UNAUTHENTICATED_WORDS: usize = 16;

/// The most keys on one page of a walk (`PREFIX`, `RANGE`), and in one `MGET`, `MPUT` or `MSETNX`.
pub const PAGE_KEYS: usize = 10_000;

/// The most keys on a page when the request gives no limit.
pub const DEFAULT_PAGE_KEYS: usize = 1_000;

/// The longest pattern of `KEYS`, `SCAN` and the like, in bytes: in the worst case, matching takes as many steps for each
/// byte of a key.
pub const PATTERN_BYTES: usize = 1_024;

/// The most patterns of one `CONFIG GET`, and names of one `COMMAND INFO` or `COMMAND DOCS`.
pub const ASKED_NAMES: usize = 1_000;

/// The most bytes of keys on one page, unless the first key alone is longer.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// The longest host name or address literal, in bytes (a DNS name has at most 253).
pub const HOST_BYTES: usize = 255;

/// The highest epoch, sequence number, incarnation or map version. At a million changes a second, reaching it would
/// take 146,000 years, so a higher number is a mistake or an attack. Refusing it keeps arithmetic on counters from
/// overflowing.
pub const COUNTER: u64 = 1 << 62;

/// The longest name that a client gives itself for idempotent retries, in bytes.
pub const CLIENT_BYTES: usize = 64;

/// The longest name of a connection or of its library (`CLIENT SETNAME`, `CLIENT SETINFO`), in bytes.
pub const CONNECTION_NAME_BYTES: usize = 256;

/// The longest answer that is remembered with an identified write, in bytes.
pub const ANSWER_BYTES: usize = 1_024;

/// The longest record of such an answer, in bytes: either the answer and one more byte, or the text of an error.
pub const REPLY_BYTES: usize = ANSWER_BYTES + 1;

/// How long a client's write is remembered at least, after its last write to the same slot. This is what lets a write
/// with an identity be sent again.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// How long a client may send such a write again after it was sent first.
///
/// IMPORTANT: with everything that may delay the last copy, no copy may arrive after the write is forgotten, or the write
/// would be carried out twice. A node may hold it for as long as its `--request-timeout`, at most a minute, until it
/// reaches a primary; and it carries out nothing that it received before a pause of a minute.
pub const RESENT_FOR: Duration = Duration::from_secs(480);

/// The longest time to live of a key, in seconds: about 317 years.
pub const TTL_SECONDS: u64 = 10_000_000_000;

/// The same in milliseconds.
pub const TTL_MILLIS: u64 = TTL_SECONDS * 1_000;

/// How many clients one process serves at once by default.
pub const CLIENTS: usize = 10_000;

/// The most virtual nodes per node on the ring.
pub const VIRTUAL_NODES: u32 = 1_024;

/// The greatest weight of a node: the multiple of other nodes' ring positions that it has.
pub const WEIGHT: u32 = 100;

/// The most replicas of a key besides its primary.
pub const REPLICAS: usize = 15;

/// The port of the coordinator unless another is given.
pub const COORDINATOR_PORT: u16 = 5_000;

/// The most nodes that one coordinator registers.
pub const NODES: usize = 1_024;

/// How many earlier incarnations a node shows when it joins.
pub const ANCESTORS: usize = 64;
