//! What one client or one visitor may take of the server.

mod connections;
mod rate_limits;
mod requests;

mod heavy {
    mod hostile_clients;
}
