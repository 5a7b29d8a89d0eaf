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
    // Nearly every number is that short.
    let digit = |place: usize| b'0' + (number / place % 10) as u8;
    match number {
        0..10 => out.extend_from_slice(&[mark, digit(1), b'\r', b'\n']),
        10..100 => out.extend_from_slice(&[mark, digit(10), digit(1), b'\r', b'\n']),
        100..1_000 => out.extend_from_slice(&[mark, digit(100), digit(10), digit(1), b'\r', b'\n']),
        _ => {
            out.push(mark);
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Appends a number in decimal, without the cost of a formatter.
pub fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_number_in_decimal() {
        for number in (0..2_000).chain([9_999, 10_000, 123_456, usize::MAX]) {
            let mut header = b"before".to_vec();
            push_header(b'$', number, &mut header);
            assert_eq!(String::from_utf8(header), Ok(format!("before${number}\r\n")));
        }
    }
}
