//! The node's last map, saved beside its data: if the coordinator comes back without its state, it takes the cluster
//! over from the nodes' maps.

use std::path::Path;
use std::sync::Arc;

use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion};
pub(super) use storage::map_file::NAME;
use storage::{Disk, FileError, map_file};

/// Replaces the saved map. Blocks on the disk.
pub(super) fn save(disk: &dyn Disk, directory: &Path, map: &ClusterMap) -> Result<(), FileError> {
    map_file::store(disk, directory, &map.update_since(MapVersion(0)).to_lines().join("\n"))
}

/// The map that was saved last. A missing, damaged, or unreadable one is `None`: the coordinator's map counts.
pub(super) fn load(disk: &dyn Disk, directory: &Path) -> Option<Arc<ClusterMap>> {
    let text = match map_file::load(disk, directory) {
        Ok(text) => text?,
        Err(error) => {
            tracing::warn!("{error}; using the coordinator's map instead");
            return None;
        }
    };
    let map = MapUpdate::parse(text.lines()).and_then(|update| ClusterMap::updated(None, &update));
    match map {
        Ok(map) => Some(Arc::new(map)),
        Err(error) => {
            tracing::warn!("cannot read the map in the data directory, using the coordinator's instead: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::SimDisk;
    use storage::disk::replace_file;

    #[test]
    fn what_is_no_map_is_none() {
        let (disk, directory) = (SimDisk::new(1), Path::new("/data"));
        disk.create_directory(directory).unwrap();
        assert!(load(&disk, directory).is_none());
        replace_file(&disk, directory, NAME, b"not a map\n").unwrap();
        assert!(load(&disk, directory).is_none());
    }

    #[test]
    fn a_damaged_map_is_none() {
        let (disk, directory) = (SimDisk::new(1), Path::new("/data"));
        disk.create_directory(directory).unwrap();
        let map = crate::store::tests::map_of_one();
        save(&disk, directory, &map).unwrap();
        assert_eq!(load(&disk, directory).as_deref(), Some(&map));
        disk.flip_bit(&directory.join(NAME), 60, 3);
        assert!(load(&disk, directory).is_none());
    }
}
