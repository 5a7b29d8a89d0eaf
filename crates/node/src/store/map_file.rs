//! The last map that the node had, beside its data: should the coordinator come back without its state, it takes the
//! cluster over from the maps of the nodes.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion};

const NAME: &str = "map";
const WRITTEN_NAME: &str = "map.tmp";

/// Puts a map in the place of the one before. Blocks on the disk.
pub(super) fn save(directory: &Path, map: &ClusterMap) -> io::Result<()> {
    let written = directory.join(WRITTEN_NAME);
    let mut file = File::create(&written)?;
    file.write_all(map.update_since(MapVersion(0)).to_lines().join("\n").as_bytes())?;
    // IMPORTANT: it is on disk before it gets its name, or a crash could leave the name with a part of it.
    file.sync_all()?;
    std::fs::rename(&written, directory.join(NAME))
}

/// The map that was saved last. One that is missing or cannot be read is none: the coordinator's counts.
pub(super) fn load(directory: &Path) -> Option<Arc<ClusterMap>> {
    let text = std::fs::read_to_string(directory.join(NAME)).ok()?;
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

    #[test]
    fn what_is_no_map_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(directory.path()).is_none());
        std::fs::write(directory.path().join(NAME), "not a map\n").unwrap();
        assert!(load(directory.path()).is_none());
    }
}
