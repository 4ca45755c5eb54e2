//! What one client or one visitor may take of the server.

mod client_connections;
mod connections;
mod proof_of_work;
mod rate_limits;
mod requests;
mod requests_in_flight;
mod store_calls;

mod heavy {
    mod hostile_clients;
}
