//! What a node that assembles a page of a walk asks the others, on a connection for forwarded requests.

use super::{counter, place, place_word, push_number_word};
use crate::error::ErrorReply;
use crate::frame::{Frame, FrameDecoder, Words, begin_array, begin_bulk, push_word};
use crate::level::ReadLevel;
use crate::limits;
use crate::range::KeyRange;
use crate::slot::SlotId;

/// The `place` of a list with `must_serve`.
const SERVED: &str = "served";

/// Asks for the first keys of a range in some slots, or for how many keys it has there. On the wire `LIST id place
/// limit start end slots`: `place` as in a forwarded read, or `served`; a `limit` of 0 asks only for the count; an empty `end` is no
/// bound; the word `slots` has two bytes per slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The sender's number for the request; its answer carries it.
    pub id: u64,
    /// The level of the read.
    pub level: ReadLevel,
    /// Whether any copy may answer, because the primary does not.
    pub at_replica: bool,
    /// Whether a primary may answer at level `local` only for slots that it serves now: one that has been replaced
    /// without knowing it does not.
    pub must_serve: bool,
    /// The most keys to list; `None` asks only for the count.
    pub limit: Option<usize>,
    /// The range of keys.
    pub range: KeyRange,
    /// The slots to look in.
    pub slots: Vec<SlotId>,
}

/// The answer to a [`List`], for all slots except those it refuses. On the wire a bulk string that holds an array:
/// `refused more count key key ...`; `refused` has the format of `slots` above, and `more` is 1 if there are keys after
/// the last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// The slots that the node does not answer for.
    pub refused: Vec<SlotId>,
    /// Whether the range has more keys, all after the last of `keys`.
    pub has_more: bool,
    /// How many keys there are, if only that was asked.
    pub count: u64,
    /// The first keys, in ascending order.
    pub keys: Vec<Box<[u8]>>,
}

impl List {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        begin_array(7, out);
        push_word(b"LIST", out);
        push_number_word(self.id, out);
        let place = if self.must_serve { SERVED.to_owned() } else { place_word(self.at_replica, self.level) };
        push_word(place.as_bytes(), out);
        push_number_word(self.limit.unwrap_or(0) as u64, out);
        push_word(&self.range.start, out);
        push_word(self.range.end.as_deref().unwrap_or_default(), out);
        push_word(&slots_word(&self.slots), out);
    }

    /// Whether a message on a forwarding connection is a `List`.
    #[must_use]
    pub fn is_one(mut words: Words<'_>) -> bool {
        words.next() == Some(b"LIST")
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are wrong; nothing was done.
    pub fn parse(mut words: Words<'_>) -> Result<Self, ErrorReply> {
        let mut list = || {
            words.next().filter(|verb| *verb == b"LIST")?;
            let id = counter(&mut words)?;
            let word = words.text()?;
            let must_serve = word == SERVED;
            let (at_replica, level) = if must_serve { (false, ReadLevel::Local) } else { place(word)? };
            let limit = usize::try_from(counter(&mut words)?).ok().filter(|limit| *limit <= limits::PAGE_KEYS)?;
            let (start, end) = (words.next()?.to_vec(), words.next()?.to_vec());
            let range = KeyRange { start, end: (!end.is_empty()).then_some(end) };
            let slots = slots_of(words.next()?)?;
            let limit = (limit > 0).then_some(limit);
            range.is_within_limits().then_some(Self { id, level, at_replica, must_serve, limit, range, slots })
        };
        list().filter(|_| words.is_empty()).ok_or(ErrorReply::InvalidFormat("LIST"))
    }
}

impl Listed {
    /// Appends the answer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut inner = Vec::with_capacity(64 + self.keys.iter().map(|key| key.len() + 16).sum::<usize>());
        begin_array(3 + self.keys.len(), &mut inner);
        push_word(&slots_word(&self.refused), &mut inner);
        push_number_word(self.has_more.into(), &mut inner);
        push_number_word(self.count, &mut inner);
        self.keys.iter().for_each(|key| push_word(key, &mut inner));
        begin_bulk(inner.len(), out);
        out.extend_from_slice(&inner);
        out.extend_from_slice(b"\r\n");
    }

    /// Reads the contents of the bulk string; `None` if they are not such an answer.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut decoder = FrameDecoder::new();
        let (Frame::Array(mut words), used) = decoder.decode(bytes).ok()?? else { return None };
        let refused = slots_of(words.next()?)?;
        let (more, count) = (counter(&mut words)?, counter(&mut words)?);
        let keys: Vec<Box<[u8]>> = words.map(Box::from).collect();
        let is_ordered = keys.is_sorted_by(|one, next| one < next);
        (used == bytes.len() && more <= 1 && is_ordered).then_some(Self { refused, has_more: more == 1, count, keys })
    }
}

fn slots_word(slots: &[SlotId]) -> Vec<u8> {
    slots.iter().flat_map(|slot| slot.0.to_be_bytes()).collect()
}

fn slots_of(word: &[u8]) -> Option<Vec<SlotId>> {
    let (numbers, rest) = word.as_chunks::<2>();
    rest.is_empty().then(|| numbers.iter().map(|number| SlotId(u16::from_be_bytes(*number))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::tests::with_words;
    use crate::reply::{Reply, ReplyDecoder};

    #[test]
    fn lists_read_back_as_written() {
        let range = KeyRange { start: b"a\0".to_vec(), end: None };
        let ended = KeyRange { start: Vec::new(), end: Some(b"\xff".to_vec()) };
        let slots = vec![SlotId(0), SlotId(16_383)];
        let list = |level, at_replica, must_serve| List {
            id: 1,
            level,
            at_replica,
            must_serve,
            limit: (!at_replica).then_some(7),
            range: if at_replica { ended.clone() } else { range.clone() },
            slots: if at_replica { Vec::new() } else { slots.clone() },
        };
        for list in [
            list(ReadLevel::Linear, false, false),
            list(ReadLevel::Local, true, false),
            list(ReadLevel::Local, false, false),
            list(ReadLevel::Local, false, true),
        ] {
            let mut bytes = Vec::new();
            list.encode(&mut bytes);
            with_words(&bytes, |words| {
                assert!(List::is_one(words));
                assert_eq!(List::parse(words), Ok(list));
            });
        }
    }

    #[test]
    fn answers_to_lists_read_back_as_written() {
        let keys = vec![Box::from(&b""[..]), Box::from(&b"a\r\n"[..])];
        for listed in [
            Listed { refused: vec![SlotId(3)], has_more: true, count: 0, keys },
            Listed { count: 1_000_000, ..Listed::default() },
        ] {
            let mut bytes = Vec::new();
            listed.encode(&mut bytes);
            let (reply, used) = ReplyDecoder::new().decode(&bytes).unwrap().unwrap();
            let Reply::Bulk(inner) = reply else { panic!("{reply:?}") };
            assert_eq!((Listed::parse(inner), used), (Some(listed), bytes.len()));
        }
    }

    #[test]
    fn keys_out_of_order_are_no_answer() {
        let listed = Listed { keys: vec![Box::from(&b"b"[..]), Box::from(&b"a"[..])], ..Listed::default() };
        let mut bytes = Vec::new();
        listed.encode(&mut bytes);
        let Some((Reply::Bulk(inner), _)) = ReplyDecoder::new().decode(&bytes).unwrap() else { panic!("a bulk") };
        assert_eq!(Listed::parse(inner), None);
    }
}
