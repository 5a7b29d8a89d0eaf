//! Finds frames in the bytes that arrive.
//!
//! The decoder is incremental: it remembers how far it has scanned. Apart from the few digits of a length, no byte is
//! scanned twice, however the input is split. A frame over a limit is refused as soon as its length is known, before
//! memory is allocated for it.

use super::{Frame, Span, Words};
use crate::error::ErrorReply;
use crate::limits;

/// Finds frames in a growing buffer.
///
/// The caller appends incoming bytes to its buffer, calls [`FrameDecoder::find`] with everything not yet consumed,
/// looks at the [`FrameDecoder::found`] frames, and calls [`FrameDecoder::consume`]. Until then the front of the buffer
/// must not change.
#[derive(Debug)]
pub struct FrameDecoder {
    /// Frames found but not yet consumed.
    found: Vec<Found>,
    /// The words of their arrays, then those of an array that has begun after them.
    spans: Vec<Span>,
    /// Everything before this offset has been scanned. Counted from the start of the unfinished frame.
    scanned: usize,
    state: State,
    limits: FrameLimits,
}

/// How large a frame may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameLimits {
    /// As large as any request of the protocol.
    Authenticated,
    /// Just large enough to authenticate.
    Unauthenticated,
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Its first byte in the buffer, and the first byte after it.
    start: usize,
    end: usize,
    /// Its range of spans; `None` for a line.
    words: Option<(usize, usize)>,
}

/// An iterator over frames that were found together, from the first on.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    buf: &'a [u8],
    spans: &'a [Span],
    found: std::slice::Iter<'a, Found>,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let Found { start, end, words } = *self.found.next()?;
        let buf = self.buf.get(start..end).unwrap_or_default();
        Some(match words {
            None => Frame::Line(without_carriage_return(buf.strip_suffix(b"\n").unwrap_or(buf))),
            Some((first, behind)) => {
                Frame::Array(Words { buf, spans: self.spans.get(first..behind).unwrap_or_default() })
            }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.found.size_hint()
    }
}

impl ExactSizeIterator for Frames<'_> {}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a frame.
    #[default]
    Start,
    /// In a line.
    Line,
    /// In the `*N` line of an array.
    ArrayHeader,
    /// In the `$N` line of a word; `left` words remain, including this one.
    WordHeader { left: usize },
    /// In the bytes of a word.
    Word { start: usize, len: usize, left: usize },
}

/// How many words of an array an idle decoder keeps room for: 8 KiB.
const IDLE_SPANS: usize = 1_024;

/// A decoded frame and how many bytes of the buffer it took, or `None` until more bytes arrive.
pub type Decoded<'a> = Option<(Frame<'a>, usize)>;

/// What kind of frame was completed.
enum Complete {
    Line,
    Array,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        let (found, spans) = (Vec::new(), Vec::new());
        Self { found, spans, scanned: 0, state: State::Start, limits: FrameLimits::Authenticated }
    }

    /// Limits frames to the size allowed to an unauthenticated client, or lifts that restriction again.
    pub fn limit_unauthenticated(&mut self, is_unauthenticated: bool) {
        self.limits = if is_unauthenticated { FrameLimits::Unauthenticated } else { FrameLimits::Authenticated };
    }

    /// Whether a frame has begun and not ended, so that an end of input here would cut it off.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.state != State::Start
    }

    /// Looks for at most `most` frames at the start of `buf`, and returns how many there are. Those that were found
    /// earlier and not consumed are among them, without being scanned anew.
    ///
    /// # Errors
    /// The first frame is over a limit or malformed. Where the next one starts is unknown: answer and close.
    pub fn find(&mut self, buf: &[u8], most: usize) -> Result<usize, ErrorReply> {
        if self.found.len() > most {
            self.forget_begun();
            self.forget_found();
        }
        let mut start = self.found.last().map_or(0, |last| last.end);
        while self.found.len() < most {
            let first = if self.is_inside_frame() { self.words_found() } else { self.spans.len() };
            let complete = match self.advance(buf.get(start..).unwrap_or_default()) {
                Ok(Some(complete)) => complete,
                Ok(None) => break,
                // The frames before the bad one are handled first. The error is then found again.
                Err(_) if !self.found.is_empty() => {
                    self.forget_begun();
                    break;
                }
                Err(error) => return Err(error),
            };
            let end = start + std::mem::take(&mut self.scanned);
            self.state = State::Start;
            let words = matches!(complete, Complete::Array).then_some((first, self.spans.len()));
            self.found.push(Found { start, end, words });
            start = end;
        }
        Ok(self.found.len())
    }

    /// Whether all of `buf` is exactly one frame; if so, it is found.
    pub fn finds_one(&mut self, buf: &[u8]) -> bool {
        match self.find(buf, 1) {
            Ok(_) => self.found.last().is_some_and(|found| found.end == buf.len()),
            // The error is found again, and answered, when the frame is due to be handled.
            Err(_) => {
                self.forget_begun();
                false
            }
        }
    }

    /// The frames found in `buf`.
    #[must_use]
    pub fn found<'a>(&'a self, buf: &'a [u8]) -> Frames<'a> {
        Frames { buf, spans: &self.spans, found: self.found.iter() }
    }

    /// Marks the first `frames` frames as done, and returns how many bytes the caller must drop. The others are
    /// forgotten, and will be found again; if none is done, all stay.
    pub fn consume(&mut self, frames: usize) -> usize {
        let Some(last) = frames.checked_sub(1) else { return 0 };
        let bytes = self.found.get(last).map_or(0, |last| last.end);
        if frames < self.found.len() {
            self.forget_begun();
        }
        self.forget_found();
        bytes
    }

    /// Forgets the found frames. The words of an array that has begun after them stay.
    fn forget_found(&mut self) {
        self.spans.drain(..self.words_found());
        self.found.clear();
    }

    /// Looks for one frame at the start of `buf`. The caller drops the bytes that the frame took before it calls again.
    ///
    /// # Errors
    /// As [`FrameDecoder::find`].
    pub fn decode<'a>(&'a mut self, buf: &'a [u8]) -> Result<Decoded<'a>, ErrorReply> {
        if !self.found.is_empty() {
            self.consume(self.found.len());
        }
        self.find(buf, 1)?;
        let consumed = self.found.first().map_or(0, |found| found.end);
        Ok(self.found(buf).next().map(|frame| (frame, consumed)))
    }

    /// How many words the found frames have.
    fn words_found(&self) -> usize {
        self.found.iter().rev().find_map(|found| found.words).map_or(0, |(_, behind)| behind)
    }

    /// Forgets how far the frame after the found ones was scanned.
    fn forget_begun(&mut self) {
        self.spans.truncate(self.words_found());
        self.scanned = 0;
        self.state = State::Start;
    }

    /// Treats all of `buf` as one line although its newline is missing. For the original framing only.
    #[must_use]
    pub fn decode_unterminated<'a>(&mut self, buf: &'a [u8]) -> Frame<'a> {
        self.forget_begun();
        Frame::Line(without_carriage_return(buf))
    }

    fn advance(&mut self, buf: &[u8]) -> Result<Option<Complete>, ErrorReply> {
        if self.state == State::Start {
            self.state = match buf.first() {
                None => {
                    // A connection that goes idle after one huge request must not keep its memory.
                    self.spans.shrink_to(IDLE_SPANS);
                    return Ok(None);
                }
                Some(b'*') => State::ArrayHeader,
                Some(_) => State::Line,
            };
        }
        match self.state {
            State::Start | State::Line => self.line(buf),
            State::ArrayHeader => {
                let Some((count, header_len)) = header(buf, b'*')? else { return Ok(None) };
                self.limits.check_words(count)?;
                self.scanned = header_len;
                self.words(buf, count, None)
            }
            State::WordHeader { left } => self.words(buf, left, None),
            State::Word { start, len, left } => self.words(buf, left, Some((start, len))),
        }
    }

    /// Finds the last `left` words of an array. Where the header of the first was read earlier, `begun` is the start and
    /// length of its bytes.
    fn words(
        &mut self,
        buf: &[u8],
        left: usize,
        mut begun: Option<(usize, usize)>,
    ) -> Result<Option<Complete>, ErrorReply> {
        let mut scanned = self.scanned;
        for left in (1..=left).rev() {
            let (start, len) = match begun.take() {
                Some(begun) => begun,
                None => {
                    let Some((len, header_len)) = header(buf.get(scanned..).unwrap_or_default(), b'$')? else {
                        (self.scanned, self.state) = (scanned, State::WordHeader { left });
                        return Ok(None);
                    };
                    scanned += header_len;
                    self.limits.check_word(scanned, len)?;
                    (scanned, len)
                }
            };
            let end = start + len;
            match buf.get(end..end + 2) {
                None => {
                    (self.scanned, self.state) = (start, State::Word { start, len, left });
                    return Ok(None);
                }
                Some(b"\r\n") => {}
                Some(_) => return Err(ErrorReply::Protocol("a word of an array does not end with CR LF")),
            }
            self.spans.push(Span { start: fits(start), len: fits(len) });
            scanned = end + 2;
        }
        self.scanned = scanned;
        Ok(Some(Complete::Array))
    }

    fn line(&mut self, buf: &[u8]) -> Result<Option<Complete>, ErrorReply> {
        let found = memchr::memchr(b'\n', buf.get(self.scanned..).unwrap_or_default());
        let len = found.map_or(buf.len(), |at| self.scanned + at);
        self.limits.check_line(len)?;
        if found.is_none() {
            self.scanned = len;
            return Ok(None);
        }
        self.scanned = len + 1;
        Ok(Some(Complete::Line))
    }
}

/// Reads a header line that gives a length, such as `*3` or `$12`: the length and how many bytes the line has; `None` if
/// it has not arrived whole.
fn header(header: &[u8], mark: u8) -> Result<Option<(usize, usize)>, ErrorReply> {
    let bad = || ErrorReply::Protocol("an array is *N, then $LENGTH and the bytes of each word");
    let Some((first, length)) = header.split_first() else { return Ok(None) };
    if *first != mark {
        return Err(bad());
    }
    // Redis treats an array of negative length as an empty one.
    let negative = if mark == b'*' { length.strip_prefix(b"-") } else { None };
    let digits = negative.unwrap_or(length);
    let start = header.len() - digits.len();
    // Saturates: every length has a far lower limit.
    let mut number = 0usize;
    for (at, byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 && start + at < limits::ARRAY_HEADER_BYTES - 2 {
            number = number.saturating_mul(10).saturating_add(digit.into());
            continue;
        }
        return match digits.get(at + 1) {
            _ if at == 0 || *byte != b'\r' => Err(bad()),
            None => Ok(None),
            Some(b'\n') => Ok(Some((if negative.is_some() { 0 } else { number }, start + at + 2))),
            Some(_) => Err(bad()),
        };
    }
    Ok(None)
}

impl FrameLimits {
    /// Checks the announced number of words of an array.
    fn check_words(self, words: usize) -> Result<(), ErrorReply> {
        match self {
            Self::Authenticated if words > limits::ARRAY_WORDS => Err(ErrorReply::TooManyWords { words }),
            Self::Unauthenticated if words > limits::UNAUTHENTICATED_WORDS => {
                Err(ErrorReply::redis("ERR Protocol error: unauthenticated multibulk length"))
            }
            _ => Ok(()),
        }
    }

    /// Checks the announced length of a word that starts `before` bytes into its array.
    fn check_word(self, before: usize, len: usize) -> Result<(), ErrorReply> {
        // Lengths saturate.
        let end = before.saturating_add(len);
        match self {
            Self::Authenticated if len > limits::VALUE_BYTES => Err(ErrorReply::value_too_long(len)),
            Self::Authenticated if end > limits::ARRAY_BYTES => {
                Err(ErrorReply::TooLong { what: "array", len: end, limit: limits::ARRAY_BYTES })
            }
            Self::Unauthenticated if end > limits::UNAUTHENTICATED_BYTES => {
                Err(ErrorReply::redis("ERR Protocol error: unauthenticated bulk length"))
            }
            _ => Ok(()),
        }
    }

    /// Checks the length of a line, as far as it has arrived.
    fn check_line(self, len: usize) -> Result<(), ErrorReply> {
        let (what, limit) = match self {
            Self::Authenticated => ("line", limits::LINE_BYTES),
            Self::Unauthenticated => ("line before AUTH", limits::UNAUTHENTICATED_BYTES),
        };
        if len > limit { Err(ErrorReply::TooLong { what, len, limit }) } else { Ok(()) }
    }
}

/// A position in a frame as 32 bits.
fn fits(offset: usize) -> u32 {
    const { assert!(limits::ARRAY_BYTES < u32::MAX as usize) };
    u32::try_from(offset).expect("a frame is shorter than 4 GiB")
}

fn without_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
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
}
