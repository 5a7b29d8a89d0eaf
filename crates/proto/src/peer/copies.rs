//! What a node asks the primaries of slots on behalf of a client's `WAIT`, on a connection for forwarded requests.

use super::{counter, push_number_word};
use crate::error::ErrorReply;
use crate::frame::{Words, begin_array, push_word};
use crate::slot::{SLOT_BITS, SlotId};

/// Asks how many replicas have each of these slots up to a given record. On the wire `COPIES id slots`; the word
/// `slots` has ten bytes per slot: the slot number and the record number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// The sender's number for the request; its answer carries it.
    pub id: u64,
    /// The slots, each with the number of the record; `None` for the latest record.
    pub slots: Vec<(SlotId, Option<u64>)>,
}

/// The answer for one slot. On the wire all answers are one bulk string, nine bytes each: the record number and the
/// number of replicas, or 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiesOf {
    /// The number of the record.
    pub seq: u64,
    /// How many replicas have acknowledged it; `None` if the node does not lead the slot.
    pub replicas: Option<u8>,
}

/// Stands for the latest record.
const LAST: u64 = u64::MAX;

/// Stands for a slot that the node does not lead.
const NOT_LED: u8 = u8::MAX;

impl Copies {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        begin_array(3, out);
        push_word(b"COPIES", out);
        push_number_word(self.id, out);
        let bytes = |(slot, seq): &(SlotId, Option<u64>)| {
            slot.0.to_be_bytes().into_iter().chain(seq.unwrap_or(LAST).to_be_bytes())
        };
        push_word(&self.slots.iter().flat_map(bytes).collect::<Vec<u8>>(), out);
    }

    /// Whether a message on a forwarding connection is a `Copies`.
    #[must_use]
    pub fn is_one(mut words: Words<'_>) -> bool {
        words.next() == Some(b"COPIES")
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are wrong.
    pub fn parse(mut words: Words<'_>) -> Result<Self, ErrorReply> {
        let mut copies = || {
            words.next().filter(|verb| *verb == b"COPIES")?;
            let id = counter(&mut words)?;
            let (slots, rest) = words.next()?.as_chunks::<10>();
            let slots = slots.iter().map(|[a, b, seq @ ..]| {
                let seq = u64::from_be_bytes(*seq);
                (SlotId(u16::from_be_bytes([*a, *b])), (seq != LAST).then_some(seq))
            });
            (rest.is_empty() && slots.len() <= SLOT_BITS.count()).then(|| Self { id, slots: slots.collect() })
        };
        copies().filter(|_| words.is_empty()).ok_or(ErrorReply::InvalidFormat("COPIES"))
    }
}

impl CopiesOf {
    /// Appends the bytes of the answer for one slot.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.push(self.replicas.map_or(NOT_LED, |replicas| replicas.min(NOT_LED - 1)));
    }

    /// Reads the answers for all slots of a request; `None` if the bytes are not such an answer.
    #[must_use]
    pub fn parse_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (answers, rest) = bytes.as_chunks::<9>();
        let answers = answers.iter().map(|[seq @ .., replicas]| Self {
            seq: u64::from_be_bytes(*seq),
            replicas: (*replicas != NOT_LED).then_some(*replicas),
        });
        rest.is_empty().then(|| answers.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::tests::with_words;

    #[test]
    fn questions_and_answers_read_back_as_written() {
        let question = Copies { id: 7, slots: vec![(SlotId(3), None), (SlotId(16_383), Some(12))] };
        let mut bytes = Vec::new();
        question.encode(&mut bytes);
        with_words(&bytes, |words| {
            assert!(Copies::is_one(words));
            assert_eq!(Copies::parse(words), Ok(question.clone()));
        });
        let answers = [CopiesOf { seq: 12, replicas: Some(2) }, CopiesOf { seq: 0, replicas: None }];
        let mut bytes = Vec::new();
        answers.iter().for_each(|answer| answer.encode(&mut bytes));
        assert_eq!(CopiesOf::parse_all(&bytes), Some(answers.to_vec()));
        bytes.pop();
        assert_eq!(CopiesOf::parse_all(&bytes), None);
    }
}
