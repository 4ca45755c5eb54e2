//! TODO

pub(super) mod acquire;
pub(super) mod extend;
pub(super) mod front_page;
pub(super) mod get;
pub(super) mod health;
pub(super) mod logs;
pub(super) mod metrics;
pub(super) mod nodes;
pub(super) mod page_actions;
pub(super) mod pool_stats;
pub(super) mod ready_feed;
pub(super) mod release;
pub(super) mod status;
