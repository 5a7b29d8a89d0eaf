//! Texts that show whether they are whole: a line with a name, the format's version, the length and the checksum of what
//! follows, and the text.

use crate::FORMAT_VERSION;
use crate::error::Flaw;

/// A text under its first line.
pub(crate) fn seal(name: &str, text: &str) -> String {
    format!("{name} {FORMAT_VERSION} {} {:08x}\n{text}", text.len(), crc32c::crc32c(text.as_bytes()))
}

/// The text of what [`seal`] has made.
///
/// # Errors
/// It is of another version, or not as it was made, which is `flaw`.
pub(crate) fn unseal<'a>(name: &str, bytes: &'a [u8], flaw: Flaw) -> Result<&'a str, Flaw> {
    let split = || {
        let whole = str::from_utf8(bytes).ok()?;
        let (head, text) = whole.split_once('\n')?;
        let version: u32 = head.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next()?.parse().ok()?;
        Some((whole, text, version))
    };
    match split() {
        Some((_, _, version)) if version != FORMAT_VERSION => Err(Flaw::Version(version)),
        // What is written anew from what was read is the same to the letter, or something was another.
        Some((whole, text, _)) if seal(name, text) == whole => Ok(text),
        _ => Err(flaw),
    }
}
