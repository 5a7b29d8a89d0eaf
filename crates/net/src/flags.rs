//! Values of flags, with errors that say what is expected.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// Reads a whole number within a range.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("expected a number from {} to {}", range.start(), range.end())),
    }
}

/// Reads a time between two others, which are written as users write them.
pub fn time(least: &'static str, most: &'static str) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let expected = || format!("expected a time from {least} to {most}, with its unit (examples: 10s, 500ms, 5m)");
        let parse = |text| humantime::parse_duration(text).map_err(|_| expected());
        let (time, least, most) = (parse(text)?, parse(least)?, parse(most)?);
        if (least..=most).contains(&time) { Ok(time) } else { Err(expected()) }
    }
}

/// Reads a size in bytes between two others, which are written as users write them.
pub fn size<T: TryFrom<u64>>(least: &'static str, most: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let expected = || format!("expected a size from {least} to {most} (examples: 512mb, 2GiB, 1000000000)");
        let parse = |text: &str| text.parse::<ByteSize>().map_err(|_| expected());
        let (size, least, most) = (parse(text)?, parse(least)?, parse(most)?);
        if !(least..=most).contains(&size) {
            return Err(expected());
        }
        T::try_from(size.as_u64()).map_err(|_| expected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_expected() {
        assert_eq!(number(1..=7_u32)("7"), Ok(7));
        for text in ["8", "0", "-1", "x", ""] {
            assert_eq!(number(1..=7_u32)(text), Err("expected a number from 1 to 7".to_owned()), "{text}");
        }
        assert_eq!(time("100ms", "1h")("1h"), Ok(Duration::from_secs(3_600)));
        for text in ["99ms", "2h", "x", "5", "", "5 fortnights"] {
            let error = time("100ms", "1h")(text).unwrap_err();
            assert_eq!(error, "expected a time from 100ms to 1h, with its unit (examples: 10s, 500ms, 5m)", "{text}");
        }
        for (text, bytes) in [("1KiB", 1 << 10), ("64MiB", 64 << 20), ("512mb", 512_000_000), ("65536", 65_536)] {
            assert_eq!(size("1KiB", "1TiB")(text), Ok(bytes), "{text}");
        }
        for text in ["1023", "2TiB", "-1", "x", "", "5 apples"] {
            let error = size::<u64>("1KiB", "1TiB")(text).unwrap_err();
            assert_eq!(error, "expected a size from 1KiB to 1TiB (examples: 512mb, 2GiB, 1000000000)", "{text}");
        }
    }
}
