//! The PostgreSQL protocol as data: no sockets, no clock.
//!
//! (essay to be written by whoever fills the room: see STYLE.md)

pub mod values;
