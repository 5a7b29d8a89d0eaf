//! What is sent and what must come back.
//!
//! All requests of a shape have one length, and so have all answers: only the key differs, and the value, which begins
//! with its key. So a request is made by writing the key into a copy of another, and an answer is checked by comparing
//! bytes. Neither end needs a parser, and the generator stays lighter than any server.

use std::fmt;

use proto::frame::{self, Encoding};
use proto::request::verbs;
use proto::response::Response;

/// How many keys there are.
pub(crate) const KEYS: u32 = 100_000;

/// The length of a key, in bytes.
pub(crate) const KEY_BYTES: usize = 16;

/// The length of a value, in bytes.
pub(crate) const VALUE_BYTES: usize = 100;

/// A key, as it is sent.
pub(crate) type Key = [u8; KEY_BYTES];

/// Which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    Get,
}

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) verb: Verb,
    pub(crate) encoding: Encoding,
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
                shapes.push(Shape { verb, encoding, connections, pipeline });
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
            Encoding::Array | Encoding::Resp3 => "array",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, pipeline, .. } = self;
        write!(f, "{} {}, {connections} connections, {pipeline} in flight", self.verb(), self.encoding())
    }
}

/// The key of a number below [`KEYS`].
pub(crate) fn key(mut number: u32) -> Key {
    let mut key = *b"key:000000000000";
    for digit in key.iter_mut().rev().take(5) {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

/// The value that belongs to a key. It ends in no digit, as most values do: one that does costs a node one look more
/// where a line carries it.
fn value(key: &Key) -> [u8; VALUE_BYTES] {
    let mut value = [b'v'; VALUE_BYTES];
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
    pub(crate) fn request(verb: Verb, encoding: Encoding) -> Self {
        let key = key(0);
        let value = value(&key);
        let words: &[&[u8]] = match verb {
            Verb::Put => &[verbs::PUT.as_bytes(), &key, &value],
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
        Self::new(bytes)
    }

    /// The answer to a request of a shape.
    pub(crate) fn answer(verb: Verb, encoding: Encoding) -> Self {
        let value = value(&key(0));
        let mut bytes = Vec::new();
        let answer = match verb {
            Verb::Put => Response::Ok,
            Verb::Get => Response::Value(&value),
        };
        answer.encode(encoding, &mut bytes);
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
                let value = value(&key);
                let parsed = |bytes: &[u8], expected: NodeRequest<'_>| {
                    let mut decoder = FrameDecoder::new();
                    let (frame, consumed): (Frame<'_>, usize) = decoder.decode(bytes).unwrap().unwrap();
                    assert_eq!(consumed, bytes.len());
                    assert_eq!(NodeRequest::parse(frame), Ok(expected));
                };
                let put = copy_with(&Template::request(Verb::Put, encoding), &key);
                let expected = match encoding {
                    Encoding::Line => NodeRequest::PutLine { key: &key, value: &value },
                    Encoding::Array | Encoding::Resp3 => NodeRequest::Write(Write::new(&key, Change::Put(&value))),
                };
                parsed(&put, expected);
                let get = copy_with(&Template::request(Verb::Get, encoding), &key);
                let read = Read { key: &key, wanted: Wanted::Value, level: ReadLevel::Local };
                parsed(&get, NodeRequest::Read(read));
            }
        }
    }

    #[test]
    fn an_answer_to_get_holds_the_value_of_its_key() {
        let key = key(12_345);
        assert_eq!(&key, b"key:000000012345");
        let answer = copy_with(&Template::answer(Verb::Get, Encoding::Line), &key);
        assert_eq!(answer, [b"VALUE ", &value(&key)[..], b"\n"].concat());
        let put = Template::request(Verb::Put, Encoding::Array);
        assert_eq!(put.key_in(&copy_with(&put, &key)), Some(&key));
    }
}
