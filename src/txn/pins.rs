//! Why a session keeps a link: what its server session holds that no other could be given.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub, SubAssign};

/// A set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Pins(u16);

impl Pins {
    pub const NONE: Pins = Pins(0);
    /// relations, functions or types in the temporary schema
    pub const TEMPORARIES: Pins = Pins(1);
    /// advisory locks of the session's
    pub const LOCKS: Pins = Pins(1 << 1);
    /// cursors WITH HOLD
    pub const CURSORS: Pins = Pins(1 << 2);
    /// what currval and lastval answer
    pub const SEQUENCES: Pins = Pins(1 << 3);
    /// settings that cannot be repeated elsewhere
    pub const SETTINGS: Pins = Pins(1 << 4);
    /// LOAD
    pub const LIBRARIES: Pins = Pins(1 << 5);
    /// PREPARE in SQL
    pub const PREPARED: Pins = Pins(1 << 6);
    /// a text that only the server could read
    pub const UNREAD: Pins = Pins(1 << 7);
    /// functions, triggers and DO that may leave anything of this
    pub const CODE: Pins = Pins(1 << 8);

    /// Those that a server can be asked about.
    pub const ASKED: Pins = Pins(Self::LOCKS.0 | Self::CURSORS.0 | Self::PREPARED.0 | Self::TEMPORARIES.0);

    const WORDS: [(Pins, &str); 9] = [
        (Self::TEMPORARIES, "temporary tables"),
        (Self::LOCKS, "advisory locks"),
        (Self::CURSORS, "cursors WITH HOLD"),
        (Self::SEQUENCES, "sequences (currval, lastval)"),
        (Self::SETTINGS, "settings"),
        (Self::LIBRARIES, "LOAD"),
        (Self::PREPARED, "PREPARE"),
        (Self::UNREAD, "a statement that was not understood"),
        (Self::CODE, "what a function may have left"),
    ];

    /// Settings that nobody has counted may be among these: nothing but the server session itself has them.
    pub const UNCOUNTED: Pins = Pins(Self::SETTINGS.0 | Self::UNREAD.0 | Self::CODE.0);

    /// Both.
    pub const fn and(self, other: Pins) -> Pins {
        Pins(self.0 | other.0)
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// All of `other` are in it.
    pub fn contains(self, other: Pins) -> bool {
        self.0 & other.0 == other.0
    }
    /// One by one, in words.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().filter(move |(pin, _)| self.contains(*pin)).map(|(_, word)| word)
    }
}

impl BitOr for Pins {
    type Output = Pins;
    fn bitor(self, other: Pins) -> Pins {
        Pins(self.0 | other.0)
    }
}
impl BitAnd for Pins {
    type Output = Pins;
    fn bitand(self, other: Pins) -> Pins {
        Pins(self.0 & other.0)
    }
}
impl Sub for Pins {
    type Output = Pins;
    fn sub(self, other: Pins) -> Pins {
        Pins(self.0 & !other.0)
    }
}
impl BitOrAssign for Pins {
    fn bitor_assign(&mut self, other: Pins) {
        *self = *self | other;
    }
}
impl SubAssign for Pins {
    fn sub_assign(&mut self, other: Pins) {
        *self = *self - other;
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.words().collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_a_set_with_words() {
        let pins = Pins::LOCKS | Pins::SEQUENCES;
        assert!(pins.contains(Pins::LOCKS) && !pins.contains(Pins::LOCKS | Pins::CURSORS));
        assert_eq!((pins - Pins::LOCKS).to_string(), "sequences (currval, lastval)");
        assert!((pins - pins).is_empty() && Pins::NONE.is_empty());
        let all = Pins::WORDS.iter().fold(Pins::NONE, |all, (pin, _)| all | *pin);
        assert_eq!(all.words().count(), 9, "each has its own bit");
    }
}
