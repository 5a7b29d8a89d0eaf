//! Faults of nodes' disks: failing calls, hanging fsyncs, full disks, and flipped bits.

use storage::disk::sim::Operation;

use crate::faults::{BOOT, Remedy};
use crate::node::SurvivingData;
use crate::schedule::Event;
use crate::world::World;

/// The calls that are made to fail; `None`: a call of any kind.
const OPERATIONS: [Option<Operation>; 9] = [
    None,
    Some(Operation::Write),
    Some(Operation::Write),
    Some(Operation::SyncData),
    Some(Operation::SyncData),
    Some(Operation::SyncDirectory),
    Some(Operation::Preallocate),
    Some(Operation::Rename),
    Some(Operation::Remove),
];

impl World {
    /// Whether faults are still going on.
    pub(crate) fn faults_go_on(&self) -> bool {
        !self.faults.is_over && self.schedule.now < self.faults.until
    }

    /// A future call to a node's disk fails.
    pub(crate) fn fail_disk(&mut self, n: usize) {
        let operation = OPERATIONS[self.faults.random.index(OPERATIONS.len())];
        let calls = self.faults.random.below(20);
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("after {calls} calls the disk of {name} fails {operation:?}"));
        self.nodes[n].store.fail(operation, calls);
    }

    /// A node's disk has failed: it hands over and stops. Somebody attends to the disk, and perhaps reboots the
    /// machine.
    pub(crate) fn stop_for_disk(&mut self, n: usize) {
        self.stats.disk_failures += 1;
        let is_booted = self.faults.random.chance(500);
        self.leave_node(n, if is_booted { SurvivingData::WhatWasSynced } else { SurvivingData::Everything });
        let span = self.faults.random.spread(500_000, 8_000_000);
        self.start_after_failure(n, 1_400_000, span);
    }

    /// Restarts a node that stopped because of a disk call: after `after`, and `span` later while faults go on. They
    /// may be over: a node learns only at its next call what happened to its disk before.
    fn start_after_failure(&mut self, n: usize, after: u64, span: u64) {
        if self.faults_go_on() {
            self.schedule.after(after + span, Event::Remedy(Remedy::StartNode(n)));
        } else {
            self.liveness.node_comes_anew(self.schedule.now);
            self.schedule.after(after, Event::Remedy(Remedy::StartAnew(n)));
        }
    }

    /// The power is to fail at future disk calls: some or all machines, each at a call of its own.
    pub(crate) fn cut_power_at_calls(&mut self) {
        for n in 0..self.nodes.len() {
            if self.nodes[n].node.is_some() && self.faults.random.chance(700) {
                let calls = self.faults.random.spread(1, 64);
                self.nodes[n].store.cut_power_at(calls);
            }
        }
    }

    /// The power has failed, at a call of this node.
    pub(crate) fn lose_power_at_call(&mut self, n: usize) {
        self.stats.power_losses += 1;
        self.crash_node(n, SurvivingData::WhatWasSynced);
        let span = self.faults.random.spread(50_000, 8_000_000);
        self.start_after_failure(n, BOOT, span);
    }

    /// A node's disk becomes slow, or hangs.
    pub(crate) fn stall_disk(&mut self, n: usize, span: u64) {
        self.stats.disk_stalls += 1;
        let slowness = self.faults.random.spread(2_000, 5_000_000);
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("fsync takes {} ms at {name}, for {} ms", slowness / 1_000, span / 1_000));
        self.nodes[n].store.slowness = slowness;
        self.schedule.after(span, Event::Remedy(Remedy::Steady(n)));
    }

    /// A node's disk has little room left, or none.
    pub(crate) fn fill_disk(&mut self, n: usize, span: u64) {
        self.stats.full_disks += 1;
        let room = if self.faults.random.chance(500) { 0 } else { self.faults.random.spread(100, 20_000) };
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{room} bytes are left at {name}, for {} ms", span / 1_000));
        self.nodes[n].store.limit(Some(room));
        self.schedule.after(span, Event::Remedy(Remedy::MakeRoom(n)));
    }

    /// A bit flips on a node's disk, while the node is down. The node may have to be killed for that.
    pub(crate) fn flip_bit(&mut self, n: usize) {
        if self.nodes[n].is_leaving || self.nodes[n].needs_repair {
            return;
        }
        if self.nodes[n].node.is_some() {
            self.stats.crashes += 1;
            self.crash_node(n, SurvivingData::Everything);
            let after = self.faults.random.spread(50_000, 8_000_000);
            self.schedule.after(after, Event::Remedy(Remedy::StartNode(n)));
        }
        if !self.nodes[n].needs_repair && self.nodes[n].left.is_some() {
            self.flip_and_judge(n);
        }
    }
}
