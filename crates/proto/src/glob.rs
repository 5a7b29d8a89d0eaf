//! Patterns as Redis has them in `CONFIG GET`, `COMMAND LIST` and wherever else keys or names are looked for.

/// Whether a text matches a pattern as a whole: `*` stands for any bytes, `?` for one, `[a-c]` and `[^a-c]` for one out of
/// a list or out of all others; `\` takes the byte behind it as it is. Time is at most the product of both lengths, whatever
/// the pattern: of several `*` only the last is tried again.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on when what follows the last `*` does not fit: the pattern behind it, and the text from which it is tried.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = pattern.split_first() {
            again = Some((rest, text));
            pattern = rest;
            continue;
        }
        match (text.split_first(), step(pattern, text.first().copied())) {
            (None, _) if pattern.is_empty() => return true,
            (Some((_, rest)), Some(behind)) => (pattern, text) = (behind, rest),
            _ => {
                let Some((behind, from)) = again else { return false };
                let Some((_, from)) = from.split_first() else { return false };
                again = Some((behind, from));
                (pattern, text) = (behind, from);
            }
        }
    }
}

/// The pattern behind its first element, where that stands for this byte.
fn step(pattern: &[u8], byte: Option<u8>) -> Option<&[u8]> {
    let byte = byte?;
    let (first, rest) = pattern.split_first()?;
    match (first, rest.split_first()) {
        (b'?', _) => Some(rest),
        (b'[', _) => list(rest, byte),
        (b'\\', Some((escaped, behind))) => (*escaped == byte).then_some(behind),
        _ => (*first == byte).then_some(rest),
    }
}

/// The pattern behind a list, where that has this byte. A list without end ends with the pattern.
fn list(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_without, mut rest) = match pattern.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let mut is_there = false;
    loop {
        match rest {
            [] => break,
            [b']', behind @ ..] => {
                rest = behind;
                break;
            }
            [b'\\', escaped, behind @ ..] => {
                is_there |= *escaped == byte;
                rest = behind;
            }
            [from, b'-', to, behind @ ..] => {
                is_there |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest = behind;
            }
            [one, behind @ ..] => {
                is_there |= *one == byte;
                rest = behind;
            }
        }
    }
    (is_there != is_without).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, matched) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*b*b*", "abab", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("[", "a", false),
            ("[a", "a", true),
            ("[]", "]", false),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), matched, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        let (pattern, text) = ("*a".repeat(500) + "b", "a".repeat(5_000));
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }
}
