//! The hosts of a run: network namespaces joined by a bridge, or 127.0.0.1 for all of them.
//!
//! This process runs in its own network namespace, made by `scripts/chaos.sh`, and so do the namespaces it creates:
//! they vanish with the last process in them. The clients run here, where the bridge is.
//!
//! A cut from one host to another is a rule at the receiver that drops everything from the sender. Nobody is notified:
//! it shows only as silence.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::Context as _;

/// The host of the clients.
pub(crate) const OUTSIDE: usize = usize::MAX;

/// The last byte of the clients' address.
const OUTSIDE_BYTE: usize = 254;

/// The most hosts there may be.
pub(crate) const HOSTS: usize = 100;

/// The tool that drops packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firewall {
    Nft,
    Iptables,
}

/// All hosts, and the cuts between them.
#[derive(Debug)]
pub(crate) struct Network {
    /// `None` if there is only this host, and nothing can be cut.
    firewall: Option<Firewall>,
    /// How many faults have cut the path from one host to another.
    cuts: BTreeMap<(usize, usize), usize>,
}

impl Network {
    /// This host alone.
    pub(crate) fn loopback() -> Self {
        Self { firewall: None, cuts: BTreeMap::new() }
    }

    /// Creates `count` hosts and joins them. The caller must be in a network namespace made for this alone.
    ///
    /// # Errors
    /// The command that failed, with its output.
    pub(crate) fn of_namespaces(count: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(count <= HOSTS, "there can be {HOSTS} hosts, not {count}");
        let firewall = if is_there("nft") { Firewall::Nft } else { Firewall::Iptables };
        let network = Self { firewall: Some(firewall), cuts: BTreeMap::new() };
        ip("link set lo up")?;
        ip("link add chaos0 type bridge stp_state 0 forward_delay 0")?;
        ip(&format!("addr add {}/24 dev chaos0", network.address(OUTSIDE)))?;
        ip("link set chaos0 up")?;
        network.prepare_cuts(OUTSIDE)?;
        for host in 0..count {
            let (name, address) = (namespace(host), network.address(host));
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add port{host} type veth peer name eth0 netns {name}"))?;
            ip(&format!("link set port{host} master chaos0 up"))?;
            ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            network.prepare_cuts(host)?;
        }
        Ok(network)
    }

    /// Whether hosts can be cut off from each other.
    pub(crate) fn has_cuts(&self) -> bool {
        self.firewall.is_some()
    }

    /// How cuts are made, in human-readable form.
    pub(crate) fn describe(&self) -> &'static str {
        match self.firewall {
            None => "all on 127.0.0.1, no cuts (--no-cuts): faults of processes only",
            Some(Firewall::Nft) => "a network namespace for each process, cuts by nft",
            Some(Firewall::Iptables) => "a network namespace for each process, cuts by iptables",
        }
    }

    /// The address of a host.
    pub(crate) fn address(&self, host: usize) -> String {
        match self.firewall {
            None => "127.0.0.1".to_owned(),
            Some(_) if host == OUTSIDE => format!("10.77.0.{OUTSIDE_BYTE}"),
            Some(_) => format!("10.77.0.{}", host + 1),
        }
    }

    /// A command that runs on a host and is killed when the thread that started it ends, however that happens.
    pub(crate) fn command(&self, host: usize, program: &str) -> Command {
        let mut command = self.on(host, "setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        command
    }

    /// Drops everything that one host sends to another. Cuts nest: each needs its own [`Network::heal`].
    pub(crate) fn cut(&mut self, from: usize, to: usize) -> anyhow::Result<()> {
        let count = self.cuts.entry((from, to)).or_default();
        *count += 1;
        if *count == 1 { self.set_cut(from, to, true) } else { Ok(()) }
    }

    /// Undoes one cut.
    pub(crate) fn heal(&mut self, from: usize, to: usize) -> anyhow::Result<()> {
        match self.cuts.get_mut(&(from, to)) {
            Some(count) if *count > 1 => {
                *count -= 1;
                Ok(())
            }
            Some(_) => {
                self.cuts.remove(&(from, to));
                self.set_cut(from, to, false)
            }
            None => Ok(()),
        }
    }

    fn prepare_cuts(&self, host: usize) -> anyhow::Result<()> {
        if self.firewall == Some(Firewall::Nft) {
            let rules = [
                "add table inet chaos",
                "add set inet chaos cut { type ipv4_addr; }",
                "add chain inet chaos input { type filter hook input priority 0; policy accept; }",
                "add rule inet chaos input ip saddr @cut drop",
            ];
            run(self.on(host, "nft").arg(rules.join("\n")))?;
        }
        Ok(())
    }

    fn set_cut(&self, from: usize, to: usize, is_cut: bool) -> anyhow::Result<()> {
        let address = self.address(from);
        match self.firewall {
            None => anyhow::bail!("nothing can be cut on 127.0.0.1"),
            Some(Firewall::Nft) => {
                let verb = if is_cut { "add" } else { "delete" };
                run(self.on(to, "nft").arg(format!("{verb} element inet chaos cut {{ {address} }}")))
            }
            Some(Firewall::Iptables) => {
                let verb = if is_cut { "-A" } else { "-D" };
                run(self.on(to, "iptables").args(["-w", "5", verb, "INPUT", "-s", &address, "-j", "DROP"]))
            }
        }
    }

    /// A command that runs on a host.
    fn on(&self, host: usize, program: &str) -> Command {
        if self.firewall.is_none() || host == OUTSIDE {
            return Command::new(program);
        }
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace(host), program]);
        command
    }
}

fn namespace(host: usize) -> String {
    format!("chaos{host}")
}

fn ip(words: &str) -> anyhow::Result<()> {
    run(Command::new("ip").args(words.split(' ')))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let told = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&told.stderr);
    anyhow::ensure!(told.status.success(), "{command:?} has failed: {}", said.trim());
    Ok(())
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|told| told.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_addresses_of_their_own_where_they_can_be_cut() {
        let cuts = |firewall| Network { firewall, cuts: BTreeMap::new() };
        let addresses = |network: Network| [0, HOSTS - 1, OUTSIDE].map(|host| network.address(host));
        assert_eq!(addresses(cuts(Some(Firewall::Nft))), ["10.77.0.1", "10.77.0.100", "10.77.0.254"]);
        assert_eq!(addresses(Network::loopback()), ["127.0.0.1"; 3]);
    }
}
