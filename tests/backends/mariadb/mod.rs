//! The databases of instances on real MariaDB servers, the newest version and the oldest: the suite, and what only
//! MariaDB promises.

mod attacks;
mod connections;
mod crashes;
#[cfg(feature = "measurements")]
mod measure;
mod tls;

database_suite!(new, Version::New);
database_suite!(old, Version::Old);
