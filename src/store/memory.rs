//! The embedded store: one server, in memory.
