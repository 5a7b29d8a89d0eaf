//! Which client writes have taken effect in a slot, so that a retried one does not take effect twice.
//!
//! The record of a write with an identity creates a completion on every copy that takes the record, and a fill carries
//! completions along. A conditional write whose condition did not hold creates a record, too, so that a late retry
//! finds it settled. Whoever leads the slot next therefore knows about it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use proto::id::Version;
use proto::limits::REMEMBERED_FOR;
use proto::peer::Identity;

use crate::record::Record;
use crate::time::Timestamp;

/// How many of a client's latest writes are remembered.
pub const COMPLETIONS_OF_A_CLIENT: usize = 64;

/// How many writes and clients together are remembered per slot.
pub const COMPLETIONS_OF_A_SLOT: usize = 1 << 16;

/// How many clients a step of a sweep visits at most, while their slot is locked: a few hundred microseconds of work.
pub const CLIENTS_PER_STEP: usize = 512;

/// What is known about a write with an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it has not taken effect.
    New,
    /// It is settled.
    Done(Completion),
    /// It is older than everything remembered about its client, so it may have taken effect.
    Stale,
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The record that settles it.
    pub version: Version,
    /// The version of the key if the write's condition did not hold; `None` if the write took effect.
    pub found: Option<Version>,
    /// What the client was told, encoded by [`proto::peer::ModifyReply::to_bytes`]; `None` if that follows from the
    /// rest.
    pub reply: Option<Box<[u8]>>,
}

impl Completion {
    /// The outcome of a write with an identity that this record settles.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let reply = record.reply();
        Self { version: record.version(), found: record.found(), reply: (!reply.is_empty()).then(|| reply.into()) }
    }
}

/// The completions of one slot.
#[derive(Debug, Default)]
pub struct Completions {
    clients: BTreeMap<Box<[u8]>, Client>,
    count: usize,
}

#[derive(Debug, Default)]
struct Client {
    /// Sorted by the client's own sequence number, ascending.
    done: VecDeque<(u64, Completion)>,
    /// Numbers up to this one are no longer remembered; `None` if all are.
    forgotten: Option<u64>,
    last_write: Timestamp,
}

/// A sweep through the completions of all slots of a node, round after round and in steps.
#[derive(Debug, Default)]
pub struct Sweep {
    /// For each client with at least [`COMPLETIONS_OF_A_CLIENT`] writes: the number of its oldest write to be
    /// remembered, as the previous round has found it.
    oldest_kept: BTreeMap<Box<[u8]>, u64>,
    /// For each client, the numbers of its latest writes among those visited in this round.
    seen: BTreeMap<Box<[u8]>, BTreeSet<u64>>,
    /// The last client visited in the current slot, if that slot is not finished.
    after: Option<Box<[u8]>>,
}

impl Sweep {
    fn add(&mut self, client: &[u8], seqs: impl Iterator<Item = u64>) {
        if !self.seen.contains_key(client) {
            self.seen.insert(client.into(), BTreeSet::new());
        }
        let Some(last) = self.seen.get_mut(client) else { return };
        last.extend(seqs);
        while last.len() > COMPLETIONS_OF_A_CLIENT {
            last.pop_first();
        }
    }

    /// Whether the last step has finished its slot.
    #[must_use]
    pub fn is_slot_done(&self) -> bool {
        self.after.is_none()
    }

    /// All slots were visited: the next round can forget what this one has found.
    pub fn end_round(&mut self) {
        let many = std::mem::take(&mut self.seen).into_iter().filter(|(_, last)| last.len() == COMPLETIONS_OF_A_CLIENT);
        self.oldest_kept = many.filter_map(|(client, last)| Some((client, *last.first()?))).collect();
    }
}

impl Completions {
    /// What is known about a write.
    #[must_use]
    pub fn look_up(&self, identity: Identity<'_>) -> Known {
        let Some(client) = self.clients.get(identity.client) else { return Known::New };
        match client.done.binary_search_by_key(&identity.seq, |(seq, _)| *seq) {
            Ok(at) => client.done.get(at).map_or(Known::New, |(_, done)| Known::Done(done.clone())),
            Err(_) if Some(identity.seq) <= client.forgotten => Known::Stale,
            Err(_) => Known::New,
        }
    }

    /// Whether one more write of a client can be remembered.
    #[must_use]
    pub fn has_room(&self, client: &[u8]) -> bool {
        // If the client is already at its limit, its oldest write is dropped.
        let replaces = self.clients.get(client).is_some_and(|known| known.done.len() >= COMPLETIONS_OF_A_CLIENT);
        replaces || self.count + self.clients.len() < COMPLETIONS_OF_A_SLOT
    }

    /// One step of a sweep: forgets clients that have not written for a long time, and of every other client the writes
    /// that are not among its latest across all slots. Visits at most [`CLIENTS_PER_STEP`] clients, from where the last
    /// step has stopped.
    pub fn sweep(&mut self, now: Timestamp, sweep: &mut Sweep) {
        let after = sweep.after.take();
        let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut visited, mut forgotten) = (0, Vec::new());
        for (name, client) in self.clients.range_mut::<[u8], _>((start, Bound::Unbounded)).take(CLIENTS_PER_STEP) {
            visited += 1;
            if visited == CLIENTS_PER_STEP {
                sweep.after = Some(name.clone());
            }
            if now - client.last_write >= REMEMBERED_FOR {
                self.count -= client.done.len();
                forgotten.push(name.clone());
                continue;
            }
            let kept_from = sweep.oldest_kept.get(name).copied().unwrap_or(0);
            while let Some((seq, _)) = client.done.pop_front_if(|(seq, _)| *seq < kept_from) {
                client.forgotten = client.forgotten.max(Some(seq));
                self.count -= 1;
            }
            client.done.shrink_to(2 * client.done.len());
            if !client.done.is_empty() {
                sweep.add(name, client.done.iter().map(|(seq, _)| *seq));
            }
        }
        for name in &forgotten {
            self.clients.remove(name);
        }
    }

    /// Notes that a write is settled. A completion without a version, as returned by [`Completions::iter`], instead
    /// notes that all numbers up to this one are no longer remembered.
    pub fn insert(&mut self, now: Timestamp, identity: Identity<'_>, completion: Completion) {
        if !self.clients.contains_key(identity.client) {
            self.clients.insert(identity.client.into(), Client::default());
        }
        let Some(client) = self.clients.get_mut(identity.client) else { return };
        client.last_write = now;
        if completion.version == Version::NONE {
            client.forgotten = client.forgotten.max(Some(identity.seq));
            return;
        }
        match client.done.binary_search_by_key(&identity.seq, |(seq, _)| *seq) {
            Ok(at) => {
                if let Some(known) = client.done.get_mut(at) {
                    known.1 = completion;
                }
                return;
            }
            Err(at) => client.done.insert(at, (identity.seq, completion)),
        }
        self.count += 1;
        if client.done.len() > COMPLETIONS_OF_A_CLIENT
            && let Some((seq, _)) = client.done.pop_front()
        {
            client.forgotten = client.forgotten.max(Some(seq));
            self.count -= 1;
        }
    }

    /// The record of a write was cut away, so the write is not settled.
    pub fn undo(&mut self, identity: Identity<'_>, version: Version) {
        let Some(client) = self.clients.get_mut(identity.client) else { return };
        if let Ok(at) = client.done.binary_search_by_key(&identity.seq, |(seq, _)| *seq)
            && client.done.get(at).is_some_and(|(_, known)| known.version == version)
        {
            client.done.remove(at);
            self.count -= 1;
        }
    }

    /// All completions.
    ///
    /// IMPORTANT: this includes, as a completion without a version, the number up to which a client's writes are no
    /// longer remembered. Otherwise whoever continues from these would regard those writes as never seen.
    pub fn iter(&self) -> impl Iterator<Item = (Identity<'_>, Completion)> {
        self.clients.iter().flat_map(|(name, client)| {
            let completion = Completion { version: Version::NONE, found: None, reply: None };
            let forgotten = client.forgotten.map(|seq| (seq, completion));
            let all = forgotten.into_iter().chain(client.done.iter().cloned());
            all.map(move |(seq, done)| (Identity { client: name, seq }, done))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proto::id::Epoch;

    fn done(seq: u64) -> Completion {
        Completion { version: Version { epoch: Epoch(1), seq }, found: None, reply: None }
    }

    fn of(client: &str, seq: u64) -> Identity<'_> {
        Identity { client: client.as_bytes(), seq }
    }

    #[test]
    fn the_last_writes_of_a_client_are_known_and_older_ones_are_stale() {
        let mut completions = Completions::default();
        let last = 3 * COMPLETIONS_OF_A_CLIENT as u64;
        for seq in 1..=last {
            completions.insert(Timestamp(1), of("a", seq), done(seq));
        }
        assert_eq!(completions.look_up(of("a", last)), Known::Done(done(last)));
        assert_eq!(completions.look_up(of("a", last + 1)), Known::New);
        assert_eq!(completions.look_up(of("a", 1)), Known::Stale);
        assert_eq!(completions.look_up(of("b", 1)), Known::New);
        // Whoever continues from them knows the same.
        let mut taken_over = Completions::default();
        completions.iter().for_each(|(identity, done)| taken_over.insert(Timestamp(1), identity, done));
        for seq in 1..=last + 1 {
            assert_eq!(taken_over.look_up(of("a", seq)), completions.look_up(of("a", seq)), "{seq}");
        }
        assert_eq!((taken_over.count, taken_over.clients.len()), (COMPLETIONS_OF_A_CLIENT, 1));
        completions.undo(of("a", last), done(last).version);
        assert_eq!(completions.look_up(of("a", last)), Known::New);
    }

    #[test]
    fn number_0_is_new_until_it_is_forgotten() {
        let mut completions = Completions::default();
        completions.insert(Timestamp(1), of("a", 1), done(1));
        assert_eq!(completions.look_up(of("a", 0)), Known::New);
        let last = COMPLETIONS_OF_A_CLIENT as u64;
        completions.insert(Timestamp(1), of("a", 0), done(2));
        for seq in 2..=last {
            completions.insert(Timestamp(1), of("a", seq), done(seq + 1));
        }
        // Whoever continues from them knows the same.
        let mut taken_over = Completions::default();
        completions.iter().for_each(|(identity, done)| taken_over.insert(Timestamp(1), identity, done));
        for known in [completions, taken_over] {
            assert_eq!(known.look_up(of("a", 0)), Known::Stale);
            assert_eq!(known.look_up(of("a", 1)), Known::Done(done(1)));
        }
    }

    #[test]
    fn a_client_that_has_written_nothing_for_long_is_forgotten() {
        let mut completions = Completions::default();
        completions.insert(Timestamp(1), of("a", 1), done(1));
        completions.insert(Timestamp(3), of("b", 1), done(2));
        completions.sweep(Timestamp(2) + REMEMBERED_FOR, &mut Sweep::default());
        assert_eq!(completions.look_up(of("a", 1)), Known::New);
        assert_eq!(completions.look_up(of("b", 1)), Known::Done(done(2)));
        assert_eq!((completions.count, completions.clients.len()), (1, 1));
    }

    #[test]
    fn a_client_that_goes_on_writing_is_not_forgotten_ten_minutes_after_its_first_write() {
        let mut completions = Completions::default();
        let minute = Duration::from_secs(60);
        let first = Timestamp(1) + minute;
        completions.insert(first, of("a", 1), done(1));
        completions.insert(first + 9 * minute, of("a", 2), done(2));
        completions.sweep(first + REMEMBERED_FOR + minute, &mut Sweep::default());
        assert_eq!(completions.look_up(of("a", 1)), Known::Done(done(1)), "it may be sent again");
        assert_eq!(completions.look_up(of("a", 2)), Known::Done(done(2)));
        completions.sweep(first + 9 * minute + REMEMBERED_FOR, &mut Sweep::default());
        assert_eq!(completions.look_up(of("a", 2)), Known::New, "it has stopped writing");
    }

    #[test]
    fn a_sweep_in_steps_forgets_the_same_clients() {
        let (mut completions, clients) = (Completions::default(), 2 * CLIENTS_PER_STEP as u64 + 2);
        for number in 0..clients {
            let written = Timestamp(if number % 2 == 0 { 1 } else { 3 });
            completions.insert(written, of(&format!("c{number:04}"), 1), done(number + 1));
        }
        let (mut sweep, mut steps) = (Sweep::default(), 0);
        loop {
            completions.sweep(Timestamp(2) + REMEMBERED_FOR, &mut sweep);
            steps += 1;
            if sweep.is_slot_done() {
                break;
            }
            assert!(steps < 3, "it goes on for ever");
        }
        let left = clients as usize / 2;
        assert_eq!((steps, completions.count, completions.clients.len(), sweep.seen.len()), (3, left, left, left));
        assert_eq!(completions.look_up(of("c0000", 1)), Known::New);
        assert_eq!(completions.look_up(of("c0001", 1)), Known::Done(done(2)));
    }

    #[test]
    fn of_all_slots_together_the_last_writes_of_a_client_are_kept() {
        let [now, last] = [1, 10 * COMPLETIONS_OF_A_CLIENT as u64];
        let mut slots = [const { Completions { clients: BTreeMap::new(), count: 0 } }; 4];
        for seq in 1..=last {
            slots[seq as usize % 4].insert(Timestamp(now), of("a", seq), done(seq));
        }
        slots[0].insert(Timestamp(now), of("b", 1), done(last + 1));
        let mut sweep = Sweep::default();
        for _ in 0..2 {
            slots.iter_mut().for_each(|slot| slot.sweep(Timestamp(now), &mut sweep));
            sweep.end_round();
        }
        for seq in 1..=last {
            let known = slots[seq as usize % 4].look_up(of("a", seq));
            let is_kept = seq > last - COMPLETIONS_OF_A_CLIENT as u64;
            assert_eq!(known, if is_kept { Known::Done(done(seq)) } else { Known::Stale }, "{seq}");
        }
        assert_eq!(slots[0].look_up(of("b", 1)), Known::Done(done(last + 1)), "it has made few");
        assert_eq!(slots.iter().map(|slot| slot.count).sum::<usize>(), COMPLETIONS_OF_A_CLIENT + 1);
    }

    #[test]
    fn a_full_slot_takes_writes_of_those_of_whom_one_is_forgotten_for_each() {
        let mut completions = Completions::default();
        let mut clients = 0;
        while completions.has_room(b"new") {
            let name = format!("client-{clients}");
            clients += 1;
            for seq in 1..=COMPLETIONS_OF_A_CLIENT as u64 {
                completions.insert(Timestamp(1), of(&name, seq), done(seq));
            }
        }
        assert!(clients > 1_000, "{clients} clients fill a slot");
        assert!(completions.has_room(b"client-0"));
    }
}
