//! Reads at the primary: what they see, and what must be durable before they are answered.

use proto::level::ReadLevel;
use proto::peer::List;

use crate::bugs::{Bug, Bugs};
use crate::listing::Listing;
use crate::node::Turn;
use crate::record::Record;
use crate::slot::{Executed, Refusal, Slot, SlotContext};
use crate::time::Timestamp;
use crate::waiting::Waiting;

impl<B: Bugs> Slot<B> {
    /// Reads a key as its primary. If it matters, `clock` is read after the value was taken.
    ///
    /// # Errors
    /// This node does not lead the slot, or may have been replaced.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another thing, and the hottest path makes no struct of them"
    )]
    #[inline]
    pub(crate) fn read<R>(
        &mut self,
        cx: &SlotContext<'_>,
        key: &[u8],
        level: ReadLevel,
        clock: impl Fn() -> Timestamp,
        waiting: &Waiting,
        turn: &mut Turn,
        read: impl FnOnce(Option<&Record>) -> R,
    ) -> Result<Executed<R>, Refusal> {
        if !self.is_primary() {
            return Err(Refusal::NotHere);
        }
        if level == ReadLevel::Local {
            return Ok(Executed { answer: read(self.get(cx, key, clock)), ticket: None });
        }
        let newest = self.table.get(cx.hasher, key);
        if newest.is_some_and(Record::has_deadline) {
            let cx = &SlotContext { now: clock(), ..*cx };
            if newest.is_some_and(|record| record.is_expired(cx.wall())) {
                return self.read_expired(cx, key, waiting, turn).map(|ticket| Executed { answer: read(None), ticket });
            }
        }
        newest.into_iter().for_each(|record| cx.was_used(record));
        let seq = newest.map_or(0, |record| record.version().seq);
        let answer = read(newest.filter(|record| !record.is_delete()));
        // IMPORTANT: the lease is checked after the value was taken, which proves that the value was the newest at that
        // moment.
        self.serves(&SlotContext { now: clock(), ..*cx }).ok_or(Refusal::NotHere)?;
        let ticket = if self.bugs.plants(Bug::UncommittedRead) { None } else { self.wait(seq, false, waiting) };
        Ok(Executed { answer, ticket })
    }

    /// Serves a linear read that finds a value past its deadline: commits that the value is gone.
    fn read_expired(
        &mut self,
        cx: &SlotContext<'_>,
        key: &[u8],
        waiting: &Waiting,
        turn: &mut Turn,
    ) -> Result<Option<usize>, Refusal> {
        self.serves(cx).ok_or(Refusal::NotHere)?;
        if self.bugs.plants(Bug::ExpiryUnrecorded) {
            return Ok(None);
        }
        let seq = self.expire(cx, key, turn);
        Ok(self.wait(seq, false, waiting))
    }

    /// Lists the keys of the slot as its primary; returns the ticket to wait for before they are shown. `cx.now` was
    /// taken after the slot was locked: what the slot holds until it is unlocked is what it held at that moment. A
    /// linear list, and one with [`List::must_serve`], commits that the keys it hides as expired are gone.
    ///
    /// # Errors
    /// This node does not lead the slot, or may have been replaced.
    pub(crate) fn list(
        &mut self,
        cx: &SlotContext<'_>,
        list: &List,
        waiting: &Waiting,
        turn: &mut Turn,
        listing: &mut Listing,
    ) -> Result<Option<usize>, Refusal> {
        let is_linear = list.level == ReadLevel::Linear;
        let must_serve = is_linear || list.must_serve;
        let may_list = if must_serve { self.serves(cx).is_some() } else { self.is_primary() };
        if !may_list && !self.bugs.plants(Bug::ListsAnySlot) {
            return Err(Refusal::NotHere);
        }
        let expired = self.list_copy(cx, listing);
        if !must_serve {
            return Ok(None);
        }
        if may_list && !self.bugs.plants(Bug::ExpiryUnrecorded) {
            expired.iter().for_each(|record| {
                self.expire(cx, record.key(), turn);
            });
        }
        // What is listed, and what is absent, follows from the records up to the last.
        Ok(if is_linear { self.wait(self.log.last().seq, false, waiting) } else { None })
    }
}
