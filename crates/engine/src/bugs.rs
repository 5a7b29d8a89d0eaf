//! Mistakes that others have made in systems like this one, and that the simulator plants to show that it would find
//! them here.
//!
//! The state machines take them as a type parameter. The type that ships, [`NoBugs`], has none, so that the compiler
//! removes every question about them; only the simulator has another.

use std::fmt::Debug;

/// A planted mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// Any live copy is promoted, whatever it holds (valkey#4425, kvrocks-controller#317).
    PromoteAnyCopy,
    /// A member that was restarted with an empty memory stays in the in-sync set.
    TrustWithoutProof,
    /// A learner is admitted although it was restarted since it was filled (Kafka KIP-903).
    StaleIncarnationAdmitted,
    /// What a follower had acknowledged counts for its next incarnation, too.
    MarkCarriedOver,
    /// A learner is admitted before it has everything that was promised.
    LearnerAdmittedEarly,
    /// A learner is admitted against a mark of before this primary's term.
    AdmittedBelowBarrier,
    /// A member counts only once its admission is known, not from its proposal on.
    AdmissionCountedLate,
    /// A member that is proposed out does not count any more.
    ShrinkCountedEarly,
    /// The durable mark moves although too few copies are in sync.
    MarkMovesBelowMinimum,
    /// Where no in-sync copy is left, any copy that has ever been one may lead (KIP-966).
    AnyFormerMember,
    /// A follower takes records of an epoch that has passed.
    NoEpochCheck,
    /// A log is cut back to the durable mark, and what the new primary has beyond is taken as held (KIP-101, KIP-279).
    CutByMark,
    /// A linear read shows what is not durable.
    UncommittedRead,
    /// A failed condition tells of a version that is not durable.
    UncommittedConflict,
    /// A quorum write is answered once the primary has it.
    AnsweredBeforeReplicas,
    /// A primary serves without a lease.
    NoLease,
    /// A lease counts from when it came, not from when it was asked for.
    LeaseFromReceipt,
    /// A new primary does not wait until its promise to the old one has run out.
    PromiseIgnored,
    /// A follower renews the lease of a primary without telling it that it leads a slot no more.
    DeposedUntold,
    /// A primary whose in-sync set is too small does not mind that the coordinator may have replaced it.
    SmallSetTrustsItself,
    /// A primary goes on leading a slot although a replica tells it of its successor (valkey#974).
    DeposedIgnored,
    /// A retried write is carried out again after a failover.
    RetriedTwice,
    /// A fill leaves out which writes of clients have taken effect.
    FillForgetsCompletions,
    /// A write that was cut away counts as done when it is retried.
    CompletionSurvivesCut,
    /// A fill is merged with what the copy holds, so that a deleted key comes back (Olric).
    FillMerges,
    /// What is cut away is not archived.
    LossUntold,
    /// A learner that has given its copy up and was taken in again counts as level from before.
    LearnerNotAskedAgain,
    /// A coordinator without state goes on before every node has told what it knows.
    CoordinatorGuesses,
    /// A coordinator publishes a change before it has kept it.
    PublishedBeforeKept,
    /// A linear read tells that a key has expired, and there is no record of that: past its deadline the value comes back.
    ExpiryUnrecorded,
    /// What expires is the key, whatever it holds meanwhile.
    ExpireUnchecked,
    /// A follower drops what has expired by its own clock.
    FollowerExpires,
    /// A start finds values on its disk without their deadlines.
    DeadlineLostOnDisk,
    /// A start finds no tombstones in a snapshot, so that the log goes on from values that were deleted.
    TombstoneLostOnDisk,
    /// A start takes the position of a whole snapshot for that of each slot in it, and misses what came between.
    PositionApartFromData,
    /// A member whose data has no proof is taken for one that holds all that was promised (KIP-966).
    UnprovenTrusted,
    /// A member whose data has no proof is taken for one that holds nothing.
    UnprovenGone,
    /// A member whose data has no proof is promoted while others may still come back.
    UnprovenInHaste,
    /// A member whose data has no proof is promoted although another may have more.
    UnprovenUnasked,
    /// What was found without proof counts as proven at the start after that.
    ProofRegained,
    /// A node lists the keys of a slot that it does not lead, or not any more.
    ListsAnySlot,
    /// A page is given although somebody did not answer for some slots.
    PageWithHoles,
    /// A page goes on behind where an answer was cut.
    CutIgnored,
    /// A primary drops the key that it evicts from its own memory alone.
    EvictedUnrecorded,
    /// A read-modify-write that is repeated is carried out again.
    ModifiedAgain,
    /// What the client of a read-modify-write was told is not remembered: a repeated one is told what the key holds by then.
    AnswerForgotten,
    /// A copy gives its digest wherever it stands.
    ComparedElsewhere,
    /// Copies are compared with tombstones that one of them may have dropped.
    PurgedCompared,
    /// A copy that differs is only aligned, not filled again.
    RepairAligns,
    /// A node that leaves is told to delete what it holds before others have it (redis#4937).
    LeaverDeletesEarly,
    /// A node that leaves is taken out of the in-sync set before others are in.
    LeaverDroppedEarly,
    /// A primary that has released a slot goes on serving it while the next one begins.
    ReleasedServesOn,
    /// Copies of any number of slots are filled at one time, whatever an operator has said.
    MovesUnlimited,
    /// A copy that was away keeps what the fill does not name, although tombstones that it has not got past were purged
    /// meanwhile: what was deleted comes back.
    PurgeMarkIgnored,
    /// A node that stops on purpose neither hands its slots over nor gives them back: whoever leads next waits for its leases.
    StopsWithoutRelease,
    /// A coordinator that takes a map over does not have leave whom the one before had leave.
    LeaveForgotten,
    /// Whoever comes under the name of a node that lives takes its place.
    NameTaken,
    /// Whoever takes over what is known of a client's writes is not told which are no longer remembered.
    ForgottenUntold,
    /// A client is forgotten as soon as its write has taken effect.
    ForgottenTooEarly,
    /// A coordinator that was started with an older state goes on with it, although nodes know of changes since.
    OldStateTrusted,
    /// A slot of which every member is gone starts anew, although another copy holds what was promised earlier.
    OlderCopyDropped,
}

impl Bug {
    /// Every mistake there is.
    pub const ALL: [Self; 61] = [
        Self::PromoteAnyCopy,
        Self::TrustWithoutProof,
        Self::StaleIncarnationAdmitted,
        Self::MarkCarriedOver,
        Self::LearnerAdmittedEarly,
        Self::AdmittedBelowBarrier,
        Self::AdmissionCountedLate,
        Self::ShrinkCountedEarly,
        Self::MarkMovesBelowMinimum,
        Self::AnyFormerMember,
        Self::NoEpochCheck,
        Self::CutByMark,
        Self::UncommittedRead,
        Self::UncommittedConflict,
        Self::AnsweredBeforeReplicas,
        Self::NoLease,
        Self::LeaseFromReceipt,
        Self::PromiseIgnored,
        Self::DeposedUntold,
        Self::SmallSetTrustsItself,
        Self::DeposedIgnored,
        Self::RetriedTwice,
        Self::FillForgetsCompletions,
        Self::CompletionSurvivesCut,
        Self::FillMerges,
        Self::LossUntold,
        Self::LearnerNotAskedAgain,
        Self::CoordinatorGuesses,
        Self::PublishedBeforeKept,
        Self::ExpiryUnrecorded,
        Self::ExpireUnchecked,
        Self::FollowerExpires,
        Self::DeadlineLostOnDisk,
        Self::TombstoneLostOnDisk,
        Self::PositionApartFromData,
        Self::UnprovenTrusted,
        Self::UnprovenGone,
        Self::UnprovenInHaste,
        Self::UnprovenUnasked,
        Self::ProofRegained,
        Self::ListsAnySlot,
        Self::PageWithHoles,
        Self::CutIgnored,
        Self::EvictedUnrecorded,
        Self::ModifiedAgain,
        Self::AnswerForgotten,
        Self::ComparedElsewhere,
        Self::PurgedCompared,
        Self::RepairAligns,
        Self::LeaverDeletesEarly,
        Self::LeaverDroppedEarly,
        Self::ReleasedServesOn,
        Self::MovesUnlimited,
        Self::PurgeMarkIgnored,
        Self::StopsWithoutRelease,
        Self::LeaveForgotten,
        Self::NameTaken,
        Self::ForgottenUntold,
        Self::ForgottenTooEarly,
        Self::OldStateTrusted,
        Self::OlderCopyDropped,
    ];
}

/// Which bugs are planted.
pub trait Bugs: Debug + Clone + Copy + Default + Send + Sync + 'static {
    /// Whether this one is.
    fn plants(self, bug: Bug) -> bool;
}

/// State machines whose copies can be damaged, as a broken memory would: those of tests. [`NoBugs`] is none of them, so that
/// nobody can damage a node that ships.
pub trait Damaged: Bugs {}

/// The shipping state machines: none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBugs;

impl Bugs for NoBugs {
    fn plants(self, _: Bug) -> bool {
        false
    }
}
