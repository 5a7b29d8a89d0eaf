//! Encodes words as the bytes of an array, and numbers as digits.

/// Appends an array request or message: the words, unchanged.
pub fn encode_array<W: AsRef<[u8]>>(words: &[W], out: &mut Vec<u8>) {
    begin_array(words.len(), out);
    for word in words {
        push_word(word.as_ref(), out);
    }
}

/// Appends the header of an array of `count` words; `count` calls of [`push_word`] must follow.
pub fn begin_array(count: usize, out: &mut Vec<u8>) {
    push_header(b'*', count, out);
}

/// Appends one word of an array, or one bulk string of an answer.
pub fn push_word(word: &[u8], out: &mut Vec<u8>) {
    begin_bulk(word.len(), out);
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// Begins a bulk string of `len` bytes; the caller appends those, and then CR LF.
pub fn begin_bulk(len: usize, out: &mut Vec<u8>) {
    push_header(b'$', len, out);
}

/// Appends a header line: a mark and a number.
fn push_header(mark: u8, number: usize, out: &mut Vec<u8>) {
    out.push(mark);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal, without the cost of a formatter.
pub fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
