//! The apps, one file each.

pub(super) mod caddy;
pub(super) mod django;
pub(super) mod dokuwiki;
pub(super) mod etherpad;
pub(super) mod jupyter;
pub(super) mod mono;
pub(super) mod nginx;
pub(super) mod node_red;
pub(super) mod php;
pub(super) mod php_fpm;
pub(super) mod postgresql;
pub(super) mod prestashop;
pub(super) mod sinatra;
pub(super) mod tomcat;
pub(super) mod ttyd;
pub(super) mod valkey_flask;
pub(super) mod vite;
pub(super) mod wordpress;
pub(super) mod wordpress_shop;
