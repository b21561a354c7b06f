//! What serving a message takes and silence does not: a session has it while it is busy, and leaves it to the next one on its
//! thread, so that silent sessions hold nothing and busy ones ask the allocator for nothing.

use crate::limits::spares::{self, Spares};
use crate::sql::scan::Scan;
use bytes::BytesMut;
use std::ops::{Deref, DerefMut};

/// Buffers are at least that large, and much larger ones are not kept, in bytes.
pub(super) const BUFFER: usize = 8 * 1024;

/// Scans that hold more are not kept, in bytes.
const LARGEST_SCAN: usize = 16 * 1024;

thread_local! {
    static BUFFERS: Spares<BytesMut> = const { Spares::new() };
    static SCANS: Spares<Box<Scan>> = const { Spares::new() };
}

/// An empty buffer that takes at least [`BUFFER`] bytes.
pub(super) fn buffer() -> BytesMut {
    spares::take(&BUFFERS).unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
}

/// A buffer that nobody needs any more.
pub(super) fn leave(mut buffer: BytesMut) {
    buffer.clear();
    // What somebody has a part of, and what is much larger, goes its own way.
    if buffer.try_reclaim(BUFFER) && buffer.capacity() <= 2 * BUFFER {
        spares::leave(&BUFFERS, buffer);
    }
}

/// The scan of the message being served; an empty one while none is.
#[derive(Default)]
pub(super) struct Scanned(Option<Box<Scan>>);

impl Scanned {
    /// The message has been served.
    pub(super) fn rest(&mut self) {
        let Some(mut scan) = self.0.take() else { return };
        scan.clear();
        if scan.bytes() <= LARGEST_SCAN {
            spares::leave(&SCANS, scan);
        }
    }
}

impl Deref for Scanned {
    type Target = Scan;
    fn deref(&self) -> &Scan {
        static NOTHING: Scan = Scan::new();
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Scanned {
    fn deref_mut(&mut self) -> &mut Scan {
        self.0.get_or_insert_with(|| spares::take(&SCANS).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_used_again() {
        let mut first = buffer();
        first.extend_from_slice(b"something");
        let at = first.as_ptr();
        leave(first);
        let again = buffer();
        assert!(again.is_empty() && again.capacity() >= BUFFER);
        assert_eq!(again.as_ptr(), at);
        leave(BytesMut::with_capacity(1 << 20));
        assert!(buffer().capacity() < 1 << 20, "a large one is not kept");
        let mut shared = buffer();
        shared.extend_from_slice(b"something");
        let part = shared.split_to(4);
        leave(shared);
        assert_ne!(buffer().as_ptr(), part.as_ptr(), "what somebody has a part of is not kept");
    }

    #[test]
    fn a_scan_is_empty_before_and_after() {
        let mut scanned = Scanned::default();
        assert!(scanned.pieces.is_empty());
        scanned.scan("SELECT 1", true).unwrap();
        assert_eq!(scanned.pieces.len(), 1);
        scanned.rest();
        assert!(scanned.pieces.is_empty());
        scanned.scan("", true).unwrap();
        assert!(scanned.pieces.is_empty() && scanned.literals.is_empty());
    }
}
