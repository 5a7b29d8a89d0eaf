//! The faults: what each one does, and how it ends.

use std::time::Duration;

use seeded::Random;

use crate::cluster::Cluster;
use crate::network::OUTSIDE;
/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A node is killed and later restarted. Its memory is lost.
    KillNode,
    /// A node is asked to stop and later restarted. Its memory is lost.
    StopNode,
    /// A node is frozen.
    PauseNode,
    /// The coordinator is killed and later restarted with its state.
    KillCoordinator,
    /// The coordinator is frozen.
    PauseCoordinator,
    /// Nothing gets from one server to another.
    CutOneWay,
    /// Nothing gets through between two servers, in either direction.
    CutBothWays,
    /// Nothing gets through between one node and the other nodes. The coordinator and clients still reach it.
    IsolateFromNodes,
    /// Nothing gets through between one server and all the others. Clients still reach it.
    IsolateFromServers,
    /// Nothing gets through between one server and anybody else.
    IsolateFromAll,
}

/// A fault of one kind, and its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    kind: Kind,
    server: usize,
    /// The cuts: from which host, to which host.
    cuts: Vec<(usize, usize)>,
}

/// All kinds with their weights.
const KINDS: [(Kind, usize); 10] = [
    (Kind::KillNode, 5),
    (Kind::StopNode, 2),
    (Kind::PauseNode, 5),
    (Kind::KillCoordinator, 2),
    (Kind::PauseCoordinator, 2),
    (Kind::CutOneWay, 3),
    (Kind::CutBothWays, 3),
    (Kind::IsolateFromNodes, 3),
    (Kind::IsolateFromServers, 3),
    (Kind::IsolateFromAll, 2),
];

/// How many cuts and absences of a thousand outlast the time after which a node is taken off the ring.
const LONG_PER_MILLE: u64 = 80;

/// The range of such a long fault, in milliseconds.
const LONG: (u64, u64) = (10_500, 13_000);

impl Kind {
    /// Chooses among all kinds, or among those that need no network.
    pub(crate) fn choose(random: &mut Random, with_cuts: bool) -> Self {
        let kinds: Vec<Self> = KINDS
            .iter()
            .filter(|(kind, _)| with_cuts || !kind.is_cut())
            .flat_map(|&(kind, weight)| std::iter::repeat_n(kind, weight))
            .collect();
        *random.pick(&kinds).expect("there are kinds that need no network")
    }

    /// Whether a node loses what it held.
    pub(crate) fn loses_memory(self) -> bool {
        matches!(self, Self::KillNode | Self::StopNode)
    }

    /// The name of this kind in the measurement of writes; `None` if it is not measured.
    pub(crate) fn measured(self) -> Option<&'static str> {
        match self {
            Self::KillNode => Some("node killed"),
            Self::StopNode => Some("node asked to stop"),
            Self::PauseNode => Some("node paused"),
            Self::IsolateFromNodes => Some("node cut off from nodes"),
            _ => None,
        }
    }

    fn is_cut(self) -> bool {
        matches!(
            self,
            Self::CutOneWay
                | Self::CutBothWays
                | Self::IsolateFromNodes
                | Self::IsolateFromServers
                | Self::IsolateFromAll
        )
    }
}

impl Fault {
    /// Chooses the target of a fault; `None` if there is none.
    pub(crate) fn choose(kind: Kind, cluster: &Cluster, random: &mut Random) -> Option<Self> {
        let (nodes, coordinator) = (cluster.nodes(), cluster.nodes());
        // Leave alone a server that was restarted and does not serve yet: it has lost nothing but time.
        let is_well = |server: usize| cluster.server(server).has_started() && !cluster.server(server).is_paused();
        let server = match kind {
            Kind::KillCoordinator | Kind::PauseCoordinator => coordinator,
            Kind::KillNode | Kind::StopNode | Kind::PauseNode => {
                *random.pick(&(0..nodes).filter(|&node| is_well(node)).collect::<Vec<_>>())?
            }
            Kind::IsolateFromNodes => random.index(nodes),
            _ => random.index(nodes + 1),
        };
        if !kind.is_cut() && !is_well(server) {
            return None;
        }
        let others = (0..=nodes).filter(|&other| other != server);
        let both_ways = |other| [(other, server), (server, other)];
        let cuts = match kind {
            Kind::IsolateFromNodes => others.filter(|&other| other < nodes).flat_map(both_ways).collect(),
            Kind::IsolateFromServers => others.flat_map(both_ways).collect(),
            Kind::IsolateFromAll => others.chain([OUTSIDE]).flat_map(both_ways).collect(),
            Kind::CutOneWay | Kind::CutBothWays => {
                let other = *random.pick(&others.collect::<Vec<_>>())?;
                let ways = if kind == Kind::CutOneWay { 1 } else { 2 };
                both_ways(other).into_iter().take(ways).collect()
            }
            _ => Vec::new(),
        };
        Some(Self { kind, server, cuts })
    }

    /// Chooses how long the fault lasts.
    pub(crate) fn time(&self, random: &mut Random) -> Duration {
        let may_be_long = !matches!(self.kind, Kind::PauseNode | Kind::PauseCoordinator);
        if may_be_long && random.chance(LONG_PER_MILLE) {
            return Duration::from_millis(random.between(LONG.0, LONG.1));
        }
        match self.kind {
            Kind::KillNode | Kind::StopNode | Kind::KillCoordinator => Duration::from_millis(random.between(0, 3_000)),
            _ => Duration::from_millis(random.between(200, 5_000)),
        }
    }

    /// The node that is hit.
    pub(crate) fn node(&self) -> Option<usize> {
        (!matches!(self.kind, Kind::KillCoordinator | Kind::PauseCoordinator)).then_some(self.server)
    }

    /// Injects the fault.
    pub(crate) fn begin(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        if self.kind.loses_memory() {
            cluster.will_forget(self.server);
        }
        match self.kind {
            Kind::KillNode | Kind::KillCoordinator => cluster.server_mut(self.server).kill(),
            Kind::PauseNode | Kind::PauseCoordinator => cluster.server_mut(self.server).pause(),
            Kind::StopNode => cluster.server_mut(self.server).terminate(),
            _ => self.cuts.iter().try_for_each(|&(from, to)| cluster.network.cut(from, to)),
        }
    }

    /// Whether the fault can be ended: a server that was asked to stop must have done so.
    pub(crate) fn can_end(&self, cluster: &Cluster) -> bool {
        self.kind != Kind::StopNode || !cluster.server(self.server).is_running()
    }

    /// For a fault that ends by starting or resuming its server: whether that server is no longer in the state the
    /// fault left it in.
    fn is_overtaken(&self, cluster: &Cluster) -> bool {
        let server = cluster.server(self.server);
        match self.kind {
            Kind::KillNode | Kind::StopNode | Kind::KillCoordinator => server.is_running(),
            Kind::PauseNode | Kind::PauseCoordinator => !server.is_paused(),
            _ => false,
        }
    }

    /// Ends the fault.
    pub(crate) fn end(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        match self.kind {
            // The end of another fault may have restarted the server already.
            _ if self.is_overtaken(cluster) => Ok(()),
            Kind::KillNode | Kind::StopNode | Kind::KillCoordinator => cluster.start_server(self.server),
            Kind::PauseNode | Kind::PauseCoordinator => cluster.server_mut(self.server).resume(),
            _ => self.cuts.iter().try_for_each(|&(from, to)| cluster.network.heal(from, to)),
        }
    }

    /// A human-readable description.
    pub(crate) fn describe(&self, cluster: &Cluster) -> String {
        let name = |server: usize| cluster.server(server).name.clone();
        let server = name(self.server);
        match self.kind {
            Kind::KillNode | Kind::KillCoordinator => format!("kill {server}"),
            Kind::StopNode => format!("stop {server} by SIGTERM"),
            Kind::PauseNode | Kind::PauseCoordinator => format!("pause {server}"),
            Kind::IsolateFromNodes => format!("isolate {server} from the other nodes"),
            Kind::IsolateFromServers => format!("isolate {server} from the other servers"),
            Kind::IsolateFromAll => format!("isolate {server} from everybody"),
            Kind::CutOneWay | Kind::CutBothWays => {
                let other = self.cuts.first().map_or_else(String::new, |&(from, _)| name(from));
                let arrow = if self.kind == Kind::CutOneWay { "to" } else { "to and from" };
                format!("cut {other} {arrow} {server}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_chosen_and_none_that_needs_a_network_without_one() {
        let mut random = Random::new(1);
        let chosen =
            |with_cuts, random: &mut Random| (0..2_000).map(|_| Kind::choose(random, with_cuts)).collect::<Vec<_>>();
        let all = chosen(true, &mut random);
        assert!(KINDS.iter().all(|(kind, _)| all.contains(kind)));
        assert!(chosen(false, &mut random).iter().all(|kind| !kind.is_cut()));
    }
}
