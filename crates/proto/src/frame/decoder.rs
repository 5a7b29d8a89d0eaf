//! Finds frames in the bytes that arrive.
//!
//! The decoder is incremental: it remembers how far it has scanned. Apart from the few digits of the first lengths of an
//! array, no byte is scanned twice, however the input is split. A frame over a limit is refused as soon as its length is
//! known, before memory is allocated for it.

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
            if let Some(found) = self.usual_array(buf, start) {
                start = found.end;
                self.found.push(found);
                continue;
            }
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

    /// The array that begins at `start`, if it has arrived whole and its lengths are usual, as nearly every array's are.
    /// Otherwise nothing changes, and what was looked at is scanned again.
    fn usual_array(&mut self, buf: &[u8], start: usize) -> Option<Found> {
        if self.is_inside_frame() || self.limits != FrameLimits::Authenticated {
            return None;
        }
        let (count, mut end) = usual_header(buf, start, b'*').filter(|(count, _)| *count <= USUAL_WORDS)?;
        let first = self.spans.len();
        for _ in 0..count {
            let Some((span, behind)) = usual_word(buf, start, end) else {
                self.spans.truncate(first);
                return None;
            };
            self.spans.push(span);
            end = behind;
        }
        Some(Found { start, end, words: Some((first, self.spans.len())) })
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

/// More words than in nearly every array. Few enough that looking at them in vain costs little.
const USUAL_WORDS: usize = 64;

/// How many digits a length has at most that is below every limit on words.
const USUAL_DIGITS: usize = 5;

// What has only usual lengths is within every limit.
const _: () = assert!(USUAL_WORDS <= limits::ARRAY_WORDS);
const _: () = assert!(10usize.pow(USUAL_DIGITS as u32) <= limits::VALUE_BYTES);
const _: () = assert!(b"$\r\n".len() + USUAL_DIGITS <= limits::ARRAY_HEADER_BYTES);
const _: () =
    assert!((USUAL_WORDS + 1) * (limits::ARRAY_HEADER_BYTES + 10usize.pow(USUAL_DIGITS as u32)) <= limits::ARRAY_BYTES);

/// Reads a header line with a usual length at `at`, whole: the length, and where the line ends.
#[inline]
fn usual_header(buf: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    let digit_at = |at: usize| Some(usize::from(buf.get(at)?.wrapping_sub(b'0'))).filter(|digit| *digit < 10);
    if *buf.get(at)? != mark {
        return None;
    }
    let first = at + 1;
    let (mut number, mut end) = (digit_at(first)?, first + 1);
    while let Some(digit) = digit_at(end) {
        number = 10 * number + digit;
        end += 1;
        if end - first > USUAL_DIGITS {
            return None;
        }
    }
    (buf.get(end..end + 2)? == b"\r\n").then_some((number, end + 2))
}

/// Reads a word of usual length at `at`, whole, in an array that begins at `start`: where it lies in the array, and
/// where it ends in the buffer.
#[inline]
fn usual_word(buf: &[u8], start: usize, at: usize) -> Option<(Span, usize)> {
    let (len, at) = usual_header(buf, at, b'$')?;
    let end = at + len;
    (buf.get(end..end + 2)? == b"\r\n").then(|| (Span { start: fits(at - start), len: fits(len) }, end + 2))
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
mod tests;
