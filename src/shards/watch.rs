//! The maps of a folder.
