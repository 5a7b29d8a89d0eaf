//! Requests, built in place.
//!
//! All requests of a kind have the same length: only the key differs, and the value, which begins with its key. So a
//! request is built by writing a number into a copy of another one. The generator needs no formatting and stays lighter
//! than any server.

use proto::frame::{self, Encoding};
use proto::request::verbs;
use proto::response::Response;

use crate::keys::{Sizes, write_number};
use crate::reply::Wanted;

/// How a server is told to store a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PUT, for our nodes.
    Put,
    /// SET, for Redis.
    Set,
    /// SET, each followed by the command that waits until this many replicas have it.
    SetAndWait(u8),
}

/// A request on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Store a value.
    Put,
    /// Read one.
    Get,
}

/// Bytes that hold a key at known positions.
#[derive(Debug, Clone)]
pub struct Template {
    /// The bytes, with the key of number 0.
    pub bytes: Vec<u8>,
    /// Where the keys begin.
    places: Vec<usize>,
    key_bytes: usize,
}

impl Template {
    fn new(bytes: Vec<u8>, sizes: Sizes) -> Self {
        let key = sizes.make_key(0);
        let places = bytes.windows(key.len()).enumerate().filter(|(_, window)| **window == key).map(|(at, _)| at);
        Self { places: places.collect(), bytes, key_bytes: sizes.key }
    }

    /// The request.
    #[must_use]
    pub fn request(verb: Verb, encoding: Encoding, sizes: Sizes, dialect: Dialect) -> Self {
        let key = sizes.make_key(0);
        let value = sizes.make_value(&key);
        let store = match dialect {
            Dialect::Put => verbs::PUT,
            Dialect::Set | Dialect::SetAndWait(_) => "SET",
        };
        let words: &[&[u8]] = match verb {
            Verb::Put => &[store.as_bytes(), &key, &value],
            Verb::Get => &[verbs::GET.as_bytes(), &key],
        };
        let mut bytes = Vec::new();
        match encoding {
            Encoding::Line => {
                bytes = words.join(&b' ');
                bytes.push(b'\n');
            }
            Encoding::Array | Encoding::Resp3 => frame::encode_array(words, &mut bytes),
        }
        if let (Verb::Put, Dialect::SetAndWait(replicas)) = (verb, dialect) {
            // Zero milliseconds: wait for as long as it takes.
            frame::encode_array(&[b"WAIT", replicas.to_string().as_bytes(), b"0"], &mut bytes);
        }
        Self::new(bytes, sizes)
    }

    /// The answer of one of our nodes that has the key.
    #[must_use]
    pub fn answer(verb: Verb, encoding: Encoding, sizes: Sizes) -> Self {
        let value = sizes.make_value(&sizes.make_key(0));
        let mut bytes = Vec::new();
        let answer = match verb {
            Verb::Put => Response::Ok,
            Verb::Get => Response::Value(&value),
        };
        answer.encode(encoding, &mut bytes);
        Self::new(bytes, sizes)
    }

    fn value(sizes: Sizes) -> Self {
        Self::new(sizes.make_value(&sizes.make_key(0)), sizes)
    }

    /// Appends a copy with another number.
    fn push(&self, number: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(copy) = out.get_mut(start..) {
            self.write(number, copy);
        }
    }

    fn write(&self, number: u32, copy: &mut [u8]) {
        for at in &self.places {
            if let Some(key) = copy.get_mut(*at..at + self.key_bytes) {
                write_number(number, key);
            }
        }
    }

    /// Writes a whole key into bytes copied from this template.
    pub fn write_key(&self, key: &[u8], copy: &mut [u8]) {
        for at in &self.places {
            if let Some(place) = copy.get_mut(*at..at + self.key_bytes).filter(|place| place.len() == key.len()) {
                place.copy_from_slice(key);
            }
        }
    }

    /// The key in bytes made from this template.
    #[must_use]
    pub fn key_in<'a>(&self, copy: &'a [u8]) -> Option<&'a [u8]> {
        let at = *self.places.first()?;
        copy.get(at..at + self.key_bytes)
    }
}

/// Builds the requests of one connection.
#[derive(Debug)]
pub(crate) struct Requests {
    encoding: Encoding,
    sizes: Sizes,
    get: Template,
    put: Template,
    wanted_of_put: Wanted,
    /// The value that belongs to a key, for comparison.
    value: Template,
    expected: Vec<u8>,
}

impl Requests {
    pub(crate) fn new(encoding: Encoding, sizes: Sizes, dialect: Dialect) -> Self {
        let request = |verb| Template::request(verb, encoding, sizes, dialect);
        let value = Template::value(sizes);
        let wanted_of_put = match dialect {
            Dialect::Put | Dialect::Set => Wanted::Done,
            Dialect::SetAndWait(replicas) => Wanted::Replicated(replicas),
        };
        let (get, put, expected) = (request(Verb::Get), request(Verb::Put), value.bytes.clone());
        Self { encoding, sizes, get, put, wanted_of_put, value, expected }
    }

    /// Each of these appends a request and returns what must come back.
    pub(crate) fn get(&self, number: u32, out: &mut Vec<u8>) -> Wanted {
        self.get.push(number, out);
        Wanted::Value
    }

    pub(crate) fn put(&self, number: u32, out: &mut Vec<u8>) -> Wanted {
        self.put.push(number, out);
        self.wanted_of_put
    }

    /// Requests up to `limit` keys from a number on.
    pub(crate) fn scan(&self, number: u32, limit: u64, out: &mut Vec<u8>) -> Wanted {
        let (from, limit) = (self.sizes.make_key(number), limit.to_string());
        // `;` is the byte after the prefix's colon, so all keys of the load sort before it.
        let words: [&[u8]; 5] = [b"RANGE", &from, b"bench;", b"LIMIT", limit.as_bytes()];
        match self.encoding {
            Encoding::Line => {
                out.extend_from_slice(&words.join(&b' '));
                out.push(b'\n');
            }
            Encoding::Array | Encoding::Resp3 => frame::encode_array(&words, out),
        }
        Wanted::Page
    }

    /// Whether a value belongs to a key.
    pub(crate) fn is_value(&mut self, number: u32, value: &[u8]) -> bool {
        self.value.write(number, &mut self.expected);
        self.expected == value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::frame::{Frame, FrameDecoder};
    use proto::level::ReadLevel;
    use proto::peer::{Change, Read, Wanted as WantedOfRead, Write};
    use proto::request::NodeRequest;

    const SIZES: Sizes = Sizes { key: 16, value: 100 };

    fn made(requests: &Requests, make: impl FnOnce(&Requests, &mut Vec<u8>) -> Wanted) -> Vec<u8> {
        let mut bytes = b"before".to_vec();
        make(requests, &mut bytes);
        bytes.split_off(6)
    }

    fn parsed(bytes: &[u8], check: impl FnOnce(Result<NodeRequest<'_>, proto::error::ErrorReply>)) {
        let mut decoder = FrameDecoder::new();
        let (frame, consumed): (Frame<'_>, usize) = decoder.decode(bytes).unwrap().unwrap();
        assert_eq!(consumed, bytes.len());
        check(NodeRequest::parse(frame));
    }

    #[test]
    fn requests_are_what_a_node_understands() {
        for encoding in [Encoding::Line, Encoding::Array] {
            let requests = Requests::new(encoding, SIZES, Dialect::Put);
            for number in [0, 7, u32::MAX] {
                let key = SIZES.make_key(number);
                let value = SIZES.make_value(&key);
                parsed(&made(&requests, |it, out| it.put(number, out)), |request| {
                    let expected = match encoding {
                        Encoding::Line => NodeRequest::PutLine { key: &key, value: &value },
                        Encoding::Array | Encoding::Resp3 => NodeRequest::Write(Write::new(&key, Change::Put(&value))),
                    };
                    assert_eq!(request, Ok(expected));
                });
                parsed(&made(&requests, |it, out| it.get(number, out)), |request| {
                    let read = Read { key: &key, wanted: WantedOfRead::Value, level: ReadLevel::Local };
                    assert_eq!(request, Ok(NodeRequest::Read(read)));
                });
                parsed(&made(&requests, |it, out| it.scan(number, 42, out)), |request| {
                    assert!(matches!(request, Ok(NodeRequest::Page(_))), "{request:?}");
                });
            }
        }
    }

    #[test]
    fn a_value_belongs_to_its_key_alone() {
        let mut requests = Requests::new(Encoding::Line, SIZES, Dialect::Put);
        for number in [12_345, 7] {
            let value = SIZES.make_value(&SIZES.make_key(number));
            assert!(requests.is_value(number, &value) && !requests.is_value(number + 1, &value));
            assert!(!requests.is_value(number, &value[1..]));
        }
        let answer = Template::answer(Verb::Get, Encoding::Line, SIZES);
        let mut copy = answer.bytes.clone();
        answer.write_key(b"bench:0000012345", &mut copy);
        assert!(copy.starts_with(b"VALUE bench:0000012345v"));
        assert_eq!(answer.key_in(&copy), Some(&b"bench:0000012345"[..]));
    }

    #[test]
    fn redis_is_told_to_set_and_to_wait() {
        let set = "*3\r\n$3\r\nSET\r\n$16\r\nbench:0000000007\r\n$20\r\nbench:0000000007vvvv\r\n";
        let wait = "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n0\r\n";
        let sizes = Sizes { value: 20, ..SIZES };
        for (dialect, expected) in [(Dialect::Set, set.to_owned()), (Dialect::SetAndWait(2), format!("{set}{wait}"))] {
            let requests = Requests::new(Encoding::Array, sizes, dialect);
            let request = made(&requests, |it, out| it.put(7, out));
            assert_eq!(String::from_utf8(request), Ok(expected));
        }
    }
}
