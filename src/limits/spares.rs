//! What one needs for a moment and leaves to the next one on its thread, so that nobody asks the allocator for it each time.
//!
//!     thread_local!(static BUFFERS: Spares<BytesMut> = const { Spares::new() });
//!     let buffer = spares::take(&BUFFERS).unwrap_or_default();
//!     spares::leave(&BUFFERS, buffer);

use std::cell::RefCell;
use std::thread::LocalKey;

/// That many are kept on each thread: enough for what is under way at once, and few enough not to hold on to the allocator's pages
/// after a rush.
const MOST: usize = 16;

#[derive(Debug)]
pub struct Spares<T>(RefCell<Vec<T>>);

impl<T> Spares<T> {
    pub const fn new() -> Self {
        Spares(RefCell::new(Vec::new()))
    }
}

impl<T> Default for Spares<T> {
    fn default() -> Self {
        Spares::new()
    }
}

/// One that was left. `None`: none was, or the thread ends.
pub fn take<T>(spares: &'static LocalKey<Spares<T>>) -> Option<T> {
    spares.try_with(|all| all.0.try_borrow_mut().ok()?.pop()).ok().flatten()
}

/// For the next one. It must be as good as new.
pub fn leave<T>(spares: &'static LocalKey<Spares<T>>, spare: T) {
    // what finds no room is dropped with the closure
    let _ = spares.try_with(move |all| {
        if let Ok(mut all) = all.0.try_borrow_mut()
            && all.len() < MOST
        {
            all.push(spare);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local!(static NUMBERS: Spares<u32> = const { Spares::new() });

    #[test]
    fn what_was_left_is_taken_once_on_its_thread() {
        assert_eq!(take(&NUMBERS), None);
        leave(&NUMBERS, 7);
        assert_eq!(std::thread::spawn(|| take(&NUMBERS)).join().unwrap(), None);
        assert_eq!((take(&NUMBERS), take(&NUMBERS)), (Some(7), None));
        (0..1000).for_each(|n| leave(&NUMBERS, n));
        assert_eq!(std::iter::from_fn(|| take(&NUMBERS)).count(), MOST);
    }
}
