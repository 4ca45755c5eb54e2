//! The HTTP contract, endpoint by endpoint.

mod access;
pub mod delivery;
mod endpoints;
mod errors;
mod events;
mod expiry;
mod metrics;
mod pages;
mod partial_answers;
mod tokens;

mod heavy {
    mod delivery;
}
