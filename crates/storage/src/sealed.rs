//! Text with an integrity header: a line with a name, the format version, and the length and checksum of the text after
//! it.

use crate::FORMAT_VERSION;
use crate::error::Flaw;

/// Puts the header line in front of a text.
pub(crate) fn seal(name: &str, text: &str) -> String {
    format!("{name} {FORMAT_VERSION} {} {:08x}\n{text}", text.len(), crc32c::crc32c(text.as_bytes()))
}

/// Returns the text from the output of [`seal`].
///
/// # Errors
/// The format version is another one; or the bytes are not what `seal` produced, for which the error is `flaw`.
pub(crate) fn unseal<'a>(name: &str, bytes: &'a [u8], flaw: Flaw) -> Result<&'a str, Flaw> {
    let split = || {
        let whole = str::from_utf8(bytes).ok()?;
        let (head, text) = whole.split_once('\n')?;
        let version: u32 = head.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next()?.parse().ok()?;
        Some((whole, text, version))
    };
    match split() {
        Some((_, _, version)) if version != FORMAT_VERSION => Err(Flaw::Version(version)),
        // Sealing the text again must give the same bytes, or something was changed.
        Some((whole, text, _)) if seal(name, text) == whole => Ok(text),
        _ => Err(flaw),
    }
}
