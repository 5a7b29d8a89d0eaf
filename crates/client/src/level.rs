//! The levels that calls ask for: when a write is answered, and what a read may return.

use proto::level::{AckLevel, ReadLevel};

/// The levels that a client's calls ask for. `None` means whatever the cluster was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Levels {
    /// When a write is answered.
    pub ack: Option<AckLevel>,
    /// What a read may return.
    pub read: Option<ReadLevel>,
}

impl Levels {
    /// These levels; any that are unset are taken from `others`.
    pub(crate) fn or(self, others: Self) -> Self {
        Self { ack: self.ack.or(others.ack), read: self.read.or(others.read) }
    }
}

impl From<AckLevel> for Levels {
    fn from(level: AckLevel) -> Self {
        Self { ack: Some(level), read: None }
    }
}

impl From<ReadLevel> for Levels {
    fn from(level: ReadLevel) -> Self {
        Self { ack: None, read: Some(level) }
    }
}

/// What a request needs of the connection that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LevelRequirement {
    /// Nothing: it is neither a write nor a read of a key.
    Nothing,
    /// A write.
    Ack(Option<AckLevel>),
    /// A read of a key.
    Read(Option<ReadLevel>),
}

impl LevelRequirement {
    /// Whether a connection set to these levels can carry the request as it is.
    pub(crate) fn is_met_by(self, set: Levels) -> bool {
        match self {
            Self::Nothing => true,
            Self::Ack(level) => set.ack == level,
            Self::Read(level) => set.read == level,
        }
    }

    /// Whether any connection can be made to carry the request. A connection that was set to a level cannot be set back
    /// to the cluster's own, which nobody but the cluster knows for sure.
    pub(crate) fn can_be_set(self) -> bool {
        !matches!(self, Self::Ack(None) | Self::Read(None))
    }

    /// The request that sets a connection to the needed level.
    ///
    /// # Panics
    /// If [`LevelRequirement::can_be_set`] is false: no connection can be set up for this request.
    pub(crate) fn line(self) -> String {
        match self {
            Self::Ack(Some(level)) => format!("ACK {level}\n"),
            Self::Read(Some(level)) => format!("READ {level}\n"),
            Self::Nothing | Self::Ack(None) | Self::Read(None) => panic!("there is nothing to ask for: {self:?}"),
        }
    }

    /// The levels of a connection after it was set to the needed level.
    pub(crate) fn added_to(self, set: Levels) -> Levels {
        match self {
            Self::Nothing => set,
            Self::Ack(level) => Levels { ack: level, ..set },
            Self::Read(level) => Levels { read: level, ..set },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_named_takes_the_place_of_the_one_before_and_no_other() {
        let levels = Levels::from(AckLevel::Quorum).or(Levels::default());
        let both = Levels::from(ReadLevel::Linear).or(levels);
        assert_eq!(both, Levels { ack: Some(AckLevel::Quorum), read: Some(ReadLevel::Linear) });
        assert_eq!(Levels::from(AckLevel::All).or(both).ack, Some(AckLevel::All));
        assert_eq!(Levels::default().or(both), both);
    }

    #[test]
    fn a_connection_is_asked_for_a_level_once_and_never_for_the_clusters_own() {
        let (fresh, quorum) = (Levels::default(), LevelRequirement::Ack(Some(AckLevel::Quorum)));
        assert!(!quorum.is_met_by(fresh) && quorum.can_be_set());
        assert_eq!(quorum.line(), "ACK quorum\n");
        let set = quorum.added_to(fresh);
        assert!(
            quorum.is_met_by(set)
                && !LevelRequirement::Ack(None).is_met_by(set)
                && !LevelRequirement::Ack(None).can_be_set()
        );
        assert!(
            LevelRequirement::Read(None).is_met_by(set) && LevelRequirement::Nothing.is_met_by(set),
            "a read does not mind"
        );
    }
}
