//! A map file that is being edited: comments and order stay.
