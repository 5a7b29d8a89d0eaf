//! Bugs found in other systems like this one, which the simulator plants to show that it would find them here.
//!
//! The state machines take them as a type parameter. The type that ships, [`NoBugs`], has none, so the compiler removes
//! every check for them; only the simulator uses another type.

use std::fmt::Debug;

/// Defines [`Bug`] with these variants.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A planted bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[doc = $doc])* $name,)*
        }

        impl Bug {
            /// Every bug there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

bugs! {
    /// Any live copy is promoted, whatever it holds (valkey#4425, kvrocks-controller#317).
    PromoteAnyCopy,
    /// A member restarted with empty memory stays in the in-sync set.
    TrustWithoutProof,
    /// A learner is admitted although it was restarted after being filled (Kafka KIP-903).
    StaleIncarnationAdmitted,
    /// A primary that takes a slot over without its predecessor's release does not sync the record that begins its term.
    TermNotSynced,
    /// A follower's acknowledgements also count for its next incarnation.
    MarkCarriedOver,
    /// A learner is admitted before it has everything promised.
    LearnerAdmittedEarly,
    /// A learner is admitted based on a durable mark from before this primary's term.
    AdmittedBelowBarrier,
    /// A member counts only once its admission is known, rather than from its proposal on.
    AdmissionCountedLate,
    /// A member whose removal is proposed no longer counts.
    ShrinkCountedEarly,
    /// The durable mark moves although too few copies are in sync.
    MarkMovesBelowMinimum,
    /// If no in-sync copy is left, any former in-sync copy may lead (KIP-966).
    AnyFormerMember,
    /// A former member leads although the only one in sync is there and may serve.
    FormerMemberBesidePrimary,
    /// A follower accepts records of a past epoch.
    NoEpochCheck,
    /// A log is truncated to the durable mark, and what the new primary has beyond it is assumed to be present
    /// (KIP-101, KIP-279).
    CutByMark,
    /// A linear read returns a value that is not durable.
    UncommittedRead,
    /// A failed condition reports a version that is not durable.
    UncommittedConflict,
    /// A quorum write is answered as soon as the primary has it.
    AnsweredBeforeReplicas,
    /// A primary serves without a lease.
    NoLease,
    /// A lease counts from when it was received, not from when it was requested.
    LeaseFromReceipt,
    /// A new primary does not wait until its promise to the old one has expired.
    PromiseIgnored,
    /// A follower renews a primary's lease without telling it that it no longer leads a slot.
    DeposedUntold,
    /// A primary with an in-sync set that is too small ignores that the coordinator may have replaced it.
    SmallSetTrustsItself,
    /// A primary keeps leading a slot although a replica tells it about its successor (valkey#974).
    DeposedIgnored,
    /// A retried write is carried out again after a failover.
    RetriedTwice,
    /// A fill omits which client writes have taken effect.
    FillForgetsCompletions,
    /// A write that was cut away counts as done when it is retried.
    CompletionSurvivesCut,
    /// Of a write of several keys that is cut away, only one key is restored.
    MultiHalfUndone,
    /// A write on the condition that several keys are absent looks at the first of them only.
    MultiChecksFirst,
    /// A fill is merged with what the copy holds, so that a deleted key comes back (Olric).
    FillMerges,
    /// Writes that are cut away are not archived.
    LossUntold,
    /// A learner that gave up its copy and was added again still counts as caught up.
    LearnerNotAskedAgain,
    /// A coordinator without state proceeds before every node has reported what it knows.
    CoordinatorGuesses,
    /// A coordinator publishes a change before persisting it.
    PublishedBeforeKept,
    /// A linear read reports that a key has expired without a record of that: the value comes back past its deadline.
    ExpiryUnrecorded,
    /// The key expires, whatever it now holds.
    ExpireUnchecked,
    /// A follower drops expired values by its own clock.
    FollowerExpires,
    /// A start finds values on its disk without their deadlines.
    DeadlineLostOnDisk,
    /// A start finds no tombstones in a snapshot, so the log continues from values that were deleted.
    TombstoneLostOnDisk,
    /// A start mistakes the position of the whole snapshot for that of each slot in it, and misses entries in between.
    PositionApartFromData,
    /// A member with unproven data is treated as holding everything promised (KIP-966).
    UnprovenTrusted,
    /// A member with unproven data is treated as holding nothing.
    UnprovenGone,
    /// A member with unproven data is promoted while others may still come back.
    UnprovenInHaste,
    /// A member with unproven data is promoted although another may have more.
    UnprovenUnasked,
    /// What was found without proof counts as proven at the next start.
    ProofRegained,
    /// A node lists the keys of a slot that it does not lead, or no longer leads.
    ListsAnySlot,
    /// A page is returned although nobody answered for some slots.
    PageWithHoles,
    /// A page continues past the point where an answer was truncated.
    CutIgnored,
    /// A primary drops an evicted key from its own memory only.
    EvictedUnrecorded,
    /// A repeated read-modify-write is carried out again.
    ModifiedAgain,
    /// What the client of a read-modify-write was told is not remembered: a repeated one reports what the key holds by
    /// then.
    AnswerForgotten,
    /// A copy returns its digest regardless of its position.
    ComparedElsewhere,
    /// The comparison of copies includes tombstones that one of them may have dropped.
    PurgedCompared,
    /// A copy that differs is only aligned, not refilled.
    RepairAligns,
    /// A leaving node is told to delete what it holds before others have it (redis#4937).
    LeaverDeletesEarly,
    /// A leaving node is removed from the in-sync set before others are in it.
    LeaverDroppedEarly,
    /// A primary that has released a slot keeps serving it while the next one begins.
    ReleasedServesOn,
    /// Copies of any number of slots are filled at the same time, whatever limit the operator has set.
    MovesUnlimited,
    /// A copy that was away keeps what a fill does not name, although tombstones it had not passed were purged
    /// meanwhile: deleted keys come back.
    PurgeMarkIgnored,
    /// A node that stops on purpose neither hands its slots over nor releases them: the next primary waits for its
    /// leases.
    StopsWithoutRelease,
    /// A coordinator that takes over a map forgets which nodes its predecessor had told to leave.
    LeaveForgotten,
    /// A node that uses the name of a live node takes its place.
    NameTaken,
    /// Whoever takes over what is known about a client's writes is not told which are no longer remembered.
    ForgottenUntold,
    /// A client is forgotten as soon as its write has taken effect.
    ForgottenTooEarly,
    /// A coordinator started with an older state continues with it, although nodes know of later changes.
    OldStateTrusted,
    /// An older copy is not kept while no member of its slot is heard, and the slot starts over empty once every member is
    /// lost.
    OlderCopyDropped,
    /// A node that was taken off the ring leads again if a map still names it.
    UnregisteredLeads,
    /// A coordinator that was started with a state continues with the next number, as does another one that is started
    /// with the same state.
    NumbersShared,
    /// What a coordinator has decided since it was started with an older state counts where an in-sync set is large enough
    /// for quorum writes now, whether or not it is its own.
    OwnJudgedBySize,
    /// What a coordinator has ordered to be deleted since it was started with an older state counts in the map that it
    /// takes over.
    DroppedCopyCounts,
}

/// Which bugs are planted.
pub trait Bugs: Debug + Clone + Copy + Default + Send + Sync + 'static {
    /// Whether this bug is planted.
    fn plants(self, bug: Bug) -> bool;
}

/// State machines whose copies can be damaged, as broken memory would: only those of tests. [`NoBugs`] is not one of
/// them, so a node that ships cannot be damaged.
pub trait Damaged: Bugs {}

/// The type that ships: no bugs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBugs;

impl Bugs for NoBugs {
    fn plants(self, _: Bug) -> bool {
        false
    }
}
