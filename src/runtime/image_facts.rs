//! What an image declares about its app.

use crate::template::HealthCheck;

/// What an image declares about its app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// The user that it declares; empty for root.
    pub user: String,
    /// Numbers of that user and its group; `None` if the image does not know the user.
    pub ids: Option<(u32, u32)>,
    /// The TCP ports that it exposes, in ascending order.
    pub ports: Vec<u16>,
    /// Its health check.
    pub health_check: Option<HealthCheck>,
}
