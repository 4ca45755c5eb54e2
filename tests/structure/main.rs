//! The rules of the source tree as tests: which folder may use which, no large import circles, plain words, short files.
#![allow(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions, but not in the functions that they call"
)]

mod circles;
mod documents;
mod imports;
mod sources;
mod walls;
mod words;
