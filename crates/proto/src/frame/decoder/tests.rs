use super::*;
use crate::frame::encode_array;

fn words_of(input: &[u8]) -> Result<Option<Vec<Vec<u8>>>, ErrorReply> {
    let mut decoder = FrameDecoder::new();
    Ok(decoder.decode(input)?.map(|(frame, _)| match frame {
        Frame::Line(line) => vec![line.to_vec()],
        Frame::Array(words) => words.map(<[u8]>::to_vec).collect(),
    }))
}

#[test]
fn a_frame_is_found_however_it_is_cut() {
    let mut array = Vec::new();
    encode_array(&[&b"PUT"[..], b"key", b"line\r\nbreak", b""], &mut array);
    for whole in [array, b"PUT a b c \r\n".to_vec()] {
        let mut decoder = FrameDecoder::new();
        for cut in 0..whole.len() {
            assert!(decoder.decode(&whole[..cut]).unwrap().is_none(), "cut at {cut}");
            assert_eq!(decoder.is_inside_frame(), cut > 0);
        }
        let (_, consumed) = decoder.decode(&whole).unwrap().unwrap();
        assert_eq!(consumed, whole.len());
        assert!(!decoder.is_inside_frame());
    }
}

#[test]
fn frames_are_found_together_and_those_not_consumed_are_found_again() {
    let mut input = b"PING\r\n".to_vec();
    encode_array(&[&b"GET"[..], b"a"], &mut input);
    encode_array::<&[u8]>(&[], &mut input);
    encode_array(&[&b"PUT"[..], b"b", b"*3"], &mut input);
    let shown = |frame: Frame<'_>| match frame {
        Frame::Line(line) => vec![line.to_vec()],
        Frame::Array(words) => words.map(<[u8]>::to_vec).collect(),
    };
    let all = [&b"PING"[..], b"GET a", b"", b"PUT b *3"];
    for most in 1..6 {
        for done_at_once in 1..=most {
            for cut in 0..=input.len() {
                let (mut decoder, mut buf, mut seen) = (FrameDecoder::new(), input[..cut].to_vec(), Vec::new());
                let mut rest = Some(&input[cut..]);
                loop {
                    let found = decoder.find(&buf, most).unwrap();
                    assert_eq!(decoder.found(&buf).len(), found);
                    let done = found.min(done_at_once);
                    seen.extend(decoder.found(&buf).take(done).map(|frame| shown(frame).join(&b' ')));
                    let consumed = decoder.consume(done);
                    buf.drain(..consumed);
                    if found == 0 {
                        let Some(rest) = rest.take() else { break };
                        buf.extend_from_slice(rest);
                    }
                }
                assert_eq!(seen, all, "{most} at most, {done_at_once} at once, cut at {cut}");
                assert!(buf.is_empty() && !decoder.is_inside_frame() && decoder.spans.is_empty());
            }
        }
    }
}

#[test]
fn frames_behind_one_that_is_already_found_are_found_with_it() {
    let mut input = b"PING\n".to_vec();
    encode_array(&[&b"GET"[..], b"a"], &mut input);
    encode_array(&[&b"GET"[..], b"b"], &mut input);
    let mut whole = FrameDecoder::new();
    assert_eq!(whole.find(&input, 32), Ok(3));
    for cut in 0..=input.len() {
        let mut decoder = FrameDecoder::new();
        decoder.finds_one(&input[..cut]);
        decoder.find(&input[..cut], 32).unwrap();
        assert_eq!(decoder.find(&input, 32), Ok(3), "cut at {cut}");
        let shown = |decoder: &FrameDecoder| format!("{:?}", decoder.found(&input).collect::<Vec<_>>());
        assert_eq!(shown(&decoder), shown(&whole), "cut at {cut}");
    }
}

#[test]
fn frames_of_which_none_was_consumed_are_not_scanned_again() {
    let mut input = Vec::new();
    encode_array(&[&b"GET"[..], b"a"], &mut input);
    let long = input.len();
    encode_array(&[&b"GET"[..], b"b"], &mut input);
    let mut decoder = FrameDecoder::new();
    assert_eq!(decoder.find(&input, 2), Ok(2));
    assert_eq!(decoder.consume(0), 0);
    // Scanning it again would find that it is no array.
    let mut changed = input.clone();
    changed[0] = b'x';
    assert_eq!(decoder.find(&changed, 2), Ok(2));
    assert_eq!(decoder.find(&input, 1), Ok(1), "and no more than asked for");
    assert_eq!(decoder.consume(1), long);
}

#[test]
fn what_stands_before_a_bad_frame_is_found_first() {
    let input = b"PING\n*1\r\n$4\r\nPING\r\n*2\r\n$1\r\na\r\nx";
    let mut decoder = FrameDecoder::new();
    assert_eq!(decoder.find(input, 32), Ok(2));
    let rest = &input[decoder.consume(2)..];
    assert!(rest.starts_with(b"*2") && matches!(decoder.find(rest, 32), Err(ErrorReply::Protocol(_))));
}

#[test]
fn lines_lose_their_line_end_only() {
    assert_eq!(words_of(b" a b \r\nrest").unwrap().unwrap(), [b" a b ".to_vec()]);
    assert_eq!(words_of(b"\n").unwrap().unwrap(), [b"".to_vec()]);
    assert_eq!(words_of(b"a\r\r\n").unwrap().unwrap(), [b"a\r".to_vec()]);
}

#[test]
fn an_array_of_less_than_no_words_has_none() {
    for input in [&b"*0\r\n"[..], b"*-1\r\n", b"*-12\r\n"] {
        assert_eq!(words_of(input).unwrap().unwrap(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn lengths_are_refused_before_the_bytes_come() {
    assert_eq!(words_of(b"*1048577\r\n"), Err(ErrorReply::TooManyWords { words: 1_048_577 }));
    assert!(matches!(words_of(b"*1\r\n$67108865\r\n"), Err(ErrorReply::TooLong { .. })));
    assert!(matches!(words_of(b"*99999999999999999999999\r\n"), Err(ErrorReply::TooManyWords { .. })));
}

#[test]
fn what_is_no_array_is_refused() {
    for input in [
        &b"*x\r\n"[..],
        b"*-x\r\n",
        b"*-\r\n",
        b"*1\n$1\r\na\r\n",
        b"*1\r\n+OK\r\n",
        b"*1\r\n$1\r\nabc",
        b"*1\r\n$-1\r\n",
        &[b'*'; 40],
    ] {
        assert!(matches!(words_of(input), Err(ErrorReply::Protocol(_))), "{input:?}");
    }
}

#[test]
fn usual_arrays_are_found_at_once_and_as_all_others_are() {
    for len in [0, 1, 9, 10, 99, 100, 999, 1_000, 99_999, 100_000] {
        let word = vec![b'w'; len];
        for zeros in (0..20).map(|count| "0".repeat(count)) {
            let mut array = format!("*{zeros}2\r\n${zeros}{len}\r\n").into_bytes();
            array.extend_from_slice(&word);
            array.extend_from_slice(b"\r\n$1\r\na\r\n");
            let digits = zeros.len() + len.to_string().len();
            let mut usual = FrameDecoder::new();
            assert_eq!(usual.usual_array(&array, 0).is_some(), digits <= USUAL_DIGITS, "{len} after {zeros}");
            // What was begun before is scanned step by step.
            let mut slow = FrameDecoder::new();
            assert_eq!(slow.find(&array[..array.len() - 1], 1), Ok(0));
            let [slow, usual] = [slow, FrameDecoder::new()].map(|mut decoder| {
                assert_eq!(decoder.find(&array, 1), Ok(1));
                format!("{:?}", decoder.found(&array).collect::<Vec<_>>())
            });
            assert!(slow == usual, "{len} after {zeros}");
        }
    }
}

#[test]
fn what_is_found_depends_on_neither_cuts_nor_shortcuts() {
    let mut random = seeded::Random::new(3);
    let pieces = [
        &b"*1\r\n"[..],
        b"*2\r\n",
        b"*",
        b"$",
        b"\r\n",
        b"$1\r\na\r\n",
        b"$3\r\n*1\r\r\n",
        b"0",
        b"1",
        b"a",
        b"PING\n",
    ];
    for _ in 0..20_000 {
        let input: Vec<u8> = (0..random.index(12)).flat_map(|_| pieces[random.index(pieces.len())].to_vec()).collect();
        // Byte by byte, every array has begun before it is whole, and is scanned step by step.
        let [at_once, byte_by_byte] = [input.len(), 1].map(|step| {
            let (mut decoder, mut buf, mut seen) = (FrameDecoder::new(), Vec::new(), Vec::new());
            let mut rest = input.chunks(step.max(1));
            loop {
                match decoder.find(&buf, 3) {
                    Ok(0) => match rest.next() {
                        Some(more) => buf.extend_from_slice(more),
                        None => break,
                    },
                    Ok(found) => {
                        seen.extend(decoder.found(&buf).map(|frame| format!("{frame:?}")));
                        buf.drain(..decoder.consume(found));
                    }
                    Err(error) => {
                        seen.push(error.to_string());
                        break;
                    }
                }
            }
            seen
        });
        assert_eq!(at_once, byte_by_byte, "{:?}", String::from_utf8_lossy(&input));
    }
}

#[test]
fn a_header_is_taken_up_to_its_limit() {
    for (len, is_taken) in [(limits::ARRAY_HEADER_BYTES, true), (limits::ARRAY_HEADER_BYTES + 1, false)] {
        let header = format!("*{}1\r\n", "0".repeat(len - 4));
        assert_eq!(header.len(), len);
        assert_eq!(FrameDecoder::new().decode(header.as_bytes()).is_ok(), is_taken, "{len} bytes");
    }
}

#[test]
fn an_unauthenticated_client_may_send_little() {
    let array = |words: &[&[u8]]| {
        let mut bytes = Vec::new();
        encode_array(words, &mut bytes);
        bytes
    };
    let decode = |bytes: &[u8]| {
        let mut decoder = FrameDecoder::new();
        decoder.limit_unauthenticated(true);
        decoder.decode(bytes).map(|found| found.is_some()).map_err(|error| error.to_string())
    };
    let most = [&b"w"[..]; limits::UNAUTHENTICATED_WORDS];
    assert_eq!(decode(&array(&most)), Ok(true));
    assert_eq!(decode(b"*17\r\n"), Err("ERR Protocol error: unauthenticated multibulk length".to_owned()));
    let room = limits::UNAUTHENTICATED_BYTES - b"*1\r\n$65536\r\n".len();
    assert_eq!(decode(&array(&[&vec![b'w'; room]])), Ok(true));
    for bytes in [format!("*1\r\n${}\r\n", room + 1), format!("*2\r\n$1\r\na\r\n${}\r\n", usize::MAX)] {
        assert_eq!(decode(bytes.as_bytes()), Err("ERR Protocol error: unauthenticated bulk length".to_owned()));
    }
    // Nor may it if everything has arrived.
    let many = [&b"w"[..]; limits::UNAUTHENTICATED_WORDS + 1];
    assert_eq!(decode(&array(&many)), Err("ERR Protocol error: unauthenticated multibulk length".to_owned()));
    let long = vec![b'w'; room + 1];
    assert_eq!(decode(&array(&[&long])), Err("ERR Protocol error: unauthenticated bulk length".to_owned()));
    let line = vec![b'a'; limits::UNAUTHENTICATED_BYTES + 1];
    assert_eq!(decode(&line[..limits::UNAUTHENTICATED_BYTES]), Ok(false));
    assert_eq!(
        decode(&line),
        Err("TOOLONG line before AUTH of 65537 bytes, the limit is 65536; nothing was changed".to_owned())
    );
    let mut decoder = FrameDecoder::new();
    decoder.limit_unauthenticated(true);
    decoder.limit_unauthenticated(false);
    assert!(decoder.decode(&line).is_ok(), "one who has authenticated may send more");
}
