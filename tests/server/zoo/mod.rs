//! The zoo: apps that people really have, in images as public ones are. Each is started cold, baked, restored twenty
//! times, and visited in two instances. `make zoo` runs all of them and prints the table of `docs/images.md`.
//!
//! To add an app: an image in `deployments/images/`, a file in `apps/`, its line here, and its row in the document.

mod app;
mod apps;
mod measure;
mod table;
mod visitor;

use app::App;

/// Lists the apps by the names of their modules, and makes a test of each. Those of the core run in every run; the
/// others need the feature `zoo`, since their images are many and large.
macro_rules! zoo {
    (core: $($core:ident)* ; others: $($other:ident)* ;) => {
        /// All apps.
        const APPS: &[&App] = &[$(&apps::$core::APP,)* $(&apps::$other::APP,)*];

        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $core() {
            measure::run(&apps::$core::APP).await;
        })*

        $(#[cfg(feature = "zoo")]
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $other() {
            measure::run(&apps::$other::APP).await;
        })*
    };
}

zoo! {
    core:
        nginx node_red php php_fpm valkey_flask wordpress
    ;
    others:
        caddy
        django
        dokuwiki
        etherpad
        mono
        sinatra
        ttyd
        vite
        jupyter
        postgresql
        prestashop
        tomcat
        wordpress_shop
    ;
}
