//! The last map that the node had, beside its data: should the coordinator come back without its state, it takes the
//! cluster over from the maps of the nodes.

use std::path::Path;
use std::sync::Arc;

use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion};
use storage::disk::{read_file, replace_file};
use storage::{Disk, FileError};

pub(super) const NAME: &str = "map";

/// A file that is larger is no map. In bytes.
const BYTES_MOST: u64 = 64 * 1024 * 1024;

/// Puts a map in the place of the one before. Blocks on the disk.
pub(super) fn save(disk: &dyn Disk, directory: &Path, map: &ClusterMap) -> Result<(), FileError> {
    let text = map.update_since(MapVersion(0)).to_lines().join("\n");
    replace_file(disk, directory, NAME, text.as_bytes())
}

/// The map that was saved last. One that is missing or cannot be read is none: the coordinator's counts.
pub(super) fn load(disk: &dyn Disk, directory: &Path) -> Option<Arc<ClusterMap>> {
    let bytes = match read_file(disk, &directory.join(NAME), BYTES_MOST) {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::warn!("{error}: {}; the coordinator's map will do", error.source);
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let map = MapUpdate::parse(text.lines()).and_then(|update| ClusterMap::updated(None, &update));
    match map {
        Ok(map) => Some(Arc::new(map)),
        Err(error) => {
            tracing::warn!("the map in the data directory cannot be read, the coordinator's will do: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::SimDisk;

    #[test]
    fn what_is_no_map_is_none() {
        let (disk, directory) = (SimDisk::new(1), Path::new("/data"));
        disk.create_directory(directory).unwrap();
        assert!(load(&disk, directory).is_none());
        replace_file(&disk, directory, NAME, b"not a map\n").unwrap();
        assert!(load(&disk, directory).is_none());
    }
}
