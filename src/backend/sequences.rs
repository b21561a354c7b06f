//! Whose values of sequences a server session remembers: what currval and lastval would tell there.

use std::sync::{Arc, Weak};

/// What a session has of one server session that took values of sequences for it. Dropped when the session wants it back no more.
#[derive(Debug, Default)]
pub struct Claim(Arc<()>);

/// What a server session knows of sequences.
#[derive(Debug, Clone, Default)]
pub struct Remembered(Option<Weak<()>>);

impl Remembered {
    /// It knows of none.
    pub const NOTHING: Remembered = Remembered(None);

    pub fn of(claim: &Claim) -> Self {
        Remembered(Some(Arc::downgrade(&claim.0)))
    }
    /// Nobody knows whose, or of several sessions.
    pub fn somebodys() -> Self {
        Remembered(Some(Weak::new()))
    }
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }
    /// All of it is that session's.
    pub fn is_of(&self, claim: &Claim) -> bool {
        // a weak pointer keeps the address from being anybody else's
        self.0.as_ref().is_some_and(|whose| std::ptr::eq(whose.as_ptr(), Arc::as_ptr(&claim.0)))
    }
    /// Some session may come back for it.
    pub fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|whose| whose.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_wanted_as_long_as_its_session_claims_it() {
        let (one, other) = (Claim::default(), Claim::default());
        let there = Remembered::of(&one);
        assert!(there.is_of(&one) && !there.is_of(&other) && there.is_wanted() && !there.is_nothing());
        drop(one);
        assert!(!there.is_wanted() && !there.is_nothing() && !there.is_of(&Claim::default()));
        let mixed = Remembered::somebodys();
        assert!(!mixed.is_wanted() && !mixed.is_nothing() && !mixed.is_of(&other));
        assert!(Remembered::NOTHING.is_nothing() && !Remembered::NOTHING.is_wanted());
    }
}
