//! Placement of keys: the ring against cases from an independent program, the map of all slots against the ring, and
//! how much moves when a node joins.

use proto::id::NodeAddr;
use proto::ring::HashRing;
use proto::slot::{Position, SLOT_BITS, SlotBits};
use seeded::Random;

/// Made by `vectors/make_placement.py`; the head of the file describes the columns.
const VECTORS: &str = include_str!("vectors/placement.tsv");

struct Row {
    virtual_nodes: u32,
    nodes: Vec<NodeAddr>,
    count: usize,
    key: Vec<u8>,
    owners: Vec<NodeAddr>,
}

fn rows() -> Vec<Row> {
    let rows: Vec<Row> = VECTORS.lines().map(row).collect();
    assert!(rows.len() > 400, "only {} rows: the file of vectors has been cut", rows.len());
    rows
}

fn row(line: &str) -> Row {
    let columns: Vec<&str> = line.split('\t').collect();
    let [virtual_nodes, nodes, count, key, owners] = columns[..] else { panic!("not five columns: {line}") };
    let addrs = |list: &str| list.split(',').map(|addr| addr.parse().expect("an address")).collect();
    let byte = |at| u8::from_str_radix(&key[at..at + 2], 16).expect("hexadecimal digits");
    Row {
        virtual_nodes: virtual_nodes.parse().expect("a number"),
        nodes: addrs(nodes),
        count: count.parse().expect("a number"),
        key: (0..key.len()).step_by(2).map(byte).collect(),
        owners: addrs(owners),
    }
}

/// `count` nodes of one cluster; each set has different names, and so different positions.
fn named(set: usize, count: usize) -> Vec<NodeAddr> {
    (1..=count)
        .map(|i| NodeAddr::new(&format!("10.{set}.{}.{}", i / 250, i % 250), 5001).expect("an address"))
        .collect()
}

#[test]
fn a_ring_built_at_once_passes_every_vector() {
    for row in rows() {
        let ring = HashRing::with_nodes(row.virtual_nodes, row.nodes.iter().cloned());
        let expected: Vec<&NodeAddr> = row.owners.iter().collect();
        let Row { virtual_nodes, nodes, key, .. } = &row;
        assert_eq!(ring.owners(key, row.count), expected, "V={virtual_nodes} nodes={nodes:?} key={key:x?}");
    }
}

#[test]
fn a_ring_joined_in_any_order_passes_every_vector() {
    let mut random = Random::new(1);
    // Rows of one ring are adjacent, so that each ring is built once.
    for group in rows().chunk_by(|a, b| a.virtual_nodes == b.virtual_nodes && a.nodes == b.nodes) {
        let mut nodes = group[0].nodes.clone();
        random.shuffle(&mut nodes);
        let mut ring = HashRing::new(group[0].virtual_nodes);
        for node in nodes {
            assert!(ring.add(node));
        }
        for row in group {
            let expected: Vec<&NodeAddr> = row.owners.iter().collect();
            assert_eq!(ring.owners(&row.key, row.count), expected, "nodes={:?} key={:x?}", row.nodes, row.key);
        }
    }
}

#[test]
fn a_key_on_a_virtual_nodes_position_belongs_to_the_next_one() {
    // The name of a virtual node, used as a key, hashes to exactly that position; "strictly greater" excludes it.
    let ring = HashRing::with_nodes(1, named(0, 8));
    let mut positions: Vec<(Position, &NodeAddr)> =
        ring.nodes().iter().map(|node| (Position::of(format!("{node}:virtual:0").as_bytes()), node)).collect();
    positions.sort();
    for (i, (_, node)) in positions.iter().enumerate() {
        let (_, next) = positions[(i + 1) % positions.len()];
        assert_eq!(ring.owners(format!("{node}:virtual:0").as_bytes(), 1), [next]);
    }
}

#[test]
fn the_slot_map_is_the_owners_of_first_positions_for_every_size_and_order() {
    let mut random = Random::new(2);
    let bits = SlotBits::new(10);
    for size in [1, 2, 3, 4, 5, 10, 40] {
        for virtual_nodes in [1, 3, 16] {
            let mut nodes = named(size, size);
            random.shuffle(&mut nodes);
            let mut ring = HashRing::new(virtual_nodes);
            for node in nodes {
                ring.add(node);
            }
            let all = ring.slot_owners(bits, 3);
            assert_eq!(all.len(), bits.count());
            for (slot, owners) in bits.slots().zip(&all) {
                assert_eq!(*owners, ring.owners_of(&bits.first_position(slot), 3), "{slot:?} of {size} nodes");
            }
        }
    }
}

#[test]
fn the_slot_map_of_a_thousand_nodes_is_right() {
    let ring = HashRing::with_nodes(128, named(0, 1_000));
    let all = ring.slot_owners(SLOT_BITS, 3);
    assert_eq!(all.len(), 16_384);
    for (slot, owners) in SLOT_BITS.slots().zip(&all).step_by(37).chain(SLOT_BITS.slots().zip(&all).skip(16_300)) {
        assert_eq!(*owners, ring.owners_of(&SLOT_BITS.first_position(slot), 3), "{slot:?}");
    }
}

#[test]
fn a_new_node_takes_its_share_and_nothing_else_moves() {
    const NODES: usize = 10;
    const SETS: usize = 20;
    let mut moved = 0;
    for set in 0..SETS {
        let nodes = named(set, NODES + 1);
        let (new, old) = nodes.split_last().expect("there are nodes");
        let before = HashRing::with_nodes(128, old.iter().cloned());
        let mut after = before.clone();
        after.add(new.clone());
        for (was, is) in before.slot_owners(SLOT_BITS, 1).iter().zip(after.slot_owners(SLOT_BITS, 1)) {
            if *was != is {
                assert_eq!(is, [new], "a slot moved between two nodes that were there already");
                moved += 1;
            }
        }
    }
    let share = f64::from(moved) / (SETS * SLOT_BITS.count()) as f64;
    let fair = 1.0 / (NODES + 1) as f64;
    assert!(share <= 1.15 * fair, "{share:.4} of all primaries moved, a fair share is {fair:.4}");
    assert!(share >= 0.85 * fair, "{share:.4} of all primaries moved, a fair share is {fair:.4}");
}
