//! The PostgreSQL protocol as data: no sockets, no clock.
//!
//! Purpose: everything that is written in chapter "Frontend/Backend Protocol" of the manual (protocol 3.0
//! and 3.2) and in the input functions of key types, as functions from bytes to views and from values to
//! bytes. It imports nothing but the error type. Rooms above own sockets, deadlines and decisions.
//!
//! - [`frame`] finds where a message begins and ends, and refuses hostile lengths
//! - [`frontend`] what clients send: views over a frame's body, and writers
//! - [`backend`] what servers send: likewise
//! - [`startup`] the first packet of a connection, which has no tag
//! - [`renumber`] object ids in descriptions and binary values, changed in place
//! - [`copy`] rows in the data of a COPY, and the fields of chosen columns
//! - [`scram`], [`md5`] password exchanges, both sides
//! - [`values`] key values from text and binary, exactly as Postgres reads them, or not at all;
//!   `numeric` and `datetime` are its two long stories, [`array`] walks array parameters
//! - [`encoding`] character encodings by name, and texts in them taken apart without conversion
//!
//! How bytes flow: a room reads into its buffer, asks [`frame::header`] what stands at the front, and
//! forwards the frame as it came. Only where the content matters (the text of a Query, the values of a
//! Bind) it makes a view over the body. A view borrows, never copies, and checks the whole body
//! when it is made: counts against the bytes that remain, terminators, and that nothing is left over. So a
//! frame means the same to pgweir and to the server behind it, and nothing can be smuggled between them.
//!
//! Decisions:
//!
//! - **Own framing, own views.** A decoder that reads past its frame, or that turns bytes which are not UTF-8
//!   into replacement characters, must not stand between a client and a server. Names and texts are
//!   `&[u8]` here: in which encoding they are is the session's knowledge.
//! - **Own writers.** `pgwire`'s message types own `String`s, their `encode` can fail, and it has written the tag
//!   by then: an over-long message would leave a stray byte in the stream. Our writers take slices, patch the
//!   length in afterwards and cannot fail. The tests compare each of them with pgwire's encoder.
//! - **Two severities of 08P01.** A wrong length or tag is FATAL: where the next message begins is not known any
//!   more. A malformed body inside a good frame is an ERROR, as in Postgres: the session skips to Sync.
//!   What a server sends wrongly is the shard's fault and always fatal to its link.
//! - **Limits before buffers.** The header is judged when its five bytes are there, by direction and state
//!   ([`frame::Limits`]), so that no peer can make a buffer grow by a length alone.
//! - **SCRAM states are consumed.** Each step of an exchange takes the state by value and gives the next one; a
//!   message out of order cannot be expressed. Unknown users meet a made-up verifier that is always the same for
//!   the same name.
//! - **NeedsServer is an answer.** A value whose meaning depends on settings, clocks or a grammar that is not
//!   reproduced here is never guessed.
//!
//! Where to look when it breaks: "invalid message length" and "invalid frontend message type" come from [`frame`];
//! "insufficient data left in message", "invalid string in message", "invalid message format" from the views
//! ([`body`]); a wrong shard for a value from [`values`], which `tests/values.rs` compares with a server.

pub mod array;
pub mod backend;
pub mod body;
pub mod copy;
mod datetime;
pub mod encoding;
pub mod frame;
pub mod frontend;
pub mod md5;
mod numeric;
pub mod renumber;
pub mod scram;
pub mod startup;
pub mod values;
