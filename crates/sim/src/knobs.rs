//! What a seed chooses: the size of the cluster, what its clients do, and which faults there are. Each choice has a
//! name, by which it can be set by hand to narrow down a failure.

use std::fmt;

use seeded::Random;

macro_rules! knobs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The knobs. All are integers; 0 turns a fault off.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Knobs { $($(#[$doc])* pub $name: u64,)* }

        impl Knobs {
            const NONE: Self = Self { $($name: 0,)* };

            /// Sets a knob by name; returns `false` if there is no knob of that name.
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
    /// Nodes present from the beginning.
    nodes,
    /// Nodes that join later.
    late_nodes,
    /// The number of bits of a slot number.
    bits,
    /// Copies besides the primary.
    replicas,
    /// The number of clients.
    clients,
    /// The longest pause of a client between two operations, in microseconds.
    think,
    /// The number of keys whose histories are judged.
    keys,
    /// How many in a thousand operations are on keys that are written at level `async`.
    async_share,
    /// How many in a thousand writes carry an identity and are retried.
    identity_share,
    /// How many messages may be queued for a replica.
    queue_items,
    /// How many bytes of records a node keeps for bringing replicas up to date.
    tail_bytes,
    /// After how much silence a node is taken off the ring, in milliseconds.
    heartbeat_timeout,
    /// How long faults last, in milliseconds.
    fault_time,
    /// The mean time between two faults, in milliseconds.
    fault_every,
    /// The longest normal delay of a packet, in microseconds.
    delay,
    /// How many in a thousand packets take up to a hundred times as long.
    spikes,
    /// How many in a thousand packets arrive in two pieces.
    fragments,
    /// How many in a million packets are lost, and their connections with them.
    loss,
    /// How many in a thousand client requests are lost.
    client_loss,
    /// The maximum error of clock rates, in parts per thousand.
    drift,
    /// The maximum difference between wall clocks, in milliseconds.
    wall_skew,
    /// How many in a thousand writes involve deadlines.
    expiry_share,
    /// The longest time to live of a value, in milliseconds.
    longest_life,
    /// How often a connection is broken.
    breaks,
    /// How often the network is cut between two processes, one way or both.
    cuts,
    /// How often a node is cut off from everybody.
    isolations,
    /// How often the coordinator is cut off from some or all nodes.
    coordinator_isolations,
    /// How often a node is paused.
    pauses,
    /// How often the coordinator is paused.
    coordinator_pauses,
    /// How many in a thousand hand-overs find the coordinator asleep for longer than the primary waits.
    hand_over_pauses,
    /// How often a node crashes and comes back with its disk.
    crashes,
    /// How often a node crashes and comes back with nothing.
    memory_losses,
    /// How often a node is stopped on purpose.
    leaves,
    /// How often all nodes crash at once and keep their disks.
    power_cuts,
    /// How often some or all machines lose power, and nodes come back with what was on the platters.
    power_losses,
    /// How often nodes sync what they have written, in milliseconds; 0: before anybody hears of it.
    sync_every,
    /// The size of the segments of a node's log, in bytes; a snapshot is made after as much.
    segment_bytes,
    /// How often a future disk call fails.
    disk_errors,
    /// How often a disk becomes slow, up to hanging.
    disk_stalls,
    /// How often a disk becomes full.
    full_disks,
    /// How often a bit flips on a disk.
    bit_flips,
    /// One in this many disk writes is cut short; 0 for none.
    short_writes,
    /// How many in a thousand starts crash at some disk call.
    crashed_starts,
    /// How often the coordinator crashes and comes back with its state.
    coordinator_crashes,
    /// How many in a thousand starts of the coordinator are with other settings.
    settings_changes,
    /// How often the coordinator crashes and comes back without its state.
    state_losses,
    /// How often a node becomes slow.
    slowness,
    /// How often the connections between two processes become slow.
    slow_links,
    /// How often a node becomes far away from all others, and is then heard by none, while it still hears what is in
    /// flight.
    strandings,
    /// How often a clock changes its rate.
    clock_changes,
    /// Clocks are so wrong that leases do not hold: what depends on leases is not checked.
    wild_clocks,
    /// Memory may be lost anywhere at any time, so that whole slots are lost.
    wild_losses,
    /// At the end, every coordinator is down for this long, in milliseconds.
    outage,
    /// At the end, one node is paused forever.
    paused_for_ever,
    /// At the end, one node's disk hangs forever.
    hung_for_ever,
    /// The number of clients that walk through all keys, page by page.
    walkers,
    /// How much memory the keys of a node may take, in bytes.
    max_memory,
    /// Keys are evicted when memory is full.
    evict,
    /// How many in a thousand operations on judged keys are read-modify-writes.
    modify_share,
    /// How many in a thousand operations on judged keys write several of them together.
    multi_share,
    /// The period in which nodes compare the copies of all their slots, in milliseconds. At the end a copy is damaged.
    compare_every,
    /// How often an operator decommissions a node, takes that back, or replaces a node.
    decommissions,
    /// After how long an absence a node's copies are replaced by filling others, in milliseconds.
    replace_after,
    /// How often all processes are restarted, one after the other.
    rolling_restarts,
    /// At the end, all processes are restarted so, and no request may fail.
    rolling_at_end,
    /// How many slots may have copies being filled at one time; 0 for any number.
    moves_at_once,
    /// Whether nodes have more than one share, some two or three times that of others.
    weights,
    /// How many impostors use the names of other nodes.
    impostors,
    /// How often the coordinator is started with a copy of an older state.
    states_put_back,
    /// How often a copy of the coordinator's state is put back after it went on with some of the nodes.
    forks,
    /// After how many in a thousand operations a write of long ago is retried.
    old_retries,
    /// How many times an operator takes a node off the ring.
    unregistrations,
    /// How many in a thousand times that an operator sees slots that nobody can lead, they are to go on without what
    /// their members hold.
    accepted_losses,
}

impl Knobs {
    /// The knobs of a seed. Each seed has some faults and not others: a cluster that suffers all of them at once never
    /// gets far (Groce et al., "Swarm testing", ISSTA 2012).
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
            replicas: random.one_of(&[2, 2, 2, 2, 2, 2, 1, 0]),
            clients: random.between(3, 8),
            think: random.spread(5_000, 80_000),
            keys: random.between(4, 12),
            async_share: random.between(0, 500),
            identity_share: random.between(200, 900),
            heartbeat_timeout: random.one_of(&[3_000, 4_000, 6_000, 10_000]),
            fault_time: 30_000,
            fault_every: random.spread(200, 6_000),
            delay: random.spread(200, 4_000),
            client_loss: random.one_of(&[0, 0, 5, 20]),
            drift: random.one_of(&[0, 50, 100, 100]),
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
            knobs.sync_every = random.one_of(&[30, 300, 1_000, 10_000]);
        }
        knobs.draw_disks(seed);
        knobs.draw_separately(seed);
        knobs
    }

    /// The rest is drawn so that adding walkers or deadlines does not change what other seeds do.
    fn draw_separately(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ 0x6578_7069_7279);
        if random.chance(600) {
            self.wall_skew = random.one_of(&[0, 20, 300, 2_000]);
            self.expiry_share = random.between(50, 500);
            self.longest_life = random.spread(20, 2_000);
        }
        let mut random = Random::new(seed ^ 0x6c65_6173_6573);
        if random.chance(150) {
            self.strandings = random.between(1, 8);
        }
        let mut random = Random::new(seed ^ 0x7761_6c6b_6572);
        if random.chance(400) {
            self.walkers = random.between(1, 3);
        }
        let mut random = Random::new(seed ^ 0x6d65_6d6f_7279);
        if random.chance(150) {
            self.max_memory = random.between(600, 3_000);
            self.evict = u64::from(random.chance(700));
        }
        // Modifying clients change all later draws: some seeds have them, and the others stay the same.
        if seed % 8 == 7 {
            self.modify_share = Random::new(seed ^ 0x6d6f_6469_6679).between(100, 600);
        }
        // This constant was chosen so that the seeds that find rare bugs still find them.
        let mut random = Random::new(seed ^ 0x636d_7061_4f4f_7534);
        if random.chance(300) {
            self.compare_every = random.one_of(&[100, 300, 1_000, 5_000]);
        }
        let mut random = Random::new(seed ^ 0x6d6f_7665_7300);
        self.replace_after = random.one_of(&[0, 0, 500, 2_000, 5_000, 30_000]);
        if random.chance(300) {
            self.decommissions = random.between(1, 8);
        }
        self.weights = random.one_of(&[0, 0, 1, 2]);
        let mut random = Random::new(seed ^ 0x726f_6c6c_696e_6700);
        self.rolling_restarts = u64::from(random.chance(150));
        self.rolling_at_end = u64::from(random.chance(300));
        let mut random = Random::new(seed ^ 0x6f6c_6472_6574_7279);
        // Otherwise an answered write may be lost, and its retry then takes effect for the first time.
        let keeps_all = self.wild_losses == 0 && self.wild_clocks == 0 && self.power_losses == 0;
        if keeps_all && random.chance(500) {
            self.old_retries = random.between(50, 300);
        }
        let mut random = Random::new(seed ^ 0x6f6c_6473_7461_7465);
        let map_may_be_old = self.power_losses > 0 || self.crashed_starts > 0 || self.bit_flips > 0;
        if random.chance(120) && self.wild_losses == 0 && !map_may_be_old {
            self.states_put_back = random.between(1, 6);
        }
        let mut random = Random::new(seed ^ 0x696d_706f_7374);
        if random.chance(400) {
            self.impostors = random.between(1, 30);
        }
        let mut random = Random::new(seed ^ 0x756e_7265_6770);
        if random.chance(250) && self.wild_losses == 0 {
            self.unregistrations = random.between(1, 6);
            if !map_may_be_old && random.chance(700) {
                self.state_losses = random.between(1, 6);
            }
        }
        let mut random = Random::new(seed ^ 0x6163_6365_7074);
        if self.old_retries == 0 && random.chance(150) {
            self.accepted_losses = random.between(20, 600);
        }
        let mut random = Random::new(seed ^ 0x666f_726b_7300);
        let keeps_maps = self.wild_losses == 0 && !map_may_be_old && self.states_put_back == 0;
        if keeps_maps && self.old_retries == 0 && self.accepted_losses == 0 && random.chance(500) {
            self.forks = random.between(5, 60);
        }
        self.moves_at_once = Random::new(seed ^ 0x6174_6f6e_6365).one_of(&[0, 0, 0, 1, 2, 4]);
        let mut random = Random::new(seed ^ 0x6d75_6c74_6900);
        if random.chance(300) {
            self.multi_share = random.between(100, 800);
        }
        if Random::new(seed ^ 0x7365_7474_696e).chance(400) {
            self.settings_changes = 500;
        }
    }

    fn draw_disks(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ 0x6469_736b);
        let always = random.chance(500);
        if self.power_losses == 0 {
            self.sync_every = if always { 0 } else { random.one_of(&[100, 1_000]) };
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

    /// All nodes, including those that join later.
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
