//! The server from its start to its end, its pool, and the commands of the program besides `serve`.

mod cli;
mod config;
pub mod crash;
mod doctor;
mod first_process;
mod forwarded_fields;
mod logs;
mod pool;
mod readme;
mod reload;
mod secrets;
mod shutdown;
