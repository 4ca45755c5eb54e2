//! The server from its start to its end, its pool, and the commands of the program besides `serve`.

mod cli;
mod clock_steps;
mod config;
pub mod crash;
pub(crate) mod databases;
mod doctor;
mod first_process;
mod forwarded_fields;
mod listening;
mod logs;
mod make;
#[cfg(feature = "measurements")]
mod measure;
mod pool;
mod readme;
mod ready_watch;
mod release;
mod reload;
mod secrets;
pub(crate) mod service;
mod shutdown;
