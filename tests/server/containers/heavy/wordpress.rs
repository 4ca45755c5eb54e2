//! Instances of WordPress are isolated from each other.

use std::time::Duration;

use crate::containers::{ContainerHost, exec_in, release, shut_down};
use crate::support::harness::{AcquiredInstance, get, request};

/// Logs in and returns the name and the value of the session cookie.
async fn log_in(port: u16, instance: &AcquiredInstance, password: &str) -> (String, String) {
    let form = format!("log=admin&pwd={password}&testcookie=1");
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("cookie", "wordpress_test_cookie=WP%20Cookie%20check"),
    ];
    let answer = request(port, "POST", &instance.host, "/wp-login.php", &headers, &form).await;
    assert_eq!(answer.status, 302, "{}", answer.text());
    let mut cookies = answer.headers.get_all("set-cookie").into_iter().map(|value| value.to_str().unwrap());
    let cookie = cookies.rfind(|cookie| cookie.starts_with("wordpress_logged_in_")).unwrap();
    let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
    (name.to_owned(), value.to_owned())
}

/// Returns whether a session cookie is valid: the page links to the profile only for a logged-in user.
async fn is_logged_in(port: u16, instance: &AcquiredInstance, name: &str, value: &str) -> bool {
    let cookie = format!("{name}={value}");
    let page = request(port, "GET", &instance.host, "/", &[("cookie", &cookie)], "").await;
    assert_eq!(page.status, 200);
    page.text().contains("wp-admin/profile.php")
}

#[tokio::test]
async fn two_instances_of_wordpress_share_no_content_and_no_secret() {
    const FULL_TIMEOUT: Duration = Duration::from_secs(240);
    let Some(host) = ContainerHost::wordpress() else { return };
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let port = server.port;
    let (a, b) = (server.acquire().await, server.acquire().await);

    for (one, other) in [(&a, &b), (&b, &a)] {
        let tables =
            exec_in(&host, one, &["mariadb-check", "--socket=/run/mysqld/mysqld.sock", "--all-databases"]);
        let states: Vec<_> = tables.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert!(states.len() >= 12 && states.iter().all(|state| *state == "OK"), "{tables}");
        let front = get(port, &one.host, "/").await.text();
        assert!(front.contains(&format!("http://{}/", one.host)), "its links have its own host");
        assert!(!front.contains(&other.id), "no link has the host of the other");
    }

    let salts = [&a, &b].map(|instance| {
        let script = "require '/usr/share/wordpress/wp-load.php'; wp_set_password('open', 1); \
                      echo AUTH_KEY, LOGGED_IN_SALT, NONCE_SALT;";
        exec_in(&host, instance, &["php", "-r", script])
    });
    assert!(salts[0].len() > 60, "{salts:?}");
    assert_ne!(salts[0], salts[1]);
    let (of_a, of_b) = (log_in(port, &a, "open").await, log_in(port, &b, "open").await);
    assert!(is_logged_in(port, &a, &of_a.0, &of_a.1).await && is_logged_in(port, &b, &of_b.0, &of_b.1).await);
    // The value of one instance is sent under the name that the other one reads.
    assert!(!is_logged_in(port, &b, &of_b.0, &of_a.1).await, "a session is valid in one instance only");

    let post = "<?xml version=\"1.0\"?><methodCall><methodName>metaWeblog.newPost</methodName><params>\
        <param><value><string>1</string></value></param><param><value><string>admin</string></value></param>\
        <param><value><string>open</string></value></param><param><value><struct>\
        <member><name>title</name><value><string>Only here</string></value></member>\
        <member><name>description</name><value><string>Words of a visitor</string></value></member>\
        </struct></value></param><param><value><boolean>1</boolean></value></param></params></methodCall>";
    let written = request(port, "POST", &a.host, "/xmlrpc.php", &[("content-type", "text/xml")], post).await;
    assert!(written.status == 200 && !written.text().contains("fault"), "{}", written.text());
    assert!(get(port, &a.host, "/").await.text().contains("Only here"));
    let others = get(port, &b.host, "/").await.text();
    assert!(others.contains("Hello world!") && !others.contains("Only here"));

    release(&server, &a.id).await;
    assert!(get(port, &b.host, "/").await.text().contains("Hello world!"));
    release(&server, &b.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
