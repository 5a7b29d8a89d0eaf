//! What goes wrong, when, and how it is repaired.
//!
//! A run stays within what the store promises to survive. Memory is lost on one node at a time, and again only when
//! all slots have all their copies back. The coordinator's state is lost only when no memory is missing, and the
//! coordinator comes back where a node that has a map can reach it (as documented, a coordinator that hears of no map
//! in its first second begins a new cluster). The knob `wild_losses` lifts the first limit: then whole slots are lost,
//! and the oracle knows.

use proto::cluster_map::ClusterMap;
use seeded::Random;

use crate::clock::EXACT;
use crate::knobs::Knobs;
use crate::network::ProcId;
use crate::node::SurvivingData;
use crate::schedule::Event;
use crate::world::World;
/// The minimum time before a machine runs its programs again, in microseconds. By then the node is suspected.
pub(crate) const BOOT: u64 = 1_000_000;

/// How a fault continues or ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Remedy {
    Uncut(ProcId, ProcId),
    Resume(ProcId),
    StartNode(ProcId),
    /// Like `StartNode`, but also after all faults are over.
    StartAnew(ProcId),
    StartCoordinator,
    /// The copy of the coordinator's state is put back.
    PutBackCopy,
    /// In a rolling restart it is the turn of this process.
    Restart(ProcId),
    Quicken(ProcId),
    QuickenLink(ProcId, ProcId),
    /// From now on, for this long, nobody hears the node.
    Silence(ProcId, u64),
    /// A node's disk is back at full speed.
    Steady(ProcId),
    /// A node's disk has room again.
    MakeRoom(ProcId),
}

/// The plan of faults.
#[derive(Debug)]
pub(crate) struct Faults {
    /// When they end, in real time.
    pub(crate) until: u64,
    every: u64,
    pub(crate) random: Random,
    menu: Vec<(u64, Fault)>,
    /// No fault begins before this time.
    pub(crate) quiet_until: u64,
    pub(crate) is_over: bool,
    /// Memory was lost, and not every slot has had all its copies since.
    pub(crate) memory_is_missing: bool,
    /// The coordinator has lost its state, and has no map of its own yet.
    pub(crate) state_is_lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Break,
    Cut,
    Isolate,
    IsolateCoordinator,
    Pause,
    PauseCoordinator,
    Crash,
    LoseMemory,
    Leave,
    PowerCut,
    CrashCoordinator,
    LoseState,
    Slow,
    SlowLink,
    Strand,
    ChangeClock,
    LosePower,
    Decommission,
    Roll,
    FailDisk,
    StallDisk,
    FillDisk,
    FlipBit,
    PutBackState,
    Fork,
}

impl Faults {
    pub(crate) fn new(knobs: &Knobs, random: Random) -> Self {
        let menu = vec![
            (knobs.breaks, Fault::Break),
            (knobs.cuts, Fault::Cut),
            (knobs.isolations, Fault::Isolate),
            (knobs.coordinator_isolations, Fault::IsolateCoordinator),
            (knobs.pauses, Fault::Pause),
            (knobs.coordinator_pauses, Fault::PauseCoordinator),
            (knobs.crashes, Fault::Crash),
            (knobs.memory_losses, Fault::LoseMemory),
            (knobs.leaves, Fault::Leave),
            (knobs.power_cuts, Fault::PowerCut),
            (knobs.coordinator_crashes, Fault::CrashCoordinator),
            (knobs.state_losses, Fault::LoseState),
            (knobs.slowness, Fault::Slow),
            (knobs.slow_links, Fault::SlowLink),
            (knobs.strandings, Fault::Strand),
            (knobs.clock_changes, Fault::ChangeClock),
            (knobs.power_losses, Fault::LosePower),
            (knobs.decommissions, Fault::Decommission),
            (knobs.rolling_restarts, Fault::Roll),
            (knobs.disk_errors, Fault::FailDisk),
            (knobs.disk_stalls, Fault::StallDisk),
            (knobs.full_disks, Fault::FillDisk),
            (knobs.bit_flips, Fault::FlipBit),
            (knobs.states_put_back, Fault::PutBackState),
            (knobs.forks, Fault::Fork),
        ];
        Self {
            until: 1_000_000 + knobs.fault_time * 1_000,
            every: knobs.fault_every * 1_000,
            random,
            menu: menu.into_iter().filter(|(weight, _)| *weight > 0).collect(),
            quiet_until: 0,
            is_over: false,
            memory_is_missing: false,
            state_is_lost: false,
        }
    }
}

impl World {
    pub(crate) fn begin_faults(&mut self) {
        let first = 500_000 + self.faults.random.below(3_000_000);
        self.schedule.at(first, Event::Fault);
    }

    /// Gives each process its own clock; none is exact.
    pub(crate) fn set_clocks(&mut self) {
        for proc in 0..=self.nodes.len() {
            self.change_clock(proc);
        }
    }

    pub(crate) fn plan_late_start(&mut self, n: usize) {
        let at = self.faults.random.between(2_000_000, self.faults.until);
        self.schedule.at(at, Event::Remedy(Remedy::StartNode(n)));
    }

    pub(crate) fn next_fault(&mut self) {
        let now = self.schedule.now;
        if self.faults.is_over || self.faults.every == 0 || self.faults.menu.is_empty() {
            return;
        }
        let faults = &mut self.faults;
        let pause = faults.random.between(faults.every / 4, faults.every * 7 / 4).max(1_000);
        self.schedule.after(pause, Event::Fault);
        if now < faults.quiet_until {
            return;
        }
        let total: u64 = faults.menu.iter().map(|(weight, _)| weight).sum();
        let mut drawn = faults.random.below(total);
        let chosen = faults.menu.iter().find(|(weight, _)| {
            let is_here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_here
        });
        let Some((_, fault)) = chosen.copied() else { return };
        self.trace.mix(fault as u64);
        if self.faults.memory_is_missing && self.is_whole() && self.nobody_is_missed() {
            self.faults.memory_is_missing = false;
        }
        self.commit_fault(fault);
    }

    fn commit_fault(&mut self, fault: Fault) {
        let nodes = self.nodes.len();
        let n = self.faults.random.index(nodes);
        let coordinator = self.coordinator_proc();
        let short = self.faults.random.spread(20_000, 8_000_000);
        match fault {
            Fault::Break => {
                let live = self.network.live();
                if !live.is_empty() {
                    let conn = live[self.faults.random.index(live.len())];
                    self.network.break_off(&mut self.schedule, conn);
                }
            }
            Fault::Cut => {
                let other = self.faults.random.index(nodes + 1);
                if n != other {
                    let ways = self.faults.random.between(1, 3);
                    self.cut(n, other, ways, short);
                }
            }
            Fault::Isolate => self.isolate(n, short),
            Fault::IsolateCoordinator => self.isolate_coordinator(short),
            Fault::Pause => self.pause(n, short),
            Fault::PauseCoordinator => self.pause(coordinator, short),
            Fault::Crash => self.crash(n, 12_000_000),
            Fault::LoseMemory => self.lose_memory(n),
            Fault::Leave => self.leave(n, short),
            Fault::PowerCut => (0..nodes).for_each(|n| self.crash(n, 4_000_000)),
            Fault::LosePower => self.lose_power(),
            Fault::Decommission => {
                let (by, choice) = (self.faults.random.index(nodes), self.faults.random.below(1_000));
                self.decommission(n, by, choice);
            }
            Fault::Roll => self.roll(),
            Fault::FailDisk => self.fail_disk(n),
            Fault::StallDisk => self.stall_disk(n, short),
            Fault::FillDisk => self.fill_disk(n, short),
            Fault::FlipBit => self.flip_bit(n),
            Fault::CrashCoordinator => self.crash_coordinator_soon(),
            Fault::LoseState => {
                if !self.faults.memory_is_missing && !self.faults.state_is_lost && self.coordinator.state.is_some() {
                    self.lose_state();
                }
            }
            Fault::PutBackState => self.put_back_state(),
            Fault::Fork => self.fork(),
            Fault::Slow => {
                self.nodes[n].slowness = self.faults.random.spread(100, 20_000);
                self.schedule.after(short, Event::Remedy(Remedy::Quicken(n)));
            }
            Fault::SlowLink => {
                let other = self.faults.random.index(nodes + 1);
                let by = self.faults.random.spread(1_000, 300_000);
                self.network.slow_down(n, other, by);
                self.schedule.after(short, Event::Remedy(Remedy::QuickenLink(n, other)));
            }
            Fault::Strand => self.strand(n, short),
            Fault::ChangeClock => {
                let proc = self.faults.random.index(nodes + 1);
                self.change_clock(proc);
            }
        }
    }

    /// Cuts a node off from all others, and often from the coordinator as well.
    fn isolate(&mut self, n: usize, span: u64) {
        let nodes = self.nodes.len();
        let ways = self.faults.random.between(1, 3);
        let with_coordinator = self.faults.random.chance(500);
        for other in (0..=nodes).filter(|other| *other != n && (*other < nodes || with_coordinator)) {
            self.cut(n, other, ways, span);
        }
    }

    /// Cuts the coordinator off from all nodes, or from some.
    fn isolate_coordinator(&mut self, span: u64) {
        let (ways, all) = (self.faults.random.between(1, 3), self.faults.random.chance(400));
        for other in 0..self.nodes.len() {
            if all || self.faults.random.chance(500) {
                self.cut(self.coordinator_proc(), other, ways, span);
            }
        }
    }

    /// Everything from and to a node becomes slow, and a little later nobody hears it.
    fn strand(&mut self, n: usize, span: u64) {
        let by = self.faults.random.spread(50_000, 400_000);
        let silent_after = self.faults.random.spread(300_000, 3_000_000);
        for other in (0..=self.nodes.len()).filter(|other| *other != n) {
            self.network.slow_down(n, other, by);
            self.schedule.after(silent_after + span, Event::Remedy(Remedy::QuickenLink(n, other)));
        }
        self.schedule.after(silent_after, Event::Remedy(Remedy::Silence(n, span)));
    }

    /// Crashes a node's process, if it runs. It is started again after this long at most.
    fn crash(&mut self, n: usize, longest: u64) {
        if self.nodes[n].node.is_some() {
            self.stats.crashes += 1;
            self.crash_and_restart(n, SurvivingData::Everything, 0, longest);
        }
    }

    /// Crashes a node's process and starts it again, which takes the time of booting and this long at most.
    pub(crate) fn crash_and_restart(&mut self, n: usize, finds: SurvivingData, boot: u64, longest: u64) {
        self.crash_node(n, finds);
        let after = boot + self.faults.random.spread(50_000, longest);
        self.schedule.after(after, Event::Remedy(Remedy::StartNode(n)));
    }

    /// Crashes the coordinator, at once or between two of its next outputs.
    fn crash_coordinator_soon(&mut self) {
        if self.coordinator.state.is_none() {
            return;
        }
        self.stats.coordinator_crashes += 1;
        if self.faults.random.chance(600) {
            self.coordinator.outputs_left = Some(self.faults.random.below(6));
        } else {
            self.crash_coordinator();
            self.plan_coordinator_restart();
        }
    }

    /// The coordinator loses its state. Often some nodes cannot reach it when it comes back.
    fn lose_state(&mut self) {
        self.stats.state_losses += 1;
        self.crash_coordinator();
        self.coordinator.disk = None;
        self.faults.state_is_lost = true;
        self.plan_coordinator_restart();
        let coordinator = self.coordinator_proc();
        if self.faults.random.chance(500) {
            for n in 0..self.nodes.len() {
                if self.faults.random.chance(500) {
                    let span = self.faults.random.spread(500_000, 8_000_000);
                    self.cut(coordinator, n, 3, span);
                }
            }
        }
    }

    fn cut(&mut self, one: ProcId, other: ProcId, ways: u64, span: u64) {
        self.stats.cuts += 1;
        let (a, b) = (self.proc_name(one), self.proc_name(other));
        self.tell(None, || format!("cut {a} {} {b}", ["", "->", "<-", "<->"][ways as usize]));
        for (from, to) in [(one, other), (other, one)].into_iter().filter(|(from, _)| {
            let bit = if *from == one { 1 } else { 2 };
            ways & bit != 0
        }) {
            self.network.block(&mut self.schedule, from, to);
            self.schedule.after(span, Event::Remedy(Remedy::Uncut(from, to)));
        }
    }

    fn proc_name(&self, proc: ProcId) -> String {
        self.nodes.get(proc).map_or("coordinator".to_owned(), |process| process.name.clone())
    }

    pub(crate) fn pause(&mut self, proc: ProcId, span: u64) {
        let name = self.proc_name(proc);
        let is_paused = self.nodes.get_mut(proc).map_or(&mut self.coordinator.is_paused, |node| &mut node.is_paused);
        if std::mem::replace(is_paused, true) {
            return;
        }
        self.stats.pauses += 1;
        self.tell(None, || format!("pause {name} for {} ms", span / 1_000));
        self.schedule.after(span, Event::Remedy(Remedy::Resume(proc)));
    }

    /// The coordinator has asked for a hand-over, and may sleep longer than the primary waits for it to commit.
    pub(crate) fn sleep_at_hand_over(&mut self) {
        if self.schedule.now < self.faults.until && self.faults.random.chance(self.knobs.hand_over_pauses) {
            let span = self.faults.random.spread(900_000, 1_900_000);
            self.pause(self.coordinator_proc(), span);
        }
    }

    fn lose_memory(&mut self, n: usize) {
        if self.nodes[n].node.is_none() || !(self.is_whole() || self.knobs.wild_losses > 0) {
            return;
        }
        self.stats.memory_losses += 1;
        self.faults.memory_is_missing = true;
        self.crash_and_restart(n, SurvivingData::Nothing, 0, 12_000_000);
    }

    /// The power fails, often everywhere. Some processes may instead just crash, each at its own point.
    fn lose_power(&mut self) {
        if self.faults.random.chance(300) {
            return self.cut_power_at_calls();
        }
        let (everywhere, elsewhere) = (self.faults.random.chance(600), self.faults.random.chance(500));
        for n in 0..self.nodes.len() {
            let finds = match (everywhere || self.faults.random.chance(600), elsewhere) {
                (true, _) => SurvivingData::WhatWasSynced,
                (false, true) => SurvivingData::Everything,
                (false, false) => continue,
            };
            if self.nodes[n].node.is_some() {
                self.stats.crashes += u64::from(finds == SurvivingData::Everything);
                self.stats.power_losses += u64::from(finds == SurvivingData::WhatWasSynced);
                self.crash_and_restart(n, finds, BOOT, 8_000_000);
            }
        }
        if self.coordinator.state.is_some() && self.faults.random.chance(300) {
            self.stats.coordinator_crashes += 1;
            self.crash_coordinator();
            self.plan_coordinator_restart();
        }
    }

    fn leave(&mut self, n: usize, span: u64) {
        let someone_leaves = self.nodes.iter().any(|process| process.is_leaving && process.node.is_some());
        if self.nodes[n].node.is_none() || someone_leaves || self.nodes[n].is_paused {
            return;
        }
        let may_lose = self.is_whole() || self.knobs.wild_losses > 0;
        let finds =
            if may_lose && self.faults.random.chance(500) { SurvivingData::Nothing } else { SurvivingData::Everything };
        self.faults.memory_is_missing |= finds == SurvivingData::Nothing;
        self.stats.leaves += 1;
        let ends_within = if self.faults.random.chance(500) {
            self.stop_node(n, finds);
            3_500_000
        } else {
            self.leave_node(n, finds);
            1_300_000
        };
        // Until it is gone, nothing else that depends on it may be lost.
        self.faults.quiet_until = self.schedule.now + ends_within;
        self.schedule.after(100_000 + ends_within + span, Event::Remedy(Remedy::StartNode(n)));
    }

    fn change_clock(&mut self, proc: ProcId) {
        let now = self.schedule.now;
        let random = &mut self.faults.random;
        let wild = self.knobs.wild_clocks > 0;
        let drift = self.knobs.drift * EXACT / 1_000;
        let rate =
            if wild { random.between(EXACT / 3, EXACT * 3) } else { EXACT - drift + random.below(2 * drift + 1) };
        let jump = if wild && random.chance(300) { random.spread(10_000, 5_000_000) } else { 0 };
        let clock = self.nodes.get_mut(proc).map_or(&mut self.coordinator.clock, |node| &mut node.clock);
        clock.set_rate(now, rate);
        clock.jump(jump);
    }

    pub(crate) fn plan_coordinator_restart(&mut self) {
        let after = self.faults.random.spread(50_000, 5_000_000);
        self.schedule.after(after, Event::Remedy(Remedy::StartCoordinator));
    }

    /// Whether every slot has all the copies that it can have, all of them running: then one of them may lose its
    /// memory.
    pub(crate) fn is_whole(&self) -> bool {
        let Some(state) = &self.coordinator.state else { return false };
        let map = state.map();
        let wanted = (self.coordinator.replicas + 1).min(self.knobs.nodes as usize);
        wanted > 1
            && !self.faults.state_is_lost
            && map.version.0 > 0
            && map.slots().all(|(_, config)| {
                config.isr.len() >= wanted
                    && config.isr.iter().all(|member| {
                        let holder = self.oracle.holder(*member).map(|n| &self.nodes[n]);
                        holder
                            .and_then(|process| process.node.as_ref())
                            .is_some_and(|node| node.incarnation() == *member)
                    })
            })
    }

    /// Whether no map, of the coordinator or of a node, names anybody whose memory is lost, or is about to be because
    /// it leaves. A coordinator without state would wait for such a node until an operator intervenes.
    pub(crate) fn nobody_is_missed(&self) -> bool {
        let is_somewhere = |map: &ClusterMap| map.members().all(|(member, _)| self.oracle.is_somewhere(member));
        let mut kept = self.nodes.iter().filter_map(|process| process.data()?.map());
        self.coordinator
            .state
            .as_ref()
            .is_some_and(|state| is_somewhere(state.map()) && state.leaving().next().is_none())
            && kept.all(|map| is_somewhere(&map))
    }

    pub(crate) fn remedy(&mut self, remedy: Remedy) {
        if let Remedy::StartAnew(n) = remedy {
            return self.start_node(n);
        }
        if self.faults.is_over {
            return;
        }
        match remedy {
            Remedy::Uncut(from, to) => self.network.unblock(&mut self.schedule, from, to),
            Remedy::Resume(proc) => self.go_on(proc),
            Remedy::StartNode(n) | Remedy::StartAnew(n) => self.start_node(n),
            Remedy::PutBackCopy => self.put_back_copy(),
            Remedy::Steady(n) => self.nodes[n].store.slowness = 0,
            Remedy::MakeRoom(n) => self.nodes[n].store.limit(None),
            Remedy::StartCoordinator => self.restart_coordinator(),
            Remedy::Restart(proc) => self.restart_in_turn(proc),
            Remedy::Quicken(n) => self.nodes[n].slowness = 0,
            Remedy::QuickenLink(one, other) => self.network.slow_down(one, other, 0),
            Remedy::Silence(n, span) => {
                for other in (0..=self.nodes.len()).filter(|other| *other != n) {
                    self.cut(n, other, 1, span);
                }
            }
        }
    }

    /// Resumes a paused process.
    pub(crate) fn go_on(&mut self, proc: ProcId) {
        let (is_paused, deferred) = match self.nodes.get_mut(proc) {
            Some(process) => (&mut process.is_paused, &mut process.deferred),
            None => (&mut self.coordinator.is_paused, &mut self.coordinator.deferred),
        };
        if !std::mem::replace(is_paused, false) {
            return;
        }
        let deferred = std::mem::take(deferred);
        let name = self.proc_name(proc);
        self.tell(None, || format!("{name} goes on"));
        deferred.into_iter().for_each(|event| self.schedule.after(0, event));
        self.network.resume_process(&mut self.schedule, proc);
    }

    fn restart_coordinator(&mut self) {
        if self.coordinator.state.is_some() {
            return;
        }
        if self.coordinator.disk.is_none() && self.stats.state_losses > 0 {
            let coordinator = self.coordinator_proc();
            let reaches =
                |n: usize| !self.network.is_blocked(n, coordinator) && !self.network.is_blocked(coordinator, n);
            let has_map = (0..self.nodes.len()).any(|n| {
                let process = &self.nodes[n];
                // It may take long to find out that an old session is over.
                let joins = !process.is_paused && !process.is_registered() && reaches(n);
                process.node.as_ref().is_some_and(|node| joins && node.map().is_some())
            });
            if !has_map {
                return self.schedule.after(500_000, Event::Remedy(Remedy::StartCoordinator));
            }
            self.faults.quiet_until = self.schedule.now + 2_500_000;
        }
        self.start_coordinator();
    }

    /// Ends all faults.
    pub(crate) fn end_faults(&mut self) {
        self.faults.is_over = true;
        self.tell(None, || "all faults end".to_owned());
        self.network.heal(&mut self.schedule);
        for proc in 0..=self.nodes.len() {
            let now = self.schedule.now;
            let clock = self.nodes.get_mut(proc).map_or(&mut self.coordinator.clock, |node| &mut node.clock);
            clock.set_rate(now, EXACT);
            self.go_on(proc);
        }
        self.knobs.client_loss = 0;
        self.coordinator.outputs_left = None;
        for n in 0..self.nodes.len() {
            self.nodes[n].slowness = 0;
            self.nodes[n].store.heal();
            if self.nodes[n].is_leaving {
                self.has_left(n);
            }
            self.start_node(n);
        }
        if self.coordinator.state.is_none() {
            self.start_coordinator();
        }
    }
}
