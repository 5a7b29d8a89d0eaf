//! Turns writes into their effects at the primary, where the current value of a key decides what is ordered.

use std::borrow::Cow;

use proto::id::Version;
use proto::limits;
use proto::peer::{Change, Effect, Mistake, Modify, Op, Told, Write};

use crate::bugs::{Bug, Bugs};
use crate::completions::Completion;
use crate::modify::{Outcome, Telling, evaluate};
use crate::node::Turn;
use crate::record::Record;
use crate::slot::{Answer, Place, Refusal, Slot, Written};
use crate::waiting::Waiting;

impl<B: Bugs> Slot<B> {
    /// Turns a write into its effect and orders it.
    pub(super) fn order_write(&mut self, place: Place<'_>, write: &Write<'_>, turn: &mut Turn) -> Version {
        let Write { key, change, identity, .. } = *write;
        let kept = if change.is_counted() { self.table.get(place.hasher, key).cloned() } else { None };
        let value = kept.as_ref().and_then(Record::value).unwrap_or_default();
        let effect = match change {
            Change::Put(value) => Effect::Put(value),
            Change::PutFor(value, millis) => Effect::PutUntil(value, place.deadline(millis)),
            Change::Delete | Change::Expire(0) => Effect::Delete,
            Change::Expire(millis) => Effect::PutUntil(value, place.deadline(millis)),
            // A read-modify-write was already turned into its effect.
            Change::Persist | Change::Modify(_) => Effect::Put(value),
        };
        self.order(place, Op::Write { key, effect, identity, told: b"" }, turn)
    }

    /// Carries out a read-modify-write. `newest` is the newest record of the key, which has not expired.
    ///
    /// # Errors
    /// There is no memory for the result; nothing was done.
    pub(super) fn modify(
        &mut self,
        place: Place<'_>,
        write: &Write<'_>,
        modify: &Modify<'_>,
        newest: Option<Record>,
        waiting: &Waiting,
        turn: &mut Turn,
    ) -> Result<Answer<Written>, Refusal> {
        let newest_seq = newest.as_ref().map_or(0, |record| record.version().seq);
        let present = newest.as_ref().filter(|record| !record.is_delete());
        let (mut outcome, mut telling) = evaluate(modify, present, place.wall());
        let mut told = Vec::new();
        if write.identity.is_some() {
            told = telling.told().to_bytes();
            if told.len() > limits::TOLD_BYTES {
                (outcome, telling) = (Outcome::Unchanged, Telling::Plain(Told::Mistake(Mistake::AnswerTooLong)));
                told = telling.told().to_bytes();
            }
            if self.bugs.plants(Bug::AnswerForgotten) {
                told = Vec::new();
            }
        }
        let found = present.map_or(Version::NONE, Record::version);
        let (key, identity, told) = (write.key, write.identity, told.as_slice());
        let version = match &outcome {
            Outcome::Put(value, deadline) => {
                let value = Cow::as_ref(value);
                // Same as for an unconditional `EXPIRE`: setting a deadline is meant to free memory.
                if !matches!(modify, Modify::Expire { .. } | Modify::Outlive(_)) {
                    self.has_memory(place, write, (value, deadline.is_some()), newest.as_ref())?;
                }
                let effect = deadline.map_or(Effect::Put(value), |deadline| Effect::PutUntil(value, deadline));
                self.order(place, Op::Write { key, effect, identity, told }, turn)
            }
            Outcome::Delete => self.order(place, Op::Write { key, effect: Effect::Delete, identity, told }, turn),
            Outcome::Unchanged => match identity {
                Some(identity) => self.order(place, Op::Declined { identity, found, told }, turn),
                None => Version::NONE,
            },
        };
        // What the client is told about the key must be durable even if nothing was changed.
        let seq = if version == Version::NONE { newest_seq } else { version.seq };
        let told_early = self.bugs.plants(if outcome == Outcome::Unchanged {
            Bug::UncommittedConflict
        } else {
            Bug::AnsweredBeforeReplicas
        });
        let changed = if outcome == Outcome::Unchanged { Version::NONE } else { version };
        Ok(self.answer(Written::Told(changed, telling), if told_early { 0 } else { seq }, write.ack, waiting))
    }

    /// The answer to a repeated read-modify-write: the same as the first time.
    pub(super) fn told_again(
        &self,
        place: Place<'_>,
        write: &Write<'_>,
        modify: &Modify<'_>,
        done: Completion,
    ) -> Written {
        let Completion { version, found, told } = done;
        let telling = match told {
            Some(told) => Telling::Bytes(told),
            None if self.bugs.plants(Bug::AnswerForgotten) => {
                let present = self.table.get(place.hasher, write.key).filter(|record| !record.is_delete());
                evaluate(modify, present, place.wall()).1
            }
            // Another command used the same identity.
            None => Telling::Plain(if found.is_some() { Told::Nothing } else { Told::Done }),
        };
        Written::Told(if found.is_some() { Version::NONE } else { version }, telling)
    }
}
