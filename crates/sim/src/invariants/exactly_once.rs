//! I9: each (client, client_seq) takes effect at most once; and what a client is told is done is in the log.

use proto::id::Version;

use super::op_of;
use crate::client::Operation;
use crate::world::World;

impl World {
    /// Observes the record of a write whose effect only its primary knows, unless a newer record has replaced it.
    fn sight_newest(&mut self, n: usize, operation: &Operation, version: Version) -> Result<(), String> {
        let Some(node) = self.nodes[n].node.as_ref() else { return Ok(()) };
        let newest = node.inspect(operation.slot, |state| state.records().find(|it| it.version() == version).cloned());
        newest.map_or(Ok(()), |record| self.oracle.sight(operation.slot, version, None, &record.op()))
    }

    /// A primary says that a write is this record.
    pub(super) fn check_written(&mut self, n: usize, operation: &Operation, version: Version) {
        let slot = operation.slot;
        let client = &self.clients[usize::from(operation.client)].name;
        let sighted = match op_of(operation, client) {
            Some(op) => self.oracle.sight(slot, version, None, &op),
            None => self.sight_newest(n, operation, version),
        };
        if let Err(what) = sighted {
            return self.broken("I5", Some(slot), what);
        }
        let client = &self.clients[usize::from(operation.client)].name;
        let Some(node) = self.running(n) else { return };
        let Some(identity) = operation.identity else { return };
        let model = &self.oracle.slots[usize::from(slot.0)];
        let Some(versions) = model.identities.get(&(client.as_bytes().into(), identity)) else { return };
        let wrong = node.inspect(slot, |state| {
            let log = state.log();
            let is_in = |version: &&Version| log.epoch_at(version.seq) == Some(version.epoch);
            let forgotten = version.seq <= log.last().seq && log.epoch_at(version.seq).is_none();
            if !is_in(&&version) && !forgotten {
                return Some(format!("its primary answers that it is {version}, which is not in its log"));
            }
            let times = versions.iter().filter(is_in).count();
            (times > 1).then(|| format!("it took effect {times} times: {versions:?}"))
        });
        if let Some(what) = wrong {
            let what = format!("write {identity} of {client} to {}: {what}", operation.key);
            self.broken("I9", Some(slot), what);
        }
    }
}
