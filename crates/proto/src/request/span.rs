//! A duration as a word: `90s`, `1500ms`, `5m`, or a number of seconds.

use std::time::Duration;

use super::Rest;
use crate::error::ErrorReply;

/// How long `WAIT_HEALTHY` waits by default.
pub const HEALTHY_WAIT: Duration = Duration::from_secs(60);

/// How long it waits at most.
pub const LONGEST_HEALTHY_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Parses a duration: an integer and `ms`, `s`, `m` or `h`; without a unit, seconds.
#[must_use]
pub fn span_of(word: &str) -> Option<Duration> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.split_at_checked(digits)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(millis).map(Duration::from_millis)
}

impl Rest<'_> {
    /// The optional duration to wait for.
    pub(super) fn wait(self, verb: &'static str) -> Result<Duration, ErrorReply> {
        let Some((word, rest)) = self.split_first() else { return Ok(HEALTHY_WAIT) };
        rest.nothing(verb)?;
        let span = std::str::from_utf8(word).ok().and_then(span_of);
        span.filter(|span| *span <= LONGEST_HEALTHY_WAIT).ok_or(ErrorReply::InvalidFormat(verb))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_whole_number_with_its_unit() {
        for (word, millis) in [("90s", 90_000), ("1500ms", 1_500), ("5m", 300_000), ("2h", 7_200_000), ("7", 7_000)] {
            assert_eq!(span_of(word), Some(Duration::from_millis(millis)), "{word}");
        }
        for word in ["", "s", "-1s", "1.5s", "5 s", "3d", "99999999999999999999", "18446744073709551615h"] {
            assert_eq!(span_of(word), None, "{word}");
        }
    }
}
