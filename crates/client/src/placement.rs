//! Who holds a key.

use proto::cluster_map::ClusterMap;
use proto::id::NodeAddr;
use proto::slot::Position;

/// The nodes that hold a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node that orders the key's writes; `None` while no primary is known.
    pub primary: Option<NodeAddr>,
    /// The other nodes with a full copy.
    pub replicas: Vec<NodeAddr>,
}

impl Placement {
    /// The placement of a key according to the map.
    pub(crate) fn of(map: &ClusterMap, key: &[u8]) -> Self {
        let slot = map.bits().slot(&Position::of(key));
        let primary = map.config(slot).primary;
        let mut placement = Self { primary: None, replicas: Vec::new() };
        for (incarnation, member) in map.holders(slot) {
            if Some(incarnation) == primary {
                placement.primary = Some(member.addr.clone());
            } else {
                placement.replicas.push(member.addr.clone());
            }
        }
        placement
    }

    /// Parses the coordinator's lines: `PRIMARY host:port`, then one `REPLICA host:port` each.
    pub(crate) fn from_lines(lines: &[String]) -> Option<Self> {
        let (primary, replicas) = lines.split_first()?;
        let primary = primary.strip_prefix("PRIMARY ")?.parse().ok()?;
        let replicas = replicas.iter().map(|line| line.strip_prefix("REPLICA ")?.parse().ok());
        Some(Self { primary: Some(primary), replicas: replicas.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coordinators_lines_are_read_to_the_letter() {
        let read = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            Placement::from_lines(&lines)
        };
        let placement = read(&["PRIMARY h:1", "REPLICA h:2", "REPLICA h:3"]).unwrap();
        assert_eq!(placement.primary.as_ref().map(NodeAddr::as_str), Some("h:1"));
        assert_eq!(placement.replicas.iter().map(NodeAddr::as_str).collect::<Vec<_>>(), ["h:2", "h:3"]);
        for lines in [&[][..], &["OK"], &["REPLICA h:1"], &["PRIMARY h"], &["PRIMARY h:1", "PRIMARY h:2"]] {
            assert_eq!(read(lines), None, "{lines:?}");
        }
    }
}
