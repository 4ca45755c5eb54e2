//! Requests of every kind at a fixed rate against five real apps behind one server. Each answer is compared with its
//! right value.

mod apps;
mod kinds;
mod load;
mod random;
mod soak;
mod usage;
mod visits;
