//! Turns writes into their effects at the primary, where the current value of a key decides what is ordered.

use std::borrow::Cow;

use proto::id::Version;
use proto::limits;
use proto::peer::{Change, Effect, Modify, ModifyError, ModifyReply, Op, Write, Writes};

use crate::bugs::{Bug, Bugs};
use crate::completions::Completion;
use crate::modify::{Outcome, OwnedReply, evaluate};
use crate::node::Turn;
use crate::record::Record;
use crate::slot::{Executed, Refusal, Slot, SlotContext, Written};
use crate::waiting::Waiting;

impl<B: Bugs> Slot<B> {
    /// Turns a write into its effect and orders it. `kept` is the newest record of its key, if it keeps the value.
    pub(super) fn order_write(
        &mut self,
        cx: &SlotContext<'_>,
        write: &Write<'_>,
        kept: Option<Record>,
        turn: &mut Turn,
    ) -> Version {
        let Write { key, change, identity, .. } = *write;
        let value = kept.as_ref().and_then(Record::value).unwrap_or_default();
        let effect = match change {
            Change::Put(value) => Effect::Put(value),
            Change::PutFor(value, millis) => Effect::PutUntil(value, cx.deadline(millis)),
            Change::Delete | Change::Expire(0) => Effect::Delete,
            Change::Expire(millis) => Effect::PutUntil(value, cx.deadline(millis)),
            // A read-modify-write was already turned into its effect.
            Change::Persist | Change::Modify(_) => Effect::Put(value),
        };
        self.order(cx, Op::Write { key, effect, identity, reply: b"" }, turn)
    }

    /// Carries out a read-modify-write. `newest` is the newest record of the key, which has not expired.
    ///
    /// # Errors
    /// There is no memory for the result; nothing was done.
    pub(super) fn modify(
        &mut self,
        cx: &SlotContext<'_>,
        write: &Write<'_>,
        modify: &Modify<'_>,
        newest: Option<Record>,
        waiting: &Waiting,
        turn: &mut Turn,
    ) -> Result<Executed<Written>, Refusal> {
        let mut newest_seq = newest.as_ref().map_or(0, |record| record.version().seq);
        for key in modify.other_keys() {
            let seq = match self.table.get(cx.hasher, key) {
                Some(record) if record.is_expired(cx.wall()) => self.expire(cx, key, turn),
                record => record.map_or(0, |record| record.version().seq),
            };
            newest_seq = newest_seq.max(seq);
        }
        let present = newest.as_ref().filter(|record| !record.is_delete());
        let is_present = |key: &[u8]| self.table.get(cx.hasher, key).is_some_and(|record| !record.is_delete());
        let is_present = |key: &[u8]| !self.bugs.plants(Bug::MultiChecksFirst) && is_present(key);
        let (mut outcome, mut reply) = evaluate(modify, present, is_present, cx.wall());
        let mut remembered = Vec::new();
        if write.identity.is_some() {
            remembered = reply.as_reply().to_bytes();
            if remembered.len() > limits::REPLY_BYTES {
                (outcome, reply) =
                    (Outcome::Unchanged, OwnedReply::Plain(ModifyReply::Error(ModifyError::AnswerTooLong)));
                remembered = reply.as_reply().to_bytes();
            }
            if self.bugs.plants(Bug::AnswerForgotten) {
                remembered = Vec::new();
            }
        }
        let found = present.map_or(Version::NONE, Record::version);
        let (key, identity, remembered) = (write.key, write.identity, remembered.as_slice());
        let version = match &outcome {
            Outcome::Put(value, deadline) => {
                let value = Cow::as_ref(value);
                // Same as for an unconditional `EXPIRE`: setting a deadline is meant to free memory.
                if !matches!(modify, Modify::Expire { .. } | Modify::GetEx(_)) {
                    self.has_memory(cx, || self.more_for(write, value, deadline.is_some(), newest.as_ref()))?;
                }
                let effect = deadline.map_or(Effect::Put(value), |deadline| Effect::PutUntil(value, deadline));
                self.order(cx, Op::Write { key, effect, identity, reply: remembered }, turn)
            }
            Outcome::Delete => {
                self.order(cx, Op::Write { key, effect: Effect::Delete, identity, reply: remembered }, turn)
            }
            Outcome::Multi(writes) => {
                let writes = Writes::known(writes);
                self.has_memory(cx, || self.more_for_all(cx, writes))?;
                self.order(cx, Op::Multi { writes, identity, reply: remembered }, turn)
            }
            Outcome::Unchanged => match identity {
                Some(identity) => self.order(cx, Op::Declined { identity, found, reply: remembered }, turn),
                None => Version::NONE,
            },
        };
        // What the client is told about the key must be durable even if nothing was changed.
        let seq = if version == Version::NONE { newest_seq } else { version.seq };
        let is_early = self.bugs.plants(if outcome == Outcome::Unchanged {
            Bug::UncommittedConflict
        } else {
            Bug::AnsweredBeforeReplicas
        });
        let changed = if outcome == Outcome::Unchanged { Version::NONE } else { version };
        Ok(self.answer(Written::Modified(changed, reply), if is_early { 0 } else { seq }, write.ack, waiting))
    }

    /// The answer to a repeated read-modify-write: the same as the first time.
    pub(super) fn reply_again(
        &self,
        cx: &SlotContext<'_>,
        write: &Write<'_>,
        modify: &Modify<'_>,
        done: Completion,
    ) -> Written {
        let Completion { version, found, reply } = done;
        let reply = match reply {
            Some(reply) => OwnedReply::Bytes(reply),
            None if self.bugs.plants(Bug::AnswerForgotten) => {
                let present = self.table.get(cx.hasher, write.key).filter(|record| !record.is_delete());
                evaluate(modify, present, |_| false, cx.wall()).1
            }
            // Another command used the same identity.
            None => OwnedReply::Plain(if found.is_some() { ModifyReply::Nothing } else { ModifyReply::Done }),
        };
        Written::Modified(if found.is_some() { Version::NONE } else { version }, reply)
    }
}
