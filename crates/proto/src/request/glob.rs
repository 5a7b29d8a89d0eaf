//! The patterns of Redis's `KEYS` and `SCAN MATCH`: `*`, `?`, `[abc]`, `[^a-z]`, and a backslash that escapes the next
//! character.

/// Whether a text matches a pattern. Takes at most as many steps as the product of both lengths, whatever they contain.
#[must_use]
pub fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // The pattern after the last star, and the rest of the text where matching was last retried.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match pattern.split_first() {
            Some((b'*', behind)) => {
                star = Some((behind, text));
                pattern = behind;
                continue;
            }
            Some(_) => {
                if let Some((first, rest)) = text.split_first()
                    && let Some(behind) = one_matches(pattern, *first)
                {
                    (pattern, text) = (behind, rest);
                    continue;
                }
            }
            None if text.is_empty() => return true,
            None => {}
        }
        // The last star takes one more byte. What an earlier star took need not be reconsidered.
        match star {
            Some((behind, [_, rest @ ..])) => {
                star = Some((behind, rest));
                (pattern, text) = (behind, rest);
            }
            _ => return false,
        }
    }
}

/// The bytes that every match of a pattern begins with.
#[must_use]
pub fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'));
    pattern.get(..end.unwrap_or(pattern.len())).unwrap_or_default()
}

/// Matches one byte against the first element of a pattern, which is not a star; returns the pattern after that
/// element.
fn one_matches(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', behind @ ..] => Some(behind),
        [b'[', class @ ..] => {
            let (matches, behind) = class_matches(class, byte);
            matches.then_some(behind)
        }
        [b'\\', literal, behind @ ..] => (*literal == byte).then_some(behind),
        [literal, behind @ ..] => (*literal == byte).then_some(behind),
        [] => None,
    }
}

/// Matches a byte against what follows `[`. An unclosed class ends with the pattern.
fn class_matches(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (is_negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        class => (false, class),
    };
    let mut matches = false;
    loop {
        match class {
            [b'\\', literal, rest @ ..] => {
                matches |= *literal == byte;
                class = rest;
            }
            [b']', rest @ ..] => return (matches != is_negated, rest),
            [] => return (matches != is_negated, class),
            [from, b'-', to, rest @ ..] => {
                matches |= (*from.min(to)..=*from.max(to)).contains(&byte);
                class = rest;
            }
            [literal, rest @ ..] => {
                matches |= *literal == byte;
                class = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, matches) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxcxxb", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("h[\\]]o", "h]o", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("[a", "a", true),
            ("**a**", "bab", true),
            ("a", "", false),
        ] {
            assert_eq!(glob_matches(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends() {
        let pattern = b"*a".repeat(10_000);
        let text = vec![b'b'; 10_000];
        assert!(!glob_matches(&pattern, &text));
    }

    #[test]
    fn what_stands_for_itself_in_front_is_a_prefix() {
        for (pattern, prefix) in [("user:*", "user:"), ("*", ""), ("a\\*b", "a"), ("abc", "abc"), ("a[b]", "a")] {
            assert_eq!(literal_prefix(pattern.as_bytes()), prefix.as_bytes(), "{pattern}");
        }
    }
}
