//! The file `map`: the last cluster map that the node had. Its text is not interpreted here.
//!
//! It holds a line with the format version, the length and the checksum of the text, and then the text.
//! docs/storage-format.md has the exact format.

use std::path::Path;

use crate::disk::{Disk, read_own, replace_file};
use crate::error::{Damage, FileError, Flaw, ReadError};
use crate::sealed::{seal, unseal};

/// The file's name.
pub const NAME: &str = "map";

/// A larger file is not a map. In bytes.
const BYTES_MOST: u64 = 64 * 1024 * 1024;

/// What the file begins with.
const HEAD: &str = "node-map";

/// Replaces the stored map. The new one is durable when this returns.
///
/// # Errors
/// The disk failed: either the old map or the new one is there.
pub fn store(disk: &dyn Disk, directory: &Path, text: &str) -> Result<(), FileError> {
    replace_file(disk, directory, NAME, seal(HEAD, text).as_bytes())
}

/// The map that was stored last; `None` if there is none.
///
/// # Errors
/// The disk failed, or the file is damaged.
pub fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<String>, ReadError> {
    let file = directory.join(NAME);
    let Some(bytes) = read_own(disk, &file, BYTES_MOST, Flaw::Map)? else { return Ok(None) };
    match unseal(HEAD, &bytes, Flaw::Map) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(flaw) => Err(Damage { file, offset: 0, flaw }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimDisk;

    const TEXT: &str = "OK Map version=9 since=0 cluster=3f0c\nNODE 1 127.0.0.1:5001 up";

    #[test]
    fn a_map_is_read_as_it_was_written() {
        let (disk, directory) = (SimDisk::new(1), Path::new("/data"));
        disk.create_directory(directory).unwrap();
        assert!(load(&disk, directory).unwrap().is_none());
        store(&disk, directory, TEXT).unwrap();
        assert_eq!(load(&disk, directory).unwrap().as_deref(), Some(TEXT));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_map_is_noticed() {
        let bytes = seal(HEAD, TEXT).into_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(HEAD, &damaged, Flaw::Map).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(unseal(HEAD, &bytes[..length], Flaw::Map).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_map_of_a_later_program_and_what_is_no_map_are_refused() {
        let later = seal(HEAD, TEXT).replacen("node-map 1 ", "node-map 2 ", 1);
        assert_eq!(unseal(HEAD, later.as_bytes(), Flaw::Map), Err(Flaw::Version(2)));
        assert_eq!(unseal(HEAD, b"not a map\n", Flaw::Map), Err(Flaw::Map));
    }
}
