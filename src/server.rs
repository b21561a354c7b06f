//! Listens, admits, drains; hands a greeted client to its room.
