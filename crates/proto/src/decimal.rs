//! Decimal numbers as `INCRBYFLOAT` adds them: rounded to 17 decimal places, then added exactly.
//!
//! Redis adds 80-bit floating-point numbers and shows 17 decimal places. Where the operands and the sum are exact
//! there, and where they are rounded to those places, the answers are the same; here no digit of a sum is lost.

use std::fmt;

/// A decimal number between -10^21 and 10^21, in units of 10^-17.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal(i128);

/// The number of decimal places.
const DIGITS: i32 = 17;

/// The first number, in units, that is too large.
const BOUND: i128 = 10i128.pow(21 + DIGITS as u32);

/// The longest text that is accepted, as in Redis.
const TEXT_BYTES: usize = 5 * 1024 - 1;

/// With a larger exponent every number that is not zero is too large, and with one below the negative every number is
/// rounded to zero, however many digits the text has.
const EXPONENT: i32 = 2 * TEXT_BYTES as i32;

impl Decimal {
    /// Parses a number: a sign, digits with or without a decimal point, an exponent. Digits after the seventeenth
    /// decimal place are rounded. `None` if the text is not a number or the number is too large.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_BYTES {
            return None;
        }
        let (is_negative, text) = split_sign(text)?;
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (text.get(..at)?, exponent(text.get(at + 1..)?)?),
            None => (text, 0),
        };
        let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
        let (whole, fraction) = (mantissa.get(..point)?, mantissa.get(point + 1..).unwrap_or_default());
        let digits = || whole.iter().chain(fraction);
        if digits().count() == 0 || !digits().all(u8::is_ascii_digit) {
            return None;
        }
        // The power of ten, in units, of the first digit.
        let mut power = i32::try_from(whole.len()).ok()? - 1 + DIGITS + exponent;
        let mut units = 0i128;
        for digit in digits() {
            let digit = i128::from(digit - b'0');
            match power {
                0.. if digit > 0 => {
                    let one = 10i128.checked_pow(u32::try_from(power).ok()?)?;
                    units = units.checked_add(digit.checked_mul(one)?)?;
                }
                // The first digit that does not fit decides how the last one is rounded.
                -1 if digit >= 5 => units = units.checked_add(1)?,
                _ => {}
            }
            power -= 1;
        }
        if units >= BOUND {
            return None;
        }
        Some(Self(if is_negative { -units } else { units }))
    }

    /// The sum; `None` if it is too large.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        let sum = self.0.checked_add(other.0)?;
        (-BOUND < sum && sum < BOUND).then_some(Self(sum))
    }
}

/// Without trailing zeros after the decimal point.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10u128.pow(DIGITS.unsigned_abs());
        let (whole, fraction) = (self.0.unsigned_abs() / unit, self.0.unsigned_abs() % unit);
        let sign = if self.0 < 0 { "-" } else { "" };
        let fraction = format!("{fraction:017}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

/// The most bytes that a 64-bit integer takes as text.
const INTEGER_BYTES: usize = 20;

/// A 64-bit integer as Redis accepts it: no plus sign, no blanks, no leading zero.
#[must_use]
pub fn integer(text: &[u8]) -> Option<i64> {
    if text.len() > INTEGER_BYTES {
        return None;
    }
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_plain = match digits {
        b"0" => digits.len() == text.len(),
        digits => digits.first().is_some_and(|first| (b'1'..=b'9').contains(first)),
    };
    if is_plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Whether there is a minus sign, and what follows the sign. `None` if there is no text.
fn split_sign(text: &[u8]) -> Option<(bool, &[u8])> {
    Some(match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    })
}

/// The exponent that the text after the `e` names, within [`EXPONENT`].
fn exponent(text: &[u8]) -> Option<i32> {
    let (is_negative, digits) = split_sign(text)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0, |size, digit| (size * 10 + i32::from(digit - b'0')).min(EXPONENT));
    Some(if is_negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_added_exactly() {
        for (a, b, sum) in [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3.0", "-3", "0"),
            ("0.1", "0.2", "0.3"),
            ("-1", "0.5", "-0.5"),
            ("+1.", ".5", "1.5"),
            ("1e20", "0.00000000000000001", "100000000000000000000.00000000000000001"),
            ("0.000000000000000005", "0", "0.00000000000000001"),
            ("0.000000000000000004", "0", "0"),
            ("1e-1000", "1E+3", "1000"),
            ("0e99999999", "1e-4950", "0"),
            ("-0.0E+99999999999999999999", "-1e-99999999999999999999", "0"),
            ("1e00000000000000000002", "1e-0", "101"),
        ] {
            let sum_of = |a: &str, b: &str| Decimal::parse(a.as_bytes())?.plus(Decimal::parse(b.as_bytes())?);
            assert_eq!(sum_of(a, b).map(|sum| sum.to_string()).as_deref(), Some(sum), "{a} + {b}");
        }
        let zeros = "0".repeat(2_000);
        for small in [format!("0.{zeros}1e2001"), format!("1{zeros}e-2000")] {
            assert_eq!(Decimal::parse(small.as_bytes()), Decimal::parse(b"1"));
        }
        let most = Decimal::parse(b"999999999999999999999.9").unwrap();
        assert_eq!(most.plus(most), None);
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in
            ["", "-", ".", "e5", "1e", "1 ", " 1", "1.2.3", "0x10", "abc", "1e21", "nan", "inf", "1e99999999999"]
        {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["0e", "0e+", "0e+-1", "0e99999999999x"] {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Decimal::parse(&[b'0'; TEXT_BYTES + 1]), None);
    }

    #[test]
    fn whole_numbers_are_taken_as_redis_takes_them() {
        for number in [0, 1, -1, 10, i64::MIN, i64::MAX] {
            assert_eq!(integer(number.to_string().as_bytes()), Some(number));
        }
        let long = "1".repeat(1_000);
        for text in ["", "-", "-0", "+1", " 1", "1 ", "01", "00", "1.0", "9223372036854775808", "1\n", &long] {
            assert_eq!(integer(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_number_reads_back_as_shown() {
        for text in ["0", "-0.5", "12345.00000000000000001", "-999999999999999999999"] {
            assert_eq!(Decimal::parse(text.as_bytes()).unwrap().to_string(), text);
        }
    }
}
