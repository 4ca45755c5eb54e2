//! What one client or one visitor may take of the server.

mod connections;
pub mod hostile_clients;
mod rate_limits;
mod requests;

mod heavy {
    mod hostile_clients;
}
