//! Try It Now.
pub mod api;
pub mod clock;
pub mod config;
pub mod instance;
pub mod pages;
pub mod pool;
pub mod proxy;
pub mod request;
pub mod routes;
pub mod runtime;
pub mod sample_app;
pub mod server;
pub mod store;
pub mod task;
pub mod telemetry;
