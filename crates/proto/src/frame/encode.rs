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

/// Appends a header line in one go: a mark and a number.
fn push_header(mark: u8, number: usize, out: &mut Vec<u8>) {
    // Filled from the end: the line end, the digits (at most 20 for 64 bits), the mark.
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

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_number(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
