//! Starts, stops and crashes of a node's process, and their effect on its disk.

use std::time::Duration;

use engine::log::TAIL_BYTES;
use engine::memory::Evict;
use engine::node::TICK;
use engine::outbox::OUTBOX_ITEMS;
use proto::id::Incarnation;

use super::store::{Found, Start, StartError};
use super::{BEAT, HEARTBEAT, Session, SurvivingData};
use crate::faults::Remedy;
use crate::invariants::Marks;
use crate::schedule::Event;
use crate::world::World;

/// How long to wait before restarting a node that cannot start because of its disk, in microseconds.
const START_PAUSE: u64 = 1_000_000;

/// How long to wait before restarting a node that has not ended yet, in microseconds.
const STOP_PAUSE: u64 = 100_000;

impl World {
    /// Starts a node, with the data on its disk, if any.
    pub(crate) fn start_node(&mut self, n: usize) {
        if self.nodes[n].node.is_some() {
            if self.nodes[n].is_leaving {
                self.schedule.after(STOP_PAUSE, Event::Remedy(Remedy::StartNode(n)));
            }
            return;
        }
        self.crash_in_start(n);
        let start = self.start_of(n);
        let process = &mut self.nodes[n];
        if process.needs_repair {
            if let Err(error) = process.store.repair(start) {
                process.store.limit(None);
                return self.cannot_start(n, &error);
            }
            process.needs_repair = false;
        }
        let found = match process.store.start(start) {
            Ok(found) => found,
            Err(error) => return self.cannot_start(n, &error),
        };
        self.check_start(n, &found);
        let or = |knob: u64, default| if knob > 0 { knob as usize } else { default };
        let (tails, items) = (or(self.knobs.tail_bytes, TAIL_BYTES), or(self.knobs.queue_items, OUTBOX_ITEMS));
        let process = &mut self.nodes[n];
        process.boot += 1;
        process.left = None;
        let with = format!("{} keys on its disk", found.node.keys());
        let evict = if self.knobs.evict > 0 { Evict::Lru } else { Evict::None };
        let node = found.node.limited(tails, items).with_memory_limit(self.knobs.max_memory, evict);
        node.compare_every(Duration::from_millis(self.knobs.compare_every));
        process.node = Some(node);
        process.marks = Marks::default();
        (process.is_leaving, process.busy_until, process.finds) = (false, 0, SurvivingData::Everything);
        (process.hands_over, process.says_farewell) = (false, false);
        (process.incarnation, process.begun) = (Incarnation::default(), Incarnation::default());
        let boot = process.boot;
        self.tell_wall_clock(n);
        for (span, event) in [
            (self.random.below(TICK.as_micros() as u64), Event::Tick { node: n as u8, boot }),
            (HEARTBEAT, Event::Heartbeat { node: n as u8, boot }),
            (BEAT, Event::Beats { node: n as u8, boot }),
        ] {
            self.schedule.after(span, event);
        }
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{name} starts with {with}"));
        self.open_session(n);
        self.node_changed(n);
    }

    pub(crate) fn start_of(&mut self, n: usize) -> Start {
        Start { now: self.local(n), bits: self.bits, secret: self.random.next(), real: self.schedule.now }
    }

    fn cannot_start(&mut self, n: usize, error: &StartError) {
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{name} does not start: {error}"));
        self.nodes[n].store.crash(false);
        match error {
            StartError::File(_) => self.schedule.after(START_PAUSE, Event::Remedy(Remedy::StartNode(n))),
            error => self.broken("I14", None, format!("{name} does not start: {error}")),
        }
    }

    /// Sometimes a start fails: the machine loses power at some disk call, or the process is killed there.
    fn crash_in_start(&mut self, n: usize) {
        while self.faults_go_on() && self.random.chance(self.knobs.crashed_starts) {
            let start = self.start_of(n);
            let calls = self.random.spread(1, 64);
            let loses_power = self.random.chance(500);
            let process = &mut self.nodes[n];
            if process.needs_repair {
                return;
            }
            process.store.cut_power_at(calls);
            let started = process.store.start(start).map(drop);
            process.store.crash(loses_power);
            let ended = if loses_power { &mut self.stats.crashed_starts } else { &mut self.stats.killed_starts };
            *ended += u64::from(started.is_err());
            match started {
                Ok(()) | Err(StartError::File(_)) => {}
                // What it would have used instead could not be read any more.
                Err(StartError::Damaged(damage)) if process.store.is_flipped(&damage.file) => {}
                Err(error) => return self.broken("I14", None, format!("a start finds damage: {error}")),
            }
            self.find(n);
        }
    }

    /// The process is gone. What it held is left on its disk, or lost.
    pub(crate) fn crash_node(&mut self, n: usize, finds: SurvivingData) {
        let process = &mut self.nodes[n];
        let Some(node) = process.node.take() else { return };
        let boot = process.boot;
        process.links.clear();
        process.inboxes.clear();
        process.deferred.clear();
        process.is_paused = false;
        process.session = Session::Idle;
        (process.told_full, process.unwritten) = (false, None);
        process.beats.clear();
        process.pages.clear();
        process.lists.clear();
        let mut unanswered: Vec<_> = process.parked.drain(..).collect();
        unanswered.extend(process.pending.drain(..).map(|pending| *pending.request));
        unanswered.extend(process.held.drain(..).filter_map(|held| held.into_request()));
        let (is_written, is_closed) = (process.store.is_written(node.noted().end()), process.store.is_closed());
        self.stats.keys_evicted += node.memory_figures().evicted;
        for (conn, side) in self.network.held_by(n, boot) {
            self.network.crash(&mut self.schedule, conn, side);
        }
        for request in &unanswered {
            self.no_answer(request);
        }
        let how = match finds {
            SurvivingData::Everything => "crashes",
            SurvivingData::WhatWasSynced => "loses its power",
            SurvivingData::Nothing => "crashes and loses its memory",
        };
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{name} {how}"));
        let store = &mut self.nodes[n].store;
        match finds {
            SurvivingData::Everything => store.crash(false),
            SurvivingData::WhatWasSynced => store.crash(true),
            SurvivingData::Nothing => {
                store.wipe();
                return self.memory_lost(n);
            }
        }
        if let Some(is_proof) = self.find(n)
            && is_written
            && (finds == SurvivingData::Everything || is_closed || self.nodes[n].store.syncs_always())
        {
            self.check_restart(n, &node, is_proof);
        }
    }

    /// Determines what the next start of a node will find. Returns whether that is known to be complete.
    pub(crate) fn find(&mut self, n: usize) -> Option<bool> {
        let start = self.start_of(n);
        let found = match self.nodes[n].store.look(start) {
            Ok(found) => found,
            Err(error @ (StartError::Damaged(_) | StartError::Rejected { .. })) => {
                return self.find_damaged(n, &error, start);
            }
            // There is no room to continue the log, so what was there cannot be determined until there is room.
            Err(StartError::File(error)) if error.is_no_space() => {
                self.nodes[n].store.limit(None);
                return self.find(n);
            }
            Err(error) => {
                self.broken("I14", None, format!("a start finds {error}"));
                return None;
            }
        };
        self.check_found(n, &found);
        let Found { node, is_proof, .. } = found;
        self.nodes[n].left = Some(node);
        if !is_proof {
            self.proof_lost(n);
        }
        Some(is_proof)
    }

    /// The data is damaged: an operator keeps what is good of it.
    fn find_damaged(&mut self, n: usize, damage: &StartError, start: Start) -> Option<bool> {
        let name = self.nodes[n].name.clone();
        let is_flipped = match damage {
            StartError::Damaged(damage) => self.nodes[n].store.is_flipped(&damage.file),
            _ => false,
        };
        if !is_flipped {
            self.broken("I14", None, format!("{name} would find damage that no fault has done: {damage}"));
            return None;
        }
        self.tell(None, || format!("{name} is damaged: {damage}"));
        self.stats.damages += 1;
        match self.nodes[n].store.look_repaired(start) {
            Ok(found) => {
                self.check_found(n, &found);
                self.nodes[n].left = Some(found.node);
                self.nodes[n].needs_repair = true;
                self.proof_lost(n);
            }
            Err(StartError::File(error)) if error.is_no_space() => {
                self.nodes[n].store.limit(None);
                return self.find_damaged(n, damage, start);
            }
            Err(error) => self.broken("a damaged directory can be repaired", None, error.to_string()),
        }
        None
    }

    /// The node has stopped.
    pub(crate) fn has_left(&mut self, n: usize) {
        if !self.nodes[n].is_leaving {
            return;
        }
        self.persist(n);
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        let mut finds = process.finds;
        if finds == SurvivingData::Everything && !process.store.has_failed() && process.store.close(node) {
            self.stats.orderly_stops += 1;
            // Whatever the machine does afterwards.
            if self.random.chance(300) {
                finds = SurvivingData::WhatWasSynced;
            }
        }
        self.crash_node(n, finds);
    }
}
