//! Answers in the array encoding, parsed as their receiver does.

use proptest::collection::vec;
use proptest::prelude::*;
use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::reply::{Reply, ReplyDecoder};
use proto::response::Response;

use crate::{bytes, cases, counter, value, version};

/// What the parsed answer should be.
type Expected<'a> = Result<Response<'a>, String>;

fn errors(text: &str, number: usize) -> Vec<ErrorReply> {
    vec![
        ErrorReply::UnknownCommand,
        ErrorReply::InvalidFormat("PUT"),
        ErrorReply::Incomplete,
        ErrorReply::IncompleteArray,
        ErrorReply::NoNodes,
        ErrorReply::value_too_long(number),
        ErrorReply::TooManyWords { words: number },
        ErrorReply::Protocol("words"),
        ErrorReply::NotText,
        ErrorReply::Binary { len: number },
        ErrorReply::Unavailable(text.to_owned()),
        ErrorReply::Busy(text.to_owned()),
        ErrorReply::Full(text.to_owned()),
        ErrorReply::Unknown(text.to_owned()),
        ErrorReply::Stale(text.to_owned()),
        ErrorReply::NotPeer(text.to_owned()),
        ErrorReply::Moved,
    ]
}

/// Reads `one` answer that is cut at every byte, and returns how it was read.
fn reads_back(one: &[u8], expected: &Expected<'_>) -> String {
    let mut decoder = ReplyDecoder::new();
    for cut in 0..one.len() {
        assert_eq!(decoder.decode(&one[..cut]), Ok(None), "complete before its end, at {cut}");
        // The same for a decoder that gets everything up to the cut at once.
        assert_eq!(ReplyDecoder::new().decode(&one[..cut]), Ok(None), "complete before its end, at {cut}");
    }
    let (reply, consumed) = decoder.decode(one).expect("an answer").expect("a whole answer");
    assert_eq!(consumed, one.len());
    match expected {
        Ok(expected) => assert_eq!(Response::from(reply), *expected),
        Err(text) => assert_eq!(reply, Reply::Error(text)),
    }
    format!("{reply:?}")
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn answers_read_back_cut_at_every_byte(
        value in value(),
        text in "[ -~а-я]{0,40}",
        (version, id) in (version(), counter()),
        number in 0usize..1000,
        pieces in vec(1usize..50, 1..10),
    ) {
        let answers = [
            (Response::Ok, Ok(Response::Ok)),
            (Response::Pong, Ok(Response::Pong)),
            (Response::Text(text.clone()), Ok(Response::Value(text.as_bytes()))),
            (Response::Value(&value), Ok(Response::Value(&value))),
            (Response::Versioned(version, &value), Ok(Response::Versioned(version, &value))),
            (Response::Written(version), Ok(Response::Written(version))),
            (Response::Conflict(version), Ok(Response::Conflict(version))),
            (Response::Number(-2), Ok(Response::Number(-2))),
            (Response::NotFound, Ok(Response::NotFound)),
        ];
        let errors = errors(&text, number).into_iter().map(|error| {
            let text = if error.code().is_some() { error.to_string() } else { format!("ERR {error}") };
            (Response::Error(error), Err(text))
        });
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (response, read) in answers.into_iter().chain(errors) {
            // As the answer to a forwarded request: its number precedes it.
            let number = format!(":{id}\r\n").into_bytes();
            let id = i64::try_from(id).expect("within the limit of counters");
            expected.push(reads_back(&number, &Ok(Response::Number(id))));
            let mut one = Vec::new();
            response.encode(Encoding::Array, &mut one);
            expected.push(reads_back(&one, &read));
            stream.extend(number);
            stream.extend(one);
        }
        // The same answers, one after the other, in random pieces.
        let (mut decoder, mut start, mut end, mut read) = (ReplyDecoder::new(), 0, 0, Vec::new());
        for piece in pieces.iter().cycle() {
            end = (end + piece).min(stream.len());
            while let Some((reply, consumed)) = decoder.decode(&stream[start..end]).unwrap() {
                read.push(format!("{reply:?}"));
                start += consumed;
            }
            if end == stream.len() {
                break;
            }
        }
        prop_assert_eq!(start, stream.len());
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn a_pair_is_two_strings_of_any_bytes(first in bytes(60), second in bytes(60), cut in any::<proptest::sample::Index>()) {
        let mut pair = Vec::new();
        proto::frame::encode_array(&[&first, &second], &mut pair);
        let mut decoder = ReplyDecoder::new();
        prop_assert_eq!(decoder.decode(&pair[..cut.index(pair.len())]), Ok(None));
        prop_assert_eq!(decoder.decode(&pair), Ok(Some((Reply::Pair(&first, &second), pair.len()))));
        // After it, the decoder starts afresh.
        prop_assert_eq!(decoder.decode(b":7\r\n"), Ok(Some((Reply::Number(7), 4))));
    }
}
