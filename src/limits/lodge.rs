//! Futures whose room on the heap is used again: what serves one message after another asks the allocator for nothing.

use crate::limits::spares::{self, Spares};
use std::future::Future;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

/// Larger futures are not lodged, in bytes.
const ROOM: usize = 4 * 1024;

#[repr(align(16))]
struct Room(#[allow(dead_code, reason = "bytes for whatever comes")] [MaybeUninit<u8>; ROOM]);

thread_local!(static ROOMS: Spares<Box<MaybeUninit<Room>>> = const { Spares::new() });

/// `Box::pin` of a future that is awaited at once. One that is too large for a room does not compile.
pub struct Lodged<F> {
    /// owns a room, with a future in it
    room: NonNull<Room>,
    guest: PhantomData<F>,
}

// SAFETY: whoever has it has the room and the future alone, as with a box.
unsafe impl<F: Send> Send for Lodged<F> {}

// The future stays where it is when this is moved.
impl<F> Unpin for Lodged<F> {}

impl<F: Future> Lodged<F> {
    const FITS: () = assert!(size_of::<F>() <= size_of::<Room>() && align_of::<F>() <= align_of::<Room>());

    /// `make` makes it in its place: to carry it there would cost more than all else.
    #[inline(always)]
    pub fn new(make: impl FnOnce() -> F) -> Self {
        const { Self::FITS };
        let room = spares::take(&ROOMS).unwrap_or_else(Box::new_uninit);
        let room = NonNull::from(Box::leak(room)).cast::<Room>();
        // SAFETY: the room is owned, and large and aligned enough.
        unsafe { room.cast::<F>().write(make()) };
        Lodged { room, guest: PhantomData }
    }
}

impl<F: Future> Future for Lodged<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the future is there since `new`, and does not move until it is dropped in its place.
        unsafe { Pin::new_unchecked(self.room.cast::<F>().as_mut()) }.poll(cx)
    }
}

impl<F> Drop for Lodged<F> {
    fn drop(&mut self) {
        /// Gives the room back, also when dropping the future panics.
        struct Vacates(NonNull<Room>);
        impl Drop for Vacates {
            fn drop(&mut self) {
                // SAFETY: it came from a box of that type, and nobody else has it.
                let room = unsafe { Box::from_raw(self.0.cast::<MaybeUninit<Room>>().as_ptr()) };
                spares::leave(&ROOMS, room);
            }
        }
        let _vacates = Vacates(self.room);
        // SAFETY: the future is there since `new`, and is not touched again.
        unsafe { self.room.cast::<F>().drop_in_place() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_room_is_used_again_and_its_guest_is_dropped() {
        let held = Arc::new(());
        let guest = held.clone();
        let lodged = Lodged::new(|| async move {
            tokio::task::yield_now().await;
            drop(guest);
            7
        });
        let room = lodged.room;
        assert_eq!(lodged.await, 7);
        assert_eq!(Arc::strong_count(&held), 1);
        let guest = held.clone();
        let unfinished = Lodged::new(|| async move {
            std::future::pending::<()>().await;
            drop(guest);
        });
        assert_eq!(unfinished.room, room, "the room is used again");
        assert_eq!(Arc::strong_count(&held), 2);
        drop(unfinished);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn a_guest_may_leave_on_another_thread() {
        let text = String::from("kept");
        let lodged = Lodged::new(|| async move {
            tokio::task::yield_now().await;
            text.len()
        });
        assert_eq!(tokio::spawn(lodged).await.unwrap(), 4);
    }
}
