//! What is sent and what must come back.
//!
//! All requests of a shape have one length, and so have all answers: only the key differs, and the value, which begins
//! with its key. So a request is made by writing the key into a copy of another, and an answer is checked by comparing
//! bytes. Neither end needs a parser, and the generator stays lighter than any server.

use std::fmt;

use proto::frame::{self, Encoding};
use proto::request::verbs;
use proto::response::Response;

/// How many keys there are, where nothing else is said.
pub(crate) const KEYS: u32 = 100_000;

/// The length of a key, in bytes.
pub(crate) const KEY_BYTES: usize = 16;

/// The length of a value in bytes, where nothing else is said.
pub(crate) const VALUE_BYTES: usize = 100;

/// A key, as it is sent.
pub(crate) type Key = [u8; KEY_BYTES];

/// Which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    Get,
}

/// How a server is told to store a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// PUT, as our nodes have it.
    Put,
    /// SET, as Redis has it.
    Set,
    /// SET, and behind each the command that waits until so many replicas have it.
    SetAndWait(u8),
}

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) verb: Verb,
    pub(crate) encoding: Encoding,
    /// The length of a value, in bytes; at least that of a key.
    pub(crate) value_bytes: usize,
    pub(crate) connections: usize,
    /// How many requests of one connection are sent together; all are answered before the next are sent.
    pub(crate) pipeline: usize,
}

/// All kinds that are measured, in the order of the table.
pub(crate) fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for verb in [Verb::Put, Verb::Get] {
        for encoding in [Encoding::Line, Encoding::Array] {
            for (connections, pipeline) in [(1, 1), (1, 16), (50, 1), (50, 16)] {
                shapes.push(Shape { verb, encoding, value_bytes: VALUE_BYTES, connections, pipeline });
            }
        }
    }
    shapes
}

impl Shape {
    /// The name of the verb.
    pub(crate) fn verb(self) -> &'static str {
        match self.verb {
            Verb::Put => verbs::PUT,
            Verb::Get => verbs::GET,
        }
    }

    /// The name of the encoding.
    pub(crate) fn encoding(self) -> &'static str {
        match self.encoding {
            Encoding::Line => "line",
            Encoding::Array => "array",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, pipeline, .. } = self;
        write!(f, "{} {}, {connections} connections, {pipeline} in flight", self.verb(), self.encoding())
    }
}

/// The key of a number.
pub(crate) fn key(mut number: u32) -> Key {
    let mut key = *b"key:000000000000";
    for digit in key.iter_mut().rev().take(10) {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

/// The value that belongs to a key. It ends in no digit, as most values do: one that does costs a node one look more
/// where a line carries it.
fn value(key: &Key, bytes: usize) -> Vec<u8> {
    let mut value = vec![b'v'; bytes];
    value.iter_mut().zip(key).for_each(|(place, byte)| *place = *byte);
    value
}

/// Bytes that hold a key in known places.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Template {
    fn new(bytes: Vec<u8>) -> Self {
        let is_key = |window: &&[u8]| *window == key(0);
        let windows = bytes.windows(KEY_BYTES).enumerate();
        let places = windows.filter(|(_, window)| is_key(window)).map(|(at, _)| at).collect();
        Self { bytes, places }
    }

    /// The request of a shape.
    pub(crate) fn request(shape: Shape, dialect: Dialect) -> Self {
        let key = key(0);
        let value = value(&key, shape.value_bytes);
        let store = match dialect {
            Dialect::Put => verbs::PUT,
            Dialect::Set | Dialect::SetAndWait(_) => "SET",
        };
        let words: &[&[u8]] = match shape.verb {
            Verb::Put => &[store.as_bytes(), &key, &value],
            Verb::Get => &[verbs::GET.as_bytes(), &key],
        };
        let mut bytes = Vec::new();
        match shape.encoding {
            Encoding::Line => {
                bytes = words.join(&b' ');
                bytes.push(b'\n');
            }
            Encoding::Array => frame::encode_array(words, &mut bytes),
        }
        if let (Verb::Put, Dialect::SetAndWait(replicas)) = (shape.verb, dialect) {
            // Nought milliseconds: for as long as it takes.
            frame::encode_array(&[b"WAIT", replicas.to_string().as_bytes(), b"0"], &mut bytes);
        }
        Self::new(bytes)
    }

    /// The answer to a request of a shape.
    pub(crate) fn answer(shape: Shape, dialect: Dialect) -> Self {
        let value = value(&key(0), shape.value_bytes);
        let mut bytes = Vec::new();
        let answer = match shape.verb {
            Verb::Put => Response::Ok,
            Verb::Get => Response::Value(&value),
        };
        answer.encode(shape.encoding, &mut bytes);
        if let (Verb::Put, Dialect::SetAndWait(replicas)) = (shape.verb, dialect) {
            bytes.extend_from_slice(format!(":{replicas}\r\n").as_bytes());
        }
        Self::new(bytes)
    }

    /// Puts a key into bytes that were copied from these.
    pub(crate) fn write_key(&self, key: &Key, copy: &mut [u8]) {
        for at in &self.places {
            if let Some(place) = copy.get_mut(*at..at + KEY_BYTES) {
                place.copy_from_slice(key);
            }
        }
    }

    /// The key in bytes that were made from these.
    pub(crate) fn key_in<'a>(&self, copy: &'a [u8]) -> Option<&'a Key> {
        copy.get(*self.places.first()?..)?.first_chunk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::frame::{Frame, FrameDecoder};
    use proto::level::ReadLevel;
    use proto::peer::{Change, Read, Wanted, Write};
    use proto::request::NodeRequest;

    fn shape(verb: Verb, encoding: Encoding) -> Shape {
        Shape { verb, encoding, value_bytes: VALUE_BYTES, connections: 1, pipeline: 1 }
    }

    fn copy_with(template: &Template, key: &Key) -> Vec<u8> {
        let mut copy = template.bytes.clone();
        template.write_key(key, &mut copy);
        copy
    }

    #[test]
    fn requests_are_what_a_node_understands() {
        for encoding in [Encoding::Line, Encoding::Array] {
            for number in [0, 7, KEYS - 1] {
                let key = key(number);
                let value = value(&key, VALUE_BYTES);
                let parsed = |bytes: &[u8], expected: NodeRequest<'_>| {
                    let mut decoder = FrameDecoder::new();
                    let (frame, consumed): (Frame<'_>, usize) = decoder.decode(bytes).unwrap().unwrap();
                    assert_eq!(consumed, bytes.len());
                    assert_eq!(NodeRequest::parse(frame), Ok(expected));
                };
                let put = copy_with(&Template::request(shape(Verb::Put, encoding), Dialect::Put), &key);
                let expected = match encoding {
                    Encoding::Line => NodeRequest::PutLine { key: &key, value: &value },
                    Encoding::Array => NodeRequest::Write(Write::new(&key, Change::Put(&value))),
                };
                parsed(&put, expected);
                let get = copy_with(&Template::request(shape(Verb::Get, encoding), Dialect::Put), &key);
                let read = Read { key: &key, wanted: Wanted::Value, level: ReadLevel::Local };
                parsed(&get, NodeRequest::Read(read));
            }
        }
    }

    #[test]
    fn an_answer_to_get_holds_the_value_of_its_key() {
        let key = key(3_000_012_345);
        assert_eq!(&key, b"key:003000012345");
        let answer = copy_with(&Template::answer(shape(Verb::Get, Encoding::Line), Dialect::Put), &key);
        assert_eq!(answer, [b"VALUE ", &value(&key, VALUE_BYTES)[..], b"\n"].concat());
        let put = Template::request(shape(Verb::Put, Encoding::Array), Dialect::Put);
        assert_eq!(put.key_in(&copy_with(&put, &key)), Some(&key));
    }

    #[test]
    fn redis_is_told_to_set_and_to_wait() {
        let key = key(7);
        let put = Shape { value_bytes: 20, ..shape(Verb::Put, Encoding::Array) };
        let set = "*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000007\r\n$20\r\nkey:000000000007vvvv\r\n";
        let request = copy_with(&Template::request(put, Dialect::Set), &key);
        assert_eq!(request.escape_ascii().to_string(), set.as_bytes().escape_ascii().to_string());
        let request = copy_with(&Template::request(put, Dialect::SetAndWait(2)), &key);
        let wait = "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n0\r\n";
        assert_eq!(request, [set, wait].concat().as_bytes());
        assert_eq!(Template::answer(put, Dialect::SetAndWait(2)).bytes, b"+OK\r\n:2\r\n");
        let get = shape(Verb::Get, Encoding::Array);
        assert_eq!(Template::answer(get, Dialect::SetAndWait(2)).bytes, Template::answer(get, Dialect::Put).bytes);
    }
}
