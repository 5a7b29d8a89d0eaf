//! What a seed chooses: how large the cluster is, what its clients do, and which faults there are, each with a name by
//! which it can be set by hand to narrow a failure down.

use std::fmt;

use crate::random::Random;

macro_rules! knobs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The knobs. All are whole numbers; 0 turns a fault off.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Knobs { $($(#[$doc])* pub $name: u64,)* }

        impl Knobs {
            const NONE: Self = Self { $($name: 0,)* };

            /// Sets a knob by its name; `false` where there is none of this name.
            pub fn set(&mut self, name: &str, value: u64) -> bool {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => return false,
                }
                true
            }
        }

        impl fmt::Display for Knobs {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut blank = "";
                $(if self.$name > 0 {
                    write!(f, "{blank}{}={}", stringify!($name), self.$name)?;
                    blank = " ";
                })*
                let _ = blank;
                Ok(())
            }
        }
    };
}

knobs! {
    /// Nodes from the beginning.
    nodes,
    /// Nodes that join later.
    late_nodes,
    /// Bits of a slot's number.
    bits,
    /// Copies beside the primary.
    replicas,
    /// Clients.
    clients,
    /// The longest pause of a client between two operations, in microseconds.
    think,
    /// Keys whose histories are judged.
    keys,
    /// Of a thousand operations, how many are on keys that only answer at once.
    async_share,
    /// Of a thousand writes, how many carry an identity and are retried.
    identity_share,
    /// How many messages may wait for a replica.
    queue_items,
    /// How many bytes of records a node keeps to bring replicas level.
    tail_bytes,
    /// After what time of silence a node is taken off the ring, in milliseconds.
    heartbeat_timeout,
    /// How long faults go on, in milliseconds.
    fault_time,
    /// The mean time between two faults, in milliseconds.
    fault_every,
    /// The longest delay of a packet on a good day, in microseconds.
    delay,
    /// Of a thousand packets, how many take up to a hundred times as long.
    spikes,
    /// Of a thousand packets, how many come in two pieces.
    fragments,
    /// Of a million packets, how many are lost, and their connection with them.
    loss,
    /// Of a thousand requests of clients, how many are lost.
    client_loss,
    /// How wrong clocks are at most, in parts of a thousand.
    drift,
    /// How far wall clocks are apart at most, in milliseconds.
    wall_skew,
    /// Of a thousand writes, how many have to do with deadlines.
    expiry_share,
    /// The longest time that a value is given to live, in milliseconds.
    longest_life,
    /// How often a connection is broken.
    breaks,
    /// How often a pair of processes is cut, one way or both.
    cuts,
    /// How often a node is cut off from everybody.
    isolations,
    /// How often the coordinator is cut off from some or all.
    coordinator_isolations,
    /// How often a node is paused.
    pauses,
    /// How often the coordinator is paused.
    coordinator_pauses,
    /// How many in a thousand hand-overs find the coordinator asleep for longer than their primary waits.
    hand_over_pauses,
    /// How often a node crashes and comes back with its disk.
    crashes,
    /// How often a node crashes and comes back with nothing.
    memory_losses,
    /// How often a node stops on purpose.
    leaves,
    /// How often all nodes crash at once, with their disks.
    power_cuts,
    /// How often machines lose their power, some or all, and nodes come back with what was on their platters.
    power_losses,
    /// How often nodes sync what they have written, in milliseconds; 0: before anybody hears of it.
    sync_every,
    /// How large the segments of a node's log are, in bytes; after as much a snapshot is made.
    segment_bytes,
    /// How often a call to a disk to come fails.
    disk_errors,
    /// How often a disk becomes slow, up to hanging.
    disk_stalls,
    /// How often a disk becomes full.
    full_disks,
    /// How often a bit turns over on a disk.
    bit_flips,
    /// One in so many writes to disks takes only a part; 0 for none.
    short_writes,
    /// How many in a thousand starts crash at some call to their disk.
    crashed_starts,
    /// How often the coordinator crashes and comes back with its state.
    coordinator_crashes,
    /// How often the coordinator crashes and comes back without.
    state_losses,
    /// How often a node becomes slow.
    slowness,
    /// How often a pair's connections become slow.
    slow_links,
    /// How often a node becomes far from all others, and then is heard by none, while it hears what is under way.
    strandings,
    /// How often a clock changes its rate.
    clock_changes,
    /// Clocks are so wrong that leases do not hold: what rests on them is not checked.
    wild_clocks,
    /// Memory may be lost anywhere at any time, so that whole slots are.
    wild_losses,
    /// At the end every coordinator is down for so long, in milliseconds.
    outage,
    /// At the end one node is paused for ever.
    paused_for_ever,
    /// At the end one node's disk hangs for ever.
    hung_for_ever,
    /// Clients that walk through all keys, page by page.
    walkers,
    /// How much memory the keys of a node may take, in bytes.
    max_memory,
    /// Keys are evicted where there is no more.
    evict,
    /// Of a thousand operations on keys that are judged, how many are read-modify-writes.
    modify_share,
    /// In what time nodes compare the copies of all their slots, in milliseconds. At the end a copy is damaged.
    compare_every,
    /// How often an operator decommissions a node, or takes that back, or replaces one.
    decommissions,
    /// After what time of absence others are filled in a node's place, in milliseconds.
    replace_after,
    /// How often all processes are restarted one after the other.
    rolling_restarts,
    /// At the end all of them are, and no request may fail.
    rolling_at_end,
    /// Of how many slots copies are filled at one time; 0 for any number.
    moves_at_once,
    /// Whether nodes have more than one share, some twice or three times that of others.
    weights,
    /// How many come under the names of others.
    impostors,
    /// How often the coordinator is started with a copy of an older state.
    states_put_back,
    /// Of a thousand operations, after how many a write of long ago is tried again.
    old_retries,
}

impl Knobs {
    /// The knobs of a seed. Each seed has some faults and not the others: a cluster that suffers all at once never comes
    /// far (Groce et al., "Swarm testing", ISSTA 2012).
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6b6e_6f62_7300);
        let random = &mut random;
        let nodes = random.between(3, 5);
        let late_nodes = if nodes > 3 && random.chance(300) { random.between(1, nodes - 3) } else { 0 };
        let mut knobs = Self {
            nodes: nodes - late_nodes,
            late_nodes,
            bits: random.between(2, 4),
            replicas: random.pick(&[2, 2, 2, 2, 2, 2, 1, 0]),
            clients: random.between(3, 8),
            think: random.spread(5_000, 80_000),
            keys: random.between(4, 12),
            async_share: random.between(0, 500),
            identity_share: random.between(200, 900),
            heartbeat_timeout: random.pick(&[3_000, 4_000, 6_000, 10_000]),
            fault_time: 30_000,
            fault_every: random.spread(200, 6_000),
            delay: random.spread(200, 4_000),
            client_loss: random.pick(&[0, 0, 5, 20]),
            drift: random.pick(&[0, 50, 100, 100]),
            ..Self::NONE
        };
        if random.chance(200) {
            knobs.queue_items = random.spread(20, 400);
        }
        if random.chance(200) {
            knobs.tail_bytes = random.spread(200, 8_000);
        }
        if random.chance(50) {
            knobs.fault_every = 0; // A cluster in peace, which must do everything at once.
            knobs.client_loss = 0;
        }
        let mut weight = |share: u64, most: u64| if random.chance(share) { random.between(1, most) } else { 0 };
        knobs.spikes = weight(400, 20);
        knobs.fragments = weight(500, 100);
        knobs.loss = weight(400, 400);
        knobs.breaks = weight(500, 10);
        knobs.cuts = weight(600, 10);
        knobs.isolations = weight(500, 6);
        knobs.coordinator_isolations = weight(400, 5);
        knobs.pauses = weight(600, 8);
        knobs.coordinator_pauses = weight(300, 4);
        knobs.hand_over_pauses = weight(150, 300);
        knobs.crashes = weight(500, 6);
        knobs.memory_losses = weight(500, 6);
        knobs.leaves = weight(300, 4);
        knobs.power_cuts = weight(80, 2);
        knobs.coordinator_crashes = weight(400, 5);
        knobs.state_losses = weight(150, 4);
        knobs.slowness = weight(300, 4);
        knobs.slow_links = weight(300, 5);
        knobs.clock_changes = weight(400, 4);
        if random.chance(60) {
            knobs.wild_clocks = 1;
        }
        if random.chance(60) {
            knobs.wild_losses = 1;
            knobs.state_losses = 0; // Both at once is more than is promised.
        }
        if random.chance(250) {
            knobs.outage = 3_000;
        } else if random.chance(250) {
            knobs.paused_for_ever = 1;
        }
        if random.chance(200) {
            knobs.power_losses = random.between(1, 4);
            knobs.sync_every = random.pick(&[30, 300, 1_000, 10_000]);
        }
        knobs.draw_disks(seed);
        // The rest is drawn apart, so that whoever walks or has deadlines does not change what the other seeds are.
        let mut random = Random::new(seed ^ 0x6578_7069_7279);
        if random.chance(600) {
            knobs.wall_skew = random.pick(&[0, 20, 300, 2_000]);
            knobs.expiry_share = random.between(50, 500);
            knobs.longest_life = random.spread(20, 2_000);
        }
        let mut random = Random::new(seed ^ 0x6c65_6173_6573);
        if random.chance(150) {
            knobs.strandings = random.between(1, 8);
        }
        let mut random = Random::new(seed ^ 0x7761_6c6b_6572);
        if random.chance(400) {
            knobs.walkers = random.between(1, 3);
        }
        let mut random = Random::new(seed ^ 0x6d65_6d6f_7279);
        if random.chance(150) {
            knobs.max_memory = random.between(600, 3_000);
            knobs.evict = u64::from(random.chance(700));
        }
        // Whoever modifies draws otherwise from there on: some seeds do, and the others stay as they are.
        if seed % 8 == 7 {
            knobs.modify_share = Random::new(seed ^ 0x6d6f_6469_6679).between(100, 600);
        }
        // A number by which the seeds that find rare mistakes are as they were.
        let mut random = Random::new(seed ^ 0x636d_7061_4f4f_7534);
        if random.chance(300) {
            knobs.compare_every = random.pick(&[100, 300, 1_000, 5_000]);
        }
        let mut random = Random::new(seed ^ 0x6d6f_7665_7300);
        knobs.replace_after = random.pick(&[0, 0, 500, 2_000, 5_000, 30_000]);
        if random.chance(300) {
            knobs.decommissions = random.between(1, 8);
        }
        knobs.weights = random.pick(&[0, 0, 1, 2]);
        let mut random = Random::new(seed ^ 0x726f_6c6c_696e_6700);
        knobs.rolling_restarts = u64::from(random.chance(150));
        knobs.rolling_at_end = u64::from(random.chance(300));
        let mut random = Random::new(seed ^ 0x6f6c_6472_6574_7279);
        // Elsewhere what was answered may be lost, and is then done for the first time.
        let keeps_all = knobs.wild_losses == 0 && knobs.wild_clocks == 0 && knobs.power_losses == 0;
        if keeps_all && random.chance(500) {
            knobs.old_retries = random.between(50, 300);
        }
        let mut random = Random::new(seed ^ 0x6f6c_6473_7461_7465);
        let map_may_be_old = knobs.power_losses > 0 || knobs.crashed_starts > 0 || knobs.bit_flips > 0;
        if random.chance(120) && knobs.wild_losses == 0 && !map_may_be_old {
            knobs.states_put_back = random.between(1, 6);
        }
        let mut random = Random::new(seed ^ 0x696d_706f_7374);
        if random.chance(400) {
            knobs.impostors = random.between(1, 30);
        }
        knobs.moves_at_once = Random::new(seed ^ 0x6174_6f6e_6365).pick(&[0, 0, 0, 1, 2, 4]);
        knobs
    }

    fn draw_disks(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ 0x6469_736b);
        let always = random.chance(500);
        if self.power_losses == 0 {
            self.sync_every = if always { 0 } else { random.pick(&[100, 1_000]) };
            if always && random.chance(250) {
                self.power_losses = random.between(1, 4);
            }
        } else if always {
            self.sync_every = 0;
        }
        self.segment_bytes =
            if random.chance(250) { random.spread(1_024, 8_192) } else { random.spread(16_384, 131_072) };
        let mut weight = |share: u64, most: u64| if random.chance(share) { random.between(1, most) } else { 0 };
        self.disk_errors = weight(150, 4);
        self.disk_stalls = weight(150, 6);
        self.full_disks = weight(120, 4);
        self.bit_flips = weight(120, 3);
        self.short_writes = weight(250, 20);
        self.crashed_starts = weight(200, 300);
        self.hung_for_ever = weight(300, 1);
        if self.power_losses > 0 || self.crashed_starts > 0 || self.bit_flips > 0 {
            self.state_losses = 0; // A map that nodes have kept may be too old to tell whose copies count.
        }
    }

    /// All nodes, those that join later among them.
    #[must_use]
    pub fn all_nodes(&self) -> usize {
        (self.nodes + self.late_nodes) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knob_is_set_by_the_name_under_which_it_is_shown() {
        let mut knobs = Knobs::of(7);
        assert_eq!(knobs, Knobs::of(7));
        assert!(knobs.set("pauses", 77) && !knobs.set("paws", 1));
        assert!(knobs.to_string().contains("pauses=77"));
    }
}
