//! Files, environment and flags become effective settings here, and only here.
