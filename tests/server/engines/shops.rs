//! Shops and sites from the templates of this repository, each with its database on a MariaDB outside of its container.
//!
//! Docker runs them here, and containerd in `containers/shops.rs`: the Podman of the tests makes no firewall rules, and makes
//! no network without them.

use std::path::Path;

use serde_json::Value;
use try_it_now::runtime::engine::EngineKind;

use super::EngineHost;
use crate::containers::{FULL_TIMEOUT, release, shut_down};
use crate::support::engine_stack::engine_socket;
use crate::support::harness::{AcquiredInstance, Answer, Server, eventually, get, request};
use crate::support::mariadb_server::{MariaDbServer, PASSWORD, USER, Version};
use crate::support::stack::image_archive;
use crate::support::zip::zip;

/// A MariaDB, and Docker with one of the shipped templates.
struct Host {
    mariadb: MariaDbServer,
    engine: EngineHost,
}

/// What a visitor has: an instance, and the password that belongs to it.
pub(crate) struct Visitor {
    pub(crate) port: u16,
    pub(crate) instance: AcquiredInstance,
    password: String,
}

/// Returns the shipped template with this name, in which an image of this repository takes the place of the public one.
pub(crate) fn shipped_template(template: &str) -> String {
    let (public, own) = match template {
        "prestashop" => ("prestashop/prestashop-flashlight:latest", "prestashop"),
        "wordpress-official" => ("wordpress:6-apache", "wordpress-shop"),
        other => panic!("no image takes the place of that of {other}"),
    };
    let path = format!("{}/deployments/templates/{template}.toml", env!("CARGO_MANIFEST_DIR"));
    let public = format!("image = \"{public}");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(&public), "{template} has the image {public}");
    let own = format!("image = \"oci:{}", image_archive(own).display());
    // A key that is left out begins with `#` alone.
    text.replace(&public, &own).replace("\n#\"", "\n\"")
}

/// Returns the settings for the databases of a MariaDB.
pub(crate) fn database_settings(mariadb: &MariaDbServer) -> [(&'static str, String); 4] {
    [
        ("PS_DB_HOST", mariadb.host()),
        ("PS_DB_PORT", mariadb.port().to_string()),
        ("PS_DB_USER", USER.to_owned()),
        ("PS_DB_PASSWORD", PASSWORD.to_owned()),
    ]
}

/// Writes the module of the shipped template of PrestaShop beside it.
pub(crate) fn write_module(folder: &Path) {
    let module = zip("mymodule/config.json", r#"{"version": "2", "banner": "Ten percent off"}"#);
    assert!(String::from_utf8(module.clone()).is_err(), "no text can hold it");
    std::fs::write(folder.join("mymodule.zip"), module).unwrap();
}

impl Host {
    async fn new(template: &str) -> Option<Self> {
        let socket = engine_socket(EngineKind::Docker)?;
        let mariadb = MariaDbServer::start_for_containers(Version::New).await?;
        let text = shipped_template(template);
        Some(Self { mariadb, engine: EngineHost::with_file(EngineKind::Docker, socket, &text) })
    }

    async fn serve(&self) -> Server {
        let own = database_settings(&self.mariadb);
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        // The test has no use for a third one.
        let variables: Vec<_> = own.chain([("POOL_MAX_SIZE", "2")]).collect();
        self.engine.start_server(&variables).await.full_within(FULL_TIMEOUT).await
    }

    /// Releases the last instance and ends the server. No container, database or user is left.
    async fn end(&self, mut server: Server, last: &Visitor) {
        release(&server, &last.instance.id).await;
        shut_down(&mut server).await;
        self.engine.assert_nothing_left().await;
        assert_eq!(self.mariadb.names().await, [] as [&str; 0]);
    }
}

impl Visitor {
    pub(crate) async fn come(server: &Server) -> Self {
        let acquired: Value = server.call("POST", "/api/v1/demo/acquire", "").await.json();
        let instance = AcquiredInstance::from_json(&acquired);
        let password = acquired["credentials"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
        Self { port: server.port, instance, password }
    }

    /// Returns the first page as it comes at the first try, without a redirect.
    pub(crate) async fn first_page(&self) -> String {
        let answer = get(self.port, &self.instance.host, "/").await;
        assert_eq!(answer.status, 200, "{:?}", answer.headers);
        answer.text()
    }

    /// Sends a form with these cookies.
    async fn post(&self, path: &str, cookies: &str, fields: &str) -> Answer {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("cookie", cookies)];
        request(self.port, "POST", &self.instance.host, path, &headers, fields).await
    }

    async fn page(&self, path: &str, cookies: &str) -> String {
        let answer = request(self.port, "GET", &self.instance.host, path, &[("cookie", cookies)], "").await;
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.headers);
        answer.text()
    }
}

/// Returns the cookies that an answer sets, as a request sends them.
fn cookies(answer: &Answer) -> String {
    let set = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    set.filter_map(|cookie| cookie.split(';').next()).collect::<Vec<_>>().join("; ")
}

/// Releases the first of two instances. Returns when its database and its user are gone, those of the other not.
pub(crate) async fn release_first(mariadb: &MariaDbServer, server: &Server, [first, second]: [&Visitor; 2]) {
    let of = |visitor: &Visitor| visitor.instance.id.rsplit('-').next().unwrap().to_owned();
    let (gone, stays) = (of(first), of(second));
    let has = |names: &[String], suffix: &str| names.iter().any(|name| name.ends_with(suffix));
    let users = format!("SELECT User FROM mysql.user WHERE User LIKE '%{gone}' OR User LIKE '%{stays}'");
    assert_eq!(mariadb.query::<String>(&users).await.len(), 2);
    release(server, &first.instance.id).await;
    eventually("its database and its user are gone", async || {
        let names = mariadb.names().await;
        assert!(has(&names, &stays), "{names:?}");
        (!has(&names, &gone)).then_some(())
    })
    .await;
    let left: Vec<String> = mariadb.query(&users).await;
    assert!(left.len() == 1 && left[0].ends_with(&stays), "{left:?}");
}

/// Two visitors of a server of shops come, and one of them adds a product.
pub(crate) async fn visit_shops(server: &Server) -> [Visitor; 2] {
    let (one, two) = (Visitor::come(server).await, Visitor::come(server).await);
    for shop in [&one, &two] {
        let page = shop.first_page().await;
        let own = format!("<link rel=\"canonical\" href=\"{}\">", shop.instance.url);
        assert!(page.contains(&own) && page.contains("Hummingbird mug"), "{page}");
        assert!(page.contains("<li>Ten percent off</li>"), "the module is installed: {page}");
    }
    let login = |password: &str| format!("email=admin@prestashop.com&passwd={password}");
    for wrong in [&two.password, "prestashop"] {
        assert_eq!(one.post("/admin-dev/", "", &login(wrong)).await.status, 401, "{wrong}");
    }
    let entered = one.post("/admin-dev/", "", &login(&one.password)).await;
    assert_eq!(entered.status, 303, "{}", entered.text());
    let session = cookies(&entered);
    let page = one.page("/admin-dev/", &session).await;
    let token = page.split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let product = format!("token={token}&name=Cup+of+one&price=7.5");
    assert_eq!(one.post("/admin-dev/", &session, &product).await.status, 303);
    assert!(one.first_page().await.contains("Cup of one"));
    assert!(!two.first_page().await.contains("Cup of one"));
    [one, two]
}

/// Two visitors of a server of sites come, and one of them writes a post.
pub(crate) async fn visit_sites(server: &Server) -> [Visitor; 2] {
    let (one, two) = (Visitor::come(server).await, Visitor::come(server).await);
    for site in [&one, &two] {
        let page = site.first_page().await;
        assert!(page.contains("A site of your own") && page.contains(&site.instance.url), "{page}");
    }
    let login = |password: &str| format!("log=admin&pwd={password}&testcookie=1");
    let test = "wordpress_test_cookie=WP%20Cookie%20check";
    let refused = one.post("/wp-login.php", test, &login(&two.password)).await;
    assert_eq!(refused.status, 200, "{:?}", refused.headers);
    let entered = one.post("/wp-login.php", test, &login(&one.password)).await;
    assert_eq!(entered.status, 302, "{}", entered.text());
    let session = cookies(&entered);
    let nonce = one.page("/wp-admin/admin-ajax.php?action=rest-nonce", &session).await;
    let headers =
        [("content-type", "application/json"), ("cookie", session.as_str()), ("x-wp-nonce", nonce.trim())];
    let post = r#"{"title": "Words of one", "status": "publish"}"#;
    let path = "/index.php?rest_route=/wp/v2/posts";
    let written = request(one.port, "POST", &one.instance.host, path, &headers, post).await;
    assert_eq!(written.status, 201, "{}", written.text());
    assert!(one.first_page().await.contains("Words of one"));
    assert!(!two.first_page().await.contains("Words of one"));
    [one, two]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shops_have_their_own_hosts_modules_passwords_and_databases() {
    let Some(host) = Host::new("prestashop").await else { return };
    write_module(&host.engine.folder);
    let server = host.serve().await;
    let [one, two] = visit_shops(&server).await;
    release_first(&host.mariadb, &server, [&one, &two]).await;
    assert!(two.first_page().await.contains("Hummingbird mug"));
    host.end(server, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_have_their_own_hosts_posts_passwords_and_databases() {
    let Some(host) = Host::new("wordpress-official").await else { return };
    let server = host.serve().await;
    let [one, two] = visit_sites(&server).await;
    release_first(&host.mariadb, &server, [&one, &two]).await;
    assert!(two.first_page().await.contains("Hello world!"));
    host.end(server, &two).await;
}
