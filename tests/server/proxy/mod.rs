//! Requests that the proxy carries to an instance, and the connections that they come on.

mod connection_reuse;
mod event_streams;
mod features;
mod half_closed;
mod hostile_apps;
mod http_1_0;
mod messages;
mod own_answers;
mod silence;
mod smuggling;
mod tls;
mod uploads;
mod upstream_failures;
mod websocket;

mod heavy {
    mod large_transfers;
    mod websocket;
}
