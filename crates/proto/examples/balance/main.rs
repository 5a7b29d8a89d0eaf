//! Prints how evenly the ring spreads slots over nodes, by number of virtual nodes. The output is the same on every
//! machine.
//!
//! `cargo run --release -p proto --example balance`

#![expect(clippy::print_stdout, reason = "a table on standard output is what this example is for")]

mod measure;

use measure::Balance;
use proto::id::NodeAddr;
use proto::ring::HashRing;

const VIRTUAL_NODES: [u32; 5] = [3, 16, 64, 128, 256];
const NODES: [usize; 4] = [3, 5, 10, 50];
const NAME_SETS: usize = 20;
const COPIES: usize = 3;

fn main() {
    println!("Slots of the most loaded node, divided by the mean over all nodes. 1.00 is even.");
    println!("Mean (and worst) of {NAME_SETS} clusters that differ only in the names of their nodes.");
    table("\nPrimaries", |balance| balance.primaries);
    table(&format!("\nCopies, {COPIES} of each slot"), |balance| balance.copies);
    println!("\nThe cluster of the quick start, 127.0.0.1:5001 to 5003, primaries:");
    for virtual_nodes in VIRTUAL_NODES {
        let nodes = (5001..=5003).map(|port| NodeAddr::new("127.0.0.1", port).expect("an address"));
        let balance = Balance::of(&HashRing::with_nodes(virtual_nodes, nodes), COPIES);
        println!("V={virtual_nodes:<4} {:.2}", balance.primaries);
    }
}

fn table(title: &str, figure: impl Fn(Balance) -> f64) {
    println!("{title}");
    let heads: Vec<String> = NODES.iter().map(|nodes| format!("{:>16}", format!("{nodes} nodes"))).collect();
    println!("      {}", heads.concat());
    for virtual_nodes in VIRTUAL_NODES {
        print!("V={virtual_nodes:<4}");
        for nodes in NODES {
            let (mean, worst) = Balance::over_name_sets(NAME_SETS, nodes, virtual_nodes, COPIES);
            print!("{:>16}", format!("{:.2} ({:.2})", figure(mean), figure(worst)));
        }
        println!();
    }
}
