//! Five apps of other people as templates of one server, and what the test knows of two instances of each.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};

use h2::client::SendRequest;
use parking_lot::Mutex;

use crate::containers::{ContainerHost, exec_in};
use crate::support::harness::{AcquiredInstance, Answer, RawConnection, Server, get, h2c, request};
use crate::support::skip::skip;
use crate::support::stack::{self, Stack};

/// Node-RED may be silent for ten seconds: an event stream with a longer silence is one of the kinds of traffic.
const TEMPLATES: &str = r#"
[templates.HOST-nginx]
image = "oci:IMAGES/nginx.tar"
port = 8080
[templates.HOST-nginx.ready]
path = "/up"
body = "up"

[templates.HOST-red]
image = "oci:IMAGES/node-red.tar"
warm_up = ["/settings", "/nodes", "/who"]
silence = "10s"
[templates.HOST-red.ready]
path = "/"
body = "red/red.min.js"
timeout = "120s"

[templates.HOST-php]
image = "oci:IMAGES/php.tar"
share_memory = "with-shm"
warm_up = ["/up", "/style.css"]
[templates.HOST-php.ready]
path = "/up"
body = "up"

[templates.HOST-node]
image = "oci:IMAGES/node.tar"
env = { HEAP_MIB = "16" }
warm_up = ["/"]
[templates.HOST-node.ready]
path = "/up"
body = "up"
"#;

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
/// Connections of HTTP/2 that carry many requests.
const H2_CONNECTIONS: usize = 4;

/// Returns a host whose templates are the five apps. Returns `None` if no containerd is running or an image is missing.
pub(super) fn host() -> Option<ContainerHost> {
    let stack = Stack::find()?;
    if ["nginx", "node-red", "wordpress"].iter().any(|name| !stack::image_archive(name).is_file()) {
        skip("an image is missing (run `make images`)");
        return None;
    }
    let host = ContainerHost::new(stack, "nginx", "", "")?;
    let images = stack::image_archive("nginx").parent().unwrap().display().to_string();
    let path = format!("{}/deployments/templates/wordpress.toml", env!("CARGO_MANIFEST_DIR"));
    let wordpress = std::fs::read_to_string(path).unwrap();
    let wordpress = wordpress.replace("templates.wordpress", "templates.HOST-wordpress");
    let wordpress = wordpress.replace("../../target/images", "IMAGES");
    let text = format!("{TEMPLATES}\n{wordpress}").replace("HOST", &host.template).replace("IMAGES", &images);
    std::fs::write(host.folder.join("templates.toml"), text).unwrap();
    Some(host)
}

/// An instance to which the test has given a name that no other instance has.
pub(super) struct Named {
    pub(super) host: String,
    pub(super) name: String,
}

/// An instance of the PHP app.
pub(super) struct Php {
    pub(super) host: String,
    /// The numbers of visits that pages have shown: each page has its own.
    shown: Mutex<BTreeSet<u32>>,
    posted: Mutex<BTreeSet<String>>,
}

/// An instance of the node app.
pub(super) struct Shop {
    pub(super) host: String,
    /// Orders that were sent, and those that were answered.
    sent: AtomicUsize,
    answered: AtomicUsize,
}

/// An instance of WordPress.
pub(super) struct WordPress {
    pub(super) host: String,
    pub(super) cookie: String,
    password: String,
    title: String,
    posts: AtomicU32,
    publishing: tokio::sync::Mutex<()>,
}

/// Two instances of each app.
pub(super) struct Apps {
    pub(super) port: u16,
    pub(super) nginx: Vec<Named>,
    pub(super) red: Vec<Named>,
    pub(super) php: Vec<Php>,
    pub(super) shop: Vec<Shop>,
    pub(super) wordpress: Vec<WordPress>,
    /// The hash of jQuery in the container of WordPress, and that of the compressed file in the container of nginx.
    pub(super) jquery_hash: String,
    pub(super) compressed_hash: String,
    h2: Vec<tokio::sync::Mutex<Option<SendRequest<bytes::Bytes>>>>,
}

impl Apps {
    /// Returns the ids of all instances. Each is the first label of a host.
    pub(super) fn ids(&self) -> Vec<&str> {
        let named = self.nginx.iter().chain(&self.red).map(|app| &app.host);
        let others = self.php.iter().map(|app| &app.host).chain(self.shop.iter().map(|app| &app.host));
        let hosts = named.chain(others).chain(self.wordpress.iter().map(|app| &app.host));
        hosts.map(|host| host.split('.').next().unwrap_or_default()).collect()
    }

    pub(super) async fn acquire(host: &ContainerHost, server: &Server) -> Self {
        let port = server.port;
        let acquire = async |app: &str| acquire(server, &format!("{}-{app}", host.template)).await;
        let (mut nginx, mut red, mut php, mut shop, mut wordpress) = (vec![], vec![], vec![], vec![], vec![]);
        let (mut jquery_hash, mut compressed_hash) = (String::new(), String::new());
        let first = |text: String| text.split_whitespace().next().unwrap().to_owned();
        for number in 0..2 {
            let (instance, _) = acquire("nginx").await;
            compressed_hash = first(exec_in(host, &instance, &["sha256sum", "/srv/numbers/all.txt.gz"]));
            let name = format!("nginx {number} {}", instance.id);
            let put = request(port, "PUT", &instance.host, "/uploads/who", &[], &name).await;
            assert_eq!(put.status, 201, "{}", put.text());
            nginx.push(Named { host: instance.host, name });

            let (instance, _) = acquire("red").await;
            let name = format!("red-{number}-{}", instance.id);
            name_node_red(port, &instance.host, &name).await;
            red.push(Named { host: instance.host, name });

            let (instance, _) = acquire("php").await;
            php.push(Php { host: instance.host, shown: Mutex::default(), posted: Mutex::default() });
            let (instance, _) = acquire("node").await;
            shop.push(Shop { host: instance.host, sent: 0.into(), answered: 0.into() });

            let (instance, credentials) = acquire("wordpress").await;
            let jquery = "/usr/share/wordpress/wp-includes/js/jquery/jquery.min.js";
            jquery_hash = first(exec_in(host, &instance, &["sha256sum", jquery]));
            let password = credentials.rsplit(' ').next().unwrap().to_owned();
            wordpress.push(WordPress {
                cookie: log_in(port, &instance.host, &password).await,
                title: format!("site-{}", instance.id),
                host: instance.host,
                password,
                posts: 0.into(),
                publishing: tokio::sync::Mutex::default(),
            });
        }
        assert!(jquery_hash.len() == 64 && compressed_hash.len() == 64, "{jquery_hash} {compressed_hash}");
        let h2 = (0..H2_CONNECTIONS).map(|_| tokio::sync::Mutex::default()).collect();
        Self { port, nginx, red, php, shop, wordpress, jquery_hash, compressed_hash, h2 }
    }

    pub(super) async fn connect(&self) -> RawConnection {
        RawConnection::connect(self.port).await
    }

    /// Returns one of a few connections of HTTP/2 that stay open; one in 16 is new.
    pub(super) async fn h2(&self, number: u64) -> SendRequest<bytes::Bytes> {
        if number.is_multiple_of(16) {
            return h2c(self.port).await;
        }
        let mut slot = self.h2[number as usize % H2_CONNECTIONS].lock().await;
        if let Some(open) = &*slot
            && open.clone().ready().await.is_ok()
        {
            return open.clone();
        }
        slot.insert(h2c(self.port).await).clone()
    }

    /// Asserts that each app has had each request exactly once.
    pub(super) async fn check_state(&self) {
        for named in &self.nginx {
            assert_eq!(get(self.port, &named.host, "/uploads/who").await.text(), named.name);
        }
        for named in &self.red {
            assert_eq!(get(self.port, &named.host, "/who").await.text(), named.name);
        }
        for php in &self.php {
            php.check_page(&get(self.port, &php.host, "/").await);
            let shown = php.shown.lock();
            assert_eq!(shown.last().copied(), Some(shown.len() as u32), "each request counted once");
        }
        for shop in &self.shop {
            assert_eq!(shop.sent.load(SeqCst), shop.answered.load(SeqCst));
            shop.check_page(shop.before_page(), &get(self.port, &shop.host, "/").await);
        }
        for wordpress in &self.wordpress {
            wordpress.check_front_page(wordpress.posts(), &get(self.port, &wordpress.host, "/").await);
        }
    }
}

/// Acquires an instance of a template. Returns its credentials too.
pub(super) async fn acquire(server: &Server, template: &str) -> (AcquiredInstance, String) {
    let body = format!(r#"{{"template":"{template}"}}"#);
    let answer = server.call("POST", "/api/v1/demo/acquire", &body).await;
    assert_eq!(answer.status, 200, "{template}: {}", answer.text());
    let acquired = answer.json();
    let credentials = acquired["credentials"].as_str().unwrap_or_default().to_owned();
    (AcquiredInstance::from_json(&acquired), credentials)
}

/// Gives an instance of Node-RED a name.
pub(super) async fn name_node_red(port: u16, host: &str, name: &str) {
    let answer = request(port, "POST", host, "/who", &[FORM], &format!("name={name}")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "named"));
}

/// Logs in and returns the cookies of the session.
async fn log_in(port: u16, host: &str, password: &str) -> String {
    let form = format!("log=admin&pwd={password}&testcookie=1");
    let headers = [FORM, ("cookie", "wordpress_test_cookie=WP%20Cookie%20check")];
    let answer = request(port, "POST", host, "/wp-login.php", &headers, &form).await;
    assert_eq!(answer.status, 302, "{}", answer.text());
    let mut cookies = answer.headers.get_all("set-cookie").into_iter().map(|value| value.to_str().unwrap());
    let cookie = cookies.rfind(|cookie| cookie.starts_with("wordpress_logged_in_")).unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

impl Php {
    /// Asserts that a page shows a number of visits that no other page has shown, and only notes of this instance.
    pub(super) fn check_page(&self, page: &Answer) {
        let text = page.text();
        assert_eq!(page.status, 200, "{text}");
        assert!(text.ends_with("</html>\n"), "the page is complete");
        let visits = text.split_once("id=\"visits\">").unwrap().1.split('<').next().unwrap();
        assert!(self.shown.lock().insert(visits.parse().unwrap()), "visit {visits} is shown twice");
        let notes: Vec<_> =
            text.lines().filter_map(|line| line.trim().strip_prefix("<li>")?.strip_suffix("</li>")).collect();
        let different: BTreeSet<_> = notes.iter().collect();
        assert_eq!(different.len(), notes.len(), "no note is there twice");
        let posted = self.posted.lock();
        assert!(
            notes.iter().all(|note| posted.contains(*note)),
            "only notes that were posted here: {notes:?}"
        );
    }

    /// Returns the body that posts a note.
    pub(super) fn note(&self, text: &str) -> String {
        self.posted.lock().insert(text.to_owned());
        format!("note={text}")
    }
}

impl Shop {
    pub(super) fn begin_order(&self) {
        self.sent.fetch_add(1, SeqCst);
    }

    pub(super) fn end_order(&self) {
        self.answered.fetch_add(1, SeqCst);
    }

    /// Returns how many orders the next page must have at least.
    pub(super) fn before_page(&self) -> usize {
        self.answered.load(SeqCst)
    }

    /// Asserts that the page has all orders that were answered before it was asked for, and none that was not sent.
    pub(super) fn check_page(&self, before: usize, page: &Answer) {
        let text = page.text();
        assert_eq!(page.status, 200, "{text}");
        let orders = text.split_once(" products, ").unwrap().1.split(' ').next().unwrap();
        let orders: usize = orders.parse().unwrap();
        let sent = self.sent.load(SeqCst);
        assert!((before..=sent).contains(&orders), "{orders} orders, {before} answered, {sent} sent");
    }
}

impl WordPress {
    /// Returns how many posts were published.
    pub(super) fn posts(&self) -> u32 {
        self.posts.load(SeqCst)
    }

    /// Publishes a post, as an editor's program does. One after the other, so that the last one is known.
    pub(super) async fn publish(&self, port: u16) {
        let _publishing = self.publishing.lock().await;
        let post = self.posts.load(SeqCst) + 1;
        let texts = ["1", "admin", &self.password]
            .map(|text| format!("<param><value><string>{text}</string></value></param>"))
            .concat();
        let body = format!(
            "<?xml version=\"1.0\"?><methodCall><methodName>metaWeblog.newPost</methodName><params>{texts}<param><value>\
             <struct><member><name>title</name><value><string>{}post{post}end</string></value></member></struct></value>\
             </param><param><value><boolean>1</boolean></value></param></params></methodCall>",
            self.title
        );
        let headers = [("content-type", "text/xml")];
        let answer = request(port, "POST", &self.host, "/xmlrpc.php", &headers, &body).await;
        assert!(answer.status == 200 && !answer.text().contains("fault"), "{}", answer.text());
        self.posts.store(post, SeqCst);
    }

    /// Asserts that a page has this instance's address and last post, and no post of another instance.
    pub(super) fn check_front_page(&self, posts: u32, page: &Answer) {
        let text = page.text();
        assert_eq!(page.status, 200, "{text}");
        assert!(text.contains(&format!("http://{}/", self.host)), "its links have its own host");
        assert!(text.trim_end().ends_with("</html>"), "the page is complete");
        if posts > 0 {
            assert!(text.contains(&format!("{}post{posts}end", self.title)), "its post {posts} is there");
        }
        let id = self.title.strip_prefix("site-").unwrap();
        let foreign = text.match_indices("site-").map(|(at, title)| &text[at + title.len()..]);
        let foreign: Vec<_> = foreign.filter(|rest| rest.contains("post") && is_id(rest, id)).collect();
        assert!(foreign.is_empty(), "it shows a post of another instance");
    }
}

/// Returns whether the text begins with the id of another instance of the same template.
fn is_id(text: &str, own: &str) -> bool {
    let template = &own[..=own.rfind('-').unwrap()];
    text.starts_with(template) && !text.starts_with(own)
}
