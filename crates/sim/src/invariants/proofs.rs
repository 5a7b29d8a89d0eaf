//! A node never presents as proof an incarnation some of whose data it may lack.

use crate::world::World;

impl World {
    /// A node is about to join and to report whose data it has found.
    pub(crate) fn check_ancestors(&mut self, n: usize) {
        let Some(node) = self.running(n) else { return };
        let wrong = node.ancestors().proven.iter().find(|proven| self.oracle.holder(**proven) != Some(n)).copied();
        if let Some(wrong) = wrong {
            let name = &self.nodes[n].name;
            let what = format!("{name} shows {} as proof, and may lack some of its data", wrong.0 & 0xffff);
            self.broken("proof", None, what);
        }
    }
}
