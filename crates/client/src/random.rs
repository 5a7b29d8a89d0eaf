//! Random bits from the system.

/// 64 random bits.
///
/// # Panics
/// The system gives none. Going on would make names that another client may have.
pub(crate) fn bits() -> u64 {
    getrandom::u64().expect("the system gives random bits")
}
