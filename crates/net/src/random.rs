//! Random bits from the system.

/// 64 random bits: for identities and for secrets that keep clients from choosing keys that collide.
///
/// # Panics
/// The system gives none. Going on would make identities that another process may have.
#[must_use]
pub fn bits() -> u64 {
    getrandom::u64().expect("the system gives random bits")
}
