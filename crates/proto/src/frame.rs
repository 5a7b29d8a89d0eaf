//! Bytes to frames: where one request ends and the next begins.
//!
//! A frame is a line up to `\n`, or, where its first byte is `*`, an array of words as RESP2 writes them
//! (`*2\r\n$3\r\nGET\r\n$1\r\na\r\n`). The decoder is incremental: it remembers how far it has looked, so that, but for
//! the few digits of a length, no byte is scanned twice however the input is cut, and it refuses what is over a limit as
//! soon as its length is known, before memory is taken for it.

use crate::error::ErrorReply;
use crate::limits;

/// How the words of a request came, and how its answer goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A line of text.
    Line,
    /// A RESP2 array.
    Array,
    /// The same array, on a connection that has asked for answers in RESP3.
    Resp3,
}

/// One request as it came, its words not yet understood. It borrows the read buffer.
#[derive(Debug, Clone, Copy)]
pub enum Frame<'a> {
    /// A line without its line end. Not yet known to be UTF-8.
    Line(&'a [u8]),
    /// The words of an array.
    Array(Words<'a>),
}

impl<'a> Frame<'a> {
    /// The encoding that the answer takes.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::Line(_) => Encoding::Line,
            Self::Array(_) => Encoding::Array,
        }
    }

    /// The second word, which in most requests is the key, as understanding the request would give it.
    #[must_use]
    pub fn second_word(self) -> Option<&'a [u8]> {
        match self {
            Self::Array(mut words) => words.nth(1),
            Self::Line(line) => {
                let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
                let mut words = line.split(is_blank).filter(|word| !word.is_empty());
                words.nth(1)
            }
        }
    }
}

/// The words of an array request, read from the front.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    buf: &'a [u8],
    spans: &'a [Span],
}

/// Where a word lies in the buffer: 8 bytes for a word that took at least 6 bytes on the wire.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    len: u32,
}

impl<'a> Words<'a> {
    /// How many words are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The next word as UTF-8 text; `None` where there is none, or it is not text.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.next()?).ok()
    }

    /// The next word, read as a value of the type asked for (a number, a version, an address).
    pub fn parse<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    /// All words that are left, if there are exactly `N`.
    #[must_use]
    pub fn exactly<const N: usize>(mut self) -> Option<[&'a [u8]; N]> {
        if self.len() != N {
            return None;
        }
        Some(std::array::from_fn(|_| self.next().unwrap_or_default()))
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (span, rest) = self.spans.split_first()?;
        self.spans = rest;
        let start = span.start as usize;
        self.buf.get(start..start + span.len as usize)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.spans.len(), Some(self.spans.len()))
    }
}

/// Finds frames in a growing buffer.
///
/// The caller appends what arrives at the end of its buffer and calls [`FrameDecoder::find`] with all of it that is not
/// yet consumed, looks at the [`FrameDecoder::found`], and calls [`FrameDecoder::consume`]. Until then the front of the
/// buffer must not change.
#[derive(Debug)]
pub struct FrameDecoder {
    /// The frames that were found and not consumed.
    found: Vec<Found>,
    /// The words of their arrays, and of one that has begun behind them.
    spans: Vec<Span>,
    /// Everything before this offset has been looked at. It counts from the start of the frame that has begun.
    scanned: usize,
    state: State,
    limits: FrameLimits,
}

/// How large a frame may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameLimits {
    /// As large as any request of the protocol.
    Usual,
    /// As little as it takes to authenticate.
    Stranger,
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Its first byte in the buffer, and the first behind it.
    start: usize,
    end: usize,
    /// Its part of the spans; none where it is a line.
    words: Option<(usize, usize)>,
}

/// Frames that were found together, from the first on.
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
    /// In the `$N` line of a word that starts at `from`; `left` words are to come, this one included.
    WordHeader { from: usize, left: usize },
    /// In the bytes of a word.
    Word { start: usize, len: usize, left: usize },
}

/// How many words of an array a decoder keeps room for while nothing has come: 8 KiB.
const IDLE_SPANS: usize = 1_024;

/// A decoded frame and how many bytes of the buffer it took, or `None` until more bytes have come.
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
        Self { found, spans, scanned: 0, state: State::Start, limits: FrameLimits::Usual }
    }

    /// From now on frames may be no larger than those of a client that has not authenticated; or as large as any.
    pub fn limit_to_stranger(&mut self, is_stranger: bool) {
        self.limits = if is_stranger { FrameLimits::Stranger } else { FrameLimits::Usual };
    }

    /// Whether a frame has begun and not ended, so that the end of the input would cut it.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.state != State::Start
    }

    /// Looks for frames at the start of `buf`, for so many at most; says how many there are. Those found before and not
    /// consumed are found again.
    ///
    /// # Errors
    /// The first frame is over a limit, or no frame at all. Where the next one starts is unknown: answer and close.
    pub fn find(&mut self, buf: &[u8], most: usize) -> Result<usize, ErrorReply> {
        if !self.found.is_empty() {
            self.consume(0);
        }
        let mut start = 0;
        while self.found.len() < most {
            let first = if self.is_inside_frame() { 0 } else { self.spans.len() };
            let complete = match self.advance(buf.get(start..).unwrap_or_default()) {
                Ok(Some(complete)) => complete,
                Ok(None) => break,
                // What stands before it is carried out first. Then it is found again.
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

    /// Whether the whole of `buf` is one frame, which then is found.
    pub fn finds_one(&mut self, buf: &[u8]) -> bool {
        match self.find(buf, 1) {
            Ok(_) => self.found.last().is_some_and(|found| found.end == buf.len()),
            // It is found, and answered, when it is to be handled.
            Err(_) => {
                self.forget_begun();
                false
            }
        }
    }

    /// The frames that were found in `buf`.
    #[must_use]
    pub fn found<'a>(&'a self, buf: &'a [u8]) -> Frames<'a> {
        Frames { buf, spans: &self.spans, found: self.found.iter() }
    }

    /// Takes the first frames as done; says how many bytes the caller has to drop. The others are forgotten, and found again.
    pub fn consume(&mut self, frames: usize) -> usize {
        let bytes = frames.checked_sub(1).and_then(|last| self.found.get(last)).map_or(0, |last| last.end);
        if frames < self.found.len() {
            self.forget_begun();
        }
        // The words of an array that has begun behind them stay.
        self.spans.drain(..self.words_found());
        self.found.clear();
        bytes
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

    /// How many words the frames have that were found.
    fn words_found(&self) -> usize {
        self.found.iter().rev().find_map(|found| found.words).map_or(0, |(_, behind)| behind)
    }

    /// Forgets how far the frame behind those that were found was looked at.
    fn forget_begun(&mut self) {
        self.spans.truncate(self.words_found());
        self.scanned = 0;
        self.state = State::Start;
    }

    /// Takes the whole of `buf` for one line, although its newline is missing. For the original framing only.
    #[must_use]
    pub fn decode_unterminated<'a>(&mut self, buf: &'a [u8]) -> Frame<'a> {
        self.forget_begun();
        Frame::Line(without_carriage_return(buf))
    }

    fn advance(&mut self, buf: &[u8]) -> Result<Option<Complete>, ErrorReply> {
        loop {
            match self.state {
                State::Start => match buf.first() {
                    None => {
                        // A connection that is idle after one huge request does not keep the memory of it.
                        self.spans.shrink_to(IDLE_SPANS);
                        return Ok(None);
                    }
                    Some(b'*') => self.state = State::ArrayHeader,
                    Some(_) => self.state = State::Line,
                },
                State::Line => return self.line(buf),
                State::ArrayHeader => {
                    let Some(count) = self.header(buf, 0, b'*')? else { return Ok(None) };
                    self.limits.check_words(count)?;
                    if count == 0 {
                        return Ok(Some(Complete::Array));
                    }
                    self.state = State::WordHeader { from: self.scanned, left: count };
                }
                State::WordHeader { from, left } => {
                    let Some(len) = self.header(buf, from, b'$')? else { return Ok(None) };
                    self.limits.check_word(self.scanned, len)?;
                    self.state = State::Word { start: self.scanned, len, left };
                }
                State::Word { start, len, left } => {
                    let end = start + len;
                    match buf.get(end..end + 2) {
                        None => return Ok(None),
                        Some(b"\r\n") => {}
                        Some(_) => return Err(ErrorReply::Protocol("a word of an array does not end with CR LF")),
                    }
                    self.spans.push(Span { start: fits(start), len: fits(len) });
                    self.scanned = end + 2;
                    if left == 1 {
                        return Ok(Some(Complete::Array));
                    }
                    self.state = State::WordHeader { from: self.scanned, left: left - 1 };
                }
            }
        }
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

    /// Reads a header line that starts at `from` and says a length, such as `*3` or `$12`.
    fn header(&mut self, buf: &[u8], from: usize, mark: u8) -> Result<Option<usize>, ErrorReply> {
        let bad = || ErrorReply::Protocol("an array is *N, then $LENGTH and the bytes of each word");
        let header = buf.get(from..).unwrap_or_default();
        // Saturates: every length has a limit far below.
        let mut number = 0usize;
        for (at, byte) in header.iter().enumerate() {
            match byte {
                byte if at == 0 && *byte == mark => {}
                b'0'..=b'9' if (1..limits::ARRAY_HEADER_BYTES - 2).contains(&at) => {
                    number = number.saturating_mul(10).saturating_add(usize::from(byte - b'0'));
                }
                b'\r' if at > 1 => match header.get(at + 1) {
                    None => return Ok(None),
                    Some(b'\n') => {
                        self.scanned = from + at + 2;
                        return Ok(Some(number));
                    }
                    Some(_) => return Err(bad()),
                },
                _ => return Err(bad()),
            }
        }
        Ok(None)
    }
}

impl FrameLimits {
    /// So many words of an array are announced.
    fn check_words(self, words: usize) -> Result<(), ErrorReply> {
        match self {
            Self::Usual if words > limits::ARRAY_WORDS => Err(ErrorReply::TooManyWords { words }),
            Self::Stranger if words > limits::STRANGER_WORDS => {
                Err(ErrorReply::redis("ERR Protocol error: unauthenticated multibulk length"))
            }
            _ => Ok(()),
        }
    }

    /// A word of this length is announced, `before` bytes behind the start of its array.
    fn check_word(self, before: usize, len: usize) -> Result<(), ErrorReply> {
        // Lengths saturate.
        let end = before.saturating_add(len);
        match self {
            Self::Usual if len > limits::VALUE_BYTES => Err(ErrorReply::value_too_long(len)),
            Self::Usual if end > limits::ARRAY_BYTES => {
                Err(ErrorReply::TooLong { what: "array", len: end, limit: limits::ARRAY_BYTES })
            }
            Self::Stranger if end > limits::STRANGER_BYTES => {
                Err(ErrorReply::redis("ERR Protocol error: unauthenticated bulk length"))
            }
            _ => Ok(()),
        }
    }

    /// A line is so long, as far as it has come.
    fn check_line(self, len: usize) -> Result<(), ErrorReply> {
        let (what, limit) = match self {
            Self::Usual => ("line", limits::LINE_BYTES),
            Self::Stranger => ("line before AUTH", limits::STRANGER_BYTES),
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

/// Appends an array request or message: the words, each as it is.
pub fn encode_array<W: AsRef<[u8]>>(words: &[W], out: &mut Vec<u8>) {
    begin_array(words.len(), out);
    for word in words {
        push_word(word.as_ref(), out);
    }
}

/// Appends the header of an array of `count` words; as many [`push_word`] follow.
pub fn begin_array(count: usize, out: &mut Vec<u8>) {
    push_header(b'*', count, out);
}

/// Appends one word of an array, or one bulk string of an answer.
pub fn push_word(word: &[u8], out: &mut Vec<u8>) {
    begin_bulk(word.len(), out);
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// Begins a bulk string of so many bytes; the caller appends them, and then CR LF.
pub fn begin_bulk(len: usize, out: &mut Vec<u8>) {
    push_header(b'$', len, out);
}

/// Appends a header line in one piece: a mark and a number.
fn push_header(mark: u8, number: usize, out: &mut Vec<u8>) {
    // From its end: the line end, digits, of which 64 bits have 20 at most, the mark.
    let mut line = [b'\n'; 23];
    let mut used = 1;
    let mut places = line.iter_mut().rev().skip(1);
    let mut put = |byte| {
        if let Some(place) = places.next() {
            *place = byte;
            used += 1;
        }
    };
    put(b'\r');
    let mut left = number;
    loop {
        put(b'0' + (left % 10) as u8);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    put(mark);
    out.extend_from_slice(line.get(line.len() - used..).unwrap_or_default());
}

/// Appends a number in decimal, without the cost of a formatter.
pub fn push_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn lengths_are_refused_before_the_bytes_come() {
        assert_eq!(words_of(b"*1048577\r\n"), Err(ErrorReply::TooManyWords { words: 1_048_577 }));
        assert!(matches!(words_of(b"*1\r\n$67108865\r\n"), Err(ErrorReply::TooLong { .. })));
        assert!(matches!(words_of(b"*99999999999999999999999\r\n"), Err(ErrorReply::TooManyWords { .. })));
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for input in [
            &b"*x\r\n"[..],
            b"*-1\r\n",
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
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_number(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn a_stranger_may_send_little() {
        let array = |words: &[&[u8]]| {
            let mut bytes = Vec::new();
            encode_array(words, &mut bytes);
            bytes
        };
        let decode = |bytes: &[u8]| {
            let mut decoder = FrameDecoder::new();
            decoder.limit_to_stranger(true);
            decoder.decode(bytes).map(|found| found.is_some()).map_err(|error| error.to_string())
        };
        let most = [&b"w"[..]; limits::STRANGER_WORDS];
        assert_eq!(decode(&array(&most)), Ok(true));
        assert_eq!(decode(b"*17\r\n"), Err("ERR Protocol error: unauthenticated multibulk length".to_owned()));
        let room = limits::STRANGER_BYTES - b"*1\r\n$65536\r\n".len();
        assert_eq!(decode(&array(&[&vec![b'w'; room]])), Ok(true));
        for bytes in [format!("*1\r\n${}\r\n", room + 1), format!("*2\r\n$1\r\na\r\n${}\r\n", usize::MAX)] {
            assert_eq!(decode(bytes.as_bytes()), Err("ERR Protocol error: unauthenticated bulk length".to_owned()));
        }
        let line = vec![b'a'; limits::STRANGER_BYTES + 1];
        assert_eq!(decode(&line[..limits::STRANGER_BYTES]), Ok(false));
        assert_eq!(
            decode(&line),
            Err("TOOLONG line before AUTH of 65537 bytes, the limit is 65536; nothing was changed".to_owned())
        );
        let mut decoder = FrameDecoder::new();
        decoder.limit_to_stranger(true);
        decoder.limit_to_stranger(false);
        assert!(decoder.decode(&line).is_ok(), "one who has authenticated may send more");
    }
}
